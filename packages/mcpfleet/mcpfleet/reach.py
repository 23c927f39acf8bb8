"""The route `GET /servers/{name}`, with which a verification checks whether a service reaches a server that it calls.

It lists the server's tools as the service, calls none, and returns their number or the error:
`{"server": "reference", "tools": 12}`, or 502 with `{"server": "reference", "error": {"status": 403, "message": "…"}}`.
`mcpfleet verify` and the local cloud's `up` request this of every client of a stack, for each server that it calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, cast

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcpfleet.inert import error_line, innermost_error
from mcpfleet.service import CalledServer, HttpClients

CONNECT_SECONDS: Final = 10.0
"""The time limit for a connection. It is shorter than the whole limit, so that the error has the reason."""
SECONDS: Final = 20.0
"""The time limit for a server, including its cold start."""

_PAGES: Final = 100
_MESSAGE_CHARACTERS: Final = 900
"""The most characters of an error that are returned."""


def reach_route(clients: Mapping[str, HttpClients]) -> Route:
    """Create the route, for a Starlette application that calls the servers of *clients*."""

    async def reach(request: Request) -> Response:
        name = str(request.path_params["name"])
        if name not in clients:
            text = f"this service does not call it; it calls {', '.join(clients) or 'no servers'}"
            return JSONResponse({"server": name, "error": {"status": None, "message": text}}, 404)
        try:
            async with asyncio.timeout(SECONDS):
                return JSONResponse({"server": name, "tools": await _count_tools(clients[name])})
        except Exception as raised:  # the response describes any error
            error = describe_error(raised, clients[name].server, SECONDS)
        return JSONResponse({"server": name, "error": error}, 502)

    return Route("/servers/{name}", reach, methods=["GET"])


async def _count_tools(clients: HttpClients) -> int:
    """Count the tools of a server."""
    count, cursor = 0, None
    http = clients(timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS))
    async with http, Client(streamable_http_client(clients.server.url, http_client=http)) as client:
        for _ in range(_PAGES):
            page = await client.list_tools(cursor=cursor)
            count, cursor = count + len(page.tools), page.next_cursor
            if cursor is None:
                break
    return count


def describe_error(error: BaseException, server: CalledServer, seconds: float) -> dict[str, Any]:
    """Describe the error of a call of a server: the HTTP status, if there is one, and a message for people.

    Args:
        error: The error of the MCP SDK, over an HTTP client of `mcpfleet.service`.
        server: The server.
        seconds: The time limit of the call.
    """
    match innermost_error(error):
        case MCPError() as refused:
            data: object = refused.error.data
            details: object = cast("dict[str, Any]", data).get("mcpfleet") if isinstance(data, dict) else None
            status = cast("dict[str, Any]", details).get("status") if isinstance(details, dict) else None
            return {"status": status, "message": error_line(refused, _MESSAGE_CHARACTERS)}
        case TimeoutError():
            return {"status": None, "message": f"{server.target.origin} did not respond within {seconds:g} s."}
        case cause:
            return {"status": None, "message": f"{type(cause).__name__}: {error_line(cause, _MESSAGE_CHARACTERS)}"}
