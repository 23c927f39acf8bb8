"""`python -m devtools.discovery`: writes what the local cloud knows of Google's APIs, from the discovery documents.

The documents are those in `google-api-python-client` on PyPI. It is 111 MB, so it is in the user's cache
(devtools/google_clients) and no part of what a user installs. What the local cloud serves of them is written to
`rest/schemas/`, a file for each API, one field a line:

- a method, by the verb and path of its route: `id`, `request`, `response`, the scopes of which a token needs one, and
  its query parameters (`*`: repeated);
- a schema: its fields, each with its kind, which is a scalar (`string`, `bool`, `int64`, `duration`, ...), `enum A|B`,
  another schema, `[kind]` for a list, `{kind}` for a map; `!` at the end marks what only the API writes.

With `--documents FOLDER` the documents are read from there.
"""

import argparse
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast

from starlette.routing import Route

from devtools.peers import find_google_clients
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from mcpfleet_local_cloud.rest.schemas import APIS, FOLDER, SCOPE_PREFIX, api_of
from mcpfleet_local_cloud.services.compute.resource_types import GLOBAL, REGIONAL
from mcpfleet_local_cloud.services.compute.routes import SETTERS
from mcpfleet_local_cloud.state.folder import Settings

COMMAND: Final = ".venv/bin/python -m devtools.discovery"
PACKAGE: Final = "google-api-python-client==2.202.0"
_FAMILIES: Final = re.compile(r"Google(?:CloudRunV2|IamV1|Longrunning|Protobuf|Rpc|Type|Api)(?=[A-Z])")
# Types that no method names: they come in an operation's `metadata` and `response`.
_IN_OPERATIONS: Final = re.compile(
    r"(Build|WorkloadIdentityPool)?OperationMetadata|(Enable|Disable|BatchEnable)Services?Response|ServiceIdentity"
)
_SCALARS: Final[Mapping[tuple[str, str], str]] = {
    ("string", ""): "string",
    ("string", "date"): "string",
    ("string", "int64"): "int64",
    ("string", "uint64"): "uint64",
    ("string", "byte"): "bytes",
    ("string", "date-time"): "timestamp",
    ("string", "google-datetime"): "timestamp",
    ("string", "google-duration"): "duration",
    ("string", "google-fieldmask"): "mask",
    ("integer", "int32"): "int32",
    ("integer", "uint32"): "uint32",
    ("number", "float"): "float",
    ("number", "double"): "double",
    ("boolean", ""): "bool",
    ("any", ""): "any",
}
_WRITTEN_BY_THE_API: Final = ("[Output Only]", "Output only", "[Output only]")


def main() -> None:
    """Write every table anew."""
    parser = argparse.ArgumentParser(description="Write rest/schemas/ from Google's discovery documents.")
    parser.add_argument("--documents", type=Path, help="a folder with the documents, instead of the package's")
    given: Path | None = parser.parse_args().documents
    for api, table in tables(given or find_documents(), served()).items():
        (FOLDER / f"{api}.json").write_text(table)


def find_documents() -> Path:
    """The folder with Google's discovery documents.

    Raises:
        SetupError: PyPI did not give them.
    """
    return (
        find_google_clients(ThisHost(), Paths.from_environ(os.environ))
        / "googleapiclient"
        / "discovery_cache"
        / "documents"
    )


def served() -> set[tuple[str, str]]:
    """Verb and path of every method that the local cloud serves; a path of Compute Engine names its collection."""
    with tempfile.TemporaryDirectory() as folder:
        routes = Cloud(Settings(state=Path(folder))).routes()
    return {
        (verb, path)
        for route in routes
        if isinstance(route, Route) and api_of(route.path)
        for path in _collections(route.path)
        for verb in (route.methods or set()) - {"HEAD"}
    }


def tables(documents: Path, wanted: set[tuple[str, str]]) -> dict[str, str]:
    """The text of each API's table, with the methods of *wanted* that Google has."""
    return {api: _table(api, documents / f"{api}.json", wanted) for api in sorted(set(APIS.values()))}


def digest(table: Mapping[str, Any]) -> str:
    """A table's own hash, by which a change by hand shows."""
    made = {name: part for name, part in table.items() if name != "sha256"}
    return sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _collections(path: str) -> Iterator[str]:
    if "{collection}" not in path:
        yield path
        return
    for collection in GLOBAL if "/regions/" not in path else REGIONAL:
        for setter in SETTERS:
            yield path.replace("{collection}", collection).replace("{setter}", setter)


