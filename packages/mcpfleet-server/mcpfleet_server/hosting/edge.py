"""The outermost ASGI application: health checks, Host and Origin checks, CORS, authorization and routing."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final, Protocol

from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_server import cors, logs
from mcpfleet_server.allowlist import LOOPBACK_HOSTS, HostPattern, OriginPattern
from mcpfleet_server.caller import Caller, Identity, current_caller, has_full_share
from mcpfleet_server.hosting.authentication import bind_sdk_user, clear_caller
from mcpfleet_server.hosting.drain import Drain
from mcpfleet_server.hosting.responses import Headers, headers_of, refuse, send_bytes

logger = logging.getLogger(__name__)

READY_PATH: Final = "/ready"
SSE_PATH: Final = "/sse"
MESSAGES_PATH: Final = "/messages/"

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_ALLOW_POST: Final = (b"allow", b"POST")


ReadCaller = Callable[[Iterable[tuple[bytes, bytes]]], Caller | None]
"""Reads a verified caller from a request's header lines."""


class Authorizer(Protocol):
    """Decides whether a request may pass, in addition to Cloud Run's own check, and sets its caller."""

    @property
    def covers_all_paths(self) -> bool:
        """Whether it also protects paths other than MCP's."""
        ...

    async def authorize(self, scope: Scope, headers: Headers, send: Send) -> bool:
        """Return whether the request may pass; otherwise, the response has been sent."""
        ...

    def metadata(self, path: str) -> bytes | None:
        """Return the public document at a path, or None."""
        ...


