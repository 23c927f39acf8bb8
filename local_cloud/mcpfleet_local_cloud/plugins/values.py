"""Conversion between plain Python values and the property values that the engine and a provider exchange.

A property bag is a `google.protobuf.Struct`; signatures mark values that JSON can't express (pulumi
sdk/go/common/resource: `SigKey`, `SecretSig`, the unknown's UUID). Here an unknown value is `UNKNOWN`, and an outgoing
secret is a `Secret`. Incoming secrets become plain values: the engine marks them again (`acceptSecrets` false).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from google.protobuf import struct_pb2

Properties = dict[str, Any]

_SIGNATURE_KEY: Final = "4dabf18193072939515e22adb298388d"
_SECRET_SIGNATURE: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105  the protocol's marker, no secret
_OUTPUT_SIGNATURE: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_UNKNOWN_STRINGS: Final = frozenset(
    {
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # bool
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # array
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
    }
)
_UNKNOWN_STRING: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


class Unknown:
    """The type of `UNKNOWN`: a value that is known only after another resource was created."""

    def __repr__(self) -> str:
        return "<unknown>"


UNKNOWN: Final = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that the engine must encrypt in the state."""

    value: Any


def from_struct(struct: struct_pb2.Struct | None) -> Properties:
    """The property bag of a request, without nulls, as the real providers read it."""
    if struct is None:
        return {}
    return {
        name: _read_value(value) for name, value in struct.fields.items() if value.WhichOneof("kind") != "null_value"
    }


def _read_value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "string_value":
        return UNKNOWN if value.string_value in _UNKNOWN_STRINGS else value.string_value
    if kind == "list_value":
        return [_read_value(item) for item in value.list_value.values]
    if kind == "struct_value":
        return _read_object(value.struct_value)
    return None


def _read_object(struct: struct_pb2.Struct) -> Any:
    signature = struct.fields[_SIGNATURE_KEY].string_value if _SIGNATURE_KEY in struct.fields else None
    if signature == _SECRET_SIGNATURE:
        return _read_value(struct.fields["value"])
    if signature == _OUTPUT_SIGNATURE:
        return _read_value(struct.fields["value"]) if "value" in struct.fields else UNKNOWN
    return from_struct(struct)


def to_struct(properties: Mapping[str, Any]) -> struct_pb2.Struct:
    """The property bag for a response, without values that are None."""
    struct = struct_pb2.Struct()
    for name, value in properties.items():
        if value is not None:
            struct.fields[name].CopyFrom(_write_value(value))
    return struct


def _write_value(value: Any) -> struct_pb2.Value:
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if value is UNKNOWN:
        return struct_pb2.Value(string_value=_UNKNOWN_STRING)
    if isinstance(value, Secret):
        marked = struct_pb2.Struct()
        marked.fields[_SIGNATURE_KEY].string_value = _SECRET_SIGNATURE
        marked.fields["value"].CopyFrom(_write_value(value.value))
        return struct_pb2.Value(struct_value=marked)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, (int, float)):
        return struct_pb2.Value(number_value=float(value))
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, Mapping):
        return struct_pb2.Value(struct_value=to_struct(cast("Mapping[str, Any]", value)))
    if isinstance(value, (list, tuple)):
        items = [_write_value(item) for item in cast("list[Any]", value)]
        return struct_pb2.Value(list_value=struct_pb2.ListValue(values=items))
    raise TypeError(f"no property value: {type(value).__name__}")


def has_unknown(value: Any) -> bool:
    """Whether *value* is or contains `UNKNOWN`."""
    if isinstance(value, Mapping):
        return any(has_unknown(item) for item in cast("Mapping[str, Any]", value).values())
    if isinstance(value, (list, tuple)):
        return any(has_unknown(item) for item in cast("list[Any]", value))
    return value is UNKNOWN


def as_dict(value: Any) -> dict[str, Any]:
    """*value* if it is a dictionary, otherwise an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """*value* if it is a list, otherwise an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []
