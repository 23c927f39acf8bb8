"""The outermost ASGI application: decides what reaches the MCP application, and in which form."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final, Protocol

from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_server import cors, logs
from mcpfleet_server.allowlist import LOOPBACK, HostPattern, OriginPattern
from mcpfleet_server.caller import Caller, Identity, current_caller, has_share
from mcpfleet_server.hosting.drain import Drain
from mcpfleet_server.hosting.principal import introduce, nobody
from mcpfleet_server.hosting.responses import Headers, headers_of, refuse, send_bytes

logger = logging.getLogger(__name__)

READY_PATH: Final = "/ready"
SSE_PATH: Final = "/sse"
MESSAGES_PATH: Final = "/messages/"

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_ALLOW_POST: Final = (b"allow", b"POST")


ReadCaller = Callable[[Iterable[tuple[bytes, bytes]]], Caller | None]
"""Finds in a request's headers the caller that somebody has checked already."""


class Gate(Protocol):
    """Decides who may come in, beyond what Cloud Run has decided, and says who it is."""

    @property
    def everywhere(self) -> bool:
        """Whether it stands before the server's own paths, too."""
        ...

    async def admit(self, scope: Scope, headers: Headers, send: Send) -> bool:
        """Whether the request may pass; if not, it has been answered."""
        ...

    def metadata(self, path: str) -> bytes | None:
        """The public document at a path, if this is one's path."""
        ...


