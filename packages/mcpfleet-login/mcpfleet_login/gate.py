"""The gate: requires an access token for each request, and passes the request on to the application.

The application gets the caller in a header of the gate. What comes from outside under its name, or under the name of
another proxy's assertion, is removed, as are the client's token and its cookies.
"""

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import httpx2
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_login.authorization_server import PREFIX, RESOURCE_METADATA_PREFIX
from mcpfleet_login.clients import SCOPE
from mcpfleet_login.provider import ACCESS_SECONDS
from mcpfleet_login.sealing import Sealer, SealError
from mcpfleet_server import cors, logs
from mcpfleet_server.allowlist import OriginPattern
from mcpfleet_server.caller import LOGIN_HEADER

logger = logging.getLogger(__name__)

_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade".split()
)
_REMOVED: Final = _HOP_BY_HOP | {
    LOGIN_HEADER,
    b"authorization",
    b"cookie",
    b"x-serverless-authorization",
    b"x-goog-iap-jwt-assertion",
    b"x-goog-authenticated-user-email",
    b"x-goog-authenticated-user-id",
    b"content-length",  # written again below
}
_REMOVED_FROM_RESPONSE: Final = _HOP_BY_HOP | {b"set-cookie"}
"""Cookies belong to the login pages of the same host, so the application must not set any."""

_CACHED_TOKENS: Final = 256


