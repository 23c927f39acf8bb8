"""`python -m devtools.discovery`: writes the local cloud's tables of Google's APIs, from the discovery documents.

The documents come from `google-api-python-client` on PyPI. The package has 111 MB, so it is installed in the user's
cache (devtools/google_clients) and not with the local cloud. The command writes the parts that the local cloud serves
to `rest/schemas/`, one file per API, one field per line:

- a method, by the verb and path of its route: `id`, `request`, `response`, `scopes` (a token needs one of them), and
  its query parameters (`*`: repeated);
- a schema: its fields with their types: a scalar (`string`, `bool`, `int64`, `duration`, ...), `enum A|B`, another
  schema, `[type]` for a list, `{type}` for a map; `!` at the end marks a field that only the API sets.

With `--documents FOLDER`, it reads the documents from that folder.
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
# Types of an operation's `metadata` and `response`, which no method references.
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
    """Write all tables."""
    parser = argparse.ArgumentParser(description="Write rest/schemas/ from Google's discovery documents.")
    parser.add_argument("--documents", type=Path, help="a folder with the documents; by default those of the package")
    folder: Path | None = parser.parse_args().documents
    for api, table in render_tables(folder or find_documents(), served_routes()).items():
        (FOLDER / f"{api}.json").write_text(table)


def find_documents() -> Path:
    """Find the folder with Google's discovery documents.

    Raises:
        SetupError: PyPI could not provide them.
    """
    return (
        find_google_clients(ThisHost(), Paths.from_environ(os.environ))
        / "googleapiclient"
        / "discovery_cache"
        / "documents"
    )


def served_routes() -> set[tuple[str, str]]:
    """The verb and path of all methods that the local cloud serves, for Compute Engine with the collection's name."""
    with tempfile.TemporaryDirectory() as folder:
        routes = Cloud(Settings(state=Path(folder))).routes()
    return {
        (verb, path)
        for route in routes
        if isinstance(route, Route) and api_of(route.path)
        for path in _expand_collections(route.path)
        for verb in (route.methods or set()) - {"HEAD"}
    }


def render_tables(documents: Path, routes: set[tuple[str, str]]) -> dict[str, str]:
    """The text of each API's table, with those methods of *routes* that Google has."""
    return {api: _render_table(api, documents / f"{api}.json", routes) for api in sorted(set(APIS.values()))}


def hash_table(table: Mapping[str, Any]) -> str:
    """The hash of a table, to detect changes by hand."""
    content = {name: part for name, part in table.items() if name != "sha256"}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _expand_collections(path: str) -> Iterator[str]:
    if "{collection}" not in path:
        yield path
        return
    for collection in GLOBAL if "/regions/" not in path else REGIONAL:
        for setter in SETTERS:
            yield path.replace("{collection}", collection).replace("{setter}", setter)


def _render_table(api: str, document: Path, routes: set[tuple[str, str]]) -> str:
    content = document.read_bytes()
    source: dict[str, Any] = json.loads(content)
    names = short_names(source["schemas"])
    methods: dict[str, Any] = {}
    google_methods = list(_list_methods(source))
    for verb, path in sorted(routes, key=lambda item: (item[1], item[0])):
        if api_of(path) != api:
            continue
        local = path.removeprefix("/upload").removeprefix("/download")
        local = re.sub(r"\{\w+(:path)?\}", "{}", "/" + local.split("/", 2)[2])
        # A resumable upload continues at the path of the method that started it.
        http_method = "POST" if path.startswith("/upload") else verb
        matching = [
            item
            for item in google_methods
            if item["httpMethod"] == http_method and _matches(local, _method_path(source, item))
        ]
        if matching:
            matching.sort(key=lambda item: _count_differences(local, _method_path(source, item)))
            methods[f"{verb} {path}"] = _method_entry(matching[0], names)
    schemas: dict[str, dict[str, str]] = {}
    for name in source["schemas"]:
        if _IN_OPERATIONS.fullmatch(names[name]):
            _collect_schemas(name, source["schemas"], names, schemas)
    for item in google_methods:
        if any(written["id"] == item["id"] for written in methods.values()):
            for side in ("request", "response"):
                if side in item:
                    _collect_schemas(item[side]["$ref"], source["schemas"], names, schemas)
    table: dict[str, Any] = {
        "api": api,
        "revision": source["revision"],
        "package": PACKAGE,
        "document": sha256(content).hexdigest(),
        "methods": methods,
        "schemas": {name: schemas[name] for name in sorted(schemas)},
    }
    return json.dumps({"sha256": hash_table(table), **table}, indent=1) + "\n"


