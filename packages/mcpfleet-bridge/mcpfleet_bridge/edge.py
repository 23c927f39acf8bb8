"""The ASGI application: decides what may come in, and who answers it."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Start
from mcpfleet_bridge.headers import PREFIX, ROUTING
from mcpfleet_bridge.leases import Leases
from mcpfleet_bridge.legacy import VERSIONS, Legacy
from mcpfleet_bridge.listening import Listening
from mcpfleet_bridge.messages import Message, Refused, Unavailable
from mcpfleet_bridge.modern import Modern
from mcpfleet_bridge.pool import Pool
from mcpfleet_bridge.process import reap_adopted
from mcpfleet_bridge.replies import Exchange, Receive, Scope, Send
from mcpfleet_bridge.sessions import Sessions
from mcpfleet_bridge.settings import Settings
from mcpfleet_bridge.sse import MESSAGES_PATH, STREAM_PATH, Sse
from mcpfleet_server import cors, logs
from mcpfleet_server.allowlist import LOOPBACK_HOSTS
from mcpfleet_server.caller import caller_of_claims
from mcpfleet_server.iap import AssertionVerifier, KeysError, NoAssertionError

logger = logging.getLogger(__name__)

TICK: Final = 5.0
"""Seconds between looks at what has been idle for too long."""

_HANDSHAKE: Final = frozenset(version.encode() for version in VERSIONS)
_MAX_KNOWN: Final = 100


class _Gone(Exception):  # noqa: N818  # an event
    """The client is gone, and nobody waits for an answer."""


class Bridge:
    """The whole bridge: an ASGI application over the processes of one stdio server."""

    def __init__(self, settings: Settings, start: Start) -> None:
        self._settings = settings
        self.pool = Pool(settings, start)
        self.leases = Leases(settings, start)
        self.sessions = Sessions(settings, start)
        self.listening = Listening(self.pool)
        self._modern = Modern(settings, self.pool, self.leases, self.listening)
        self._legacy = Legacy(settings, self.pool)
        self._sse = Sse(self.sessions)
        self._paths = (settings.path, f"{settings.path}/")
        self._hosts = (*LOOPBACK_HOSTS, *settings.allowed_hosts)
        self._good_hosts: set[bytes] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._iam = settings.access == "iam"
        self._assertions: AssertionVerifier | None = None
        if settings.access == "iap":
            self._assertions = AssertionVerifier(settings.iap_audience)

    # --- life ---------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start what is kept warm."""
        if self._settings.warm:
            self.pool.begin()
        self._ticker = asyncio.create_task(self._tick())

    def drain(self) -> None:
        """End the streams that would never end by themselves; calls may finish."""
        self.listening.close()
        self.sessions.close_streams()

    async def close(self) -> None:
        """End every process."""
        if self._ticker is not None:
            self._ticker.cancel()
        await asyncio.gather(self.pool.close(), self.leases.close(), self.sessions.close())
        reap_adopted()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
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
        doubled: bytes | None = None
        for name, value in scope["headers"]:
            if name in headers and (name in ROUTING or name.startswith(PREFIX)):
                doubled = name
            headers[name] = value
        exchange = Exchange(headers, receive, send)
        path, method = scope["path"], scope["method"]
        if path == self._settings.health_path and method in ("GET", "HEAD"):
            # Before the checks: a probe calls by whatever name the platform likes.
            await self._health(exchange)
            return
        logs.bind_trace(_trace(headers))
        try:
            self._check(exchange, doubled)
            origin = headers.get(b"origin")
            if origin is not None:
                if method == "OPTIONS" and cors.REQUEST_METHOD_HEADER.encode() in headers:
                    # Before anybody asks who calls: a browser asks without the token that the page would send.
                    wanted = headers.get(cors.REQUEST_HEADERS_HEADER.encode(), b"").decode("latin-1")
                    await exchange.empty(200, cors.preflight_headers(origin, wanted))
                    return
                exchange.extra = cors.response_headers(origin)
            if self._iam:
                exchange.unread = scope["headers"]
            elif self._assertions:
                await self._introduce(exchange, self._assertions, scope["headers"])
            if path in self._paths:
                await self._endpoint(exchange, method)
            elif self._settings.sse and path == STREAM_PATH and method == "GET":
                await self._sse.get(exchange)
            elif self._settings.sse and path.rstrip("/") == MESSAGES_PATH.rstrip("/") and method == "POST":
                identity = parse_qs(scope["query_string"].decode("latin-1")).get("session_id", [""])[0]
                await self._sse.post(exchange, await self._read(exchange), identity)
            else:
                raise Refused(messages.INVALID_REQUEST, f"MCP is served at {self._settings.path}", status=404)
        except Refused as refused:
            await exchange.refuse(refused)
        except _Gone:
            return

    async def _endpoint(self, exchange: Exchange, method: str) -> None:
        version = exchange.headers.get(b"mcp-protocol-version")
        handshake = version is None or version in _HANDSHAKE
        if method != "POST":
            if self._settings.stateless or not handshake or method not in ("GET", "DELETE"):
                allowed = b"POST" if self._settings.stateless else b"POST, GET, DELETE"
                await exchange.empty(405, [(b"allow", allowed)])
            elif method == "GET":
                await self.sessions.get(exchange)
            else:
                await self.sessions.delete(exchange)
            return
        message = await self._read(exchange)
        if not handshake:
            await self._modern.handle(exchange, message)
        elif self._settings.stateless:
            await self._legacy.handle(exchange, message)
        else:
            await self.sessions.post(exchange, message)

    async def _read(self, exchange: Exchange) -> Message:
        """Read the body: one message.

        Raises:
            Refused: It is none, or the headers don't fit.
            _Gone: The client went away before its end.
        """
        kind = exchange.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise Refused(messages.INVALID_REQUEST, "Content-Type must be application/json", status=415)
        if not (exchange.takes_json or exchange.takes_stream):
            reason = "Accept must hold application/json and text/event-stream"
            raise Refused(messages.INVALID_REQUEST, reason, status=406)
        limit = self._settings.max_request
        length = exchange.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            piece = await exchange.receive()
            if piece["type"] == "http.disconnect":
                raise _Gone
            data = piece.get("body", b"")
            size += len(data)
            if size > limit:
                raise _too_large(limit)
            if not piece.get("more_body"):
                exchange.message = messages.parse(b"".join([*parts, data]) if parts else data)
                return exchange.message
            parts.append(data)

    def _check(self, exchange: Exchange, doubled: bytes | None) -> None:
        """Look whether a request comes from where it says.

        Raises:
            Refused: It does not, or says two things.
        """
        if doubled is not None:
            raise Refused(messages.HEADER_MISMATCH, f"{doubled.decode('latin-1')} header appears more than once")
        host = exchange.headers.get(b"host", b"")
        if host not in self._good_hosts:
            if not any(pattern.accepts(host.decode("latin-1")) for pattern in self._hosts):
                logger.warning("Refused a request for the host %.300r; MCP_ALLOWED_HOSTS does not hold it", host)
                reason = "Invalid Host header: MCP_ALLOWED_HOSTS of this server does not hold it"
                raise Refused(messages.INVALID_REQUEST, reason, status=421)
            if len(self._good_hosts) < _MAX_KNOWN:
                self._good_hosts.add(host)
        origin = exchange.headers.get(b"origin")
        if origin is not None and not any(
            pattern.accepts(origin.decode("latin-1")) for pattern in self._settings.allowed_origins
        ):
            logger.warning("Refused a request from the origin %.300r; MCP_ALLOWED_ORIGINS does not hold it", origin)
            reason = "Invalid Origin header: MCP_ALLOWED_ORIGINS of this server does not hold it"
            raise Refused(messages.INVALID_REQUEST, reason, status=403)

    @staticmethod
    async def _introduce(
        exchange: Exchange, assertions: AssertionVerifier, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        """Find out whom Identity-Aware Proxy vouches for.

        Raises:
            Refused: For nobody, or it can't be found out.
        """
        try:
            caller = caller_of_claims(await assertions.verify(headers))
        except NoAssertionError as refusal:
            raise Refused(messages.INVALID_REQUEST, str(refusal), status=401) from None
        except KeysError:
            raise Unavailable("The keys of Identity-Aware Proxy can't be had at present") from None
        if caller is None:
            raise Refused(messages.INVALID_REQUEST, "Identity-Aware Proxy's assertion names nobody", status=401)
        exchange.caller = caller.identity

    async def _health(self, exchange: Exchange) -> None:
        trouble = self.pool.trouble()
        body = {"status": "ok"} if trouble is None else {"status": "unhealthy", "reason": trouble}
        await exchange.json(200 if trouble is None else 503, messages.dump(body))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.begin()
        await send({"type": "lifespan.startup.complete"})
        with contextlib.suppress(asyncio.CancelledError):
            await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


def _too_large(limit: int) -> Refused:
    reason = f"The message is longer than the {limit} bytes of MCP_STDIO_MAX_REQUEST"
    return Refused(messages.INVALID_REQUEST, reason, status=413)


def _trace(headers: Mapping[bytes, bytes]) -> logs.Trace | None:
    named = {name.decode(): headers[name].decode("latin-1") for name in logs.TRACE_HEADERS if name in headers}
    return logs.trace_of(named) if named else None
