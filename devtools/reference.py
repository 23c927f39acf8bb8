"""`python -m devtools.reference`: writes the generated parts of the documentation, from the code that they describe.

A generated part is between two comments in a page in `docs/`. A test renders all parts again, and fails with the
command above if a page differs.
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
_START: Final = "<!-- generated: {name}. Do not edit; run " + COMMAND + " -->"
_END: Final = "<!-- end of {name} -->"


class PageError(Exception):
    """A page and the code don't match; the message has the missing part."""


_PLAIN_TYPES: Final[Mapping[Any, FieldDoc]] = {
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
    "access-login": access.Login,
    "access-login-google": access.GoogleLogin,
    "access-login-oidc": access.OidcLogin,
    "access-login-oidc-client": access.OidcClient,
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
"""The generated parts of docs/fleet.md, with the model of each."""


def list_examples() -> Iterator[tuple[str, str, str]]:
    """The section, name and YAML example of each key; a test parses every example as part of a fleet."""
    for section, kind in SECTIONS.items():
        for key, field in kind.model_fields.items():
            yield section, key, _format_example(section, key, field)


def render_fleet() -> dict[str, str]:
    """The generated parts of docs/fleet.md, by name.

    Raises:
        PageError: a key has no example, or a type without documentation.
    """
    return {section: _render_table(section, kind) for section, kind in SECTIONS.items()}


def insert_parts(page: str, parts: Mapping[str, str]) -> str:
    """*page* with each of *parts* inserted between its two comments.

    Raises:
        PageError: the page has no comments for a part, or comments for a part that doesn't exist.
    """
    places = set(re.findall(r"<!-- generated: ([\w-]+)\.", page))
    if places != set(parts):
        different = ", ".join(sorted(places ^ set(parts)))
        raise PageError(f"the page and its generator do not have the same parts: {different}")
    for name, part in parts.items():
        begin, end = _START.format(name=name), _END.format(name=name)
        pattern = re.compile(rf"<!-- generated: {name}\..*?-->.*?{re.escape(end)}", re.DOTALL)
        block = f"{begin}\n\n{part}\n\n{end}"
        page, count = pattern.subn(lambda _: block, page)  # noqa: B023 - used at once
        if count != 1:
            raise PageError(f"the page has {count} places that end with {end}; there must be one")
    return page


def _render_table(section: str, kind: type[BaseModel]) -> str:
    hints = get_type_hints(kind, include_extras=True)
    rows = ["| key | type | default | accepted | example | meaning |", "|---|---|---|---|---|---|"]
    for key, field in kind.model_fields.items():
        documentation = _type_documentation(hints[key])
        bounds = "; ".join(text for text in (_format_bounds(field, hints[key]), documentation.accepted) if text)
        example = f"`{_format_example(section, key, field)}`"
        cells = [f"`{key}`", documentation.singular, _format_default(field), bounds, example, field.description or ""]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _format_example(section: str, key: str, field: FieldInfo) -> str:
    if not field.examples:
        raise PageError(
            f"the key {key} of {section} has no example; add examples=[…] to its field in infra/pulumi_mcpfleet/fleet"
        )
    return f"{key}: {to_yaml(field.examples[0])}"


def _type_documentation(annotation: Any) -> FieldDoc:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        named = next((metadata for metadata in inner[1:] if isinstance(metadata, FieldDoc)), None)
        return named or _type_documentation(inner[0])
    if origin in (Union, UnionType):
        return _type_documentation(next(member for member in inner if member is not type(None)))
    if origin is Literal:
        return FieldDoc("word", "words", ", ".join(f"`{word}`" for word in inner))
    if origin is tuple:
        item = _type_documentation(inner[0])
        return FieldDoc(f"list of {item.plural}", "", item.accepted)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, item = _type_documentation(inner[0]), _type_documentation(inner[1])
        return FieldDoc(
            f"map of {key.plural} to {item.plural}",
            "",
            "; ".join(metadata.accepted for metadata in (key, item) if metadata.accepted),
        )
    if annotation in _PLAIN_TYPES:
        return _PLAIN_TYPES[annotation]
    raise PageError(
        f"the type {annotation} has no documentation; add a FieldDoc to its metadata in infra/pulumi_mcpfleet/fleet"
    )


def _format_bounds(field: FieldInfo, annotation: Any) -> str:
    low: Any = next((constraint.ge for constraint in field.metadata if isinstance(constraint, Ge)), None)
    high: Any = next((constraint.le for constraint in field.metadata if isinstance(constraint, Le)), None)
    if low is not None and high is not None:
        return f"{low} to {high:,}"
    minimum = next((constraint.min_length for constraint in field.metadata if isinstance(constraint, MinLen)), None)
    maximum = next((constraint.max_length for constraint in field.metadata if isinstance(constraint, MaxLen)), None)
    if _type_documentation(
        annotation
    ).accepted:  # the documentation of the type includes its bound, except for a container of the type
        unit = "" if get_origin(_without_metadata(annotation)) is None else " entries"
        maximum = maximum if unit else None
    else:
        unit = " characters" if _without_metadata(annotation) is str else " entries"
    if minimum is not None:
        return f"at least {minimum} of them"
    return f"at most {maximum:,}{unit}" if maximum is not None else ""


def _without_metadata(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _format_default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value: Any = field.get_default()
    if value is PydanticUndefined or value is None:
        return "see meaning" if "default" in (field.description or "").lower() else "none"
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    return f"`{to_yaml(value)}`" if value != "" else '`""`'


def render_schema() -> str:
    """The JSON Schema of a stack's config file, for completion and checks in editors."""
    fleet = model.Fleet.model_json_schema(ref_template="#/$defs/{model}")
    parts_ = fleet.pop("$defs")
    document = {
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
    return json.dumps(_close_maps(document), indent=1, ensure_ascii=False) + "\n"


def _close_maps(schema: Any) -> Any:
    """*schema* with maps that allow only keys of their pattern; pydantic's schema allows others too."""
    if isinstance(schema, list):
        return [_close_maps(value) for value in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    fields = {key: _close_maps(value) for key, value in cast("dict[str, Any]", schema).items()}
    return {**fields, "additionalProperties": False} if "patternProperties" in fields else fields


def main() -> None:
    """Write all generated parts; exits with code 1 and one sentence if a page has no place for a part."""
    # The local cloud renders its parts in its own process.
    output = subprocess.run(
        [sys.executable, "-m", "mcpfleet_local_cloud.reference"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    pages = {"docs/fleet.md": render_fleet(), "docs/local-cloud.md": json.loads(output.stdout)}
    for name, rendered in pages.items():
        path = ROOT / name
        old_page = path.read_text(encoding="utf-8")
        try:
            new_page = insert_parts(old_page, rendered)
        except PageError as error:
            sys.exit(f"{name}: {error}")
        if new_page != old_page:
            path.write_text(new_page, encoding="utf-8")
        print(f"{name}: {'written' if new_page != old_page else 'up to date'}")
    (ROOT / SCHEMA).write_text(render_schema(), encoding="utf-8")
    (ROOT / arguments.FILE).write_text(arguments.render(), encoding="utf-8")


if __name__ == "__main__":
    main()
