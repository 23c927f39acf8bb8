"""Conversion between Pulumi properties and request and response bodies of the REST APIs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from mcpfleet_local_cloud.plugins.properties import SCALARS, Field, is_same_value, is_zero
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties

_EMPTY_VALUES: Final[Mapping[str, Any]] = {"string": "", "blocks": []}
"""The empty value of each kind of property, for properties that are sent even when empty; other kinds send null."""


def to_wire(fields: Sequence[Field], properties: Mapping[str, Any]) -> dict[str, Any]:
    """The request body for *properties*, without empty values except those that the real provider always sends."""
    body: dict[str, Any] = {}
    for field in fields:
        if not field.wire or field.output:
            continue
        value = _encode_value(field, properties.get(field.name))
        if field.send_empty or not is_zero(value):
            body[field.wire] = value
    return body


def _encode_value(field: Field, value: Any) -> Any:
    if value is None or value is UNKNOWN:
        return _EMPTY_VALUES.get(field.kind) if field.send_empty else None
    if field.kind == "block":
        nested = to_wire(field.children, value)
        return ([nested] if nested else None) if field.wire_list else nested
    if field.children:
        items = [to_wire(field.children, item) for item in cast("list[Any]", value)]
        return {item.pop(field.wire_key): item for item in items} if field.wire_key else items
    return value


def from_wire(fields: Sequence[Field], body: Mapping[str, Any]) -> Properties:
    """The properties in a response body; fields that are missing from *body* are missing from the result."""
    properties: Properties = {}
    for field in fields:
        value = _decode_value(field, body.get(field.wire)) if field.wire else None
        if value is not None:
            properties[field.name] = value
    return properties


def _decode_value(field: Field, value: Any) -> Any:
    if value is None:
        return None
    if field.kind == "int":
        return int(value)  # int64 comes as a string
    if field.kind == "block":
        if field.wire_list:
            items = cast("list[Any]", value)
            return from_wire(field.children, items[0]) if items else None
        return from_wire(field.children, value)
    if field.children:
        if field.wire_key:
            entries = cast("Mapping[str, Any]", value)
            value = [{field.wire_key: key, **entry} for key, entry in entries.items()]
        elif isinstance(value, Mapping):
            value = [value]  # one object for the API, a list for Pulumi (terminalCondition)
        return [from_wire(field.children, item) for item in cast("list[Any]", value)]
    if field.kind == "map":
        return dict(value)
    return list(value) if field.kind in ("list", "set") else value


def inputs_from_state(fields: Sequence[Field], state: Mapping[str, Any]) -> Properties:
    """The inputs that describe an existing resource, for `pulumi import`: all inputs whose value is not empty."""
    inputs: Properties = {}
    for field in fields:
        value = state.get(field.name)
        if field.output or is_zero(value):
            continue
        if field.kind == "block":
            value = inputs_from_state(field.children, cast("Mapping[str, Any]", value))
        elif field.children:
            value = [inputs_from_state(field.children, item) for item in cast("list[Any]", value)]
        inputs[field.name] = value
    return inputs


def refresh_inputs(fields: Sequence[Field], inputs: Mapping[str, Any], state: Mapping[str, Any]) -> Properties:
    """The old *inputs* with the resource's current values; properties that the program never set are not added."""
    refreshed: Properties = {name: value for name, value in inputs.items() if name.startswith("__")}
    for field in fields:
        if field.name not in inputs or field.output:
            continue
        old, value = inputs[field.name], state.get(field.name)
        if value is None:
            if is_zero(old) or not field.wire:
                refreshed[field.name] = old
        elif field.kind == "block" and isinstance(old, Mapping):
            refreshed[field.name] = refresh_inputs(field.children, cast("Mapping[str, Any]", old), value)
        elif field.kind == "blocks":
            refreshed[field.name] = _refresh_items(field, old, value)
        elif field.kind in ("set", "block set") and _has_same_items(old, value):
            refreshed[field.name] = old
        else:
            refreshed[field.name] = old if field.kind in SCALARS and is_same_value(field, value, old) else value
    return refreshed


def _refresh_items(field: Field, old_items: list[Any], new_items: list[Any]) -> list[Any]:
    return [
        refresh_inputs(field.children, old_items[index], item)
        if index < len(old_items)
        else inputs_from_state(field.children, item)
        for index, item in enumerate(new_items)
    ]


def _has_same_items(old_items: list[Any], new_items: list[Any]) -> bool:
    return sorted(map(repr, old_items)) == sorted(map(repr, new_items))
