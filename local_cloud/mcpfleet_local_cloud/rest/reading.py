"""Reads the body of a request as Google's front end does: strictly, by the method's schema, with Google's refusals.

What comes out has only known fields, in camelCase (the newer APIs read snake_case, too, as protobuf's JSON mapping
says), numbers as numbers, 64-bit ones as strings, enums by name, and nothing that only the API writes. A zero value
(`false`, `0`, `""`, `[]`) stays when it was sent. `honoured.py` says which fields count here; any other is refused once
it is set.

Not on protobuf's `json_format`: it says what is wrong in other words, and forgets which zero values were sent.
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
from mcpfleet_local_cloud.rest.honoured import ENUM_NUMBERS, ONEOFS, PACKAGES, Standing, standing_of
from mcpfleet_local_cloud.rest.json_api import Twice, as_list, as_object, parse_json
from mcpfleet_local_cloud.rest.schemas import Method, load
from mcpfleet_local_cloud.state.store import Document

METHOD: Final = "mcpfleet.method"
"""Where a request's scope has its `Method`."""
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
_DEEPEST: Final = 60
_WELL_KNOWN: Final = {"duration": "Duration", "timestamp": "Timestamp", "mask": "FieldMask"}


async def body_of(request: Request) -> Document:
    """The message in the body of *request*; no body stands for the empty message.

    Raises:
        GoogleError: INVALID_ARGUMENT, every mistake on a line of its own; UNIMPLEMENTED, every field that is not
            honoured here.
    """
    return read(await request.body(), request.scope[METHOD])


def read(content: bytes, method: Method) -> Document:
    """As `body_of`, of a body's *content*."""
    raw: Any = parse_json(content) if content.strip() else {}
    if as_object(raw) is None:
        raise invalid(f'{_PAYLOAD} Unknown name "": Root element must be a message.')
    reader = _Reader(method)
    parsed = reader.message(raw, method.request, "")
    if reader.mistakes:
        raise invalid("\n".join(reader.mistakes))
    if reader.refused:
        raise GoogleError("UNIMPLEMENTED", "\n".join(reader.refused))
    return parsed


def snake(name: str) -> str:
    """The protobuf name of a JSON name: `maxInstanceCount` is `max_instance_count`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a message.

    Attributes:
        name: in JSON.
        kind: as the table has it.
        standing: what the local cloud does with it.
    """

    name: str
    kind: str
    standing: Standing


@cache
def fields_of(api: str, schema: str) -> Mapping[str, Field]:
    """The fields of a schema of *api*, by each name that a caller may use."""
    found: dict[str, Field] = {}
    for name, kind in load(api).schemas.get(schema, {}).items():  # a method without a request has no fields
        standing = Standing("written") if kind.endswith("!") else standing_of(api, schema, name)
        one = Field(name=name, kind=kind.removesuffix("!"), standing=standing)
        if is_proto(api):
            found.setdefault(snake(name), one)
        found[name] = one
    return found


def is_proto(api: str) -> bool:
    """Whether *api* reads JSON as protobuf's mapping says; the oldest three do not."""
    return not api.startswith(("compute.", "dns.", "storage."))


