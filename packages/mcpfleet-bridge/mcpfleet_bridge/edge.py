"""The ASGI application of the bridge: checks requests, and passes each to the handler for its protocol version."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final
from urllib.parse import parse_qs

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Start
from mcpfleet_bridge.exchange import Exchange, Receive, Scope, Send
from mcpfleet_bridge.headers import PARAM_PREFIX, UNIQUE_HEADERS
from mcpfleet_bridge.leases import Leases
from mcpfleet_bridge.legacy import HANDSHAKE_VERSIONS, LegacyHandler
from mcpfleet_bridge.messages import Message, RefusedError, UnavailableError
from mcpfleet_bridge.modern import ModernHandler
from mcpfleet_bridge.pool import Pool
from mcpfleet_bridge.process import reap_adopted
from mcpfleet_bridge.sessions import Sessions
from mcpfleet_bridge.settings import Settings
from mcpfleet_bridge.sse import MESSAGES_PATH, STREAM_PATH, SseHandler
from mcpfleet_bridge.subscriptions import Subscriptions
from mcpfleet_server import cors, logs
from mcpfleet_server.allowlist import LOOPBACK_HOSTS
from mcpfleet_server.caller import caller_of_claims, caller_reader
from mcpfleet_server.iap import AssertionVerifier, KeysError, NoAssertionError

logger = logging.getLogger(__name__)

EXPIRY_SECONDS: Final = 5.0
"""Seconds between two checks for idle processes, sessions and calls."""

_HANDSHAKE_VERSIONS: Final = frozenset(version.encode() for version in HANDSHAKE_VERSIONS)
_MAX_CACHED_HOSTS: Final = 100


class _DisconnectedError(Exception):
    """The client has disconnected, so no response is needed."""


class Bridge:
    """The bridge: an ASGI application in front of the processes of one stdio server."""

    def __init__(self, settings: Settings, start: Start) -> None:
        self._settings = settings
        self.pool = Pool(settings, start)
        self.leases = Leases(settings, start)
        self.sessions = Sessions(settings, start)
        self.subscriptions = Subscriptions(self.pool)
        self._modern = ModernHandler(settings, self.pool, self.leases, self.subscriptions)
        self._legacy = LegacyHandler(settings, self.pool)
        self._sse = SseHandler(self.sessions)
        self._paths = (settings.path, f"{settings.path}/")
        self._hosts = (*LOOPBACK_HOSTS, *settings.allowed_hosts)
        self._accepted_hosts: set[bytes] = set()
        self._expiry_task: asyncio.Task[None] | None = None
        self._read_caller = caller_reader(settings.access)
        self._verifier: AssertionVerifier | None = None
        if settings.access == "iap":
            self._verifier = AssertionVerifier(settings.iap_audience)

    # --- lifecycle ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the shared processes, if they are to be warm, and the check for idle ones."""
        if self._settings.warm:
            self.pool.start()
        self._expiry_task = asyncio.create_task(self._expire_idle())

    def drain(self) -> None:
        """End the streams, which would not end by themselves. Calls may finish."""
        self.subscriptions.close()
        self.sessions.close_streams()

    async def close(self) -> None:
        """Stop every process."""
        if self._expiry_task is not None:
            self._expiry_task.cancel()
        await asyncio.gather(self.pool.close(), self.leases.close(), self.sessions.close())
        reap_adopted()

    async def _expire_idle(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            now = asyncio.get_running_loop().time()
            await self._modern.expire(now)
            await self.leases.expire(now)
            await self.sessions.expire(now)
            reap_adopted()

    # --- requests -----------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = {}
        duplicate: bytes | None = None
        for name, value in scope["headers"]:
            if name in headers and (name in UNIQUE_HEADERS or name.startswith(PARAM_PREFIX)):
                duplicate = name
            headers[name] = value
        exchange = Exchange(headers, receive, send)
        path, method = scope["path"], scope["method"]
        if path == self._settings.health_path and method in ("GET", "HEAD"):
            # Before the checks: a probe may use any host name.
            await self._answer_health_check(exchange)
            return
        logs.bind_trace(_read_trace(headers))
        try:
            self._check_headers(exchange, duplicate)
            origin = headers.get(b"origin")
            if origin is not None:
                if method == "OPTIONS" and cors.REQUEST_METHOD_HEADER.encode() in headers:
                    # Before authorization: a browser sends a preflight without the page's token.
                    requested_headers = headers.get(cors.REQUEST_HEADERS_HEADER.encode(), b"").decode("latin-1")
                    await exchange.send_empty(200, cors.preflight_headers(origin, requested_headers))
                    return
                exchange.extra_headers = cors.response_headers(origin)
            if self._read_caller:
                exchange.read_caller = partial(self._read_caller, scope["headers"])
            elif self._verifier:
                await self._authorize_iap(exchange, self._verifier, scope["headers"])
            if path in self._paths:
                await self._serve_mcp(exchange, method)
            elif self._settings.sse and path == STREAM_PATH and method == "GET":
                await self._sse.get(exchange)
            elif self._settings.sse and path.rstrip("/") == MESSAGES_PATH.rstrip("/") and method == "POST":
                session_id = parse_qs(scope["query_string"].decode("latin-1")).get("session_id", [""])[0]
                await self._sse.post(exchange, await self._read_message(exchange), session_id)
            else:
                raise RefusedError(messages.INVALID_REQUEST, f"MCP is served at {self._settings.path}", status=404)
        except RefusedError as refused:
            await exchange.refuse(refused)
        except _DisconnectedError:
            return

    async def _serve_mcp(self, exchange: Exchange, method: str) -> None:
        version = exchange.headers.get(b"mcp-protocol-version")
        has_handshake = version is None or version in _HANDSHAKE_VERSIONS
        if method != "POST":
            if self._settings.stateless or not has_handshake or method not in ("GET", "DELETE"):
                allowed = b"POST" if self._settings.stateless else b"POST, GET, DELETE"
                await exchange.send_empty(405, [(b"allow", allowed)])
            elif method == "GET":
                await self.sessions.get(exchange)
            else:
                await self.sessions.delete(exchange)
            return
        message = await self._read_message(exchange)
        if not has_handshake:
            await self._modern.handle(exchange, message)
        elif self._settings.stateless:
            await self._legacy.handle(exchange, message)
        else:
            await self.sessions.post(exchange, message)

    async def _read_message(self, exchange: Exchange) -> Message:
        """Read the body, which is one message.

        Raises:
            RefusedError: The body is not a message, or the headers don't allow it.
            _DisconnectedError: The client disconnected before the end of the body.
        """
        media_type = exchange.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media_type != b"application/json":
            raise RefusedError(messages.INVALID_REQUEST, "Content-Type must be application/json", status=415)
        if not (exchange.accepts_json or exchange.accepts_stream):
            reason = "Accept must name application/json and text/event-stream"
            raise RefusedError(messages.INVALID_REQUEST, reason, status=406)
        limit = self._settings.max_request
        length = exchange.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large_error(limit)
        chunks: list[bytes] = []
        size = 0
        while True:
            part = await exchange.receive()
            if part["type"] == "http.disconnect":
                raise _DisconnectedError
            data = part.get("body", b"")
            size += len(data)
            if size > limit:
                raise _too_large_error(limit)
            if not part.get("more_body"):
                exchange.message = messages.parse(b"".join([*chunks, data]) if chunks else data)
                return exchange.message
            chunks.append(data)

    def _check_headers(self, exchange: Exchange, duplicate: bytes | None) -> None:
        """Check that no header is duplicated, and that host and origin are allowed.

        Raises:
            RefusedError: One of them is not.
        """
        if duplicate is not None:
            raise RefusedError(messages.HEADER_MISMATCH, f"{duplicate.decode('latin-1')} header appears more than once")
        host = exchange.headers.get(b"host", b"")
        if host not in self._accepted_hosts:
            if not any(pattern.accepts(host.decode("latin-1")) for pattern in self._hosts):
                name = self._settings.variable("MCP_ALLOWED_HOSTS")
                logger.warning("Refused a request for the host %.300r, which is not in %s", host, name)
                reason = f"Invalid Host header: the host is not in {name} of this server"
                raise RefusedError(messages.INVALID_REQUEST, reason, status=421)
            if len(self._accepted_hosts) < _MAX_CACHED_HOSTS:
                self._accepted_hosts.add(host)
        origin = exchange.headers.get(b"origin")
        if origin is not None and not any(
            pattern.accepts(origin.decode("latin-1")) for pattern in self._settings.allowed_origins
        ):
            name = self._settings.variable("MCP_ALLOWED_ORIGINS")
            logger.warning("Refused a request from the origin %.300r, which is not in %s", origin, name)
            reason = f"Invalid Origin header: the origin is not in {name} of this server"
            raise RefusedError(messages.INVALID_REQUEST, reason, status=403)

    @staticmethod
    async def _authorize_iap(
        exchange: Exchange, verifier: AssertionVerifier, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        """Set the caller that Identity-Aware Proxy names.

        Raises:
            RefusedError: The request has no valid assertion, or it can't be checked.
        """
        try:
            caller = caller_of_claims(await verifier.verify(headers))
        except NoAssertionError as refusal:
            raise RefusedError(messages.INVALID_REQUEST, str(refusal), status=401) from None
        except KeysError:
            raise UnavailableError("The keys of Identity-Aware Proxy can't be fetched at present; try again") from None
        if caller is None:
            raise RefusedError(
                messages.INVALID_REQUEST, "Identity-Aware Proxy's assertion names no account", status=401
            )
        exchange.caller = caller.identity

    async def _answer_health_check(self, exchange: Exchange) -> None:
        problem = self.pool.find_problem()
        body = {"status": "ok"} if problem is None else {"status": "unhealthy", "reason": problem}
        await exchange.send_json(200 if problem is None else 503, messages.dump(body))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        with contextlib.suppress(asyncio.CancelledError):
            await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


def _too_large_error(limit: int) -> RefusedError:
    reason = f"The message is longer than the {limit} bytes of MCP_STDIO_MAX_REQUEST"
    return RefusedError(messages.INVALID_REQUEST, reason, status=413)


def _read_trace(headers: Mapping[bytes, bytes]) -> logs.Trace | None:
    trace_headers = {name.decode(): headers[name].decode("latin-1") for name in logs.TRACE_HEADERS if name in headers}
    return logs.trace_of(trace_headers) if trace_headers else None
