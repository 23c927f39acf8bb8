"""Parses the body of a request as Google's front end does: strictly, by the method's schema, with Google's errors.

The result has only known fields, in camelCase (the newer APIs accept snake_case, too, as protobuf's JSON mapping
requires). Numbers are numbers, 64-bit ones are strings, enums are names, and output-only fields are dropped. A zero
value (`false`, `0`, `""`, `[]`) stays if it was sent. `supported_fields.py` lists the supported fields; any other is
refused if it is set.

This does not use protobuf's `json_format`, whose errors have other texts, and which drops the zero values that were
sent.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, cast

from starlette.requests import Request

from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.rest.json_api import ObjectWithDuplicates, as_list, as_object, parse_json
from mcpfleet_local_cloud.rest.schemas import Method, load_api
from mcpfleet_local_cloud.rest.supported_fields import ENUM_NUMBERS, ONEOFS, PACKAGES, Support, support_of
from mcpfleet_local_cloud.state.store import Document

METHOD: Final = "mcpfleet.method"
"""The key of the `Method` in a request's scope."""
_PAYLOAD: Final = "Invalid JSON payload received."
_DURATION = re.compile(r"-?\d{1,12}(\.\d{1,9})?s")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_MASK = re.compile(r"(?:\w+(?:\.[\w-]+)*(?:,|$))*|\*")
_INTEGER = re.compile(r"-?\d{1,20}")
_LIMITS: Final = {
    "int32": (-(1 << 31), 1 << 31),
    "uint32": (0, 1 << 32),
    "int64": (-(1 << 63), 1 << 63),
    "uint64": (0, 1 << 64),
}
_SCALARS: Final = frozenset(
    {"string", "bool", "float", "double", "duration", "timestamp", "bytes", "mask", "any", *_LIMITS}
)
_MAX_DEPTH: Final = 60
_WELL_KNOWN: Final = {"duration": "Duration", "timestamp": "Timestamp", "mask": "FieldMask"}


async def read_body(request: Request) -> Document:
    """Read and parse the message in the body of *request*; an empty body means an empty message.

    Raises:
        GoogleError: INVALID_ARGUMENT with each mistake on its own line; UNIMPLEMENTED with each unsupported field.
    """
    return parse_body(await request.body(), request.scope[METHOD])


def parse_body(content: bytes, method: Method) -> Document:
    """Parse the *content* of a body; see `read_body`."""
    raw: Any = parse_json(content) if content.strip() else {}
    if as_object(raw) is None:
        raise invalid(f'{_PAYLOAD} Unknown name "": Root element must be a message.')
    reader = _MessageParser(method)
    parsed = reader.parse_message(raw, method.request, "")
    if reader.mistakes:
        raise invalid("\n".join(reader.mistakes))
    if reader.refused:
        raise GoogleError("UNIMPLEMENTED", "\n".join(reader.refused))
    return parsed


def to_snake_case(name: str) -> str:
    """The protobuf name of a JSON name: `maxInstanceCount` is `max_instance_count`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a message.

    Attributes:
        name: the name in JSON.
        kind: the type, as in the table (`schemas`).
        support: how far the local cloud supports it.
    """

    name: str
    kind: str
    support: Support


@cache
def fields_of(api: str, schema: str) -> Mapping[str, Field]:
    """The fields of a schema of *api*, by each of their accepted names."""
    fields: dict[str, Field] = {}
    for name, kind in load_api(api).schemas.get(schema, {}).items():  # a method without a request has no fields
        support = Support("output_only") if kind.endswith("!") else support_of(api, schema, name)
        field = Field(name=name, kind=kind.removesuffix("!"), support=support)
        if is_proto(api):
            fields.setdefault(to_snake_case(name), field)
        fields[name] = field
    return fields


def is_proto(api: str) -> bool:
    """Whether *api* follows protobuf's JSON mapping; the three oldest APIs do not."""
    return not api.startswith(("compute.", "dns.", "storage."))