@dataclass
class _Reader:
    method: Method
    mistakes: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._api = self.method.api
        self._proto = is_proto(self._api)
        # There, null in a PATCH takes a field away; elsewhere it is as if the field had not been sent.
        self._keeps_null = not self._proto and self.method.id.endswith(".patch")
        self._root = _root(self.method)

    def message(self, raw: Any, schema: str, path: str) -> Document:
        given = as_object(raw)
        if given is None:
            self._mistake(path, f"type.googleapis.com/{_package(self._api, schema)}", raw)
            return {}
        if path.count(".") > _DEEPEST:
            self.mistakes.append(f"{_PAYLOAD} The message is nested too deeply.")
            return {}
        known, parsed = fields_of(self._api, schema), cast("Document", {})
        oneofs = ONEOFS.get(f"{self._api.partition('.')[0]}.{schema}", {})
        for name, value in given.items():
            found = known.get(name)
            if found is None:
                # The real provider sends null for fields of other versions, and Compute Engine takes it.
                if value is None and not self._proto:
                    continue
                self._unknown(name, path, "Cannot find field.")
            elif found.standing.kind == "written":
                continue
            elif value is None:
                if self._keeps_null:
                    parsed[found.name] = None
            else:
                self._take(parsed, found, value, f"{path}.{found.name}" if path else found.name, oneofs)
        if isinstance(raw, Twice):
            for name in raw.names:
                self._unknown(name, path, "it is set twice.")
        for oneof, members in oneofs.items():
            for extra in [member for member in members if member in parsed][1:]:
                where = self._place(path)
                self.mistakes.append(
                    f"Invalid value at '{where}' (oneof), oneof field '{oneof}' is already set. Cannot set '{extra}'"
                )
        return parsed

    def _take(
        self, parsed: Document, found: Field, value: Any, path: str, oneofs: Mapping[str, tuple[str, ...]]
    ) -> None:
        if found.name in parsed:
            self._unknown(found.name, path.rpartition(".")[0], "it is set twice.")
        mistakes, refused = len(self.mistakes), len(self.refused)
        read = self._value(value, found.kind, path)
        if len(self.mistakes) > mistakes:
            return
        if found.standing.kind != "refused":
            parsed[found.name] = read
            return
        inside, self.refused = self.refused[refused:], self.refused[:refused]
        if inside or self._says(read, found) or any(found.name in members for members in oneofs.values()):
            named = f"{_lower(self.method.request)}.{path}" if self._root else path
            self.refused.append(f"{named}: the local cloud does not honour this field yet: {found.standing.why}")

    def _says(self, value: Any, found: Field) -> bool:
        """Whether a refused field says something: a message without fields of its own does by being there."""
        if found.kind in load(self._api).schemas:
            inside = fields_of(self._api, found.kind).values()
            return _is_set(value) or all(one.standing.kind == "written" for one in inside)
        return _is_set(value)

    def _value(self, value: Any, kind: str, path: str) -> Any:
        if kind == "any":
            return value
        if kind.startswith("["):
            items = as_list(value)
            if items is None:
                return self._mistake(path, _type_name(self._api, kind[1:-1]), value)
            return [self._one(item, kind[1:-1], f"{path}[{index}]") for index, item in enumerate(items)]
        if as_list(value) is not None:
            parent, _, name = path.rpartition(".")
            return self._unknown(name, parent, "Proto field is not repeating, cannot start list.")
        if kind.startswith("{"):
            entries = as_object(value)
            if entries is None:
                return self._mistake(path, "Map", value)
            return {
                self._one(key, "string", f"{path}[{index}].key"): self._entry(one, kind, f"{path}[{index}].value")
                for index, (key, one) in enumerate(entries.items())
            }
        return self._one(value, kind, path)

    def _entry(self, value: Any, kind: str, path: str) -> Any:
        return None if value is None and self._keeps_null else self._one(value, kind[1:-1], path)

    def _one(self, value: Any, kind: str, path: str) -> Any:
        if kind in _SCALARS or kind.startswith("enum "):
            parsed = value if kind == "any" else _scalar(value, kind, self._api)
            if parsed is None and kind != "any":
                self._mistake(path, _type_name(self._api, kind), value)
            return parsed
        return self.message(value, kind, path)

    def _place(self, path: str) -> str:
        full = f"{self._root}.{path}" if self._root and path else self._root or path
        return snake(full) if self._proto else full

    def _unknown(self, name: str, path: str, why: str) -> None:
        where = self._place(path)
        at = f" at '{where}'" if where else ""
        shown = snake(name) if self._proto and "repeating" in why else name
        self.mistakes.append(f"{_PAYLOAD} Unknown name {json.dumps(shown)}{at}: {why}")

    def _mistake(self, path: str, wanted: str, value: Any) -> None:
        if wanted.endswith("Duration"):
            name = self._place(path).rpartition(".")[2]
            told = f"Field '{name}', Illegal duration format; duration must end with 's'"
        else:
            told = json.dumps(value)[:200]
        self.mistakes.append(f"Invalid value at '{self._place(path)}' ({wanted}), {told}")


def _root(method: Method) -> str:
    """What a refusal calls the body: nothing where the body is the whole request."""
    if method.request.endswith("Request") or not method.request:
        return ""
    return "resource" if method.api.startswith("compute.") else snake(method.request)


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _package(api: str, schema: str) -> str:
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
        return f"type.googleapis.com/{_package(api, name)}"
    if kind in _WELL_KNOWN:
        return f"type.googleapis.com/google.protobuf.{_WELL_KNOWN[kind]}"
    return f"TYPE_{kind.upper()}" if kind in _SCALARS else f"type.googleapis.com/{_package(api, kind)}"


def _scalar(value: Any, kind: str, api: str) -> Any:
    """The value as *kind*, or None where it is not one."""
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind in _LIMITS:
        return _integer(value, kind)
    if kind in ("float", "double"):
        return _float(value, kind)
    if kind.startswith("enum "):
        return _enum(value, kind, api)
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


def _integer(value: Any, kind: str) -> int | str | None:
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


def _float(value: Any, kind: str) -> float | int | None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or abs(value) > (3.4e38 if kind == "float" else 1.7e308)
    ):
        return None
    return value if math.isfinite(value) else None


def _enum(value: Any, kind: str, api: str) -> str | None:
    values = kind.removeprefix("enum ").split("|")
    if isinstance(value, int) and not isinstance(value, bool) and is_proto(api):
        numbered: Sequence[str] = ENUM_NUMBERS.get(values[0], values)
        return numbered[value] or None if 0 <= value < len(numbered) else None
    return value if value in values else None


def _is_set(value: Any) -> bool:
    """Whether there is more in *value* than what protobuf calls default values."""
    if isinstance(value, dict | list):
        return any(map(_is_set, _below(value)))
    return bool(value) and not (isinstance(value, str) and value.endswith("_UNSPECIFIED"))


def _below(value: Any) -> Iterator[Any]:
    fields = as_object(value)
    yield from fields.values() if fields is not None else as_list(value) or ()
