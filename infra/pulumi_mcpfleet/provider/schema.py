"""The schema of the components, as Pulumi writes packages: from the fleet's models and the outputs' types.

The typed dictionaries of Python programs are generated from it, and so are SDKs of other languages. Property names are
in camel case, as Pulumi has them; keys of a fleet are not.
https://www.pulumi.com/docs/iac/guides/building-extending/packages/schema/
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from types import NoneType, UnionType
from typing import Any, Final, Union, cast, get_args, get_origin, get_type_hints

import pulumi

from pulumi_mcpfleet import clients, outputs, tokens
from pulumi_mcpfleet.components import load_balancer
from pulumi_mcpfleet.components.deferred import find_output_location
from pulumi_mcpfleet.fleet.model import Fleet

Schema = dict[str, Any]

NAME: Final = "mcpfleet"
REPOSITORY: Final = "https://github.com/mcpfleet/mcpfleet"

PROJECT: Final = "The Google Cloud project."
BALANCED: Final = (
    "Whether its `domain` has a load balancer of its own. `false`: a load balancer of yours leads to the output"
    " `backend_service`. By default `true`."
)
OF_THE_FLEET: Final = ("region", "regions", "new_regions", "profile", "organization")
OF_THE_FOUNDATION: Final = ("registry", "cloud_build", "platform")
"""Keys of a fleet that a server has by itself where it is alone in a program."""

SERVER_OUTPUTS: Final[Mapping[str, tuple[Any, str]]] = {
    "mcp_url": (str, "The URL for MCP clients: the endpoint itself, so that no redirect is needed."),
    "url": (str, "Where it answers: its domain, else the service's URL."),
    "urls": (dict[str, str], "The service's own URL in each region; empty where it is switched off."),
    "audience": (str, "What callers' ID tokens must be for."),
    "service": (str, "The Cloud Run service's name, the same in each region."),
    "account": (str, "The address of the account that it runs as."),
    "address": (str | None, "The address that the A record of its domain has to name; missing without a domain."),
    "dns_records": (list[load_balancer.DnsRecord] | None, "The records that the DNS of its domain needs."),
    "backend_service": (
        str | None,
        "The backend service of its domain, by which a load balancer of yours leads to it.",
    ),
}
"""What an `McpServer` has, in every language: the type and the meaning of each output."""


def camel(name: str) -> str:
    """A key of a fleet as the schema has it."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


class _Types:
    """The object types, as the walk finds them."""

    def __init__(self) -> None:
        fleet = Fleet.model_json_schema()
        self.defs: dict[str, Schema] = {**fleet.pop("$defs"), "Fleet": fleet}
        self.found: dict[str, Schema] = {}

    def properties(self, name: str, path: Sequence[str] = ()) -> dict[str, Schema]:
        """The properties of a model, under the fleet's keys."""
        definition = self.defs[name]
        return {
            key: {**self._property(one, (*path, key)), "description": _described(one)}
            for key, one in cast("dict[str, Schema]", definition["properties"]).items()
        }

    def required(self, name: str) -> list[str]:
        return cast("list[str]", self.defs[name].get("required", []))

    def _property(self, schema: Schema, path: Sequence[str]) -> Schema:
        if "$ref" in schema:
            return self._reference(schema["$ref"].rpartition("/")[2], path)
        if options := schema.get("oneOf") or schema.get("anyOf"):
            return self._union([one for one in options if one.get("type") != "null"], path)
        kinds = schema.get("type", "string")
        if isinstance(kinds, list):
            if "array" in kinds:  # one, or a list of them
                return {"oneOf": [_leaf("string", path), {"type": "array", "items": _leaf("string", (*path, "[]"))}]}
            kinds = "string"
        match kinds:
            case "array":
                return {"type": "array", "items": self._property(schema.get("items", {}), (*path, "[]"))}
            case "object":
                several = schema.get("additionalProperties") or next(iter(schema["patternProperties"].values()))
                return {"type": "object", "additionalProperties": self._property(several, (*path, "*"))}
            case _:
                return _leaf(kinds, path)

    def _union(self, options: Sequence[Schema], path: Sequence[str]) -> Schema:
        found = [self._property(one, path) for one in options]
        return found[0] if len(found) == 1 else {"oneOf": found}

    def _reference(self, name: str, path: Sequence[str]) -> Schema:
        if name not in self.found:
            self.found[name] = {}  # before its own properties, which may be of this type
        here = {"Server": (), "Client": ()}.get(name, path)
        properties = self.properties(name, here)
        before = self.found[name].get("properties", {})
        for key, one in properties.items():
            # A type that stands in several places may have an output where one of them may.
            if key in before and not before[key].get("plain", False):
                one.pop("plain", None)
        self.found[name] = {
            "type": "object",
            "description": _described(self.defs[name]),
            "properties": properties,
            "required": self.required(name),
        }
        return {"$ref": f"#/types/{NAME}:index:{name}"}


def _leaf(kind: str, path: Sequence[str]) -> Schema:
    return {"type": kind} if find_output_location(path) else {"type": kind, "plain": True}


def _described(schema: Schema) -> str:
    """The meaning of a key, with its default and its words where the meaning does not name them."""
    text = " ".join(str(schema.get("description", "")).split())
    options = cast("list[Schema]", schema.get("anyOf", []))
    words = next((cast("list[str]", one["enum"]) for one in (schema, *options) if "enum" in one), ())
    if words:
        text += f" One of {', '.join(f'`{word}`' for word in words)}."
    default = schema.get("default")
    if default not in (None, "", [], {}) and isinstance(default, str | int | bool) and "y default" not in text:
        text += f" By default `{str(default).lower() if isinstance(default, bool) else default}`."
    return re.sub(r"\[([^\]]+)\]\(#[^)]+\)", r"\1", text)


def arguments() -> tuple[dict[str, Schema], dict[str, Schema]]:
    """The object types by name, and the arguments of each component by its name, both under the fleet's keys."""
    types = _Types()
    fleet = types.properties("Fleet")
    project: Schema = {"type": "string", "plain": True, "description": PROJECT}
    balanced: Schema = {"type": "boolean", "plain": True, "description": BALANCED}
    alone = {key: fleet[key] for key in (*OF_THE_FLEET, *OF_THE_FOUNDATION)}
    server, client = types.properties("Server"), types.properties("Client")
    foundation = {key: fleet[key] for key in ("region", "new_regions", *OF_THE_FOUNDATION, "labels")}
    components = {
        "Fleet": _component({"project": project, **fleet}, ["project", *types.required("Fleet")]),
        "McpServer": _component(
            {"project": project, **alone, **server, "load_balancer": balanced}, ["project", *types.required("Server")]
        ),
        "McpClient": _component(
            {"project": project, **alone, **client}, ["project", "region", *types.required("Client")]
        ),
        "Foundation": _component({"project": project, **foundation}, ["project", "region"]),
    }
    return types.found, components


def _component(properties: dict[str, Schema], required: list[str]) -> Schema:
    return {"properties": properties, "required": required}


# --- outputs ------------------------------------------------------------------------------------------


def server_outputs() -> dict[str, Schema]:
    """The outputs of an `McpServer`, under the outputs' keys."""
    return {key: {**_of_hint(kind)[0], "description": meaning} for key, (kind, meaning) in SERVER_OUTPUTS.items()}


def output_types() -> dict[str, Schema]:
    """The object types of outputs, under the outputs' keys."""
    kinds = (
        outputs.ServerOutput,
        outputs.ClientOutput,
        clients.AcceptedTokens,
        clients.ClientConfig,
        clients.ClientEntry,
        load_balancer.DnsRecord,
    )
    return {kind.__name__: _typed_dict(kind) for kind in kinds}


def _typed_dict(kind: Any) -> Schema:
    summary, _, attributes = (kind.__doc__ or "").partition("Attributes:")
    meanings = dict(re.findall(r"^ +(\w+): (.+?)(?=^ +\w+: |\Z)", attributes, re.MULTILINE | re.DOTALL))
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for key, hint in get_type_hints(kind, localns={"Output": pulumi.Output, "T": Any}).items():
        spec, optional = _of_hint(hint)
        properties[key] = {**spec, "description": " ".join(meanings.get(key, "").split())}
        if not optional:
            required.append(key)
    return {
        "type": "object",
        "description": " ".join(summary.split()),
        "properties": properties,
        "required": required,
    }