@dataclass
class _MessageParser:
    method: Method
    mistakes: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._api = self.method.api
        self._proto = is_proto(self._api)
        # In those APIs, null in a PATCH removes a field. In the others, it is as if the field had not been sent.
        self._keeps_null = not self._proto and self.method.id.endswith(".patch")
        self._root = _root_name(self.method)

    def parse_message(self, raw: Any, schema: str, path: str) -> Document:
        entries = as_object(raw)
        if entries is None:
            self._add_invalid_value(path, f"type.googleapis.com/{_protobuf_name(self._api, schema)}", raw)
            return {}
        if path.count(".") > _MAX_DEPTH:
            self.mistakes.append(f"{_PAYLOAD} The message is nested too deeply.")
            return {}
        fields, parsed = fields_of(self._api, schema), cast("Document", {})
        oneofs = ONEOFS.get(f"{self._api.partition('.')[0]}.{schema}", {})
        for name, value in entries.items():
            field = fields.get(name)
            if field is None:
                # The real provider sends null for fields of other versions, and Compute Engine accepts it.
                if value is None and not self._proto:
                    continue
                self._add_unknown_name(name, path, "Cannot find field.")
            elif field.support.level == "output_only":
                continue
            elif value is None:
                if self._keeps_null:
                    parsed[field.name] = None
            else:
                self._parse_field(parsed, field, value, f"{path}.{field.name}" if path else field.name, oneofs)
        if isinstance(raw, ObjectWithDuplicates):
            for name in raw.duplicates:
                self._add_unknown_name(name, path, "it is set twice.")
        for oneof, members in oneofs.items():
            for extra in [member for member in members if member in parsed][1:]:
                location = self._location(path)
                self.mistakes.append(
                    f"Invalid value at '{location}' (oneof), oneof field '{oneof}' is already set. Cannot set '{extra}'"
                )
        return parsed

    def _parse_field(
        self, parsed: Document, field: Field, value: Any, path: str, oneofs: Mapping[str, tuple[str, ...]]
    ) -> None:
        if field.name in parsed:
            self._add_unknown_name(field.name, path.rpartition(".")[0], "it is set twice.")
        mistakes, refused = len(self.mistakes), len(self.refused)
        parsed_value = self._parse_value(value, field.kind, path)
        if len(self.mistakes) > mistakes:
            return
        if field.support.level != "refused":
            parsed[field.name] = parsed_value
            return
        refused_inside, self.refused = self.refused[refused:], self.refused[:refused]
        if (
            refused_inside
            or self._has_effect(parsed_value, field)
            or any(field.name in members for members in oneofs.values())
        ):
            field_path = f"{_lower_first(self.method.request)}.{path}" if self._root else path
            self.refused.append(
                f"{field_path}: the local cloud does not support this field yet: {field.support.reason}"
            )

    def _has_effect(self, value: Any, field: Field) -> bool:
        """Whether a refused field has an effect. A message without settable fields has one by being present."""
        if field.kind in load_api(self._api).schemas:
            inner_fields = fields_of(self._api, field.kind).values()
            return _is_set(value) or all(inner.support.level == "output_only" for inner in inner_fields)
        return _is_set(value)

    def _parse_value(self, value: Any, kind: str, path: str) -> Any:
        if kind == "any":
            return value
        if kind.startswith("["):
            items = as_list(value)
            if items is None:
                return self._add_invalid_value(path, _type_name(self._api, kind[1:-1]), value)
            return [self._parse_item(item, kind[1:-1], f"{path}[{index}]") for index, item in enumerate(items)]
        if as_list(value) is not None:
            parent, _, name = path.rpartition(".")
            return self._add_unknown_name(name, parent, "Proto field is not repeating, cannot start list.")
        if kind.startswith("{"):
            entries = as_object(value)
            if entries is None:
                return self._add_invalid_value(path, "Map", value)
            return {
                self._parse_item(key, "string", f"{path}[{index}].key"): self._parse_entry(
                    entry, kind, f"{path}[{index}].value"
                )
                for index, (key, entry) in enumerate(entries.items())
            }
        return self._parse_item(value, kind, path)

    def _parse_entry(self, value: Any, kind: str, path: str) -> Any:
        return None if value is None and self._keeps_null else self._parse_item(value, kind[1:-1], path)

    def _parse_item(self, value: Any, kind: str, path: str) -> Any:
        if kind in _SCALARS or kind.startswith("enum "):
            parsed = value if kind == "any" else _parse_scalar(value, kind, self._api)
            if parsed is None and kind != "any":
                self._add_invalid_value(path, _type_name(self._api, kind), value)
            return parsed
        return self.parse_message(value, kind, path)

    def _location(self, path: str) -> str:
        full = f"{self._root}.{path}" if self._root and path else self._root or path
        return to_snake_case(full) if self._proto else full

    def _add_unknown_name(self, name: str, path: str, reason: str) -> None:
        location = self._location(path)
        suffix = f" at '{location}'" if location else ""
        reported_name = to_snake_case(name) if self._proto and "repeating" in reason else name
        self.mistakes.append(f"{_PAYLOAD} Unknown name {json.dumps(reported_name)}{suffix}: {reason}")

    def _add_invalid_value(self, path: str, type_name: str, value: Any) -> None:
        if type_name.endswith("Duration"):
            name = self._location(path).rpartition(".")[2]
            detail = f"Field '{name}', Illegal duration format; duration must end with 's'"
        else:
            detail = json.dumps(value)[:200]
        self.mistakes.append(f"Invalid value at '{self._location(path)}' ({type_name}), {detail}")


