"""The headers of the revision 2026-07-28, which repeat what the body says, and must say the same.

A gateway routes by them, so a request whose headers and body differ would be one thing to the gateway and
another to the server (specification 2026-07-28, streamable HTTP, "Standard headers").

A tool says in its schema which of its arguments a header repeats (`x-mcp-header`, `Mcp-Param-*`). Header and argument
must say the same, or be absent together. The schemas are asked for once, and again when the tools have changed or the
process is another.
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
from mcpfleet_bridge.messages import Json, Message, MessageError, Refused

ROUTING: Final = frozenset({b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id", b"host", b"origin"})
"""Headers of which there may be one: two readers might take different ones for the truth."""

_META: Final = "io.modelcontextprotocol/"
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_ENCODED: Final = re.compile(r"=\?base64\?(.*)\?=")

PREFIX: Final = b"mcp-param-"

_PAGES: Final = 100
_SECONDS: Final = 10.0
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNREADABLE: Final = object()
"""An argument that is there and equals no header: a number of thousands of digits, half a character."""
_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.0+)?")
# What a schema may hold further schemas in, but for `properties`: an annotation there has no one argument.
_NESTED: Final = frozenset(
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
class Request:
    """A request whose headers agree with its body.

    Attributes:
        method: What is asked for.
        name: What it is asked of, where the method has such: the tool, the prompt, the resource's URI.
        members: The members of the parameters.
        meta: The members of their `_meta`.
    """

    method: str
    name: str | None
    members: Json
    meta: Json


def check(headers: Mapping[bytes, bytes], message: Message, versions: Sequence[str]) -> Request:
    """Compare headers and body.

    Raises:
        Refused: They differ, something required is missing, or the revision is not served.
    """
    try:
        members = messages.fields(message.params)
        meta = messages.fields(members.get("_meta", b"null"))
    except MessageError:
        raise Refused(messages.INVALID_PARAMS, "params._meta must be an object with the request's envelope") from None
    keys = (f"{_META}protocolVersion", f"{_META}clientCapabilities")
    if missing := [key for key in keys if key not in meta]:
        raise Refused(messages.INVALID_PARAMS, f"params._meta is missing {' and '.join(missing)}")
    said = messages.text(meta[keys[0]])
    version = _header(headers, b"mcp-protocol-version")
    method = str(message.method)
    if version != said:
        raise Refused(messages.HEADER_MISMATCH, "MCP-Protocol-Version is not what params._meta says")
    if _header(headers, b"mcp-method") != method:
        raise Refused(messages.HEADER_MISMATCH, "Mcp-Method is not the method of the body")
    name = None
    if (key := _NAMED.get(method)) and key in members:
        name = messages.text(members[key])
        if decoded(_header(headers, b"mcp-name")) != name or name is None:
            raise Refused(messages.HEADER_MISMATCH, f"Mcp-Name is not params.{key} of the body")
    if version not in versions:
        data = {"supported": list(versions), "requested": version}
        raise Refused(messages.UNSUPPORTED_VERSION, "Unsupported protocol version", data)
    try:
        messages.fields(meta[keys[1]])
    except MessageError:
        raise Refused(messages.INVALID_PARAMS, f"params._meta: {keys[1]} must be an object") from None
    return Request(method, name, members, meta)


def _header(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    # Blanks round a value are no part of it (RFC 9110, 5.5), and the HTTP parser leaves those at its end.
    return None if value is None else value.decode("latin-1").strip(" \t")


def decoded(value: str | None) -> str | None:
    """A header's value, its Base64 form undone; None if that form is broken."""
    if value is None or (match := _ENCODED.fullmatch(value)) is None:
        return value
    try:
        raw = base64.b64decode(match[1], validate=True)
        # Bits that the decoder ignores would make two values of one.
        return raw.decode() if base64.b64encode(raw).decode() == match[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None


# --- arguments that headers repeat ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Declared:
    """One argument that a header repeats.

    Attributes:
        path: Where it stands in the arguments.
        header: The header's name, in small letters.
        integer: Whether it is a whole number, which may be written in more than one way.
    """

    path: tuple[str, ...]
    header: bytes
    integer: bool


class Params:
    """What the server's tools declare."""

    def __init__(self) -> None:
        self._tools: dict[str, tuple[Declared, ...]] | None = None

    def forget(self) -> None:
        """The tools have changed, or a process is new."""
        self._tools = None

    async def check(self, child: Child, name: str | None, members: Json, headers: Mapping[bytes, bytes]) -> None:
        """Compare the headers of a call with its arguments.

        Raises:
            Refused: They differ.
        """
        tools = self._tools
        if tools is None:
            tools = self._tools = await _declared_by(child)
        if declared := tools.get(name or ""):
            compare(declared, members.get("arguments"), headers)


async def _declared_by(child: Child) -> dict[str, tuple[Declared, ...]]:
    """Ask a server for its tools. A list that can't be read declares nothing: calls are not to fail by it."""
    found: dict[str, tuple[Declared, ...]] = {}
    params: bytes | None = b"{}"
    for _ in range(_PAGES):
        call = Call(b"0", "tools/list", params)
        child.submit(call)
        await call.news(_SECONDS)
        if call.answer is None:
            child.forget(call, "it took too long")
        if call.answer is None or not call.answer[0]:
            break
        try:
            page = msgspec.json.decode(call.answer[1], type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            break
        for tool in _list(page.get("tools")):
            if isinstance(tool, dict):
                tool_ = cast("dict[str, Any]", tool)
                if declared := declarations(tool_.get("inputSchema")):
                    found[str(tool_.get("name"))] = declared
        cursor = page.get("nextCursor")
        if not isinstance(cursor, str):
            break
        params = messages.dump({"cursor": cursor})
    return found


def declarations(schema: Any) -> tuple[Declared, ...]:
    """The arguments that a schema says headers repeat; none if it says so where that has no meaning."""
    found: list[Declared] = []
    waiting: list[tuple[tuple[str, ...] | None, Any]] = [((), schema)]
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        members = cast("dict[str, Any]", node)
        if "x-mcp-header" in members:
            name, kind = members["x-mcp-header"], members.get("type")
            if not path or not isinstance(name, str) or not _TOKEN.fullmatch(name):
                return ()
            if kind not in ("string", "integer", "boolean"):
                return ()
            found.append(Declared(path, PREFIX + name.lower().encode(), kind == "integer"))
        for key, value in members.items():
            if key == "properties" and isinstance(value, dict):
                for name, part in cast("dict[str, Any]", value).items():
                    waiting.append((None if path is None else (*path, name), part))
            elif key in _NESTED:
                parts: Any = value
                if isinstance(value, dict) and key in ("patternProperties", "dependentSchemas", "$defs", "definitions"):
                    parts = list(cast("dict[str, Any]", value).values())
                waiting += [(None, part) for part in (_list(parts) or [parts])]
    headers = [one.header for one in found]
    return tuple(found) if len(set(headers)) == len(headers) else ()


def compare(declared: tuple[Declared, ...], arguments: messages.Raw | None, headers: Mapping[bytes, bytes]) -> None:
    """Compare headers and arguments.

    Raises:
        Refused: They differ.
    """
    for one in declared:
        value = _at(arguments, one.path)
        raw = headers.get(one.header)
        text = None if raw is None else decoded(raw.decode("latin-1").strip(" \t"))
        name, argument = one.header.decode(), ".".join(one.path)
        if raw is not None and text is None:
            raise Refused(messages.HEADER_MISMATCH, f"{name} is broken Base64")
        if value is None and raw is None:
            continue
        if value is None:
            raise Refused(messages.HEADER_MISMATCH, f"{name} is there and the argument {argument} is not")
        if text is None:
            raise Refused(messages.HEADER_MISMATCH, f"{name} is missing and the argument {argument} is there")
        if not _same(value, text, integer=one.integer):
            raise Refused(messages.HEADER_MISMATCH, f"{name} is not the argument {argument}")


def _same(value: Any, text: str, *, integer: bool) -> bool:
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if integer and whole and _DECIMAL.fullmatch(text):
        try:
            return int(text.partition(".")[0]) == int(value)
        except ValueError:
            return False  # more digits than Python reads, and than the argument has
    return isinstance(value, str | int | float) and str(value) == text


def _at(arguments: messages.Raw | None, path: tuple[str, ...]) -> Any:
    """The argument at a path, or None. Nothing else is read: what our parser refuses there, the server's may take.

    Raises:
        Refused: It can't be found out.
    """
    raw = b"{}" if arguments is None else bytes(arguments)
    for step in path:
        if not raw.lstrip().startswith(b"{"):
            return None
        try:
            members = messages.fields(raw)
        except MessageError:
            raise Refused(
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