def _matches(route_path: str, method_path: str) -> bool:
    """Whether a route's path is a method's path; a parameter in one of them matches any word in the other."""
    if any_resource := re.fullmatch(r"(/v\d/)\{\}(:\w+)", method_path):
        return route_path.startswith(any_resource[1]) and route_path.endswith(any_resource[2])
    route_parts, method_parts = route_path.split("/"), method_path.split("/")
    return len(route_parts) == len(method_parts) and all(
        first == second or (first == "{}" and ":" not in second) or (second == "{}" and ":" not in first)
        for first, second in zip(route_parts, method_parts, strict=True)
    )


def _count_differences(route_path: str, method_path: str) -> int:
    return sum(first != second for first, second in zip(route_path.split("/"), method_path.split("/"), strict=False))


def _method_path(source: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    path = re.sub(r"\{[^}]*\}", "{}", method.get("flatPath") or method["path"])
    # Older APIs have their version in the path of the service, not in the path of the method.
    path = path.removeprefix(f"{source['name']}/")
    return "/" + (path if re.match(r"v\d", path) else f"{source['version']}/{path}")


def _list_methods(holder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from holder.get("methods", {}).values()
    for resource in holder.get("resources", {}).values():
        yield from _list_methods(resource)


def _method_entry(method: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": method["id"]}
    for side in ("request", "response"):
        if side in method:
            entry[side] = names[method[side]["$ref"]]
    if "scopes" in method:
        entry["scopes"] = " ".join(sorted(scope.removeprefix(SCOPE_PREFIX) for scope in method["scopes"]))
    query = {
        name: _type_name(parameter, "", {}, names) + ("*" if parameter.get("repeated") else "")
        for name, parameter in sorted(method.get("parameters", {}).items())
        if parameter.get("location") == "query"
    }
    return {**entry, **({"query": query} if query else {})}


def short_names(schemas: Iterable[str]) -> dict[str, str]:
    """Names without their family's prefix, unless two names would be equal."""
    cut = {name: _FAMILIES.sub("", name, count=1) for name in schemas}
    return {name: short if list(cut.values()).count(short) == 1 else name for name, short in cut.items()}


def _collect_schemas(
    name: str, source: Mapping[str, Any], names: Mapping[str, str], table: dict[str, dict[str, str]]
) -> None:
    """Add the schema *name*, and all schemas that it references, to *table*."""
    short = names.get(name, name)
    if short in table:
        return
    table[short] = {}
    inline: dict[str, Any] = {}
    for field, value in source[name].get("properties", {}).items():
        kind = _type_name(value, f"{name}.{field}", inline, names)
        is_described_as_output = value.get("description", "").startswith(_WRITTEN_BY_THE_API)
        table[short][field] = kind + ("!" if value.get("readOnly") or is_described_as_output else "")
    for reference in {**inline, **dict.fromkeys(_find_references(source[name]), None)}:
        _collect_schemas(reference, {**source, **inline}, names, table)


def _find_references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, child in cast("dict[str, Any]", value).items():
            if name == "$ref":
                yield child
            yield from _find_references(child)


def _type_name(value: Mapping[str, Any], name: str, inline: dict[str, Any], names: Mapping[str, str]) -> str:
    if "$ref" in value:
        return names[value["$ref"]]
    if value.get("enum"):
        return f"enum {'|'.join(value['enum'])}"
    match value["type"]:
        case "array":
            return f"[{_type_name(value['items'], name, inline, names)}]"
        case "object" if "properties" in value:
            inline[name] = value
            return name
        case "object":
            return f"{{{_type_name(value.get('additionalProperties', {'type': 'any'}), name, inline, names)}}}"
        case kind:
            return _SCALARS[kind, value.get("format", "")]


if __name__ == "__main__":
    main()
