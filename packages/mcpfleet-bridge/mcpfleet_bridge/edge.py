"""The ASGI application: decides what may come in, and who answers it."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Start
from mcpfleet_bridge.headers import ROUTING
from mcpfleet_bridge.leases import Leases
from mcpfleet_bridge.legacy import VERSIONS, Legacy
from mcpfleet_bridge.listening import Listening
from mcpfleet_bridge.messages import MessageError
from mcpfleet_bridge.modern import Modern
from mcpfleet_bridge.params import PREFIX
from mcpfleet_bridge.pool import Pool
from mcpfleet_bridge.process import reap_adopted
from mcpfleet_bridge.replies import STATUS, Exchange, Receive, Scope, Send
from mcpfleet_bridge.sessions import Sessions
from mcpfleet_bridge.settings import Settings
from mcpfleet_bridge.sse import MESSAGES_PATH, STREAM_PATH, Sse
from mcpfleet_server import logs
from mcpfleet_server.allowlist import LOOPBACK
from mcpfleet_server.caller import caller_of_claims
from mcpfleet_server.iap import Assertions, KeysError, NoAssertionError

logger = logging.getLogger(__name__)

TICK: Final = 5.0
"""Seconds between looks at what has been idle for too long."""

_HANDSHAKE: Final = frozenset(version.encode() for version in VERSIONS)
_MAX_KNOWN: Final = 100


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
        self._hosts = (*LOOPBACK, *settings.allowed_hosts)
        self._good_hosts: set[bytes] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._iam = settings.access == "iam"
        self._assertions: Assertions | None = None
        if settings.access == "iap":
            self._assertions = Assertions(settings.iap_audience)

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
        exchange = Exchange(headers, b"", receive, send)
        path, method = scope["path"], scope["method"]
        if path == self._settings.health_path and method in ("GET", "HEAD"):
            # Before the checks: a probe calls by whatever name the platform likes.
            await self._health(exchange)
            return
        logs.bind_trace(_trace(headers))
        try:
            if await self._refused(exchange, doubled):
                return
            if self._iam:
                exchange.unread = scope["headers"]
            elif self._assertions and not await self._vouched(exchange, self._assertions, scope["headers"]):
                return
            if path in self._paths:
                await self._endpoint(exchange, method)
            elif self._settings.sse and path == STREAM_PATH and method == "GET":
                await self._sse.get(exchange)
            elif self._settings.sse and path.rstrip("/") == MESSAGES_PATH.rstrip("/") and method == "POST":
                identity = parse_qs(scope["query_string"].decode("latin-1")).get("session_id", [""])[0]
                if await self._read(exchange):
                    await self._sse.post(exchange, messages.parse(exchange.body), identity)
            else:
                await exchange.refuse(404, messages.INVALID_REQUEST, f"MCP is served at {self._settings.path}")
        except MessageError as mistake:
            identity = _identity(exchange.body)
            await exchange.refuse(STATUS.get(mistake.code, 400), mistake.code, str(mistake), identity)

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
        if not await self._read(exchange):
            return
        message = messages.parse(exchange.body)
        if not handshake:
            await self._modern.handle(exchange, message)
        elif self._settings.stateless:
            await self._legacy.handle(exchange, message)
        else:
            await self.sessions.post(exchange, message)

    async def _read(self, exchange: Exchange) -> bool:
        """Read the body; False if the request was answered with a refusal."""
        kind = exchange.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            await exchange.refuse(415, messages.INVALID_REQUEST, "Content-Type must be application/json")
            return False
        if not (exchange.takes_json or exchange.takes_stream):
            await exchange.refuse(
                406, messages.INVALID_REQUEST, "Accept must hold application/json and text/event-stream"
            )
            return False
        limit = self._settings.max_request
        length = exchange.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            await self._too_large(exchange)
            return False
        parts: list[bytes] = []
        size = 0
        while True:
            piece = await exchange.receive()
            if piece["type"] == "http.disconnect":
                return False
            data = piece.get("body", b"")
            size += len(data)
            if size > limit:
                await self._too_large(exchange)
                return False
            if not piece.get("more_body"):
                exchange.body = data if not parts else b"".join([*parts, data])
                return True
            parts.append(data)

    async def _too_large(self, exchange: Exchange) -> None:
        reason = f"The message is longer than the {self._settings.max_request} bytes of MCP_STDIO_MAX_REQUEST"
        await exchange.refuse(413, messages.INVALID_REQUEST, reason)

    async def _refused(self, exchange: Exchange, doubled: bytes | None) -> bool:
        """Answer what comes from elsewhere than it says; False if the request may pass."""
        if doubled is not None:
            reason = f"{doubled.decode('latin-1')} header appears more than once"
            await exchange.refuse(400, messages.HEADER_MISMATCH, reason)
            return True
        host = exchange.headers.get(b"host", b"")
        if host not in self._good_hosts:
            if not any(pattern.accepts(host.decode("latin-1")) for pattern in self._hosts):
                logger.warning("Refused a request for the host %.300r; MCP_ALLOWED_HOSTS does not hold it", host)
                reason = "Invalid Host header: MCP_ALLOWED_HOSTS of this server does not hold it"
                await exchange.refuse(421, messages.INVALID_REQUEST, reason)
                return True
            if len(self._good_hosts) < _MAX_KNOWN:
                self._good_hosts.add(host)
        origin = exchange.headers.get(b"origin")
        if origin is not None and not any(
            pattern.accepts(origin.decode("latin-1")) for pattern in self._settings.allowed_origins
        ):
            logger.warning("Refused a request from the origin %.300r; MCP_ALLOWED_ORIGINS does not hold it", origin)
            reason = "Invalid Origin header: MCP_ALLOWED_ORIGINS of this server does not hold it"
            await exchange.refuse(403, messages.INVALID_REQUEST, reason)
            return True
        return False

    @staticmethod
    async def _vouched(exchange: Exchange, assertions: Assertions, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Find out whom Identity-Aware Proxy vouches for; False if the request was answered with a refusal."""
        try:
            caller = caller_of_claims(await assertions.claims(headers))
        except NoAssertionError as refusal:
            await exchange.refuse(401, messages.INVALID_REQUEST, str(refusal))
            return False
        except KeysError:
            await exchange.refuse(503, messages.SERVER_BUSY, "The keys of Identity-Aware Proxy can't be had at present")
            return False
        if caller is None:
            await exchange.refuse(401, messages.INVALID_REQUEST, "Identity-Aware Proxy's assertion names nobody")
            return False
        exchange.caller = caller.identity
        return True

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


def _identity(body: bytes) -> bytes:
    """The id of a request that can't be passed on, if it has a proper one."""
    with contextlib.suppress(MessageError):
        return messages.request_id(messages.parse(body)) or b"null"
    return b"null"


def _trace(headers: Mapping[bytes, bytes]) -> logs.Trace | None:
    named = {name.decode(): headers[name].decode("latin-1") for name in logs.TRACE_HEADERS if name in headers}
    return logs.trace_of(named) if named else None