class Gate:
    """The ASGI application in front of another one.

    Args:
        login: The application that answers below `/oauth/` and `/.well-known/`.
        sealer: Opens access tokens.
        base_url: The service's URL.
        resource: The URL of the MCP endpoint.
        application: The URL of the application behind the gate.
        transport: Sends requests to it.
        health_path: The path that needs no token; None for no path.
        origins: Web origins whose pages may call.
    """

    def __init__(
        self,
        login: ASGIApp,
        sealer: Sealer,
        base_url: str,
        resource: str,
        application: str,
        transport: httpx2.AsyncBaseTransport,
        health_path: str | None = None,
        origins: Sequence[OriginPattern] = (),
    ) -> None:
        self._login = login
        self._application = httpx2.URL(application)
        self._transport = transport
        self._health_path = health_path
        self._origins = tuple(origins)
        metadata_url = f"{base_url}{RESOURCE_METADATA_PREFIX}{resource.removeprefix(base_url)}"
        self._challenge = f'Bearer resource_metadata="{metadata_url}", scope="{SCOPE}"'.encode()
        self._encode_caller = lru_cache(_CACHED_TOKENS)(_encode_caller)
        self._sealer = sealer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        path, method, headers = scope["path"], scope["method"], scope["headers"]
        if path.startswith((PREFIX, "/.well-known/")):
            await self._login(scope, receive, send)
            return
        if path == self._health_path and method in ("GET", "HEAD"):
            await self._forward(method, path.encode(), [], None, receive, send)
            return
        logs.bind_trace(logs.trace_of({n.decode(): v.decode("latin-1") for n, v in headers if n in logs.TRACE_HEADERS}))
        origin = _only(headers, b"origin")
        if origin is not None:
            if not any(pattern.accepts(origin.decode("latin-1")) for pattern in self._origins):
                await _answer(send, 403, "The origin is not allowed to call this server")
                return
            if method == "OPTIONS" and any(name == cors.REQUEST_METHOD_HEADER.encode() for name, _ in headers):
                requested = _only(headers, cors.REQUEST_HEADERS_HEADER.encode()) or b""
                await _start(send, 200, cors.preflight_headers(origin, requested.decode("latin-1")))
                await send({"type": "http.response.body"})
                return
            send = cors.wrap_send(send, origin)
        claims = self._open_token(headers)
        if claims is None:
            await self._refuse(headers, send)
            return
        target = scope.get("raw_path") or path.encode()
        if not target.startswith(b"/"):
            await _answer(send, 400, "The request's target is not a path")
            return
        if query := scope["query_string"]:
            target += b"?" + query
        await self._forward(method, target, headers, claims, receive, send)

    def _open_token(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """Return the caller's header for a request with a valid access token, or None."""
        credential = _only(headers, b"authorization")
        scheme, _, token = (credential or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        try:
            claims = self._sealer.open("access", token.strip(b" ").decode("ascii"), ACCESS_SECONDS)
        except (SealError, UnicodeDecodeError):
            return None
        return self._encode_caller(json.dumps(claims, separators=(",", ":")))

    async def _refuse(self, headers: Sequence[tuple[bytes, bytes]], send: Send) -> None:
        challenge = self._challenge
        # No error code without a token: RFC 6750, section 3.1.
        if any(name == b"authorization" for name, _ in headers):
            challenge += b', error="invalid_token", error_description="The token is not valid, or too old"'
        await _answer(send, 401, "Log in to use this server", [(b"www-authenticate", challenge)])

    async def _forward(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        caller: bytes | None,
        receive: Receive,
        send: Send,
    ) -> None:
        """Pass a request on; stop both sides when one of them ends."""
        body = _Body(receive)
        if caller is not None:
            await body.read_first()
        fields = [(name, value) for name, value in headers if name.replace(b"_", b"-") not in _REMOVED]
        if caller is None:
            fields.append((b"host", b"localhost"))
        else:
            fields.append((LOGIN_HEADER, caller))
        fields.append(body.length_header(headers))
        url = self._application.copy_with(raw_path=target)
        request = httpx2.Request(method, url, headers=fields, stream=body)
        answering = asyncio.create_task(self._relay(request, send))
        leaving = asyncio.create_task(body.wait_for_disconnect())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            answering.cancel()  # has no effect if it is done
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    async def _relay(self, request: httpx2.Request, send: Send) -> None:
        try:
            response = await self._transport.handle_async_request(request)
        except httpx2.TransportError as error:
            logger.warning("The application does not answer: %s", error)
            await _answer(send, 503, "The application does not answer", [(b"retry-after", b"1")])
            return
        try:
            fields = [pair for pair in response.headers.raw if pair[0].lower() not in _REMOVED_FROM_RESPONSE]
            await _start(send, response.status_code, fields)
            # The transport's stream is asynchronous; the type also allows the other one.
            async for part in cast("httpx2.AsyncByteStream", response.stream):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            await response.aclose()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._transport.aclose()
        await send({"type": "lifespan.shutdown.complete"})


class _Body(httpx2.AsyncByteStream):
    """The body of a request, part by part as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._message: Message = {"type": "http.request", "body": b"", "more_body": False}
        self._is_complete = asyncio.Event()

    async def read_first(self) -> None:
        """Read the first part, which is usually the only one. Without this, the body is empty."""
        self._message = await self._receive()

    def length_header(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        """Return the header that says how long the body is."""
        if not self._message.get("more_body"):
            return b"content-length", b"%d" % len(self._message.get("body", b""))
        length = next((value for name, value in headers if name == b"content-length"), None)
        return (b"transfer-encoding", b"chunked") if length is None else (b"content-length", length)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            if self._message["type"] == "http.disconnect":
                raise httpx2.WriteError("The client has disconnected")
            if part := self._message.get("body", b""):
                yield part
            if not self._message.get("more_body"):
                self._is_complete.set()
                return
            self._message = await self._receive()

    async def wait_for_disconnect(self) -> None:
        """Return when the client has left, after it has sent the whole body."""
        await self._is_complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _encode_caller(claims: str) -> bytes:
    return base64.urlsafe_b64encode(claims.encode())


def _only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the value of a header that occurs exactly once."""
    values = [value for each, value in headers if each == name]
    return values[0] if len(values) == 1 else None


async def _start(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def _answer(send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send a JSON-RPC error, as MCP's transports answer a request that they refuse."""
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": text}}
    data = json.dumps(body).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data)), *headers]
    await _start(send, status, fields)
    await send({"type": "http.response.body", "body": data})
