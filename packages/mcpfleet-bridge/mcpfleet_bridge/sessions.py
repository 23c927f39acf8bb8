"""Sessions of clients with a handshake: each has its own process for as long as it lasts.

All messages pass in both directions. Messages that the server sends unasked go into the stream of a call in
progress, otherwise into the client's GET stream; without either, they are queued, up to a limit.
"""

import asyncio
import logging
import secrets
from collections import deque
from typing import Final

from msgspec import UNSET

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, Child, Start, StartError
from mcpfleet_bridge.exchange import Exchange, Outcome
from mcpfleet_bridge.legacy import params_of
from mcpfleet_bridge.messages import Message, MessageError, RefusedError, UnavailableError
from mcpfleet_bridge.settings import Settings
from mcpfleet_bridge.subscriptions import NO_LIMIT_SECONDS
from mcpfleet_server.caller import Identity, has_full_share

logger = logging.getLogger(__name__)

SESSION_HEADER: Final = b"mcp-session-id"
MAX_QUEUED: Final = 1000
"""Maximum number of queued messages for a client without an open stream. Beyond it, the oldest are dropped."""

_CANCELLED: Final = -32800
_DURING_CALLS: Final = frozenset({"notifications/message"})


class ClientSession:
    """One client and its process.

    Attributes:
        session_id: The session's ID, which can't be guessed.
        caller: The caller who created the session; no other caller can use it.
        calls: The calls in progress, by the client's own IDs.
    """

    def __init__(self, caller: Identity | None, now: float) -> None:
        self.session_id = secrets.token_urlsafe(32)
        self.caller = caller
        self.last_used = now
        self.child = Child(self)
        self.calls: dict[bytes, Call] = {}
        self.streams: list[Call] = []  # of calls, oldest first
        self.stream: Call | None = None  # of GET, or of the older transport
        self.is_ended = False
        self._pending_ids: set[bytes] = set()
        self._queued: deque[bytes] = deque(maxlen=MAX_QUEUED)

    # --- from the server ----------------------------------------------------------------------------------

    def on_request(self, child: Child, request_id: bytes, method: str, params: bytes | None) -> None:
        """Pass a request of the server on to the client."""
        self._pending_ids.add(request_id)
        params_member = b"" if params is None else b',"params":%s' % params
        self._send(
            b'{"jsonrpc":"2.0","id":%s,"method":%s%s}' % (request_id, messages.encode_method(method), params_member),
            during_calls=True,
        )

    def on_notification(self, child: Child, method: str, params: bytes | None) -> None:
        """Pass a notification of the server on to the client."""
        self._send(messages.notification(method, params), during_calls=method in _DURING_CALLS)

    def on_exit(self, child: Child, reason: str) -> None:
        """End the session, because the state in its process is lost. The client must start a new one."""
        self.end()

    def _send(self, frame: bytes, *, during_calls: bool) -> None:
        if self.streams and (during_calls or self.stream is None):
            self.streams[-1].push(frame)
        elif self.stream is not None:
            self.stream.push(frame)
        else:
            self._queued.append(frame)

    # --- from the client ----------------------------------------------------------------------------------

    def handle_response(self, message: Message) -> None:
        """Pass a response of the client on to the server, if it belongs to a request of the server."""
        request_id = b"" if message.id is UNSET else bytes(message.id)  # pyright: ignore[reportArgumentType]
        if request_id not in self._pending_ids:
            return
        self._pending_ids.discard(request_id)
        if message.error is not UNSET:
            self.child.respond(request_id, error=messages.raw_bytes(message.error))
        else:
            self.child.respond(request_id, result=messages.raw_bytes(message.result))

    def handle_notification(self, method: str, params: bytes | None) -> None:
        """Pass a notification of the client on to the server; a cancellation gets the bridge's own ID."""
        if method != "notifications/cancelled":
            self.child.notify(method, params)
            return
        call = self.calls.get(bytes(messages.fields(params or b"{}").get("requestId", b"")))
        if call is not None and self.child.cancel(call, "the client has cancelled it"):
            call.fail(messages.error(_CANCELLED, "Request cancelled"))

    def open_stream(self, stream: Call) -> None:
        """Open the client's stream, and send the queued messages."""
        self.stream = stream
        while self._queued:
            stream.push(self._queued.popleft())

    def end(self) -> None:
        """End the session and its stream."""
        self.is_ended = True
        if self.stream is not None:
            self.stream.succeed(b"{}")


class Sessions:
    """All sessions of the bridge."""

    def __init__(self, settings: Settings, start: Start) -> None:
        self.settings = settings
        self.start = start
        self.all: dict[str, ClientSession] = {}

    # --- requests -----------------------------------------------------------------------------------------

    async def post(self, exchange: Exchange, message: Message) -> None:
        """Handle a POST.

        Raises:
            RefusedError: The message can't be passed on.
        """
        if message.method == "initialize" and SESSION_HEADER not in exchange.headers:
            await self._initialize(exchange, message)
            return
        session = self._require_session(exchange)
        if message.method is UNSET:
            session.handle_response(message)
            await exchange.send_empty(202)
            return
        method, request_id, params = str(message.method), messages.request_id(message), params_of(message)
        if request_id is None:
            session.handle_notification(method, params)
            await exchange.send_empty(202)
            return
        if request_id in session.calls:
            raise MessageError(
                messages.INVALID_REQUEST, "a request with this id is already in progress in this session"
            )
        await self._call(exchange, session, Call(request_id, method, params))

    async def _initialize(self, exchange: Exchange, message: Message) -> None:
        request_id = messages.request_id(message)
        if request_id is None:
            raise MessageError(messages.INVALID_REQUEST, "initialize must be a request with an id")
        session = self.create(exchange)
        try:
            params = params_of(message) or b"{}"
            await session.child.start(self.start, params, self.settings.start_seconds, notify_initialized=False)
        except StartError as error:
            await self.end(session)
            raise UnavailableError(f"The MCP server can't be started: {error}") from None
        except BaseException:
            await self.end(session)
            raise
        exchange.extra_headers = (*exchange.extra_headers, (SESSION_HEADER, session.session_id.encode()))
        await exchange.send_message(200, messages.result(request_id, session.child.initialize_result))

    async def _call(self, exchange: Exchange, session: ClientSession, call: Call) -> None:
        loop = asyncio.get_running_loop()
        seconds = self.settings.call_seconds
        deadline = loop.time() + seconds
        session.calls[call.request_id] = call
        if exchange.accepts_stream:
            session.streams.append(call)
        session.child.submit(call)
        outcome = Outcome.TIMED_OUT
        try:
            outcome = await exchange.follow(call, seconds)
        finally:
            session.last_used = loop.time()
            if call in session.streams:
                session.streams.remove(call)
            if outcome is Outcome.DISCONNECTED and call.answer is None:
                # A lost connection does not cancel a call (specification, 2025-11-25), which may have side effects.
                loop.call_at(deadline, session.child.cancel, call, Outcome.TIMED_OUT.value)
            elif call.answer is None:
                session.child.cancel(call, outcome.value)
            session.calls.pop(call.request_id, None)
        await exchange.send_outcome(call, outcome, seconds)

    async def get(self, exchange: Exchange) -> None:
        """Handle a GET: open the stream for messages that the server sends unasked."""
        session = self._require_session(exchange)
        if not exchange.accepts_stream:
            raise RefusedError(messages.INVALID_REQUEST, "Accept must name text/event-stream", status=406)
        if session.stream is not None:
            raise RefusedError(messages.INVALID_REQUEST, "This session already has an open stream", status=409)
        await exchange.send_part(b": open\r\n\r\n")
        stream = Call(b"null", "GET", None)
        session.open_stream(stream)
        try:
            exchange.watch(stream)
            await exchange.follow(stream, NO_LIMIT_SECONDS)
        finally:
            session.stream = None
            session.last_used = asyncio.get_running_loop().time()
        await exchange.end_stream()

    async def delete(self, exchange: Exchange) -> None:
        """Handle a DELETE: end the session."""
        await self.end(self._require_session(exchange))
        await exchange.send_empty(204)

    # --- sessions -----------------------------------------------------------------------------------------

    def create(self, exchange: Exchange) -> ClientSession:
        """Create a session, whose process is not started yet.

        Raises:
            UnavailableError: The maximum number of sessions, or the caller's share of it, is reached.
        """
        caller, limit = exchange.caller, self.settings.sessions
        if len(self.all) >= limit or has_full_share(
            caller, (open_session.caller for open_session in self.all.values()), limit
        ):
            raise UnavailableError("The maximum number of sessions is reached; try again later")
        session = ClientSession(caller, asyncio.get_running_loop().time())
        self.all[session.session_id] = session
        return session

    def find(self, exchange: Exchange, session_id: str) -> ClientSession | None:
        """Return the session with an ID, if the caller created it and it has not ended."""
        session = self.all.get(session_id)
        if session is None or session.is_ended or session.caller != exchange.caller:
            return None
        session.last_used = asyncio.get_running_loop().time()
        return session

    def _require_session(self, exchange: Exchange) -> ClientSession:
        header = exchange.headers.get(SESSION_HEADER)
        if header is None:
            raise RefusedError(messages.INVALID_REQUEST, "Mcp-Session-Id is missing; start with initialize")
        session = self.find(exchange, header.decode("latin-1"))
        if session is None:
            # 404 makes the client start a new session, as the specification says.
            raise RefusedError(messages.TIMED_OUT, "Session not found; start a new one with initialize", status=404)
        return session

    async def end(self, session: ClientSession) -> None:
        """End a session and its process."""
        session.end()
        self.all.pop(session.session_id, None)
        await session.child.stop()

    async def expire(self, now: float) -> None:
        """End the sessions that have been idle for too long, and those whose process has exited."""
        for session in list(self.all.values()):
            is_busy = bool(session.calls) or session.stream is not None
            if session.is_ended or (not is_busy and now - session.last_used >= self.settings.session_idle):
                await self.end(session)

    def close_streams(self) -> None:
        """End the open streams; calls continue."""
        for session in self.all.values():
            if session.stream is not None:
                session.stream.succeed(b"{}")

    async def close(self) -> None:
        """End every session."""
        await asyncio.gather(*(self.end(session) for session in list(self.all.values())))
