"""A reverse proxy on loopback that adds the user's ID token, so that any client can call a private service.

It forwards any method and path, and streams in both directions without buffers; it has no WebSocket and no HTTP/2. Not
here: protection from web pages (`mcpfleet.same_origin`), the token (`mcpfleet.auth`), the client (`mcpfleet.net`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable

import anyio
import httpx2
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mcpfleet.auth import IdTokenAuth
from mcpfleet.diagnosis import diagnose, is_from_front_end
from mcpfleet.errors import AuthError
from mcpfleet.inert import inert
from mcpfleet.net import CONNECT_SECONDS, connection_reason, create_client
from mcpfleet.same_origin import Refusal, loopback_refusal
from mcpfleet.target import Target

_log = logging.getLogger("mcpfleet.proxy")

RawHeaders = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers of one connection (RFC 9110, section 7.6.1). All others are forwarded unchanged and in order."""

_END_TO_END = frozenset({b"authorization", b"cookie", b"forwarded", b"host", b"origin", b"set-cookie", b"traceparent"})
_END_TO_END_PREFIXES = (b"content-", b"mcp-", b"sec-", b"x-cloud-", b"x-forwarded-", b"x-goog-", b"x-serverless-")
"""Headers that are forwarded even if `Connection` lists them: they identify the caller, the target or the content."""


class Proxy(Starlette):
    """The proxy as an ASGI application.

    Args:
        target: The service.
        auth: The identity of the requests.
        transport: The HTTP transport; the network by default.
    """

    def __init__(
        self, target: Target, auth: IdTokenAuth, *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        client = create_client(auth, target.on_this_machine, transport)
        self._forwarder = _Forwarder(target, auth, client)

        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
            async with client:
                yield

        super().__init__(lifespan=lifespan)
        self.router.default = (
            self._forwarder
        )  # not a route: routes match only some paths and respond to all others themselves

    def cancel_requests(self) -> None:
        """Cancel every request in progress, including event streams, so that the server can stop."""
        self._forwarder.cancel_requests()


def _path_of(scope: Scope) -> bytes:
    """The path exactly as the caller sent it."""
    return scope.get("raw_path") or scope["path"].encode()


def _path_refusal(scope: Scope) -> Refusal | None:
    """The refusal of a request without a path: the other forms of a target are for other kinds of proxies."""
    path = _path_of(scope)
    if scope["method"] == "CONNECT":
        return Refusal(405, "This proxy forwards to one service only, and does not support CONNECT.")
    return None if path.startswith(b"/") else Refusal(400, "Request a path, such as /mcp.")


class _Incoming:
    """The incoming side of one request: its body, and its caller's disconnection."""

    def __init__(self, receive: Receive, *, has_body: bool) -> None:
        self._receive = receive
        self._read = anyio.Event()
        self._gone = anyio.Event()
        self.has_body = has_body
        if not has_body:
            self._read.set()

    async def body(self) -> AsyncGenerator[bytes]:
        """Yield the body's chunks as they arrive. If the caller disconnects, it waits to be cancelled."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone.set()
                await anyio.sleep_forever()
            if chunk := message.get("body", b""):
                yield chunk
            if not message.get("more_body", False):
                break
        self._read.set()

    async def wait_until_gone(self) -> None:
        """Wait until the caller disconnects. Only one task can receive, so it waits for the body's end first."""
        async with anyio.create_task_group() as either:

            async def cancel_when_gone() -> None:
                await self._gone.wait()
                either.cancel_scope.cancel()

            either.start_soon(cancel_when_gone)
            await self._read.wait()
            while (await self._receive())["type"] != "http.disconnect":
                pass
            either.cancel_scope.cancel()


class _Forwarder:
    """The ASGI application that forwards requests."""

    def __init__(self, target: Target, auth: IdTokenAuth, client: httpx2.AsyncClient) -> None:
        self._target = target
        self._auth = auth
        self._client = client
        self._open: set[anyio.CancelScope] = set()

    def cancel_requests(self) -> None:
        for scope in self._open:
            scope.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # refuse a WebSocket before it is accepted
            await send({"type": "websocket.close", "code": 1000})
            return
        refusal = loopback_refusal(scope["headers"]) or _path_refusal(scope)
        if refusal is not None:
            _log.warning("%s %s refused: %s", scope["method"], scope["path"], refusal.text)
            await PlainTextResponse(refusal.text + "\n", refusal.status)(scope, receive, send)
            return
        names = {name for name, _value in scope["headers"]}
        incoming = _Incoming(receive, has_body=bool(names & {b"content-length", b"transfer-encoding"}))
        async with anyio.create_task_group() as tasks:

            async def stop_when_gone() -> None:
                await incoming.wait_until_gone()
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_when_gone)
            self._open.add(tasks.cancel_scope)
            try:
                await self._forward(scope, incoming, receive, send)
            finally:
                self._open.discard(tasks.cancel_scope)
            tasks.cancel_scope.cancel()

    async def _forward(self, scope: Scope, incoming: _Incoming, receive: Receive, send: Send) -> None:
        try:
            response = await self._client.send(self._request(scope, incoming), stream=True)
        except (httpx2.InvalidURL, UnicodeDecodeError):
            await self._error_response(400, "The request target is not a valid path of a URL.")(scope, receive, send)
            return
        except AuthError as error:
            await self._error_response(502, str(error))(scope, receive, send)
            return
        except httpx2.TimeoutException as error:
            text = f"{self._target.origin} did not respond within {CONNECT_SECONDS:.0f} s. Check the network."
            if isinstance(error, httpx2.ReadTimeout):
                text = f"{self._target.origin}: {error}."
            await self._error_response(504, text)(scope, receive, send)
            return
        except httpx2.TransportError as error:
            reason = inert(connection_reason(error).rstrip("."), 300)
            text = f"{self._target.origin} gave no usable response: {reason}."
            if isinstance(error, httpx2.ConnectError):
                text = f"Cannot reach {self._target.origin}: {reason}. Check the URL, and that the service is deployed."
            await self._error_response(502, text)(scope, receive, send)
            return
        try:
            await self._send_response(scope, response, send)
        except httpx2.TransportError as error:
            # Don't end the response: then the server drops the connection, and the caller notices that the response
            # is not complete.
            _log.warning("%s %s: the service broke off its response: %r", scope["method"], scope["path"], error)
        finally:
            await response.aclose()

    def _request(self, scope: Scope, incoming: _Incoming) -> httpx2.Request:
        path = _path_of(scope)
        query: bytes = scope["query_string"]
        target = path + (b"?" + query if query else b"")
        return httpx2.Request(
            scope["method"],
            httpx2.URL(self._target.origin, raw_path=target),
            headers=request_headers(
                scope["headers"], self._target.host.encode("ascii"), self._auth.header.encode("ascii")
            ),
            content=incoming.body() if incoming.has_body else None,
            # The request line has the caller's target unchanged; the URL above is normalized (`/../`).
            extensions={"target": target},
        )

    async def _send_response(self, scope: Scope, response: httpx2.Response, send: Send) -> None:
        host = next(value for name, value in scope["headers"] if name == b"host").decode("latin-1")
        if is_from_front_end(response.status_code, response.headers):
            advice = diagnose(response.status_code, response.headers, self._target, self._auth.tokens.caller)
            _log.warning("%s %s: %s", scope["method"], scope["path"], advice)
        headers = response_headers(response.headers.raw, self._target.origin, f"http://{host}")
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        async for chunk in response.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _error_response(self, status: int, text: str) -> PlainTextResponse:
        _log.error("%s", text)
        return PlainTextResponse(f"mcpfleet proxy: {text}\n", status)


