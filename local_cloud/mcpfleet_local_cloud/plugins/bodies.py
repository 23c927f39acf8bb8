"""Between Pulumi's properties and the bodies of the REST APIs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from mcpfleet_local_cloud.plugins.properties import SCALARS, Field, is_zero, same
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties

_NOTHING: Final[Mapping[str, Any]] = {"string": "", "blocks": []}
"""What is sent for nothing, where it is sent; null for other kinds."""


def to_wire(fields: Sequence[Field], properties: Mapping[str, Any]) -> dict[str, Any]:
    """A request body: empty values are left out, except those that the real provider always sends."""
    body: dict[str, Any] = {}
    for field in fields:
        if not field.wire or field.output:
            continue
        value = _outgoing(field, properties.get(field.name))
        if field.send_empty or not is_zero(value):
            body[field.wire] = value
    return body


def _outgoing(field: Field, value: Any) -> Any:
    if value is None or value is UNKNOWN:
        return _NOTHING.get(field.kind) if field.send_empty else None
    if field.kind == "block":
        inside = to_wire(field.children, value)
        return ([inside] if inside else None) if field.wire_list else inside
    if field.children:
        items = [to_wire(field.children, item) for item in cast("list[Any]", value)]
        return {item.pop(field.wire_key): item for item in items} if field.wire_key else items
    return value


def from_wire(fields: Sequence[Field], body: Mapping[str, Any]) -> Properties:
    """The properties in an answer; what the answer leaves out is left out."""
    properties: Properties = {}
    for field in fields:
        value = _incoming(field, body.get(field.wire)) if field.wire else None
        if value is not None:
            properties[field.name] = value
    return properties


def _incoming(field: Field, value: Any) -> Any:
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
    """The inputs that describe an existing resource, for `pulumi import`: what differs from doing nothing."""
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


def refreshed_inputs(fields: Sequence[Field], inputs: Mapping[str, Any], state: Mapping[str, Any]) -> Properties:
    """The old *inputs* with the values that the resource has now; what the program never gave stays out."""
    fresh: Properties = {name: value for name, value in inputs.items() if name.startswith("__")}
    for field in fields:
        if field.name not in inputs or field.output:
            continue
        given, value = inputs[field.name], state.get(field.name)
        if value is None:
            if is_zero(given) or not field.wire:
                fresh[field.name] = given
        elif field.kind == "block" and isinstance(given, Mapping):
            fresh[field.name] = refreshed_inputs(field.children, cast("Mapping[str, Any]", given), value)
        elif field.kind == "blocks":
            fresh[field.name] = _refreshed_items(field, given, value)
        elif field.kind in ("set", "block set") and _same_items(given, value):
            fresh[field.name] = given
        else:
            fresh[field.name] = given if field.kind in SCALARS and same(field, value, given) else value
    return fresh


def _refreshed_items(field: Field, given: list[Any], now: list[Any]) -> list[Any]:
    return [
        refreshed_inputs(field.children, given[index], item)
        if index < len(given)
        else inputs_from_state(field.children, item)
        for index, item in enumerate(now)
    ]


def _same_items(given: list[Any], now: list[Any]) -> bool:
    return sorted(map(repr, given)) == sorted(map(repr, now))
