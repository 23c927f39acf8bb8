"""Reads a JSON body as Google's front end does: strictly, by the message's type, with Google's own refusals.

What comes out has only known fields, in camelCase (snake_case is read too, as protobuf's JSON mapping says), numbers as
numbers, 64-bit ones as strings, no nulls. A zero value (`false`, `0`, `""`, `[]`) stays when it was sent.

Not on protobuf's `json_format`: it says what is wrong in other words, and forgets which zero values were sent.
"""

import copy
import json
import math
import re
from typing import Any, Final, Never

from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.rest.wire import as_list, as_object
from mcpfleet_local_cloud.services.run.messages import MESSAGES, ONEOFS, enum
from mcpfleet_local_cloud.state.store import Document

_PAYLOAD: Final = "Invalid JSON payload received."
_DURATION = re.compile(r"-?\d{1,12}(\.\d{1,9})?s")
_INTEGER = re.compile(r"-?\d{1,19}")
_BITS: Final = {"int32": 31, "int64": 63}


def read(body: bytes, message: str, field: str) -> Document:
    """The *message* that a request's *body* holds; *field* is the request's name for it (`service`).

    An empty body is an empty message, as Google's front end reads it.

    Raises:
        GoogleError: INVALID_ARGUMENT, every mistake on a line of its own.
    """
    try:
        raw: Any = json.loads(body, parse_constant=_no_constant) if body.strip() else {}
    except (ValueError, RecursionError):
        raise invalid(f"{_PAYLOAD} Expected a value; the body is not JSON.") from None
    if as_object(raw) is None:
        raise invalid(f'{_PAYLOAD} Unknown name "": Root element must be a message.')
    reader = _Reader()
    parsed = reader.message(raw, message, field)
    if reader.refusals:
        raise GoogleError("INVALID_ARGUMENT", "\n".join(reader.refusals))
    return parsed


def snake(name: str) -> str:
    """The protobuf name of a JSON name: `maxInstanceCount` is `max_instance_count`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def field_of(message: str, name: str) -> str | None:
    """The JSON name of *message*'s field *name*, which may be in either spelling; None where it has none."""
    fields = MESSAGES[message]
    return name if name in fields else next((known for known in fields if snake(known) == name), None)


def _no_constant(constant: str) -> Never:
    raise ValueError(constant)


class _Reader:
    def __init__(self) -> None:
        self.refusals: list[str] = []

    def message(self, raw: Any, message: str, path: str) -> Document:
        given = as_object(raw)
        if given is None:
            self._refuse(path, f"type.googleapis.com/google.cloud.run.v2.{message}", raw)
            return {}
        parsed: Document = {}
        for name, value in given.items():
            field = field_of(message, name)
            if field is None:
                shown = json.dumps(name)
                self.refusals.append(f"{_PAYLOAD} Unknown name {shown} at '{path}': Cannot find field.")
                continue
            kind = MESSAGES[message][field]
            if value is not None and not kind.endswith("!"):
                parsed[field] = self._value(value, kind, f"{path}.{snake(field)}")
        for oneof, members in ONEOFS.get(message, {}).items():
            given_members = [member for member in members if member in parsed]
            for extra in given_members[1:]:
                self.refusals.append(
                    f"Invalid value at '{path}' (oneof), oneof field '{oneof}' is already set. Cannot set '{extra}'"
                )
        return parsed

    def _value(self, value: Any, kind: str, path: str) -> Any:
        if kind.startswith("["):
            return self._repeated(value, kind[1:-1], path)
        if as_list(value) is not None:
            name = path.rpartition(".")[2]
            self.refusals.append(
                f"{_PAYLOAD} Unknown name \"{name}\" at '{path.rpartition('.')[0]}': "
                "Proto field is not repeating, cannot start list."
            )
            return None
        if kind == "map":
            return self._map(value, path)
        return self.message(value, kind, path) if kind in MESSAGES else self._scalar(value, kind, path)

    def _repeated(self, value: Any, kind: str, path: str) -> list[Any]:
        items = as_list(value)
        if items is None:
            self._refuse(path, _type_name(kind), value)
            return []
        return [
            self.message(item, kind, f"{path}[{index}]")
            if kind in MESSAGES
            else self._scalar(item, kind, f"{path}[{index}]")
            for index, item in enumerate(items)
        ]

    def _map(self, value: Any, path: str) -> dict[str, Any]:
        entries = as_object(value)
        if entries is None:
            self._refuse(path, "Map", value)
            return {}
        return {
            self._scalar(key, "string", f"{path}[{index}].key"): self._scalar(entry, "string", f"{path}[{index}].value")
            for index, (key, entry) in enumerate(entries.items())
        }

    def _scalar(self, value: Any, kind: str, path: str) -> Any:
        parsed = _scalar(value, kind)
        if parsed is None:
            self._refuse(path, _type_name(kind), value)
        return parsed

    def _refuse(self, path: str, wanted: str, value: Any) -> None:
        if wanted.endswith("Duration"):
            field = path.rpartition(".")[2]
            text = f"Field '{field}', Illegal duration format; duration must end with 's'"
        else:
            text = json.dumps(value)[:200]
        self.refusals.append(f"Invalid value at '{path}' ({wanted}), {text}")