def _of_hint(hint: Any) -> tuple[Schema, bool]:
    """The type of an output, and whether it may be missing."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is pulumi.Output:
        return _of_hint(inner[0])
    if origin in (Union, UnionType):
        first, *_ = (one for one in inner if one is not NoneType)  # of pulumi.Input the value itself is the first
        return _of_hint(first)[0], NoneType in inner
    if origin in (list, Sequence) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return {"type": "array", "items": _of_hint(inner[0])[0]}, False
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of_hint(inner[1])[0]}, False
    plain = {str: "string", int: "integer", bool: "boolean"}
    if hint in plain:
        return {"type": plain[hint]}, False
    return {"$ref": f"#/types/{NAME}:index:{hint.__name__}"}, False


# --- the package ----------------------------------------------------------------------------------------


def package() -> Schema:
    """The schema of the whole package."""
    types, components = arguments()
    all_types = {**types, **output_types()}
    words = frozenset(key for one in (*all_types.values(), *components.values()) for key in one["properties"])
    rename = _renamer(words)
    fleet_outputs: Schema = {
        "servers": {
            "type": "object",
            "additionalProperties": {"$ref": f"#/types/{NAME}:index:ServerOutput"},
            "description": "Where each server answers and how it is called, by name.",
        },
        "clients": {
            "type": "object",
            "additionalProperties": {"$ref": f"#/types/{NAME}:index:ClientOutput"},
            "description": "Where each client answers, by name.",
        },
    }
    always = [key for key, (kind, _) in SERVER_OUTPUTS.items() if not _of_hint(kind)[1]]
    resources = {
        tokens.FLEET: _resource(
            "MCP servers on Cloud Run, and the clients that call them.",
            components["Fleet"],
            fleet_outputs,
            list(fleet_outputs),
            rename,
        ),
        tokens.MCP_SERVER: _resource(
            "One MCP server on Cloud Run, with an account of its own, which only its invokers may call.",
            components["McpServer"],
            server_outputs(),
            always,
            rename,
        ),
    }
    return {
        "name": NAME,
        "displayName": "mcpfleet",
        "version": version("pulumi-mcpfleet"),
        "description": "MCP servers on Google Cloud Run.",
        "keywords": ["pulumi", "mcp", "google-cloud", "category/cloud", "kind/component"],
        "license": "Apache-2.0",
        "repository": REPOSITORY,
        "publisher": "mcpfleet",
        "types": {f"{NAME}:index:{name}": rename(one) for name, one in all_types.items()},
        "resources": resources,
        "language": {
            "nodejs": {"respectSchemaVersion": True, "packageName": "@mcpfleet/mcpfleet"},
            "go": {"respectSchemaVersion": True, "generateResourceContainerTypes": False},
            "python": {"respectSchemaVersion": True},
            "csharp": {"respectSchemaVersion": True},
        },
    }


def _resource(
    description: str,
    component: Schema,
    found: dict[str, Schema],
    required: Sequence[str],
    rename: Callable[[Any], Any],
) -> Schema:
    return {
        "isComponent": True,
        "description": description,
        **rename({"properties": found, "required": list(required)}),
        **{
            f"{which}Inputs" if which == "required" else "inputProperties": one
            for which, one in rename(component).items()
        },
    }


def _renamer(words: frozenset[str]) -> Callable[[Any], Any]:
    """What writes an object's schema in camel case: its property names, and these where descriptions name them."""
    several = sorted((word for word in words if "_" in word), key=len, reverse=True)
    named = re.compile(rf"\b({'|'.join(several)})\b")

    def text(value: str) -> str:
        return named.sub(lambda match: camel(match[0]), value)

    def renamed(schema: Schema) -> Schema:
        properties = {
            camel(key): {**one, "description": text(one["description"])}
            for key, one in cast("dict[str, Schema]", schema["properties"]).items()
        }
        found = {**schema, "properties": properties, "required": [camel(key) for key in schema["required"]]}
        if "description" in schema:
            found["description"] = text(schema["description"])
        return found

    return renamed


def undescribed(schema: Schema) -> Iterator[str]:
    """The types, resources and properties of a package's schema that have no description."""
    for name, one in (*schema["types"].items(), *schema["resources"].items()):
        if not one.get("description"):
            yield name
        for kind in ("properties", "inputProperties"):
            yield from (f"{name}.{key}" for key, value in one.get(kind, {}).items() if not value.get("description"))