def _root_name(method: Method) -> str:
    """The name of the body in error messages; empty if the body is the whole request."""
    if method.request.endswith("Request") or not method.request:
        return ""
    return "resource" if method.api.startswith("compute.") else to_snake_case(method.request)


def _lower_first(name: str) -> str:
    return name[:1].lower() + name[1:]


def _protobuf_name(api: str, schema: str) -> str:
    if schema in ("Policy", "Binding", "Expr", "AuditConfig", "AuditLogConfig"):
        return f"google.iam.v1.{schema}"
    return f"{PACKAGES.get(api.partition('.')[0], '')}.{schema}".removeprefix(".")


def _type_name(api: str, kind: str) -> str:
    if kind.startswith("enum "):
        first, unspecified, _ = kind.removeprefix("enum ").partition("|")[0].partition("_UNSPECIFIED")
        if not unspecified or not first or not is_proto(api):
            return "TYPE_ENUM"
        # An enum is named as its first value is (AIP-126); the discovery documents leave its name out.
        name = "".join(word.capitalize() for word in first.split("_"))
        return f"type.googleapis.com/{_protobuf_name(api, name)}"
    if kind in _WELL_KNOWN:
        return f"type.googleapis.com/google.protobuf.{_WELL_KNOWN[kind]}"
    return f"TYPE_{kind.upper()}" if kind in _SCALARS else f"type.googleapis.com/{_protobuf_name(api, kind)}"


def _parse_scalar(value: Any, kind: str, api: str) -> Any:
    """Convert *value* to *kind*; None if it has another type."""
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind in _LIMITS:
        return _parse_integer(value, kind)
    if kind in ("float", "double"):
        return _parse_float(value, kind)
    if kind.startswith("enum "):
        return _parse_enum(value, kind, api)
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        return None
    return value if _is_text(value, kind) else None


def _is_text(value: str, kind: str) -> bool:
    match kind:
        case "duration":
            return _DURATION.fullmatch(value) is not None
        case "timestamp":
            return _TIMESTAMP.fullmatch(value) is not None
        case "mask":
            return _MASK.fullmatch(value) is not None
        case "bytes":
            return _is_base64(value)
        case _:
            return True


def _is_base64(value: str) -> bool:
    try:
        base64.b64decode(value.replace("-", "+").replace("_", "/") + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _parse_integer(value: Any, kind: str) -> int | str | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    lowest, beyond = _LIMITS[kind]
    if not lowest <= value < beyond:
        return None
    return str(value) if kind.endswith("64") else value


def _parse_float(value: Any, kind: str) -> float | int | None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or abs(value) > (3.4e38 if kind == "float" else 1.7e308)
    ):
        return None
    return value if math.isfinite(value) else None


def _parse_enum(value: Any, kind: str, api: str) -> str | None:
    values = kind.removeprefix("enum ").split("|")
    if isinstance(value, int) and not isinstance(value, bool) and is_proto(api):
        numbered: Sequence[str] = ENUM_NUMBERS.get(values[0], values)
        return numbered[value] or None if 0 <= value < len(numbered) else None
    return value if value in values else None


def _is_set(value: Any) -> bool:
    """Whether *value* has anything besides protobuf's default values."""
    if isinstance(value, dict | list):
        return any(map(_is_set, _children(value)))
    return bool(value) and not (isinstance(value, str) and value.endswith("_UNSPECIFIED"))


def _children(value: Any) -> Iterator[Any]:
    fields = as_object(value)
    yield from fields.values() if fields is not None else as_list(value) or ()
