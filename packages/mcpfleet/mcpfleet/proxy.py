"""A reverse proxy on loopback that adds the caller's ID token: any client reaches a private service.

Any method and path, streamed in both directions without buffering; no WebSocket, no HTTP/2. Not here:
who may use it (`mcpfleet.same_origin`), the token (`mcpfleet.auth`), the way out (`mcpfleet.net`).
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
from mcpfleet.diagnosis import diagnose, is_front_ends
from mcpfleet.errors import AuthError
from mcpfleet.inert import inert
from mcpfleet.net import CONNECT_SECONDS, client_for, connection_reason
from mcpfleet.same_origin import Refusal, refuse
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
"""Headers of one connection (RFC 9110, section 7.6.1), which stop here; all others cross unchanged, in order."""

_END_TO_END = frozenset({b"authorization", b"cookie", b"forwarded", b"host", b"origin", b"set-cookie", b"traceparent"})
_END_TO_END_PREFIXES = (b"content-", b"mcp-", b"sec-", b"x-cloud-", b"x-forwarded-", b"x-goog-", b"x-serverless-")
"""What `Connection` has no right to name: whose a message is, where it goes, what it holds. It crosses all the same."""


class Proxy(Starlette):
    """The proxy as an ASGI application.

    Args:
        target: Where requests go.
        auth: The identity they go with.
        transport: The way out; real HTTP if not given.
    """

    def __init__(
        self, target: Target, auth: IdTokenAuth, *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        client = client_for(auth, target.on_this_machine, transport)
        self._relay = _Relay(target, auth, client)

        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
            async with client:
                yield

        super().__init__(lifespan=lifespan)
        self.router.default = self._relay  # not a route: those match paths only, and answer the rest themselves

    def hang_up(self) -> None:
        """End every request under way, event streams too; for a server that wants to stop."""
        self._relay.hang_up()


def _path_of(scope: Scope) -> bytes:
    """The path as the caller wrote it."""
    return scope.get("raw_path") or scope["path"].encode()


def _no_path(scope: Scope) -> Refusal | None:
    """Why there is nothing to forward: the other forms of a request's target are for other kinds of proxies."""
    path = _path_of(scope)
    if scope["method"] == "CONNECT":
        return Refusal(405, "This proxy leads to one service only, and opens no tunnels (CONNECT).")
    return None if path.startswith(b"/") else Refusal(400, "Ask for a path, such as /mcp.")


class _Incoming:
    """The caller's side of one request: its body, and the news that it has gone."""

    def __init__(self, receive: Receive, *, has_body: bool) -> None:
        self._receive = receive
        self._read = anyio.Event()
        self._gone = anyio.Event()
        self.has_body = has_body
        if not has_body:
            self._read.set()

    async def body(self) -> AsyncGenerator[bytes]:
        """The body's parts as they come; stops for good, to be cancelled, when the caller goes."""
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

    async def gone(self) -> None:
        """Return when the caller has gone. Nobody else may read meanwhile, so it waits for the body's end."""
        async with anyio.create_task_group() as either:

            async def seen_by_body() -> None:
                await self._gone.wait()
                either.cancel_scope.cancel()

            either.start_soon(seen_by_body)
            await self._read.wait()
            while (await self._receive())["type"] != "http.disconnect":
                pass
            either.cancel_scope.cancel()


