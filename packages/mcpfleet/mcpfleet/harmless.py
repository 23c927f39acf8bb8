"""Which of a server's tools we may call to try it, and with what: those that say that they only read, and no others.

MCP's defaults for a tool that says nothing are `readOnlyHint: false` and `destructiveHint: true` (the specification's
schema, "ToolAnnotations", in 2025-11-25 as in 2026-07-28). So what says nothing, or nothing that is a boolean, may
destroy, and is called by nobody but its user. Tools are read here as the JSON that came: the SDK's models take the text
"true" and the number 1 for true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

Json = Mapping[str, Any]


def callable_tool(tools: Iterable[Json]) -> tuple[str, dict[str, Any]] | None:
    """The first tool that says that it only reads and needs no argument but what its schema gives; None without one."""
    for tool in tools:
        name, given = tool.get("name"), arguments(tool.get("inputSchema"))
        if isinstance(name, str) and given is not None and _says(tool, "readOnlyHint"):
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