# --- headers to forward: all but those of one connection, `Host`, `Expect`, and the one with the token ----------


def request_headers(raw: Iterable[tuple[bytes, bytes]], host: bytes, token_header: bytes) -> RawHeaders:
    """The headers of the request to the service.

    Args:
        raw: The caller's headers.
        host: The service's host (and port), instead of the proxy's.
        token_header: The header to remove, because the caller must not choose the identity; the auth sets it.
    """
    # Expect: the proxy's own server has already sent 100 Continue. X-Serverless-Authorization is always removed,
    # because Cloud Run checks it first.
    forwarded = _remove_headers(raw, {b"host", b"expect", b"x-serverless-authorization", token_header.lower()})
    return [(b"host", host), *forwarded]


def response_headers(raw: Iterable[tuple[bytes, bytes]], service: str, proxy_origin: str) -> RawHeaders:
    """The headers of the response to the caller.

    Args:
        raw: The service's headers.
        service: The service's origin. A redirect to it is changed to the proxy, because a direct call has no token.
        proxy_origin: The proxy's origin, as the caller knows it.
    """
    origin = service.encode("ascii")
    headers = _remove_headers(raw, set())
    for index, (name, value) in enumerate(headers):
        rest = value[len(origin) :]
        if name.lower() == b"location" and value.startswith(origin) and rest[:1] in {b"", b"/", b"?", b"#"}:
            headers[index] = (name, proxy_origin.encode("ascii") + rest)
    return headers


def _remove_headers(raw: Iterable[tuple[bytes, bytes]], excluded: set[bytes]) -> RawHeaders:
    pairs = list(raw)
    # Connection lists further headers of this connection only.
    connection_names = {
        token.strip().lower() for name, value in pairs if name.lower() == b"connection" for token in value.split(b",")
    }
    end_to_end = {name for name in connection_names if name in _END_TO_END or name.startswith(_END_TO_END_PREFIXES)}
    dropped = HOP_BY_HOP | (connection_names - end_to_end) | excluded
    return [(name, value) for name, value in pairs if name.lower() not in dropped]
