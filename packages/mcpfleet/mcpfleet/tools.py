"""What a server says of its tools: which may be tried and with what, which may be called twice, what headers want.

MCP's defaults for a tool that says nothing are `readOnlyHint: false` and `destructiveHint: true` (the specification's
schema, "ToolAnnotations", in 2025-11-25 as in 2026-07-28). So what says nothing, or nothing that is a boolean, may
destroy, and is called by nobody but its user. Tools are read here as the JSON that came: the SDK's models take the text
"true" and the number 1 for true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from mcpfleet.jsonrpc import CALL, DISCOVER, INITIALIZE, LIST, LISTEN, Message, header_value

Json = Mapping[str, Any]

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# The field that the header Mcp-Name repeats (revision 2026-07-28, transports, "Standard headers").
_NAMED: Final = {CALL: "name", "prompts/get": "name", "resources/read": "uri"}

# Those that ask, or that set what they set again. Any other method is as unsafe as a tool that says nothing.
_REPEATABLE: Final = frozenset(
    {
        INITIALIZE,
        DISCOVER,
        LIST,
        LISTEN,
        "ping",
        "completion/complete",
        "logging/setLevel",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "tasks/cancel",
        "tasks/get",
        "tasks/list",
        "tasks/result",
    }
)


def callable_tool(tools: Iterable[Json]) -> tuple[str, dict[str, Any]] | None:
    """The first tool that says that it only reads and needs no argument but what its schema gives; None without one.

    A name that is listed twice is passed over: nobody knows which of the two a call would reach.
    """
    listed = [*tools]
    names = [tool.get("name") for tool in listed]
    for tool, name in zip(listed, names, strict=True):
        given = arguments(tool.get("inputSchema"))
        if isinstance(name, str) and given is not None and _says(tool, "readOnlyHint") and names.count(name) == 1:
            return name, given
    return None


def repeatable(tool: Json) -> bool:
    """Whether a tool says that calling it twice is as good as once."""
    return _says(tool, "readOnlyHint") or _says(tool, "idempotentHint")


def _says(tool: Json, hint: str) -> bool:
    return _object(tool.get("annotations")).get(hint) is True


def arguments(schema: object) -> dict[str, Any] | None:
    """What a tool's schema itself gives for its required arguments; None where it gives nothing for one of them.

    Nothing is made up: a value is the argument's `const`, its `default`, or the first of its `enum` or `examples`.
    """
    described = _object(schema)
    required: object = described.get("required", [])
    if not isinstance(required, list) or not _PLAIN.issuperset(described):
        return None
    properties = _object(described.get("properties"))
    given: dict[str, Any] = {}
    for name in cast("list[object]", required):
        argument = _object(properties.get(str(name)))
        values = [argument[key] for key in ("const", "default") if key in argument]
        for key in ("enum", "examples"):
            listed: object = argument.get(key)
            values += cast("list[Any]", listed)[:1] if isinstance(listed, list) else []
        if not values:
            return None
        given[str(name)] = values[0]
    return given


_PLAIN: Final = {
    *("$schema", "$comment", "title", "description", "default", "examples", "deprecated"),
    *("$defs", "type", "properties", "required", "additionalProperties"),
}
"""Keywords of a tool's schema that lay no condition on its arguments beyond those of each one."""


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


@dataclass
class Tools:
    """What a server says of its tools, kept from the lists that pass by.

    Bounded by the server's own list: a tool that is listed again replaces itself.
    """

    repeatable: set[str] = field(default_factory=set[str])
    """Those that only read, or that say that a second call changes nothing more."""
    params: dict[str, dict[tuple[str, ...], str]] = field(default_factory=dict[str, dict[tuple[str, ...], str]])
    """For each tool, the arguments that a header repeats (`x-mcp-header`), by the path to them."""

    def learn(self, message: Message, result: object) -> None:
        """Read the result of a request, if that lists tools; what is not as it should be is passed over."""
        if message.method != LIST:
            return
        listed: object = _object(result).get("tools")
        for one in cast("list[object]", listed) if isinstance(listed, list) else []:
            tool = _object(one)
            name = tool.get("name")
            if not isinstance(name, str):
                continue
            (self.repeatable.add if repeatable(tool) else self.repeatable.discard)(name)
            if found := _header_params(tool.get("inputSchema")):
                self.params[name] = found
            else:
                self.params.pop(name, None)

    def may_repeat(self, message: Message) -> bool:
        """Whether a request that may have been carried out can be sent again."""
        if message.method == CALL:
            return message.params.get("name") in self.repeatable
        return message.method in _REPEATABLE

    def headers(self, message: Message) -> dict[str, str]:
        """The headers that revision 2026-07-28 wants beside a message that names its revision."""
        headers = {"mcp-protocol-version": message.version, "mcp-method": header_value(message.method)}
        name = message.params.get(_NAMED.get(message.method, ""))
        if isinstance(name, str):
            headers["mcp-name"] = header_value(name)
            if message.method == CALL and name in self.params:
                for path, header in self.params[name].items():
                    text = _scalar(_at(message.params.get("arguments"), path))
                    if text is not None:
                        headers[f"mcp-param-{header.lower()}"] = header_value(text)
        return headers


def _header_params(schema: object) -> dict[tuple[str, ...], str]:
    """The properties, reached through `properties` alone, that carry a usable `x-mcp-header`."""
    found: dict[tuple[str, ...], str] = {}
    waiting: list[tuple[tuple[str, ...], object]] = [((), schema)]
    while waiting:
        path, node = waiting.pop()
        described = _object(node)
        header = described.get("x-mcp-header")
        if path and isinstance(header, str) and _TOKEN.fullmatch(header):
            found[path] = header
        waiting.extend(((*path, name), one) for name, one in _object(described.get("properties")).items())
    return found


def _at(node: object, path: tuple[str, ...]) -> object:
    for key in path:
        node = _object(node).get(key)
    return node


def _scalar(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) else None
