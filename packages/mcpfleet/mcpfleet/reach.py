"""`GET /servers/{name}`: whether a service reaches a server that it is given, for whoever verifies a deployment.

It lists the server's tools as the service, which calls none, and answers how many there are, or why it has no list:
`{"server": "reference", "tools": 12}`, or 502 with `{"server": "reference", "error": {"status": 403, "message": "…"}}`.
`mcpfleet verify` and the local cloud's `up` ask this of every client of a stack, for each server that it calls.
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

from mcpfleet.inert import in_a_line, innermost
from mcpfleet.service import CalledServer, HttpClients

CONNECT_SECONDS: Final = 10.0
"""How long a connection is tried for: a server that cannot be reached is said to be so, with the reason."""
SECONDS: Final = 20.0
"""How long a server may take in all, its cold start included."""

_PAGES: Final = 100
_SAID: Final = 900
"""Characters of an error that are passed on."""


def reach_route(clients: Mapping[str, HttpClients]) -> Route:
    """The route, for a Starlette application whose service calls the servers of *clients*."""

    async def reach(request: Request) -> Response:
        name = str(request.path_params["name"])
        if name not in clients:
            text = f"this service does not call it; it calls {', '.join(clients) or 'none'}"
            return JSONResponse({"server": name, "error": {"status": None, "message": text}}, 404)
        try:
            async with asyncio.timeout(SECONDS):
                return JSONResponse({"server": name, "tools": await _tools(clients[name])})
        except Exception as raised:  # whatever went wrong on the way is the answer
            error = error_of(raised, clients[name].server, SECONDS)
        return JSONResponse({"server": name, "error": error}, 502)

    return Route("/servers/{name}", reach, methods=["GET"])


async def _tools(clients: HttpClients) -> int:
    """How many tools a server lists."""
    count, cursor = 0, None
    http = clients(timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS))
    async with http, Client(streamable_http_client(clients.server.url, http_client=http)) as client:
        for _ in range(_PAGES):
            page = await client.list_tools(cursor=cursor)
            count, cursor = count + len(page.tools), page.next_cursor
            if cursor is None:
                break
    return count


def error_of(error: BaseException, server: CalledServer, seconds: float) -> dict[str, Any]:
    """Why a call of a server failed: the HTTP status that refused it, where one did, and words for a person.

    Args:
        error: What the MCP SDK raised, over an HTTP client of `mcpfleet.service`.
        server: The server.
        seconds: How long it was waited for.
    """
    match innermost(error):
        case MCPError() as refused:
            data: object = refused.error.data
            said: object = cast("dict[str, Any]", data).get("mcpfleet") if isinstance(data, dict) else None
            status = cast("dict[str, Any]", said).get("status") if isinstance(said, dict) else None
            return {"status": status, "message": in_a_line(refused, _SAID)}
        case TimeoutError():
            return {"status": None, "message": f"{server.target.origin} did not answer within {seconds:g} s."}
        case cause:
            return {"status": None, "message": f"{type(cause).__name__}: {in_a_line(cause, _SAID)}"}
