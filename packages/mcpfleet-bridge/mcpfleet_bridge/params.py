"""Arguments of tools that a header repeats, for gateways that route by them: `Mcp-Param-*` of 2026-07-28.

A tool says in its schema which of its arguments that are (`x-mcp-header`). Header and argument must say the same, or be
absent together. The schemas are asked for once, and again when the tools have changed or the process is another.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from mcpfleet_bridge import messages
from mcpfleet_bridge.calls import Call
from mcpfleet_bridge.child import Child
from mcpfleet_bridge.headers import Refused, decoded
from mcpfleet_bridge.messages import Json

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
        except messages.MessageError:
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
