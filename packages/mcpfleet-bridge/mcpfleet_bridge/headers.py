"""The headers of protocol version 2026-07-28 that repeat parts of the body, and must agree with it.

Gateways route by these headers. If they differed from the body, the gateway and the server would see different requests
(specification 2026-07-28, streamable HTTP, "Standard headers").

A tool's schema declares which arguments a header repeats (`x-mcp-header`, `Mcp-Param-*`). Header and argument must be
equal, or both absent. The bridge fetches the schemas once, and again after the tools change or the process restarts.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, Child
from mcpfleet_bridge.messages import Json, Message, MessageError, RefusedError

UNIQUE_HEADERS: Final = frozenset(
    {b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id", b"host", b"origin"}
)
"""Headers that must not be duplicated, because different readers might use different ones."""

_META: Final = "io.modelcontextprotocol/"
_NAME_KEYS: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_BASE64_FORM: Final = re.compile(r"=\?base64\?(.*)\?=")

PARAM_PREFIX: Final = b"mcp-param-"

_MAX_PAGES: Final = 100
_LIST_SECONDS: Final = 10.0
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNREADABLE: Final = object()
"""An argument that is present but equals no header, such as a number of thousands of digits or a lone surrogate."""
_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.0+)?")
# The keywords, other than `properties`, that contain subschemas. An annotation there belongs to no single argument.
_NESTED_SCHEMAS: Final = frozenset(
    {
        "items",
        "contains",
        "additionalProperties",
        "propertyNames",
        "not",
        "if",
        "then",
        "else",
        "allOf",
        "anyOf",
        "oneOf",
    }
    | {"prefixItems", "patternProperties", "dependentSchemas", "$defs", "definitions"}
)


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request whose headers agree with its body.

    Attributes:
        method: The method.
        name: The name of the tool or prompt, or the URI of the resource; None for other methods.
        members: The members of `params`.
        meta: The members of `params._meta`.
    """

    method: str
    name: str | None
    members: Json
    meta: Json


def check_request(headers: Mapping[bytes, bytes], message: Message, versions: Sequence[str]) -> CheckedRequest:
    """Check that the headers agree with the body.

    Raises:
        RefusedError: They differ, a required part is missing, or the protocol version is not supported.
    """
    try:
        members = messages.fields(message.params)
        meta = messages.fields(members.get("_meta", b"null"))
    except MessageError:
        raise RefusedError(
            messages.INVALID_PARAMS, "params._meta must be an object with the request's envelope"
        ) from None
    keys = (f"{_META}protocolVersion", f"{_META}clientCapabilities")
    if missing := [key for key in keys if key not in meta]:
        raise RefusedError(messages.INVALID_PARAMS, f"params._meta is missing {' and '.join(missing)}")
    body_version = messages.text(meta[keys[0]])
    version = _read_header(headers, b"mcp-protocol-version")
    method = str(message.method)
    if version != body_version:
        raise RefusedError(messages.HEADER_MISMATCH, "MCP-Protocol-Version differs from params._meta of the body")
    if _read_header(headers, b"mcp-method") != method:
        raise RefusedError(messages.HEADER_MISMATCH, "Mcp-Method differs from the method of the body")
    name = None
    if (key := _NAME_KEYS.get(method)) and key in members:
        name = messages.text(members[key])
        if decode_header(_read_header(headers, b"mcp-name")) != name or name is None:
            raise RefusedError(messages.HEADER_MISMATCH, f"Mcp-Name differs from params.{key} of the body")
    if version not in versions:
        data = {"supported": list(versions), "requested": version}
        raise RefusedError(messages.UNSUPPORTED_VERSION, "Unsupported protocol version", data)
    try:
        messages.fields(meta[keys[1]])
    except MessageError:
        raise RefusedError(messages.INVALID_PARAMS, f"params._meta: {keys[1]} must be an object") from None
    return CheckedRequest(method, name, members, meta)