def _table(api: str, document: Path, wanted: set[tuple[str, str]]) -> str:
    content = document.read_bytes()
    source: dict[str, Any] = json.loads(content)
    names = short_names(source["schemas"])
    methods: dict[str, Any] = {}
    known = list(_methods(source))
    for verb, path in sorted(wanted, key=lambda one: (one[1], one[0])):
        if api_of(path) != api:
            continue
        local = path.removeprefix("/upload").removeprefix("/download")
        local = re.sub(r"\{\w+(:path)?\}", "{}", "/" + local.split("/", 2)[2])
        # A session of a resumable upload goes on below the address of the method that began it.
        asked = "POST" if path.startswith("/upload") else verb
        found = [one for one in known if one["httpMethod"] == asked and _fits(local, _path(source, one))]
        if found:
            found.sort(key=lambda one: _differing(local, _path(source, one)))
            methods[f"{verb} {path}"] = _method(found[0], names)
    schemas: dict[str, dict[str, str]] = {}
    for name in source["schemas"]:
        if _IN_OPERATIONS.fullmatch(names[name]):
            _collect(name, source["schemas"], names, schemas)
    for one in known:
        if any(made["id"] == one["id"] for made in methods.values()):
            for side in ("request", "response"):
                if side in one:
                    _collect(one[side]["$ref"], source["schemas"], names, schemas)
    table: dict[str, Any] = {
        "api": api,
        "revision": source["revision"],
        "package": PACKAGE,
        "document": sha256(content).hexdigest(),
        "methods": methods,
        "schemas": {name: schemas[name] for name in sorted(schemas)},
    }
    return json.dumps({"sha256": digest(table), **table}, indent=1) + "\n"


def _fits(ours: str, theirs: str) -> bool:
    """Whether a route's path is that of a method: our parameter may be a word of theirs, and theirs one of ours."""
    if any_resource := re.fullmatch(r"(/v\d/)\{\}(:\w+)", theirs):
        return ours.startswith(any_resource[1]) and ours.endswith(any_resource[2])
    mine, other = ours.split("/"), theirs.split("/")
    return len(mine) == len(other) and all(
        one == two or (one == "{}" and ":" not in two) or (two == "{}" and ":" not in one)
        for one, two in zip(mine, other, strict=True)
    )


def _differing(ours: str, theirs: str) -> int:
    return sum(one != two for one, two in zip(ours.split("/"), theirs.split("/"), strict=False))


def _path(source: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    path = re.sub(r"\{[^}]*\}", "{}", method.get("flatPath") or method["path"])
    # Older APIs have their version in the path of the service, not in the method's.
    path = path.removeprefix(f"{source['name']}/")
    return "/" + (path if re.match(r"v\d", path) else f"{source['version']}/{path}")


def _methods(holder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from holder.get("methods", {}).values()
    for below in holder.get("resources", {}).values():
        yield from _methods(below)


def _method(method: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {"id": method["id"]}
    for side in ("request", "response"):
        if side in method:
            made[side] = names[method[side]["$ref"]]
    if "scopes" in method:
        made["scopes"] = " ".join(sorted(scope.removeprefix(SCOPE_PREFIX) for scope in method["scopes"]))
    query = {
        name: _kind(one, "", {}, names) + ("*" if one.get("repeated") else "")
        for name, one in sorted(method.get("parameters", {}).items())
        if one.get("location") == "query"
    }
    return {**made, **({"query": query} if query else {})}


def short_names(schemas: Iterable[str]) -> dict[str, str]:
    """Names without their family's prefix, where no two would be the same."""
    cut = {name: _FAMILIES.sub("", name, count=1) for name in schemas}
    return {name: short if list(cut.values()).count(short) == 1 else name for name, short in cut.items()}


def _collect(name: str, source: Mapping[str, Any], names: Mapping[str, str], into: dict[str, dict[str, str]]) -> None:
    """Put the schema *name* and all that it reaches *into* the table."""
    short = names.get(name, name)
    if short in into:
        return
    into[short] = {}
    inline: dict[str, Any] = {}
    for field, value in source[name].get("properties", {}).items():
        kind = _kind(value, f"{name}.{field}", inline, names)
        told = value.get("description", "").startswith(_WRITTEN_BY_THE_API)
        into[short][field] = kind + ("!" if value.get("readOnly") or told else "")
    for one in {**inline, **dict.fromkeys(_references(source[name]), None)}:
        _collect(one, {**source, **inline}, names, into)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, below in cast("dict[str, Any]", value).items():
            if name == "$ref":
                yield below
            yield from _references(below)


def _kind(value: Mapping[str, Any], at: str, inline: dict[str, Any], names: Mapping[str, str]) -> str:
    if "$ref" in value:
        return names[value["$ref"]]
    if value.get("enum"):
        return f"enum {'|'.join(value['enum'])}"
    match value["type"]:
        case "array":
            return f"[{_kind(value['items'], at, inline, names)}]"
        case "object" if "properties" in value:
            inline[at] = value
            return at
        case "object":
            return f"{{{_kind(value.get('additionalProperties', {'type': 'any'}), at, inline, names)}}}"
        case kind:
            return _SCALARS[kind, value.get("format", "")]


if __name__ == "__main__":
    main()
