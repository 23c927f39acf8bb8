"""Reads a server's tool list: which tools are safe to call, or to call twice, and which headers they need.

MCP's defaults for a tool without annotations are `readOnlyHint: false` and `destructiveHint: true` (the specification's
schema, "ToolAnnotations", in 2025-11-25 as in 2026-07-28). So a tool whose annotation is missing, or is not a boolean,
may be destructive, and is only called if the user asks for it. The list is read as JSON, because the SDK's models
convert the text "true" and the number 1 to true.
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
_NAME_PARAMETERS: Final = {CALL: "name", "prompts/get": "name", "resources/read": "uri"}

# Methods that only read, or are idempotent. All other methods are treated like a tool without annotations.
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


def find_safe_tool(tools: Iterable[Json]) -> tuple[str, dict[str, Any]] | None:
    """Find the first tool with `readOnlyHint` whose schema has values for all required arguments.

    A name that is listed twice is skipped: it is not clear which of the tools a call would reach.

    Returns:
        The tool's name and the arguments; None if there is no such tool.
    """
    listing = [*tools]
    names = [tool.get("name") for tool in listing]
    for tool, name in zip(listing, names, strict=True):
        values = schema_arguments(tool.get("inputSchema"))
        if isinstance(name, str) and values is not None and _has_hint(tool, "readOnlyHint") and names.count(name) == 1:
            return name, values
    return None


def is_repeatable(tool: Json) -> bool:
    """Return whether a tool can be called twice: it has `readOnlyHint` or `idempotentHint`."""
    return _has_hint(tool, "readOnlyHint") or _has_hint(tool, "idempotentHint")


def _has_hint(tool: Json, hint: str) -> bool:
    return _as_object(tool.get("annotations")).get(hint) is True


def schema_arguments(schema: object) -> dict[str, Any] | None:
    """The values that a tool's schema has for its required arguments; None if one has no value.

    A value is the argument's `const`, its `default`, or the first of its `enum` or `examples`.
    """
    described = _as_object(schema)
    required: object = described.get("required", [])
    if not isinstance(required, list) or not _UNCONDITIONAL_KEYWORDS.issuperset(described):
        return None
    properties = _as_object(described.get("properties"))
    result: dict[str, Any] = {}
    for name in cast("list[object]", required):
        argument = _as_object(properties.get(str(name)))
        values = [argument[key] for key in ("const", "default") if key in argument]
        for key in ("enum", "examples"):
            listed: object = argument.get(key)
            values += cast("list[Any]", listed)[:1] if isinstance(listed, list) else []
        if not values:
            return None
        result[str(name)] = values[0]
    return result


_UNCONDITIONAL_KEYWORDS: Final = {
    *("$schema", "$comment", "title", "description", "default", "examples", "deprecated"),
    *("$defs", "type", "properties", "required", "additionalProperties"),
}
"""Keywords of a tool's schema that set no conditions on the combination of its arguments."""


def _as_object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


@dataclass
class Tools:
    """The facts about a server's tools that the relay needs, from the tool lists that it forwards.

    Its size is limited by the server's own list: a tool that is listed again replaces its entry.
    """

    repeatable_names: set[str] = field(default_factory=set[str])
    """The names of the tools that can be called twice (`is_repeatable`)."""
    params: dict[str, dict[tuple[str, ...], str]] = field(default_factory=dict[str, dict[tuple[str, ...], str]])
    """For each tool, the headers that repeat arguments (`x-mcp-header`), by the path of the argument."""

    def read_list(self, message: Message, result: object) -> None:
        """Read the result of a request that lists tools; invalid entries are ignored."""
        if message.method != LIST:
            return
        listed: object = _as_object(result).get("tools")
        for item in cast("list[object]", listed) if isinstance(listed, list) else []:
            tool = _as_object(item)
            name = tool.get("name")
            if not isinstance(name, str):
                continue
            (self.repeatable_names.add if is_repeatable(tool) else self.repeatable_names.discard)(name)
            if params := _header_params(tool.get("inputSchema")):
                self.params[name] = params
            else:
                self.params.pop(name, None)

    def may_repeat(self, message: Message) -> bool:
        """Return whether a request can be sent again although the server may have handled it."""
        if message.method == CALL:
            return message.params.get("name") in self.repeatable_names
        return message.method in _REPEATABLE

    def headers(self, message: Message) -> dict[str, str]:
        """The headers that revision 2026-07-28 requires for a message."""
        headers = {"mcp-protocol-version": message.version, "mcp-method": header_value(message.method)}
        name = message.params.get(_NAME_PARAMETERS.get(message.method, ""))
        if isinstance(name, str):
            headers["mcp-name"] = header_value(name)
            if message.method == CALL and name in self.params:
                for path, header in self.params[name].items():
                    text = _scalar_text(_get_path(message.params.get("arguments"), path))
                    if text is not None:
                        headers[f"mcp-param-{header.lower()}"] = header_value(text)
        return headers


def _header_params(schema: object) -> dict[tuple[str, ...], str]:
    """The properties with a valid `x-mcp-header`, by their path through `properties` only."""
    headers: dict[tuple[str, ...], str] = {}
    pending: list[tuple[tuple[str, ...], object]] = [((), schema)]
    while pending:
        path, node = pending.pop()
        described = _as_object(node)
        header = described.get("x-mcp-header")
        if path and isinstance(header, str) and _TOKEN.fullmatch(header):
            headers[path] = header
        pending.extend(((*path, name), child) for name, child in _as_object(described.get("properties")).items())
    return headers


def _get_path(node: object, path: tuple[str, ...]) -> object:
    for key in path:
        node = _as_object(node).get(key)
    return node


def _scalar_text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) else None