def _read_header(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    # White space around a value is not part of it (RFC 9110, 5.5), but the HTTP parser keeps it at the end.
    return None if value is None else value.decode("latin-1").strip(" \t")


def decode_header(value: str | None) -> str | None:
    """Decode a header's value from its Base64 form, if it has one. None means that the form is invalid."""
    if value is None or (match := _BASE64_FORM.fullmatch(value)) is None:
        return value
    try:
        raw = base64.b64decode(match[1], validate=True)
        # The decoder ignores some bits, so different texts could decode to the same value.
        return raw.decode() if base64.b64encode(raw).decode() == match[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None


# --- arguments that headers repeat ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParamHeader:
    """A declared header and the argument that it repeats.

    Attributes:
        path: The keys that lead to the argument.
        header: The header's name, in lower case.
        integer: Whether the argument is an integer, which can be written in several ways.
    """

    path: tuple[str, ...]
    header: bytes
    integer: bool


class ParamHeaders:
    """The headers that the server's tools declare, fetched when first needed."""

    def __init__(self) -> None:
        self._tools: dict[str, tuple[ParamHeader, ...]] | None = None

    def reset(self) -> None:
        """Forget the declarations, because the tools have changed or a process is new."""
        self._tools = None

    async def check(self, child: Child, name: str | None, members: Json, headers: Mapping[bytes, bytes]) -> None:
        """Check that the headers of a call agree with its arguments.

        Raises:
            RefusedError: They differ.
        """
        tools = self._tools
        if tools is None:
            tools = self._tools = await _fetch_declarations(child)
        if declared := tools.get(name or ""):
            compare_params(declared, members.get("arguments"), headers)


async def _fetch_declarations(child: Child) -> dict[str, tuple[ParamHeader, ...]]:
    """Fetch the declarations from a server's tools. If its list can't be read, there are none."""
    declared_by_tool: dict[str, tuple[ParamHeader, ...]] = {}
    params: bytes | None = b"{}"
    for _ in range(_MAX_PAGES):
        call = Call(b"0", "tools/list", params)
        child.submit(call)
        await call.wait(_LIST_SECONDS)
        if call.answer is None:
            child.cancel(call, "it took too long")
        if call.answer is None or not call.answer[0]:
            break
        try:
            page = msgspec.json.decode(call.answer[1], type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            break
        for tool in _list(page.get("tools")):
            if isinstance(tool, dict):
                tool_ = cast("dict[str, Any]", tool)
                if declared := find_declarations(tool_.get("inputSchema")):
                    declared_by_tool[str(tool_.get("name"))] = declared
        cursor = page.get("nextCursor")
        if not isinstance(cursor, str):
            break
        params = messages.dump({"cursor": cursor})
    return declared_by_tool


def find_declarations(schema: Any) -> tuple[ParamHeader, ...]:
    """Return the headers that a schema declares; none if any of the declarations is invalid."""
    declared: list[ParamHeader] = []
    pending: list[tuple[tuple[str, ...] | None, Any]] = [((), schema)]
    while pending:
        path, node = pending.pop()
        if not isinstance(node, dict):
            continue
        members = cast("dict[str, Any]", node)
        if "x-mcp-header" in members:
            name, type_name = members["x-mcp-header"], members.get("type")
            if not path or not isinstance(name, str) or not _TOKEN.fullmatch(name):
                return ()
            if type_name not in ("string", "integer", "boolean"):
                return ()
            declared.append(ParamHeader(path, PARAM_PREFIX + name.lower().encode(), type_name == "integer"))
        for key, value in members.items():
            if key == "properties" and isinstance(value, dict):
                for name, subschema in cast("dict[str, Any]", value).items():
                    pending.append((None if path is None else (*path, name), subschema))
            elif key in _NESTED_SCHEMAS:
                subschemas: Any = value
                if isinstance(value, dict) and key in ("patternProperties", "dependentSchemas", "$defs", "definitions"):
                    subschemas = list(cast("dict[str, Any]", value).values())
                pending += [(None, subschema) for subschema in (_list(subschemas) or [subschemas])]
    headers = [header.header for header in declared]
    return tuple(declared) if len(set(headers)) == len(headers) else ()


def compare_params(
    declared: tuple[ParamHeader, ...], arguments: messages.Raw | None, headers: Mapping[bytes, bytes]
) -> None:
    """Check that declared headers agree with the arguments.

    Raises:
        RefusedError: They differ.
    """
    for declaration in declared:
        value = _find_argument(arguments, declaration.path)
        raw = headers.get(declaration.header)
        text = None if raw is None else decode_header(raw.decode("latin-1").strip(" \t"))
        name, argument = declaration.header.decode(), ".".join(declaration.path)
        if raw is not None and text is None:
            raise RefusedError(messages.HEADER_MISMATCH, f"{name} is not valid Base64")
        if value is None and raw is None:
            continue
        if value is None:
            raise RefusedError(messages.HEADER_MISMATCH, f"{name} is present, but the argument {argument} is missing")
        if text is None:
            raise RefusedError(messages.HEADER_MISMATCH, f"{name} is missing, but the argument {argument} is present")
        if not _is_same_value(value, text, integer=declaration.integer):
            raise RefusedError(messages.HEADER_MISMATCH, f"{name} differs from the argument {argument}")


def _is_same_value(value: Any, text: str, *, integer: bool) -> bool:
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if integer and whole and _DECIMAL.fullmatch(text):
        try:
            return int(text.partition(".")[0]) == int(value)
        except ValueError:
            return False  # more digits than Python parses, and therefore than the argument has
    return isinstance(value, str | int | float) and str(value) == text


def _find_argument(arguments: messages.Raw | None, path: tuple[str, ...]) -> Any:
    """Return the argument at a path, or None. Nothing else is parsed, because the server's parser may accept more.

    Raises:
        RefusedError: The arguments can't be read.
    """
    raw = b"{}" if arguments is None else bytes(arguments)
    for step in path:
        if not raw.lstrip().startswith(b"{"):
            return None
        try:
            members = messages.fields(raw)
        except MessageError:
            raise RefusedError(
                messages.HEADER_MISMATCH, f"the arguments can't be read, so {'.'.join(path)} can't be compared"
            ) from None
        if step not in members:
            return None
        raw = bytes(members[step])
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _UNREADABLE


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