class Edge:
    """Answers probes and preflights, refuses foreign hosts and origins, takes `/mcp/` for `/mcp`, fails in words."""

    def __init__(
        self,
        mcp: ASGIApp,
        rest: ASGIApp,
        *,
        hosts: Sequence[HostPattern],
        origins: Sequence[OriginPattern],
        path: str,
        health_path: str,
        stateless: bool,
        drain: Drain | None = None,
        ready: Callable[[], bool] = lambda: True,
        gate: Gate | None = None,
        read_caller: ReadCaller | None = None,
        on_trace: Callable[[logs.Trace | None], None] | None = None,
        streamable: bool = True,
        max_sessions: int = 1000,
    ) -> None:
        """Stand in front of an MCP application.

        Args:
            mcp: Takes each POST on the MCP path.
            rest: Takes everything else, the lifespan included.
            hosts: Accepted besides the loopback names.
            origins: Accepted web origins.
            path: Of the MCP endpoint.
            health_path: Answered before any check: a probe calls by whatever name the platform likes.
            stateless: Whether there is nothing to GET or DELETE on the MCP path.
            drain: Ends open streams.
            ready: Whether the application has started.
            gate: Who may come in; everybody who reaches us by default.
            read_caller: Who calls, where somebody in front of us has checked that; by default nobody is believed.
            on_trace: Is told the trace that each request belongs to.
            streamable: Whether the MCP path is served.
            max_sessions: Most streams of the legacy transport at once, each of which is a session.
        """
        self._mcp = mcp
        self._rest = rest
        self._path = path
        self._health_path = health_path
        self._stateless = stateless
        self._drain = drain or Drain()
        self._ready = ready
        self._gate = gate
        self._read_caller = read_caller
        self._on_trace = on_trace
        self._streamable = streamable
        self._max_sessions = max_sessions
        self._streams: list[Identity | None] = []
        # The same few names come with every request.
        patterns = (*LOOPBACK, *hosts)
        self._known_host = _remembering(patterns)
        self._known_origin = _remembering(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        headers = headers_of(scope)
        # Never taken back: each request has a task of its own, whose last words come after this call.
        trace = logs.trace_of(headers)
        logs.bind_trace(trace)
        if self._on_trace is not None:
            self._on_trace(trace)
        caller = None if self._read_caller is None else self._read_caller(scope["headers"])
        if caller is None:
            nobody()
        else:
            introduce(caller, scope)
        origin = headers.get("origin")
        if origin is not None and self._serves(scope["path"]) and self._is_listed(origin, scope, headers):
            # Round everything, so that a page may read what went wrong, too.
            send = cors.reading(send, origin.encode("latin-1"))
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._route(scope, headers, receive, watched)
        except Exception:
            # The client gets no traceback, and not our server's plain-text 500 either.
            logger.exception("%s %.200r failed", scope["method"], scope["path"])
            if not started:
                await refuse(send, 500, INTERNAL_ERROR, "Internal server error")

    async def _route(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path in (self._health_path, READY_PATH) and method in ("GET", "HEAD"):
            await self._probe(path, send)
            return
        if (refusal := self._foreign(scope, headers)) is not None:
            await refuse(send, *refusal)
            return
        if method == "OPTIONS" and "origin" in headers and cors.ASKS in headers and self._serves(path):
            # Before the gate: a browser asks without the token that the page would send.
            lines = cors.preflight(headers["origin"].encode("latin-1"), headers.get(cors.ASKS_HEADERS, ""))
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0"), *lines]})
            await send({"type": "http.response.body", "body": b""})
            return
        if path == f"{self._path}/":
            # Starlette would redirect, behind a proxy to http://, which clients rightly refuse to follow.
            scope = {**scope, "path": self._path, "raw_path": self._path.encode()}
            path = self._path
        if self._gate is not None:
            document = self._gate.metadata(path)
            if document is not None and method in ("GET", "HEAD"):
                await send_bytes(send, 200, document, (b"access-control-allow-origin", b"*"))
                return
        if path == self._path:
            if self._streamable:
                await self._endpoint(scope, headers, receive, send)
            else:
                # The SDK's application has the route all the same.
                await refuse(send, 404, INVALID_REQUEST, "This server speaks SSE alone: see MCP_TRANSPORTS")
        elif path.startswith((SSE_PATH, MESSAGES_PATH)):
            # Whatever is below, too: the SDK mounts its endpoint for messages, so that it has many paths.
            if await self._admitted(scope, headers, send):
                if path == SSE_PATH and method == "GET":
                    await self._stream(scope, receive, send)
                else:
                    await self._rest(scope, receive, send)
        elif not path.isprintable():
            # Starlette's routes match a path with a line end behind it, too: /mcp%0A would be the SDK's own endpoint,
            # past the gate, and past all that stands round it.
            await refuse(send, 404, INVALID_REQUEST, "There is no such path")
        elif self._gate is None or not self._gate.everywhere or await self._admitted(scope, headers, send):
            await self._rest(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The legacy transport's stream of one client, which the SDK (2.3) would open without end."""
        caller = current_caller()
        whose = None if caller is None else caller.identity
        most = self._max_sessions
        if len(self._streams) >= most or has_share(whose, self._streams, most):
            await refuse(send, 503, INTERNAL_ERROR, "Too many open sessions", headers=((b"retry-after", b"1"),))
            return
        self._streams.append(whose)
        try:
            await self._drain.stream(self._rest, scope, receive, send)
        finally:
            self._streams.remove(whose)

    async def _endpoint(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method != "POST" and (self._stateless or method not in ("GET", "DELETE")):
            # Without sessions there is nothing to GET or DELETE. The SDK (2.3) holds a GET open for ever.
            await refuse(send, 405, INVALID_REQUEST, f"{method} is not allowed here; POST is", headers=(_ALLOW_POST,))
            return
        if not await self._admitted(scope, headers, send):
            return
        if method == "POST":
            scope["mcp_server.headers"] = headers
            await self._mcp(scope, receive, send)
        else:
            await self._drain.stream(self._mcp, scope, receive, send)

    async def _admitted(self, scope: Scope, headers: Headers, send: Send) -> bool:
        return self._gate is None or await self._gate.admit(scope, headers, send)

    async def _probe(self, path: str, send: Send) -> None:
        if path == READY_PATH and not self._ready():
            await send_bytes(send, 503, b'{"status":"starting"}')
        else:
            await send_bytes(send, 200, b'{"status":"ok"}')

    def _foreign(self, scope: Scope, headers: Headers) -> tuple[int, int, str] | None:
        host, origin = headers.get("host"), headers.get("origin")
        if host is None or not self._known_host(host) or _doubled(scope, headers, b"host"):
            logger.warning("Refused a request for the host %.300r; MCP_ALLOWED_HOSTS does not hold it", host)
            return 421, INVALID_REQUEST, "Invalid Host header: MCP_ALLOWED_HOSTS of this server does not hold it"
        if origin is not None and not self._is_listed(origin, scope, headers):
            logger.warning("Refused a request from the origin %.300r; MCP_ALLOWED_ORIGINS does not hold it", origin)
            return 403, INVALID_REQUEST, "Invalid Origin header: MCP_ALLOWED_ORIGINS of this server does not hold it"
        return None

    def _is_listed(self, origin: str, scope: Scope, headers: Headers) -> bool:
        return self._known_origin(origin) and not _doubled(scope, headers, b"origin")

    def _serves(self, path: str) -> bool:
        """Whether a path is MCP's or the gate's. An application's further routes say themselves who may read."""
        return (
            path.removesuffix("/") == self._path
            or path.startswith((SSE_PATH, MESSAGES_PATH))
            or (self._gate is not None and self._gate.metadata(path) is not None)
        )


def _remembering(patterns: Sequence[HostPattern | OriginPattern]) -> Callable[[str], bool]:
    @lru_cache(256)
    def known(name: str) -> bool:
        return any(pattern.accepts(name) for pattern in patterns)

    return known


def _doubled(scope: Scope, headers: Headers, name: bytes) -> bool:
    # Only where some header came twice at all.
    return len(headers) != len(scope["headers"]) and sum(line == name for line, _ in scope["headers"]) > 1
