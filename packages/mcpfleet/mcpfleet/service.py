"""For a service that calls MCP servers as itself: which they are (`MCP_SERVERS`), and an HTTP client for each.

    servers = servers_of(os.environ["MCP_SERVERS"])
    clients = {name: HttpClients(server) for name, server in servers.items()}
    streamable_http_client(servers["reference"].url, http_client=clients["reference"]())

Every request of such a client carries an ID token for its server, which is fetched anew before it expires; belongs to
the trace that is current in OpenTelemetry; and is sent again for as long as it was certainly not carried out: while a
connection cannot be made, and at Cloud Run's own 429, "no instance is free yet". A request that is refused, or
that nobody answers, or answers with JSON that is no answer of JSON-RPC's, is answered here with a JSON-RPC error: its
message says whom to add where, its data under `mcpfleet` the HTTP status, and whether the call was certainly `not_done`
or whether that is `unknown`.

Not here: MCP itself. Any framework that takes an httpx2 client, or a function that makes one, can be given these.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

import httpx2
import pydantic
from opentelemetry import propagate
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator

from mcpfleet import jsonrpc
from mcpfleet.auth import SERVERLESS_AUTHORIZATION, IdTokenAuth
from mcpfleet.bounds import AS_IT_IS, Bound, TooLargeError
from mcpfleet.diagnosis import CallerIdentity, diagnose, is_front_ends
from mcpfleet.errors import AuthError, UsageError
from mcpfleet.net import connection_reason, delay
from mcpfleet.target import Target
from mcpfleet.token_sources import DefaultSource, TokenSource

TELLS_REVISIONS_APART: Final = frozenset({400, 405, 406})
"""What an MCP client learns from, so it is no refusal here."""

_OF_THE_BODY: Final = {"content-length", "transfer-encoding"}
"""Headers that a body of another length does not have."""

Sleep = Callable[[float], Awaitable[None]]


class CalledServer(BaseModel):
    """One server that a service calls, as the fleet writes it into `MCP_SERVERS`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Before the URL, which may be plain HTTP only where no token goes along.
    audience: str | None = Field(None, description="what an ID token for it is for; without one no token is sent")
    header: Literal["X-Serverless-Authorization", "Authorization"] = Field(
        SERVERLESS_AUTHORIZATION, description="which header carries the token; behind IAP it is Authorization"
    )
    url: str = Field(description="its MCP URL")

    @field_validator("url")
    @classmethod
    def _mcp_url(cls, value: str, info: ValidationInfo) -> str:
        try:
            return Target.parse(value, bearer=info.data.get("audience") is not None).mcp_url
        except UsageError as error:
            raise ValueError(str(error)) from None

    @property
    def target(self) -> Target:
        """What is called."""
        return Target.parse(self.url, bearer=self.audience is not None)


def servers_of(text: str) -> dict[str, CalledServer]:
    """Read the variable `MCP_SERVERS`, a JSON object of servers by name.

    Raises:
        UsageError: It is not valid; the text has one line for each mistake.
    """
    try:
        return TypeAdapter(dict[str, CalledServer]).validate_json(text)
    except pydantic.ValidationError as error:
        lines = [
            f"{'.'.join(map(str, ('MCP_SERVERS', *one['loc'])))}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        ]
        raise UsageError("\n".join(lines)) from None


class Patient(httpx2.AsyncBaseTransport):
    """Sends a request again for as long as it was certainly not carried out.

    Args:
        inner: The way out.
        patience: Seconds; fewer, where a request's own time to connect is shorter.
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
        connect: float | None = request.extensions.get("timeout", {}).get("connect")
        patience = self._patience if connect is None else min(self._patience, connect)
        while True:
            pause = delay(attempt)
            attempt += 1
            late = self._clock() - began + pause > patience
            try:
                response = await self._inner.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if late:
                    raise
            else:
                full = response.status_code == 429 and is_front_ends(429, response.headers)
                if late or not full:
                    return response
                asked = response.headers.get("retry-after", "")
                pause = max(pause, min(float(asked), 30.0)) if asked.isdecimal() else pause
                await response.aclose()
            await self._sleep(pause)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


def connections(
    patience: float, transport: httpx2.AsyncBaseTransport | None = None, sleep: Sleep = asyncio.sleep
) -> Patient:
    """A pool of connections for any number of servers; close it when the service ends.

    Args:
        patience: Seconds for which a request that was certainly not carried out is sent again.
        transport: The way out; real HTTP if not given.
        sleep: Waits for a number of seconds.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60)
    return Patient(transport or httpx2.AsyncHTTPTransport(limits=limits), patience, sleep)