def _type_name(kind: str) -> str:
    if kind.startswith("enum:"):
        return f"type.googleapis.com/{enum(kind.removeprefix('enum:'))[0]}"
    if kind == "duration":
        return "type.googleapis.com/google.protobuf.Duration"
    return f"type.googleapis.com/google.cloud.run.v2.{kind}" if kind in MESSAGES else f"TYPE_{kind.upper()}"


def _scalar(value: Any, kind: str) -> Any:
    """The value as *kind*, or None where it is not one."""
    if kind == "string":
        return value if isinstance(value, str) and _encodable(value) else None
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind in _BITS:
        return _integer(value, kind)
    if kind == "float":
        return _float(value)
    if kind == "duration":
        return value if isinstance(value, str) and _DURATION.fullmatch(value) else None
    values = enum(kind.removeprefix("enum:"))[1]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(values):
        return values[value]
    return value if value in values else None


def _integer(value: Any, kind: str) -> int | str | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    limit = 1 << _BITS[kind]
    if not -limit <= value < limit:
        return None
    return str(value) if kind == "int64" else value


def _float(value: Any) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 3.4e38:
        return None
    return value if math.isfinite(value) else None


def _encodable(text: str) -> bool:
    """A lone surrogate is no text: no answer could carry it back."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def apply_mask(current: Document, given: Document, mask: str) -> Document:
    """*current* with the fields that *mask* names (`labels,template.timeout`) as they are in *given*.

    Raises:
        GoogleError: INVALID_ARGUMENT, the mask names no field of a service.
    """
    if mask in ("", "*"):
        return given
    merged = copy.deepcopy(current)
    for path in mask.split(","):
        _copy_field(merged, given, path.strip())
    return merged


def _copy_field(target: Document, source: Document, path: str) -> None:
    message = "Service"
    *parents, last = path.split(".")
    for step in parents:
        field = _field(message, step, path)
        target = target.setdefault(field, {})
        source = source.get(field, {})
        message = MESSAGES[message][field]
        if message not in MESSAGES:
            raise invalid(f"update_mask: '{path}' goes into '{field}', which has no fields of its own.")
    field = _field(message, last, path)
    if field in source:
        target[field] = copy.deepcopy(source[field])
    else:
        target.pop(field, None)


def _field(message: str, name: str, path: str) -> str:
    field = field_of(message, name)
    if field is None or MESSAGES[message][field].endswith("!"):
        raise invalid(f"update_mask: '{path}' is no field of a service that can be changed.")
    return field