class Edge:
    """Answers probes and preflights, checks hosts, origins and callers, and passes requests on.

    `/mcp/` is served as `/mcp`. A request that fails gets a JSON-RPC error.
    """

    def __init__(
        self,
        mcp: ASGIApp,
        fallback: ASGIApp,
        *,
        hosts: Sequence[HostPattern],
        origins: Sequence[OriginPattern],
        path: str,
        health_path: str,
        stateless: bool,
        drain: Drain | None = None,
        is_ready: Callable[[], bool] = lambda: True,
        authorizer: Authorizer | None = None,
        read_caller: ReadCaller | None = None,
        on_trace: Callable[[logs.Trace | None], None] | None = None,
        is_streamable: bool = True,
        max_sessions: int = 1000,
        variable: Callable[[str], str] = str,
    ) -> None:
        """Wrap an MCP application.

        Args:
            mcp: Handles each POST on the MCP path.
            fallback: Handles everything else, including the lifespan.
            hosts: Accepted hosts, in addition to the loopback hosts.
            origins: Accepted web origins.
            path: The path of the MCP endpoint.
            health_path: The path of the liveness check, answered before the Host check: a probe may use any host name.
            stateless: Whether the MCP path rejects GET and DELETE.
            drain: Ends open streams at shutdown.
            is_ready: Returns whether the application has started.
            authorizer: Authorizes requests; by default, all may pass.
            read_caller: Reads the caller that a front end has verified; by default, the caller is unknown.
            on_trace: Called with the trace of each request.
            is_streamable: Whether streamable HTTP is served.
            max_sessions: Maximum number of streams of the legacy transport; each is a session.
            variable: Returns the name of the environment variable that a setting was read from, for messages.
        """
        self._mcp = mcp
        self._fallback = fallback
        self._path = path
        self._health_path = health_path
        self._stateless = stateless
        self._drain = drain or Drain()
        self._is_ready = is_ready
        self._authorizer = authorizer
        self._read_caller = read_caller
        self._on_trace = on_trace
        self._is_streamable = is_streamable
        self._max_sessions = max_sessions
        self._variable = variable
        self._stream_owners: list[Identity | None] = []
        # Cached, because most requests have the same few names.
        patterns = (*LOOPBACK_HOSTS, *hosts)
        self._accepts_host = _cache_matches(patterns)
        self._accepts_origin = _cache_matches(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        headers = headers_of(scope)
        # Never reset: each request has its own task, which may still log after this method returns.
        trace = logs.trace_of(headers)
        logs.bind_trace(trace)
        if self._on_trace is not None:
            self._on_trace(trace)
        caller = None if self._read_caller is None else self._read_caller(scope["headers"])
        if caller is None:
            clear_caller()
        else:
            bind_sdk_user(caller, scope)
        origin = headers.get("origin")
        if origin is not None and self._is_mcp_path(scope["path"]) and self._is_origin_allowed(origin, scope, headers):
            # Around everything, so that a page can read errors, too.
            send = cors.wrap_send(send, origin.encode("latin-1"))
        started = False

        async def tracked_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._route(scope, headers, receive, tracked_send)
        except Exception:
            # The client gets neither a traceback nor uvicorn's plain-text 500.
            logger.exception("%s %.200r failed", scope["method"], scope["path"])
            if not started:
                await refuse(send, 500, INTERNAL_ERROR, "Internal server error")

    async def _route(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path in (self._health_path, READY_PATH) and method in ("GET", "HEAD"):
            await self._answer_probe(path, send)
            return
        if (refusal := self._find_refusal(scope, headers)) is not None:
            await refuse(send, *refusal)
            return
        if (
            method == "OPTIONS"
            and "origin" in headers
            and cors.REQUEST_METHOD_HEADER in headers
            and self._is_mcp_path(path)
        ):
            # Before authorization: a browser sends a preflight without the page's token.
            lines = cors.preflight_headers(
                headers["origin"].encode("latin-1"), headers.get(cors.REQUEST_HEADERS_HEADER, "")
            )
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0"), *lines]})
            await send({"type": "http.response.body", "body": b""})
            return
        if path == f"{self._path}/":
            # Starlette would redirect, behind a proxy even to http://, which clients refuse to follow.
            scope = {**scope, "path": self._path, "raw_path": self._path.encode()}
            path = self._path
        if self._authorizer is not None:
            document = self._authorizer.metadata(path)
            if document is not None and method in ("GET", "HEAD"):
                await send_bytes(send, 200, document, (b"access-control-allow-origin", b"*"))
                return
        if path == self._path:
            if self._is_streamable:
                await self._serve_mcp(scope, headers, receive, send)
            else:
                # The SDK's application would serve this path anyway.
                name = self._variable("MCP_TRANSPORTS")
                await refuse(send, 404, INVALID_REQUEST, f"{name} of this server enables only SSE")
        elif path.startswith((SSE_PATH, MESSAGES_PATH)):
            # Including all paths below: the SDK mounts its endpoint for messages.
            if await self._authorize(scope, headers, send):
                if path == SSE_PATH and method == "GET":
                    await self._serve_legacy_stream(scope, receive, send)
                else:
                    await self._fallback(scope, receive, send)
        elif not path.isprintable():
            # Starlette's routes also match a path that ends with a line feed: /mcp%0A would reach the SDK's endpoint
            # without authorization and without the checks around it.
            await refuse(send, 404, INVALID_REQUEST, "Not found")
        elif (
            self._authorizer is None
            or not self._authorizer.covers_all_paths
            or await self._authorize(scope, headers, send)
        ):
            await self._fallback(scope, receive, send)

    async def _serve_legacy_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the legacy transport's stream of one client. The SDK (2.3) does not limit the number of streams."""
        caller = current_caller()
        identity = None if caller is None else caller.identity
        limit = self._max_sessions
        if len(self._stream_owners) >= limit or has_full_share(identity, self._stream_owners, limit):
            await refuse(send, 503, INTERNAL_ERROR, "Too many open sessions", headers=((b"retry-after", b"1"),))
            return
        self._stream_owners.append(identity)
        try:
            await self._drain.run_stream(self._fallback, scope, receive, send)
        finally:
            self._stream_owners.remove(identity)

    async def _serve_mcp(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method != "POST" and (self._stateless or method not in ("GET", "DELETE")):
            # Without sessions, there is nothing to GET or DELETE. The SDK (2.3) would never end a GET.
            await refuse(send, 405, INVALID_REQUEST, f"{method} is not allowed; use POST", headers=(_ALLOW_POST,))
            return
        if not await self._authorize(scope, headers, send):
            return
        if method == "POST":
            scope["mcp_server.headers"] = headers
            await self._mcp(scope, receive, send)
        else:
            await self._drain.run_stream(self._mcp, scope, receive, send)

    async def _authorize(self, scope: Scope, headers: Headers, send: Send) -> bool:
        return self._authorizer is None or await self._authorizer.authorize(scope, headers, send)

    async def _answer_probe(self, path: str, send: Send) -> None:
        if path == READY_PATH and not self._is_ready():
            await send_bytes(send, 503, b'{"status":"starting"}')
        else:
            await send_bytes(send, 200, b'{"status":"ok"}')

    def _find_refusal(self, scope: Scope, headers: Headers) -> tuple[int, int, str] | None:
        host, origin = headers.get("host"), headers.get("origin")
        if host is None or not self._accepts_host(host) or _is_duplicated(scope, headers, b"host"):
            name = self._variable("MCP_ALLOWED_HOSTS")
            logger.warning("Refused a request for the host %.300r, which is not in %s", host, name)
            return 421, INVALID_REQUEST, f"Invalid Host header: the host is not in {name} of this server"
        if origin is not None and not self._is_origin_allowed(origin, scope, headers):
            name = self._variable("MCP_ALLOWED_ORIGINS")
            logger.warning("Refused a request from the origin %.300r, which is not in %s", origin, name)
            return 403, INVALID_REQUEST, f"Invalid Origin header: the origin is not in {name} of this server"
        return None

    def _is_origin_allowed(self, origin: str, scope: Scope, headers: Headers) -> bool:
        return self._accepts_origin(origin) and not _is_duplicated(scope, headers, b"origin")

    def _is_mcp_path(self, path: str) -> bool:
        """Return whether a path belongs to MCP or the authorizer. Other routes set their own CORS headers."""
        return (
            path.removesuffix("/") == self._path
            or path.startswith((SSE_PATH, MESSAGES_PATH))
            or (self._authorizer is not None and self._authorizer.metadata(path) is not None)
        )


def _cache_matches(patterns: Sequence[HostPattern | OriginPattern]) -> Callable[[str], bool]:
    @lru_cache(256)
    def accepts(name: str) -> bool:
        return any(pattern.accepts(name) for pattern in patterns)

    return accepts


def _is_duplicated(scope: Scope, headers: Headers, name: bytes) -> bool:
    # The second test is needed only if any header is duplicated.
    return len(headers) != len(scope["headers"]) and sum(line == name for line, _ in scope["headers"]) > 1
