"""`python -m workbench.reference`: writes the generated parts of the guides, from the code that they describe.

A generated part stands between two comments in a page below `docs/`. A test renders every part again and fails, with
the command above, where a page says something else.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from infra import environment, naming
from infra.fleet import model, values

COMMAND: Final = ".venv/bin/python -m workbench.reference"
ROOT: Final = Path(__file__).resolve().parents[1]
_BEGIN: Final = "<!-- generated: {name}. Do not edit; run " + COMMAND + " -->"
_END: Final = "<!-- end of {name} -->"


class PageError(Exception):
    """A page and the code cannot be brought together; the text says what is missing where."""


@dataclass(frozen=True)
class Kind:
    """A kind of value in a fleet, in words: one of it, several, and what is accepted."""

    one: str
    many: str
    range: str = ""


_NAME: Final = (
    f"{naming.SERVER_NAME_MIN} to {naming.SERVER_NAME_MAX} of `a-z`, `0-9` and `-`; a letter first, no `-` last"
)
_KINDS: Final[list[tuple[Any, Kind]]] = [
    (model.Source, Kind("[source](#source)", "sources", "one of `build`, `image`")),
    (model.Access, Kind("[access](#access)", "accesses", "`iam`")),
    (values.Text, Kind("text", "texts", "each text at most 32,768 characters")),
    (values.ServerName, Kind("name", "names", _NAME)),
    (values.Region, Kind("region", "regions", "`gcloud run regions list`")),
    (values.LabelKey, Kind("label", "labels", "keys: 1 to 63 of `a-z`, `0-9`, `_`, `-`; a letter first")),
    (values.LabelValue, Kind("value", "values", "values: 0 to 63 of the same")),
    (values.ImageUrl, Kind("image", "images", "`[HOST/]PATH[:TAG][@sha256:DIGEST]`, at most 1,024 characters")),
    (values.Folder, Kind("folder", "folders", "below or beside `Pulumi.yaml`, not absolute; has a `Dockerfile`")),
    (values.BuildArgName, Kind("name", "names", "names: letters, digits, `_`; no digit first")),
    (
        values.EnvironmentName,
        Kind(
            "variable",
            "variables",
            "names: letters, digits, `_`; no digit first; not Cloud Run's (`PORT`, `K_…`, `X_GOOGLE_…`), not mcpfleet's"
            " (" + ", ".join(f"`{name}`" for name in environment.INJECTED) + ")",
        ),
    ),
    (
        values.UrlPath,
        Kind(
            "path",
            "paths",
            "`/` first, then letters, digits, `.`, `_`, `~`, `-`, `/`;"
            " no `/` last, no `z` last; at most 256 characters",
        ),
    ),
    (values.Origin, Kind("origin", "origins", "`https://HOST[:PORT]` or `http://…`; no path, no `*`")),
    (values.Audience, Kind("audience", "audiences", "no spaces, at most 2,048 characters")),
    (
        values.Member,
        Kind(
            "principal",
            "principals",
            "`user:`, `group:`, `serviceAccount:` ADDRESS, `domain:` DOMAIN, `principal://…`, `principalSet://…`;"
            " never `allUsers`, `allAuthenticatedUsers`",
        ),
    ),
    (values.Cpu, Kind("CPUs", "CPUs", '`"1"`, `"2"`, `"4"`, `"6"`, `"8"`, or `"0.08"` to `"1"` (`"500m"`)')),
    (values.Memory, Kind("memory", "memories", "`128Mi` to `32Gi`")),
    (model.Server, Kind("[server](#a-server)", "[servers](#a-server)")),
    (model.Iam, Kind("[iam](#access)", "")),
    (bool, Kind("boolean", "booleans", "`true`, `false`")),
    (int, Kind("whole number", "whole numbers")),
    (str, Kind("text", "texts")),
]

SECTIONS: Final[Mapping[str, type[BaseModel]]] = {
    "fleet": model.Fleet,
    "server": model.Server,
    "source-build": model.Build,
    "source-image": model.ExistingImage,
    "access": model.IamAccess,
    "access-iam": model.Iam,
}
"""The generated parts of docs/configuration.md, and the model that each shows."""

EXAMPLES: Final[Mapping[str, str]] = {
    "fleet.region": "europe-west1",
    "fleet.profile": "prod",
    "fleet.labels": '{team: platform, cost-center: "4711"}',
    "fleet.servers": "{reference: {source: {build: ./mcp_server}}}",
    "server.source": "{build: ./mcp_server}",
    "server.access": '{iam: {invokers: ["group:mcp-users@acme.dev"]}}',
    "server.path": "/tools/mcp",
    "server.health_path": "/ready",
    "server.timeout": "900",
    "server.cpu": "2",
    "server.memory": "1Gi",
    "server.concurrency": "20",
    "server.min_instances": "1",
    "server.max_instances": "10",
    "server.startup_boost": "false",
    "server.env": "{BIGQUERY_PROJECT: acme-mcp-dev}",
    "server.audiences": '["https://mcp.acme.dev"]',
    "server.allowed_origins": '["https://app.acme.dev"]',
    "server.description": "Weather for the field teams",
    "server.deletion_protection": "true",
    "source-build.build": "./mcp_server",
    "source-build.build_args": '{UV_VERSION: "0.13.9"}',
    "source-image.image": "docker.io/acme/toolbox:1",
    "source-image.port": "5000",
    "source-image.args": '["--address=0.0.0.0", "--port=5000"]',
    "source-image.command": '["/app/toolbox"]',
    "access.iam": '{invokers: ["user:ada@acme.dev"]}',
    "access-iam.invokers": '["group:mcp-users@acme.dev", "serviceAccount:assistant@acme.iam.gserviceaccount.com"]',
}
"""An example, in YAML, for each key; a test reads every one of them as part of a fleet."""


def configuration() -> dict[str, str]:
    """The generated parts of docs/configuration.md, by name.

    Raises:
        PageError: a key has no example, or a kind of value that has no words.
    """
    return {section: _table(section, kind) for section, kind in SECTIONS.items()}


def written(page: str, parts: Mapping[str, str]) -> str:
    """*page* with each of *parts* between its two comments.

    Raises:
        PageError: the page has no place for a part, or for one that is not made any more.
    """
    places = set(re.findall(r"<!-- generated: ([\w-]+)\.", page))
    if places != set(parts):
        odd = ", ".join(sorted(places ^ set(parts)))
        raise PageError(f"the page and its generator do not have the same parts: {odd}")
    for name, part in parts.items():
        begin, end = _BEGIN.format(name=name), _END.format(name=name)
        pattern = re.compile(rf"<!-- generated: {name}\..*?-->.*?{re.escape(end)}", re.DOTALL)
        block = f"{begin}\n\n{part}\n\n{end}"
        page, count = pattern.subn(lambda _: block, page)  # noqa: B023 - used at once
        if count != 1:
            raise PageError(f"the page has {count} places that end with {end}; there must be one")
    return page


def _table(section: str, kind: type[BaseModel]) -> str:
    hints = get_type_hints(kind, include_extras=True)
    rows = ["| key | type | default | accepted | example | meaning |", "|---|---|---|---|---|---|"]
    for key, field in kind.model_fields.items():
        if f"{section}.{key}" not in EXAMPLES:
            raise PageError(f"workbench/reference.py has no example for {section}.{key}; add one to EXAMPLES")
        found = _kind(hints[key])
        bounds = "; ".join(text for text in (_bounds(field, hints[key]), found.range) if text)
        example = f"`{key}: {EXAMPLES[f'{section}.{key}']}`"
        cells = [f"`{key}`", found.one, _default(field), bounds, example, field.description or ""]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _kind(annotation: Any) -> Kind:
    for known, kind in _KINDS:
        if annotation == known:
            return kind
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin in (Union, UnionType):
        return _kind(next(member for member in inner if member is not type(None)))
    if origin is Literal:
        return Kind("word", "words", ", ".join(f"`{word}`" for word in inner))
    if origin is tuple:
        item = _kind(inner[0])
        return Kind(f"list of {item.many}", "", item.range)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, item = _kind(inner[0]), _kind(inner[1])
        ranges = "; ".join(one.range for one in (key, item) if one.range)
        return Kind(f"map of {key.many} to {item.many}", "", ranges)
    raise PageError(f"workbench/reference.py has no words for {annotation}; add them to _KINDS")


def _bounds(field: FieldInfo, annotation: Any) -> str:
    low: Any = next((one.ge for one in field.metadata if isinstance(one, Ge)), None)
    high: Any = next((one.le for one in field.metadata if isinstance(one, Le)), None)
    if low is not None and high is not None:
        return f"{low} to {high:,}"
    least = next((one.min_length for one in field.metadata if isinstance(one, MinLen)), None)
    most = next((one.max_length for one in field.metadata if isinstance(one, MaxLen)), None)
    if _kind(annotation).range:  # the kind's own bound is among its words, unless this is a container of it
        of = "" if get_origin(_bare(annotation)) is None else " entries"
        most = most if of else None
    else:
        of = " characters" if annotation is str else " entries"
    if least is not None:
        return f"at least {least} of them"
    return f"at most {most:,}{of}" if most is not None else ""


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value: Any = field.get_default()
    if value is PydanticUndefined or value is None:
        return "see meaning"
    if isinstance(value, BaseModel):
        value = value.model_dump()
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """*value* in YAML's short form, as a person would write it."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return "{" + ", ".join(f"{key}: {_yaml(one)}" for key, one in entries.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_yaml(one) for one in cast("tuple[Any, ...]", value)) + "]"
    # A number in quotes is a text, a word without them is one as well.
    return value if isinstance(value, str) and value and not value[0].isdigit() else json.dumps(value)


def main() -> None:
    """Write every generated part; exit code 1 and one sentence where a page has no place for one."""
    # The local cloud is a program of its own to this room, here too.
    said = subprocess.run(
        [sys.executable, "-m", "local_cloud.reference"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    pages = {"docs/configuration.md": configuration(), "docs/local-cloud.md": json.loads(said.stdout)}
    for name, parts in pages.items():
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        try:
            after = written(before, parts)
        except PageError as error:
            sys.exit(f"{name}: {error}")
        if after != before:
            path.write_text(after, encoding="utf-8")
        print(f"{name}: {'written' if after != before else 'in step with the code'}")


if __name__ == "__main__":
    main()
