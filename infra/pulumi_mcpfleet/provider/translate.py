"""Between the schema's property names, which are in camel case, and a fleet's keys.

Only names of properties are translated; keys of mappings, such as names of servers and of variables, are the user's.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import pulumi

from pulumi_mcpfleet.provider.schema import Schema, arguments, camel, output_types, server_outputs

_FLEET_OUTPUTS: Schema = {
    name: {"type": "object", "additionalProperties": {"$ref": f"#/types/mcpfleet:index:{kind}"}}
    for name, kind in (("servers", "ServerOutput"), ("clients", "ClientOutput"))
}


def to_arguments(component: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of *component* from the inputs of a program in any language."""
    types, components = _known()
    return cast("dict[str, Any]", _renamed(inputs, components[component]["properties"], types, inward=True))


def to_outputs(component: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of *component* as its schema has them."""
    properties = _FLEET_OUTPUTS if component == "Fleet" else server_outputs()
    return cast("dict[str, Any]", _renamed(values, properties, output_types(), inward=False))


def to_mistake(component: str, name: str, line: str) -> tuple[str, str]:
    """The property and the reason in a line of the report about the component *name*."""
    path, _, reason = line.partition(": ")
    path = path.removeprefix("fleet" if component == "Fleet" else name).removeprefix(".")
    return _in_camel_case(path), _in_camel_case(reason)


@cache
def _known() -> tuple[dict[str, Schema], dict[str, Schema]]:
    return arguments()


@cache
def _keys() -> re.Pattern[str]:
    types, components = _known()
    keys = {key for one in (*types.values(), *components.values()) for key in one["properties"] if "_" in key}
    return re.compile(rf"\b({'|'.join(sorted(keys, key=len, reverse=True))})\b")


def _in_camel_case(text: str) -> str:
    return _keys().sub(lambda match: camel(match[0]), text)


def _renamed(value: Any, properties: Schema, types: Mapping[str, Schema], *, inward: bool) -> Any:
    names = {(camel(key) if inward else key): key for key in properties}
    found: dict[str, Any] = {}
    for name, one in cast("Mapping[str, Any]", value).items():
        key = names.get(name, name)
        if one is not None:
            translated = _value(one, properties.get(key, {}), types, inward=inward)
            found[key if inward else camel(key)] = translated
    return found


def _value(value: Any, schema: Schema, types: Mapping[str, Schema], *, inward: bool) -> Any:
    if isinstance(value, pulumi.Output) or value is None:
        return cast("Any", value)
    if "oneOf" in schema:
        schema = _member(value, schema["oneOf"], types, inward=inward)
    if isinstance(value, Mapping):
        several = cast("Mapping[str, Any]", value)
        if "$ref" in schema:
            return _renamed(several, types[schema["$ref"].rpartition(":")[2]]["properties"], types, inward=inward)
        inner = schema.get("additionalProperties", {})
        return {key: _value(one, inner, types, inward=inward) for key, one in several.items()}
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        return [_value(one, schema.get("items", {}), types, inward=inward) for one in items]
    if schema.get("type") == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)  # every number of the protocol is a float
    return value


def _member(value: Any, options: Sequence[Schema], types: Mapping[str, Schema], *, inward: bool) -> Schema:
    """The member of a union that *value* is: of objects the one that has most of its keys."""
    if isinstance(value, Mapping):
        keys = {str(key) for key in cast("Mapping[Any, Any]", value)}

        def shared(option: Schema) -> int:
            properties: Schema = types[option["$ref"].rpartition(":")[2]]["properties"] if "$ref" in option else {}
            return len(keys & {name for key in properties for name in (key, camel(key))})

        return max(options, key=shared)
    is_array = isinstance(value, list | tuple)
    members = (one for one in options if "$ref" not in one and (one["type"] == "array") == is_array)
    return next(members, options[0])
