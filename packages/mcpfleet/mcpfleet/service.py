"""For services that call MCP servers as their own account: the servers (`MCP_SERVERS`), and an HTTP client for each.

    servers = servers_of(os.environ["MCP_SERVERS"])
    clients = {name: HttpClients(server) for name, server in servers.items()}
    streamable_http_client(servers["reference"].url, http_client=clients["reference"]())

Every request of such a client has an ID token for its server, which is refreshed before it expires, and the current
trace of OpenTelemetry. A request that the server has certainly not handled is sent again: if there is no connection,
and at Cloud Run's own 429, "no instance is free yet". If a request is refused or fails, or if the response is not a
valid JSON-RPC reply, the client returns a JSON-RPC error. Its message has the cause and the next step, and its data
has, under `mcpfleet`, the HTTP status and the outcome: `not_done`, or `unknown` if the server may have handled it.

Not here: MCP itself. You can pass these clients to any framework that accepts an httpx2 client, or a function that
creates one.
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
from mcpfleet.bounds import UNCOMPRESSED, ResponseLimit, TooLargeError
from mcpfleet.diagnosis import CallerIdentity, diagnose, is_from_front_end
from mcpfleet.errors import AuthError, UsageError
from mcpfleet.net import connection_reason, retry_delay
from mcpfleet.target import Target
from mcpfleet.token_sources import DefaultSource, TokenSource

REVISION_STATUSES: Final = frozenset({400, 405, 406})
"""The statuses with which MCP clients detect a server's protocol version, so the client gets them unchanged."""

_BODY_HEADERS: Final = {"content-length", "transfer-encoding"}
"""Headers that are invalid for another body."""

Sleep = Callable[[float], Awaitable[None]]


class CalledServer(BaseModel):
    """A server that a service calls, as the fleet writes it into `MCP_SERVERS`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Before the URL, whose validator needs it: the URL may be plain HTTP only without a token.
    audience: str | None = Field(None, description="the audience of its ID tokens; without one no token is sent")
    header: Literal["X-Serverless-Authorization", "Authorization"] = Field(
        SERVERLESS_AUTHORIZATION, description="the header with the token; behind IAP it is Authorization"
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
        """The service, parsed from the URL."""
        return Target.parse(self.url, bearer=self.audience is not None)


def servers_of(text: str) -> dict[str, CalledServer]:
    """Read the variable `MCP_SERVERS`, a JSON object of servers by name.

    Raises:
        UsageError: It is not valid; the message has one line for each mistake.
    """
    try:
        return TypeAdapter(dict[str, CalledServer]).validate_json(text)
    except pydantic.ValidationError as error:
        lines = [
            f"{'.'.join(map(str, ('MCP_SERVERS', *mistake['loc'])))}: {mistake['msg'].removeprefix('Value error, ')}"
            for mistake in error.errors()
        ]
        raise UsageError("\n".join(lines)) from None


class RetryTransport(httpx2.AsyncBaseTransport):
    """Sends a request again while the server has certainly not handled it.

    Args:
        inner: The HTTP transport.
        retry_seconds: The time limit for retries; a request's own connect timeout may shorten it.
        sleep: Waits for a number of seconds.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        retry_seconds: float,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._retry_seconds = retry_seconds
        self._sleep = sleep
        self._clock = clock

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and repeat it if there is no connection or no free instance."""
        started_at, attempt = self._clock(), 0
        connect: float | None = request.extensions.get("timeout", {}).get("connect")
        retry_seconds = self._retry_seconds if connect is None else min(self._retry_seconds, connect)
        while True:
            pause = retry_delay(attempt)
            attempt += 1
            is_last = self._clock() - started_at + pause > retry_seconds
            try:
                response = await self._inner.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if is_last:
                    raise
            else:
                is_at_capacity = response.status_code == 429 and is_from_front_end(429, response.headers)
                if is_last or not is_at_capacity:
                    return response
                retry_after = response.headers.get("retry-after", "")
                pause = max(pause, min(float(retry_after), 30.0)) if retry_after.isdecimal() else pause
                await response.aclose()
            await self._sleep(pause)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


def connections(
    retry_seconds: float, transport: httpx2.AsyncBaseTransport | None = None, sleep: Sleep = asyncio.sleep
) -> RetryTransport:
    """Create a pool of connections for any number of servers; close it when the service ends.

    Args:
        retry_seconds: How long a request that no server has handled is sent again.
        transport: The HTTP transport; the network by default.
        sleep: Waits for a number of seconds.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60)
    return RetryTransport(transport or httpx2.AsyncHTTPTransport(limits=limits), retry_seconds, sleep)


