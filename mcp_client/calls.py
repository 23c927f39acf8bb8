"""Calls the client's servers concurrently over one connection pool, each with a token for its own audience.

`mcpfleet.service` retries requests and words the errors.
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

_MAX_PAGES: Final = 100
"""The maximum number of pages to read of a server's list of tools."""

logger = logging.getLogger(__name__)


class Fleet:
    """The servers that this client calls.

    `http` has the factory of HTTP clients for each server.

    Args:
        servers: The servers by name.
        timeout: The maximum seconds for one call of one server, including a cold start.
        source: The source of ID tokens; by default the service's own account.
        transport: Sends the requests; None for the network.
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
                server,
                identity=identity,
                pool=self._pool,
                timeout=timeout,
                max_total_bytes=TOTAL_FACTOR * max_answer_bytes(),
            )
            for name, server in servers.items()
        }

    @property
    def names(self) -> list[str]:
        """The servers' names."""
        return list(self._servers)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def list_tools(self, names: list[str]) -> dict[str, Result]:
        """List the tools of each server."""

        async def list_server_tools(client: Client) -> Result:
            tools = await _list_all_tools(client)
            return {"tools": [{"name": tool.name, "description": tool.description} for tool in tools]}

        return await self._run_on_servers(names, "tools/list", list_server_tools)

    async def call_tool(self, names: list[str], tool: str, arguments: Mapping[str, Any]) -> dict[str, Result]:
        """Call a tool on each server that has it; if none has it, the result has an error for each server."""

        async def call_server_tool(client: Client) -> Result:
            if tool not in {listed_tool.name for listed_tool in await _list_all_tools(client)}:
                return {"error": {"status": None, "message": f"the server has no tool {tool}"}, "tool_missing": True}
            result = await client.call_tool(tool, dict(arguments))
            dump = result.model_dump(by_alias=True, mode="json", exclude_none=True)
            return {"result": {key: dump[key] for key in ("content", "structuredContent", "isError") if key in dump}}

        results = await self._run_on_servers(names, f"tools/call {tool}", call_server_tool)
        results_with_tool = {name: result for name, result in results.items() if not result.get("tool_missing")}
        return results_with_tool or {name: {"error": result["error"]} for name, result in results.items()}

    async def _run_on_servers(
        self, names: list[str], method: str, operation: Callable[[Client], Awaitable[Result]]
    ) -> dict[str, Result]:
        results = await asyncio.gather(*(self._run_on_server(name, method, operation) for name in names))
        return dict(zip(names, results, strict=True))

    async def _run_on_server(self, name: str, method: str, operation: Callable[[Client], Awaitable[Result]]) -> Result:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout), self._client(name) as client:
                result = await operation(client)
        except Exception as error:  # doesn't affect the other servers
            result: Result = {"error": describe_error(error, self._servers[name], self._timeout)}
        self._log(name, method, result, time.monotonic() - started)
        return result

    def _log(self, name: str, method: str, result: Result, seconds: float) -> None:
        """Write one log entry for the call of one server, with the same fields as the server's own entry."""
        error: Result | None = None if result.get("tool_missing") else result.get("error")
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
        message = f"{method} of {name}: {outcome}" + (f": {error['message']}" if error else "")
        logger.log(
            logging.WARNING if error else logging.INFO, "%s", message, extra={"fields": fields, "http_request": http}
        )

    @asynccontextmanager
    async def _client(self, name: str) -> AsyncGenerator[Client]:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(self.http[name]())
            transport = streamable_http_client(self._servers[name].url, http_client=http)
            yield await stack.enter_async_context(Client(transport))


async def _list_all_tools(client: Client) -> list[Tool]:
    """List all tools of a server.

    Raises:
        ValueError: the list has too many pages.
    """
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
    raise ValueError(f"the server's list of tools has more than {_MAX_PAGES} pages")
