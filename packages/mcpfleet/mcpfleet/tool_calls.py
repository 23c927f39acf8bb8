"""Calls a tool, and tells four outcomes apart: an answer, a tool's error, a JSON-RPC error, an HTTP error.

They have different causes. With a tool's error (`isError`), the call reached the tool: what the tool needs may be away,
or the arguments don't suit it. With a JSON-RPC error, the server did not run the tool as asked. With an HTTP error,
the call may not have reached the MCP server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx2
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent

from mcpfleet import jsonrpc
from mcpfleet.inert import error_line, innermost_error
from mcpfleet.net import connection_reason

Outcome = Literal["answered", "tool_error", "protocol_error", "http_error"]

EXIT_CODES: Final[Mapping[Outcome, int]] = {"answered": 0, "tool_error": 3, "protocol_error": 4, "http_error": 5}
"""The exit code of `mcpfleet call` for each outcome; 1 and 2 are errors before the call."""


@dataclass(frozen=True)
class ToolCall:
    """The outcome of one call of a tool. All texts are untrusted.

    Attributes:
        tool: The tool's name.
        outcome: `answered`; `tool_error` for a result with `isError`; `protocol_error` for a JSON-RPC error, or a
            response that is not valid MCP; `http_error` for an HTTP status that is an error, or no response at all.
        text: The text of the answer, or the message of the error.
        code: The code of the JSON-RPC error, or the HTTP status; None if there is none.
        result: The whole result as JSON; None for `protocol_error` and `http_error`.
    """

    tool: str
    outcome: Outcome
    text: str
    code: int | None = None
    result: Mapping[str, Any] | None = None

    @property
    def failure(self) -> str | None:
        """What went wrong, with its kind; None for an answer."""
        match self.outcome:
            case "answered":
                return None
            case "tool_error":
                return f"the tool {self.tool} answered with an error of its own (isError): {self.text}"
            case "protocol_error":
                code = f"JSON-RPC error {self.code}" if self.code is not None else "an invalid response"
                return f"the server answered the call of {self.tool} with {code}: {self.text}"
            case "http_error":
                status = f"HTTP {self.code}" if self.code is not None else "no HTTP response"
                return f"the call of {self.tool} got {status}: {self.text}"

    def as_json(self) -> dict[str, Any]:
        """The outcome for a pipeline."""
        values = {"tool": self.tool, "outcome": self.outcome, "text": self.text, "code": self.code}
        return {**values, "result": self.result}


async def call_tool(
    session: Client, name: str, arguments: Mapping[str, Any], errors: Sequence[httpx2.Response] = ()
) -> ToolCall:
    """Call a tool.

    Args:
        session: The session with its server.
        name: The tool's name.
        arguments: Its arguments.
        errors: The list in which the session's HTTP client collects error responses.
    """
    errors_before = len(errors)
    try:
        result = await session.call_tool(name, dict(arguments))
    except MCPError as error:
        for response in errors[errors_before:]:
            if not response.is_redirect and not _is_jsonrpc_error(response):
                return ToolCall(name, "http_error", error_line(error), response.status_code)
        return ToolCall(name, "protocol_error", error_line(error), error.code)
    except httpx2.HTTPError as error:
        return ToolCall(name, "http_error", connection_reason(error))
    except (ValueError, RuntimeError) as error:  # pydantic's errors; a result that its output schema does not allow
        return ToolCall(name, "protocol_error", error_line(innermost_error(error)))
    values = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return ToolCall(name, "tool_error" if result.is_error else "answered", _result_text(result), None, values)


def _is_jsonrpc_error(response: httpx2.Response) -> bool:
    try:
        message = jsonrpc.decode(response.content)
    except httpx2.ResponseNotRead:  # the SDK reads the bodies of JSON only
        return False
    return message is not None and isinstance(message.get("error"), dict)


def _result_text(result: CallToolResult) -> str:
    """The text of a result; its other content is described, and structured content is JSON if there is no text."""
    texts: list[str] = []
    for part in result.content:
        if isinstance(part, TextContent):
            texts.append(part.text)
        else:
            mime_type: object = getattr(part, "mime_type", None)
            texts.append(f"[{part.type}{f', {mime_type}' if mime_type else ''}]")
    if not texts and result.structured_content is not None:
        texts.append(json.dumps(result.structured_content, indent=2))
    return "\n".join(texts)