class HttpClients:
    """Creates HTTP clients for one `server`. They share one token, which is refreshed before it expires.

    Args:
        server: The server.
        identity: The identity to call as; by default the service's own account.
        pool: Connections to share; by default a pool of its own.
        timeout: A client's default timeout in seconds; it must allow for a cold start.
        max_total_bytes: The most bytes of all responses to one client; no limit by default.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        server: CalledServer,
        *,
        identity: TokenSource | None = None,
        pool: httpx2.AsyncBaseTransport | None = None,
        timeout: float = 60.0,
        max_total_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.server = server
        self._auth = None
        if server.audience is not None:
            source = identity or DefaultSource()
            self._auth = IdTokenAuth(server.audience, source, header=server.header, clock=clock)
        self._pool = pool or connections(timeout)
        self._timeout = timeout
        self._max_total_bytes = max_total_bytes

    def __call__(
        self,
        headers: Mapping[str, str] | None = None,
        timeout: httpx2.Timeout | float | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        """Create a client, with the signature of the client factories of the MCP SDK and ADK.

        Closing the client does not close the connections of the pool.

        Args:
            headers: Headers for each request.
            timeout: The timeout, instead of this object's.
            auth: The auth, instead of the ID token.
        """
        return _DiagnosingClient(
            self.server.target,
            lambda: self._auth.tokens.caller if self._auth else CallerIdentity("this service", "", "no audience"),
            transport=_SharedPool(self._pool),
            headers={**UNCOMPRESSED, **(headers or {})},
            event_hooks={"response": [ResponseLimit(total=self._max_total_bytes)]},
            auth=auth or self._auth,
            timeout=self._timeout if timeout is None else timeout,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


class _DiagnosingClient(httpx2.AsyncClient):
    """Returns a JSON-RPC error with the cause for an MCP request that fails, so that the session continues.

    Otherwise the SDK reports a refusal as "Server returned an error response", and ends the session with "Connection
    closed" if a request cannot be sent.
    """

    def __init__(self, target: Target, caller: Callable[[], CallerIdentity], **options: Any) -> None:
        super().__init__(**options)
        self._target = target
        self._caller = caller

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request with the current trace; an MCP request always gets a reply."""
        # The SDK puts the trace into the message (`_meta.traceparent`); logs and proxies read it from the headers.
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        request.headers.update(carrier)
        request_id = _request_id(request)
        try:
            response = await super().send(request, **options)
            if request_id is not None and response.is_success and _is_json(response):
                await response.aread()
        except (AuthError, httpx2.TransportError) as error:
            if request_id is None:
                raise
            may_be_done = not isinstance(
                error, (AuthError, httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
            )
            return _reply(request, 502, request_id, self._error_text(error), "unknown" if may_be_done else "not_done")
        if request_id is not None and response.is_success and _is_json(response):
            return self._normalize(request, response, request_id)
        diagnosis = diagnose(response.status_code, response.headers, self._target, self._caller())
        if request_id is None or diagnosis is None or response.status_code in REVISION_STATUSES:
            return response
        await response.aclose()
        outcome = "unknown" if diagnosis.status >= 500 else "not_done"
        return _reply(request, diagnosis.status, request_id, f"{diagnosis.cause} {diagnosis.step}", outcome)

    def _normalize(self, request: httpx2.Request, response: httpx2.Response, request_id: jsonrpc.Id) -> httpx2.Response:
        """Convert a JSON response to a valid reply with the request's id: the SDK waits forever for any other."""
        message = jsonrpc.decode(response.content)
        normalized = None if message is None else jsonrpc.normalize_reply(message, request_id)
        if message is not None and message == normalized and type(message.get("id")) is type(request_id):
            return response
        try:
            if normalized is not None:
                body = jsonrpc.encode(normalized)
                headers = {name: text for name, text in response.headers.items() if name not in _BODY_HEADERS}
                return httpx2.Response(response.status_code, headers=headers, content=body, request=request)
        except ValueError:
            pass  # it has a number that JSON cannot express
        error_text = f"{self._target.origin} returned {response.status_code} with JSON that is not a JSON-RPC reply."
        return _reply(request, 502, request_id, error_text, "unknown")

    def _error_text(self, error: Exception) -> str:
        match error:
            case AuthError():
                return str(error)
            case TooLargeError():
                return f"{self._target.origin}: {error}."
            case httpx2.TimeoutException():
                return f"{self._target.origin} did not respond in time."
            case _:
                return f"Cannot reach {self._target.origin}: {connection_reason(error)}."


def _is_json(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").lower().startswith("application/json")


def _request_id(request: httpx2.Request) -> jsonrpc.Id | None:
    """The id of the MCP request in the body of an HTTP request; None if there is none."""
    if request.method != "POST" or not isinstance(request.stream, httpx2.ByteStream):
        return None
    message = jsonrpc.decode(request.content)
    request_id: object = message.get("id") if message else None
    return request_id if isinstance(request_id, (str, int, float)) else None


def _reply(
    request: httpx2.Request, status: int, ident: jsonrpc.Id, text: str, outcome: Literal["not_done", "unknown"]
) -> httpx2.Response:
    suffix = " The server may have handled the request." if outcome == "unknown" else ""
    body = jsonrpc.error_reply(ident, text + suffix, outcome=outcome, status=status)
    return httpx2.Response(status, headers={"content-type": "application/json"}, content=body, request=request)


class _SharedPool(httpx2.AsyncBaseTransport):
    """A shared pool as one client's transport: closing the client does not close the pool."""

    def __init__(self, pool: httpx2.AsyncBaseTransport) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._pool.handle_async_request(request)
