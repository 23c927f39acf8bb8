"""How this client calls its servers: all at once over one connection pool, each with a token for its own audience.

What is tried again, and what a refusal says, is `mcpfleet.service`'s business.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import Tool

from mcpfleet.bounds import TOTAL_FACTOR, max_answer_bytes
from mcpfleet.reach import describe_error
from mcpfleet.service import CalledServer, HttpClients, Sleep, connections
from mcpfleet.token_sources import DefaultSource, TokenSource

Result = dict[str, Any]

_PAGES: Final = 100
"""Pages of a list of tools that are read at most."""

logger = logging.getLogger(__name__)


class Fleet:
    """The servers that this client calls.

    `http` makes HTTP clients for each.

    Args:
        servers: By name.
        timeout: Seconds that one call of one server may take, cold start included.
        source: The identity; by default the service's own account.
        transport: The way out; real HTTP if not given.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        servers: Mapping[str, CalledServer],
        timeout: float,
        *,
        source: TokenSource | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._servers = servers
        self._timeout = timeout
        self._pool = connections(timeout, transport, sleep)
        identity = source or DefaultSource()
        self.http = {
            name: HttpClients(
                server, identity=identity, pool=self._pool, timeout=timeout, in_all=TOTAL_FACTOR * max_answer_bytes()
            )
            for name, server in servers.items()
        }

    @property
    def names(self) -> list[str]:
        """The servers' names."""
        return list(self._servers)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def tools(self, names: list[str]) -> dict[str, Result]:
        """What each server can do."""

        async def look(client: Client) -> Result:
            listed = await _listed(client)
            return {"tools": [{"name": one.name, "description": one.description} for one in listed]}

        return await self._all(names, "tools/list", look)

    async def call(self, names: list[str], tool: str, arguments: Mapping[str, Any]) -> dict[str, Result]:
        """Call one tool of each server that has it; the others are left out unless none has it."""

        async def do(client: Client) -> Result:
            if tool not in {one.name for one in await _listed(client)}:
                return {"error": {"status": None, "message": f"it has no tool {tool}"}, "lacks": True}
            result = await client.call_tool(tool, dict(arguments))
            said = result.model_dump(by_alias=True, mode="json", exclude_none=True)
            return {"result": {key: said[key] for key in ("content", "structuredContent", "isError") if key in said}}

        answers = await self._all(names, f"tools/call {tool}", do)
        having = {name: one for name, one in answers.items() if not one.get("lacks")}
        return having or {name: {"error": one["error"]} for name, one in answers.items()}

    async def _all(self, names: list[str], what: str, do: Callable[[Client], Awaitable[Result]]) -> dict[str, Result]:
        answers = await asyncio.gather(*(self._one(name, what, do) for name in names))
        return dict(zip(names, answers, strict=True))

    async def _one(self, name: str, what: str, do: Callable[[Client], Awaitable[Result]]) -> Result:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout), self._client(name) as client:
                result = await do(client)
        except Exception as error:  # one server's trouble is not the others'
            result: Result = {"error": describe_error(error, self._servers[name], self._timeout)}
        self._log(name, what, result, time.monotonic() - began)
        return result

    def _log(self, name: str, what: str, result: Result, seconds: float) -> None:
        """One line for each server that is asked, in the words that the server has for the call."""
        error: Result | None = None if result.get("lacks") else result.get("error")
        failed = bool(result.get("result", {}).get("isError"))
        outcome = "refused" if error and error["status"] in (401, 403, 404) else "error" if error or failed else "ok"
        fields = {"server": name, "outcome": outcome, "milliseconds": round(seconds * 1000, 3)}
        http: Result = {
            "requestMethod": "POST",
            "requestUrl": self._servers[name].url,
            "latency": f"{seconds:.6f}s",
            "protocol": "HTTP/1.1",
        }
        if status := error["status"] if error else 200:
            http["status"] = status
        said = f"{what} of {name}: {outcome}" + (f": {error['message']}" if error else "")
        logger.log(
            logging.WARNING if error else logging.INFO, "%s", said, extra={"fields": fields, "http_request": http}
        )

    @asynccontextmanager
    async def _client(self, name: str) -> AsyncGenerator[Client]:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(self.http[name]())
            transport = streamable_http_client(self._servers[name].url, http_client=http)
            yield await stack.enter_async_context(Client(transport))


async def _listed(client: Client) -> list[Tool]:
    """Every tool of a server."""
    found: list[Tool] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise ValueError(f"its list of tools has not ended after {_PAGES} pages")