class _Relay:
    """The ASGI application behind the mount."""

    def __init__(self, target: Target, auth: IdTokenAuth, client: httpx2.AsyncClient) -> None:
        self._target = target
        self._auth = auth
        self._client = client
        self._open: set[anyio.CancelScope] = set()

    def hang_up(self) -> None:
        for scope in self._open:
            scope.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a WebSocket: refused before it is accepted
            await send({"type": "websocket.close", "code": 1000})
            return
        refusal = refuse(scope["headers"]) or _no_path(scope)
        if refusal is not None:
            _log.warning("%s %s refused: %s", scope["method"], scope["path"], refusal.text)
            await PlainTextResponse(refusal.text + "\n", refusal.status)(scope, receive, send)
            return
        names = {name for name, _value in scope["headers"]}
        incoming = _Incoming(receive, has_body=bool(names & {b"content-length", b"transfer-encoding"}))
        async with anyio.create_task_group() as tasks:

            async def stop_when_gone() -> None:
                await incoming.gone()
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
            await self._fail(400, "What was asked for is not the path of a URL.")(scope, receive, send)
            return
        except AuthError as error:
            await self._fail(502, str(error))(scope, receive, send)
            return
        except httpx2.TimeoutException as error:
            text = f"{self._target.origin} did not answer within {CONNECT_SECONDS:.0f} s. Check the network."
            if isinstance(error, httpx2.ReadTimeout):
                text = f"{self._target.origin}: {error}."
            await self._fail(504, text)(scope, receive, send)
            return
        except httpx2.TransportError as error:
            reason = inert(connection_reason(error).rstrip("."), 300)
            text = f"{self._target.origin} gave no answer that can be used: {reason}."
            if isinstance(error, httpx2.ConnectError):
                text = f"Cannot reach {self._target.origin}: {reason}. Is the service deployed, and the URL right?"
            await self._fail(502, text)(scope, receive, send)
            return
        try:
            await self._answer(scope, response, send)
        except httpx2.TransportError as error:
            # The answer is cut: left without an end, so that the server drops the connection and the caller
            # does not take what came for the whole.
            _log.warning("%s %s: the service broke off its answer: %r", scope["method"], scope["path"], error)
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
            # On the wire the target is the caller's, to the byte; the URL above is normalised (`/../`).
            extensions={"target": target},
        )

    async def _answer(self, scope: Scope, response: httpx2.Response, send: Send) -> None:
        host = next(value for name, value in scope["headers"] if name == b"host").decode("latin-1")
        if is_front_ends(response.status_code, response.headers):
            advice = diagnose(response.status_code, response.headers, self._target, self._auth.tokens.caller)
            _log.warning("%s %s: %s", scope["method"], scope["path"], advice)
        headers = response_headers(response.headers.raw, self._target.origin, f"http://{host}")
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        async for chunk in response.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _fail(self, status: int, text: str) -> PlainTextResponse:
        _log.error("%s", text)
        return PlainTextResponse(f"mcpfleet proxy: {text}\n", status)


# --- which headers cross: all but those of one connection, `Host`, `Expect`, and the one with our token ---------


def request_headers(raw: Iterable[tuple[bytes, bytes]], host: bytes, token_header: bytes) -> RawHeaders:
    """What the service is sent.

    Args:
        raw: The caller's headers.
        host: The service's host (and port), instead of the proxy's.
        token_header: Dropped, as a caller on loopback does not choose the identity; the auth sets it.
    """
    # Expect: the proxy's own server has already answered it with 100 Continue. Cloud Run looks at
    # X-Serverless-Authorization first, so it goes whichever header carries the token.
    kept = _without(raw, {b"host", b"expect", b"x-serverless-authorization", token_header.lower()})
    return [(b"host", host), *kept]


def response_headers(raw: Iterable[tuple[bytes, bytes]], service: str, here: str) -> RawHeaders:
    """What the caller is answered.

    Args:
        raw: The service's headers.
        service: The service's origin. A redirect to it is turned to the proxy: past it there is no identity.
        here: The proxy's origin, as the caller knows it.
    """
    origin = service.encode("ascii")
    headers = _without(raw, set())
    for index, (name, value) in enumerate(headers):
        rest = value[len(origin) :]
        if name.lower() == b"location" and value.startswith(origin) and rest[:1] in {b"", b"/", b"?", b"#"}:
            headers[index] = (name, here.encode("ascii") + rest)
    return headers


def _without(raw: Iterable[tuple[bytes, bytes]], more: set[bytes]) -> RawHeaders:
    pairs = list(raw)
    # Connection lists further headers that are of this hop only.
    named = {
        token.strip().lower() for name, value in pairs if name.lower() == b"connection" for token in value.split(b",")
    }
    end_to_end = {name for name in named if name in _END_TO_END or name.startswith(_END_TO_END_PREFIXES)}
    dropped = HOP_BY_HOP | (named - end_to_end) | more
    return [(name, value) for name, value in pairs if name.lower() not in dropped]
