"""How this client calls its servers: all at once over one connection pool, each with a token for its own audience.

What is tried again is only what was certainly not carried out: a connection that could not be made, and 429, Cloud
Run's word for "no instance is free yet". A refusal becomes a sentence that says whom to add where.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, cast

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from mcp_client.settings import Server
from mcpfleet.auth import IdTokenAuth
from mcpfleet.diagnosis import Caller, diagnose
from mcpfleet.errors import AuthError, TokenEndpointUnavailableError
from mcpfleet.net import connection_reason
from mcpfleet.sources import DefaultSource, TokenSource
from mcpfleet.target import Target

TRACE_HEADERS: Final = ("traceparent", "tracestate", "x-cloud-trace-context")

Sleep = Callable[[float], Awaitable[None]]
Result = dict[str, Any]

trace: ContextVar[Mapping[str, str]] = ContextVar("trace", default=MappingProxyType({}))
"""The trace headers of the request that is being answered; they go on with every call that it causes."""


class RefusedError(Exception):
    """A server, or what stands before it, refused; the text says why and what to type."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Patient(httpx2.AsyncBaseTransport):
    """Sends a request again for as long as it was certainly not carried out.

    Args:
        inner: The way out.
        patience: Seconds.
        sleep: Waits for a number of seconds.
        clock: Seconds.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        patience: float,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._patience = patience
        self._sleep = sleep
        self._clock = clock

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it, and wait for an answer that is one."""
        began, attempt = self._clock(), 0
        while True:
            pause = min(0.25 * 2**attempt, 4.0)
            attempt += 1
            late = self._clock() - began + pause > self._patience
            try:
                response = await self._inner.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if late:
                    raise
            else:
                if response.status_code != 429 or late:
                    return response
                asked = response.headers.get("retry-after", "")
                pause = max(pause, min(float(asked), 30.0)) if asked.isdecimal() else pause
                await response.aclose()
            await self._sleep(pause)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


class Fleet:
    """The servers that this client calls.

    Args:
        servers: By name.
        timeout: Seconds that one call of one server may take, cold start included.
        source: The identity; by default the service's own account.
        transport: The way out; real HTTP if not given.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        servers: Mapping[str, Server],
        timeout: float,
        *,
        source: TokenSource | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._servers = servers
        self._timeout = timeout
        identity = source or DefaultSource()
        self._auth = {
            name: None if server.audience is None else IdTokenAuth(server.audience, identity)
            for name, server in servers.items()
        }
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60)
        self._pool = Patient(transport or httpx2.AsyncHTTPTransport(limits=limits), timeout, sleep)

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
            listed = (await client.list_tools()).tools
            return {"tools": [{"name": one.name, "description": one.description} for one in listed]}

        return await self._all(names, look)

    async def call(self, names: list[str], tool: str, arguments: Mapping[str, Any]) -> dict[str, Result]:
        """Call one tool of each server that has it; the others are left out unless none has it."""

        async def do(client: Client) -> Result:
            listed = {one.name for one in (await client.list_tools()).tools}
            if tool not in listed:
                return {"error": {"status": None, "message": f"it has no tool {tool}"}, "lacks": True}
            result = await client.call_tool(tool, dict(arguments))
            said = result.model_dump(by_alias=True, mode="json", exclude_none=True)
            return {"result": {key: said[key] for key in ("content", "structuredContent", "isError") if key in said}}

        answers = await self._all(names, do)
        having = {name: one for name, one in answers.items() if not one.get("lacks")}
        return having or {name: {"error": one["error"]} for name, one in answers.items()}

    async def _all(self, names: list[str], do: Callable[[Client], Awaitable[Result]]) -> dict[str, Result]:
        answers = await asyncio.gather(*(self._one(name, do) for name in names))
        return dict(zip(names, answers, strict=True))

    async def _one(self, name: str, do: Callable[[Client], Awaitable[Result]]) -> Result:
        try:
            async with asyncio.timeout(self._timeout), self._client(name) as client:
                return await do(client)
        except Exception as error:  # one server's trouble is not the others'
            return {"error": self._words(name, _innermost(error))}

    @asynccontextmanager
    async def _client(self, name: str) -> AsyncGenerator[Client]:
        server, auth = self._servers[name], self._auth[name]

        async def on_request(request: httpx2.Request) -> None:
            request.headers.update(trace.get())

        async def on_response(response: httpx2.Response) -> None:
            caller = Caller("this service", "", server.audience or "") if auth is None else auth.tokens.caller
            found = diagnose(response.status_code, response.headers, Target.parse(server.url), caller)
            if found is not None and response.status_code not in {400, 405, 406}:  # those tell revisions apart
                raise RefusedError(response.status_code, f"{found.cause} {found.step}")

        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(
                httpx2.AsyncClient(
                    transport=_Shared(self._pool),
                    auth=auth,
                    timeout=self._timeout,
                    event_hooks={"request": [on_request], "response": [on_response]},
                )
            )
            yield await stack.enter_async_context(Client(streamable_http_client(server.url, http_client=http)))

    def _words(self, name: str, error: BaseException) -> Result:
        origin = Target.parse(self._servers[name].url).origin
        match error:
            case RefusedError():
                return {"status": error.status, "message": str(error)}
            case TimeoutError():
                return {"status": None, "message": f"{origin} did not answer within {self._timeout:g} s."}
            case TokenEndpointUnavailableError() | AuthError():
                return {"status": None, "message": str(error)}
            case MCPError():
                return {"status": None, "message": error.error.message}
            case httpx2.TransportError():
                return {"status": None, "message": f"Cannot reach {origin}: {connection_reason(error)}."}
            case _:
                return {"status": None, "message": f"{type(error).__name__}: {error}"}


class _Shared(httpx2.AsyncBaseTransport):
    """The pool, lent to one client: closing that does not close the pool."""

    def __init__(self, pool: httpx2.AsyncBaseTransport) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._pool.handle_async_request(request)


def _innermost(error: BaseException) -> BaseException:
    """What went wrong first: a refusal says more than what it made fail."""
    if isinstance(error, BaseExceptionGroup):
        inner = [_innermost(one) for one in cast("BaseExceptionGroup[BaseException]", error).exceptions]
        return next((one for one in inner if isinstance(one, RefusedError)), inner[0])
    return error