class HttpClients:
    """Makes HTTP clients for one `server`. They share one token, which is fetched anew before it expires.

    Args:
        server: The server.
        identity: Who calls; by default the service's own account.
        pool: Connections to share; by default some of its own.
        timeout: Seconds that a client may wait, where its caller names no timeout: long enough for a cold start.
        in_all: Bytes of all answers that one client gets; as many as come where it is not given.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        server: CalledServer,
        *,
        identity: TokenSource | None = None,
        pool: httpx2.AsyncBaseTransport | None = None,
        timeout: float = 60.0,
        in_all: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.server = server
        self._auth = None
        if server.audience is not None:
            source = identity or DefaultSource()
            self._auth = IdTokenAuth(server.audience, source, header=server.header, clock=clock)
        self._pool = pool or connections(timeout)
        self._timeout = timeout
        self._in_all = in_all

    def __call__(
        self,
        headers: Mapping[str, str] | None = None,
        timeout: httpx2.Timeout | float | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        """A client, as the MCP SDK and ADK ask a factory for one; closing it closes no connection of the pool.

        Args:
            headers: To send with each request.
            timeout: Instead of the factory's.
            auth: Instead of the ID token.
        """
        return _Client(
            self.server.target,
            lambda: self._auth.tokens.caller if self._auth else CallerIdentity("this service", "", "no audience"),
            transport=_Shared(self._pool),
            headers={**AS_IT_IS, **(headers or {})},
            event_hooks={"response": [Bound(in_all=self._in_all)]},
            auth=auth or self._auth,
            timeout=self._timeout if timeout is None else timeout,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


class _Client(httpx2.AsyncClient):
    """Answers an MCP request that nobody else answers, so that its caller learns why and the session goes on.

    Otherwise the SDK says "Server returned an error response" of a refusal, and ends the session with "Connection
    closed" where a request cannot be sent.
    """

    def __init__(self, target: Target, caller: Callable[[], CallerIdentity], **options: Any) -> None:
        super().__init__(**options)
        self._target = target
        self._caller = caller

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request, within the trace that is current, and see to it that it is answered."""
        # The SDK puts the trace into the message (`_meta.traceparent`); logs and proxies look for it here.
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        request.headers.update(carrier)
        asked = _request_id(request)
        try:
            response = await super().send(request, **options)
            if asked is not None and response.is_success and _is_json(response):
                await response.aread()
        except (AuthError, httpx2.TransportError) as error:
            if asked is None:
                raise
            done = not isinstance(error, (AuthError, httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout))
            return _reply(request, 502, asked, self._words(error), "unknown" if done else "not_done")
        if asked is not None and response.is_success and _is_json(response):
            return self._understood(request, response, asked)
        found = diagnose(response.status_code, response.headers, self._target, self._caller())
        if asked is None or found is None or response.status_code in TELLS_REVISIONS_APART:
            return response
        await response.aclose()
        outcome = "unknown" if found.status >= 500 else "not_done"
        return _reply(request, found.status, asked, f"{found.cause} {found.step}", outcome)

    def _understood(self, request: httpx2.Request, response: httpx2.Response, asked: jsonrpc.Id) -> httpx2.Response:
        """An answer that has been read, in the form that the SDK can tell the request of; it waits for another."""
        said = jsonrpc.decode(response.content)
        formed = None if said is None else jsonrpc.answer(said, asked)
        if said is not None and said == formed and type(said.get("id")) is type(asked):
            return response
        try:
            if formed is not None:
                body = jsonrpc.encode(formed)
                kept = {name: text for name, text in response.headers.items() if name not in _OF_THE_BODY}
                return httpx2.Response(response.status_code, headers=kept, content=body, request=request)
        except ValueError:
            pass  # a number that JSON does not have
        words = f"{self._target.origin} answered {response.status_code} with JSON that is no answer of JSON-RPC's."
        return _reply(request, 502, asked, words, "unknown")

    def _words(self, error: Exception) -> str:
        match error:
            case AuthError():
                return str(error)
            case TooLargeError():
                return f"{self._target.origin}: {error}."
            case httpx2.TimeoutException():
                return f"{self._target.origin} did not answer in time."
            case _:
                return f"Cannot reach {self._target.origin}: {connection_reason(error)}."


def _is_json(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").lower().startswith("application/json")


def _request_id(request: httpx2.Request) -> jsonrpc.Id | None:
    """The id of the MCP request that an HTTP request carries, if it carries one."""
    if request.method != "POST" or not isinstance(request.stream, httpx2.ByteStream):
        return None
    message = jsonrpc.decode(request.content)
    found: object = message.get("id") if message else None
    return found if isinstance(found, (str, int, float)) else None


def _reply(
    request: httpx2.Request, status: int, ident: jsonrpc.Id, text: str, outcome: Literal["not_done", "unknown"]
) -> httpx2.Response:
    more = " Whether it was carried out is not known." if outcome == "unknown" else ""
    body = jsonrpc.error_reply(ident, text + more, outcome=outcome, status=status)
    return httpx2.Response(status, headers={"content-type": "application/json"}, content=body, request=request)


class _Shared(httpx2.AsyncBaseTransport):
    """The pool, lent to one client: closing that does not close the pool."""

    def __init__(self, pool: httpx2.AsyncBaseTransport) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._pool.handle_async_request(request)
