"""`python -m devtools.reference`: writes the generated parts of the guides, from the code that they describe.

A generated part stands between two comments in a page below `docs/`. A test renders every part again and fails, with
the command above, where a page says something else.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from devtools import arguments
from pulumi_mcpfleet.fleet import (
    access,
    built_source,
    client,
    git,
    model,
    parts,
    roles,
    server,
    sources,
    stdio,
    volumes,
)
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, to_yaml

COMMAND: Final = ".venv/bin/python -m devtools.reference"
SCHEMA: Final = "fleet.schema.json"
ROOT: Final = Path(__file__).resolve().parents[1]
_BEGIN: Final = "<!-- generated: {name}. Do not edit; run " + COMMAND + " -->"
_END: Final = "<!-- end of {name} -->"


class PageError(Exception):
    """A page and the code cannot be brought together; the text says what is missing where."""


_PLAIN: Final[Mapping[Any, FieldDoc]] = {
    bool: FieldDoc("boolean", "booleans", "`true`, `false`"),
    int: FieldDoc("whole number", "whole numbers"),
    str: FieldDoc("text", "texts"),
}

SECTIONS: Final[Mapping[str, type[BaseModel]]] = {
    "fleet": model.Fleet,
    "registry": model.Registry,
    "cloud-build": model.CloudBuildOptions,
    "server": server.Server,
    "client": client.Client,
    "source-build": sources.Build,
    "source-image": sources.ExistingImage,
    "source-folder": built_source.Folder,
    "source-git": git.Git,
    "source-git-repository": git.GitRepository,
    "source-file-of-an-image": built_source.ImageFile,
    "source-stdio": stdio.Stdio,
    "source-stdio-server": stdio.StdioServer,
    "source-registry": stdio.Registered,
    "access-iam": access.Iam,
    "access-iap": access.Iap,
    "access-iap-client": access.OauthClient,
    "access-oauth": access.Oauth,
    "access-public": access.Public,
    "role": roles.PowerfulRole,
    "secret": parts.SecretRef,
    "volume-memory": volumes.InMemory,
    "volume-disk": volumes.OnDisk,
    "volume-gcs": volumes.GcsVolume,
    "volume-gcs-bucket": volumes.Gcs,
    "volume-secret": volumes.SecretVolume,
    "volume-secret-item": volumes.Item,
    "volume-nfs": volumes.NfsVolume,
    "volume-nfs-export": volumes.Nfs,
    "sidecar": parts.Sidecar,
    "probes": parts.Probes,
    "probe": parts.Probe,
    "probe-grpc": parts.Grpc,
    "vpc": parts.Vpc,
}
"""The generated parts of docs/fleet.md, and the model that each shows."""


def examples() -> Iterator[tuple[str, str, str]]:
    """Each key's section, its name, and an example of it in YAML; a test reads every one of them as part of a fleet."""
    for section, kind in SECTIONS.items():
        for key, field in kind.model_fields.items():
            yield section, key, _example(section, key, field)


def fleet() -> dict[str, str]:
    """The generated parts of docs/fleet.md, by name.

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
        found = _kind(hints[key])
        bounds = "; ".join(text for text in (_bounds(field, hints[key]), found.accepted) if text)
        example = f"`{_example(section, key, field)}`"
        cells = [f"`{key}`", found.singular, _default(field), bounds, example, field.description or ""]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _example(section: str, key: str, field: FieldInfo) -> str:
    if not field.examples:
        raise PageError(
            f"the key {key} of {section} has no example; add examples=[…] to its field in infra/pulumi_mcpfleet/fleet"
        )
    return f"{key}: {to_yaml(field.examples[0])}"


def _kind(annotation: Any) -> FieldDoc:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        named = next((one for one in inner[1:] if isinstance(one, FieldDoc)), None)
        return named or _kind(inner[0])
    if origin in (Union, UnionType):
        return _kind(next(member for member in inner if member is not type(None)))
    if origin is Literal:
        return FieldDoc("word", "words", ", ".join(f"`{word}`" for word in inner))
    if origin is tuple:
        item = _kind(inner[0])
        return FieldDoc(f"list of {item.plural}", "", item.accepted)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, item = _kind(inner[0]), _kind(inner[1])
        return FieldDoc(
            f"map of {key.plural} to {item.plural}", "", "; ".join(one.accepted for one in (key, item) if one.accepted)
        )
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    raise PageError(f"{annotation} has no words; put a Kind among its metadata in infra/pulumi_mcpfleet/fleet")


def _bounds(field: FieldInfo, annotation: Any) -> str:
    low: Any = next((one.ge for one in field.metadata if isinstance(one, Ge)), None)
    high: Any = next((one.le for one in field.metadata if isinstance(one, Le)), None)
    if low is not None and high is not None:
        return f"{low} to {high:,}"
    least = next((one.min_length for one in field.metadata if isinstance(one, MinLen)), None)
    most = next((one.max_length for one in field.metadata if isinstance(one, MaxLen)), None)
    if _kind(annotation).accepted:  # the kind's own bound is among its words, unless this is a container of it
        of = "" if get_origin(_bare(annotation)) is None else " entries"
        most = most if of else None
    else:
        of = " characters" if _bare(annotation) is str else " entries"
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
        return "see meaning" if "default" in (field.description or "").lower() else "none"
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    return f"`{to_yaml(value)}`" if value != "" else '`""`'


def schema() -> str:
    """The JSON Schema of a stack's config file, by which an editor completes and checks it."""
    fleet = model.Fleet.model_json_schema(ref_template="#/$defs/{model}")
    parts_ = fleet.pop("$defs")
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A stack of mcpfleet (Pulumi.<stack>.yaml)",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": {
                    "gcp:project": {"type": "string", "description": "The Google Cloud project; it must exist."},
                    "mcpfleet:fleet": fleet,
                },
            }
        },
        "$defs": parts_,
    }
    return json.dumps(_closed(whole), indent=1, ensure_ascii=False) + "\n"


def _closed(schema: Any) -> Any:
    """*schema* in which a map takes no key but those of its pattern; pydantic leaves others open."""
    if isinstance(schema, list):
        return [_closed(one) for one in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    fields = {key: _closed(one) for key, one in cast("dict[str, Any]", schema).items()}
    return {**fields, "additionalProperties": False} if "patternProperties" in fields else fields


def main() -> None:
    """Write every generated part; exit code 1 and one sentence where a page has no place for one."""
    # The local cloud is a program of its own to this room, here too.
    said = subprocess.run(
        [sys.executable, "-m", "mcpfleet_local_cloud.reference"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    pages = {"docs/fleet.md": fleet(), "docs/local-cloud.md": json.loads(said.stdout)}
    for name, rendered in pages.items():
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        try:
            after = written(before, rendered)
        except PageError as error:
            sys.exit(f"{name}: {error}")
        if after != before:
            path.write_text(after, encoding="utf-8")
        print(f"{name}: {'written' if after != before else 'in step with the code'}")
    (ROOT / SCHEMA).write_text(schema(), encoding="utf-8")
    (ROOT / arguments.FILE).write_text(arguments.render(), encoding="utf-8")


if __name__ == "__main__":
    main()
