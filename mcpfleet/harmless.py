"""Which of a server's tools can be called to try it, and with what: one that reads if it can be, none that destroys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from mcp_types import Tool


def callable_tool(tools: Iterable[Tool]) -> tuple[str, dict[str, Any]] | None:
    """A tool with arguments for it: one that says it only reads where there is one, never one that says it destroys."""
    harmless = [tool for tool in tools if not _destroys(tool)]
    for tool in sorted(harmless, key=lambda tool: not _reads(tool)):
        given = arguments(tool.input_schema)
        if given is not None:
            return tool.name, given
    return None


def _reads(tool: Tool) -> bool:
    return tool.annotations is not None and tool.annotations.read_only_hint is True


def _destroys(tool: Tool) -> bool:
    # A tool that says nothing is called: most say nothing, and a server has to be tried.
    return not _reads(tool) and tool.annotations is not None and tool.annotations.destructive_hint is True


def arguments(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments that satisfy a tool's schema, where its required ones are plain values without conditions."""
    if not _PLAIN_TOOL.issuperset(schema):
        return None
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return None
    described = cast("Mapping[str, Any]", properties)
    given: dict[str, Any] = {}
    for name in cast("list[Any]", required):
        value = _sample(described.get(name)) if isinstance(name, str) else None
        if value is None:
            return None
        given[name] = value
    return given


# Keywords that do not narrow what may be given; of a tool's schema, and of one argument's.
_REMARKS: Final = {"$schema", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly"}
_PLAIN_TOOL: Final = {*_REMARKS, "$defs", "type", "properties", "required", "additionalProperties"}
_SAMPLES: Final[Mapping[str, Any]] = {"integer": 1, "number": 1.5, "string": "mcpfleet", "boolean": True}


def _sample(schema: object) -> Any:
    """A value that satisfies one argument's schema, or None."""
    if not isinstance(schema, Mapping):
        return None
    described = cast("Mapping[str, Any]", schema)
    if set(described) - _REMARKS != {"type"} or not isinstance(described["type"], str):
        return None
    return _SAMPLES.get(described["type"])
