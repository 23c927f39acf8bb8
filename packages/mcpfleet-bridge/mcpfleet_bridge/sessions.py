"""Sessions of the handshake era: a process for each client, for as long as the client is about.

Everything passes in both directions. What the server sends of its own accord goes into the stream of a call
that is under way, else into the client's GET stream, else it waits (bounded) for one of the two.
"""

import asyncio
import logging
import secrets
from collections import deque
from typing import Final

from msgspec import UNSET

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, Child, Start, StartError
from mcpfleet_bridge.legacy import params_of
from mcpfleet_bridge.listening import FOREVER
from mcpfleet_bridge.messages import Message, MessageError, Refused, Unavailable
from mcpfleet_bridge.replies import Exchange, Outcome
from mcpfleet_bridge.settings import Settings
from mcpfleet_server.caller import Identity, has_full_share

logger = logging.getLogger(__name__)

HEADER: Final = b"mcp-session-id"
MAX_WAITING: Final = 1000
"""Messages kept for a client that has no stream open; then the oldest go."""

_CANCELLED: Final = -32800
_DURING_CALLS: Final = frozenset({"notifications/message"})


class ClientSession:
    """One client and its process.

    Attributes:
        identity: The session's id, which nobody can guess.
        caller: Who began it; nobody else may use it.
        calls: What is under way, by the client's own ids.
    """

    def __init__(self, caller: Identity | None, now: float) -> None:
        self.identity = secrets.token_urlsafe(32)
        self.caller = caller
        self.used = now
        self.child = Child(self)
        self.calls: dict[bytes, Call] = {}
        self.streams: list[Call] = []  # of calls, oldest first
        self.stream: Call | None = None  # of GET, or of the older transport
        self.over = False
        self._asked: set[bytes] = set()
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)

    # --- from the server ----------------------------------------------------------------------------------

    def on_request(self, child: Child, identity: bytes, method: str, params: bytes | None) -> None:
        """The server asks the client."""
        self._asked.add(identity)
        rest = b"" if params is None else b',"params":%s' % params
        self._send(
            b'{"jsonrpc":"2.0","id":%s,"method":%s%s}' % (identity, messages.quoted(method), rest), during_calls=True
        )

    def on_notification(self, child: Child, method: str, params: bytes | None) -> None:
        """The server says something."""
        self._send(messages.notification(method, params), during_calls=method in _DURING_CALLS)

    def on_gone(self, child: Child, reason: str) -> None:
        """The process has ended, and the session with it: its state is lost. The client has to begin anew."""
        self.end()

    def _send(self, frame: bytes, *, during_calls: bool) -> None:
        if self.streams and (during_calls or self.stream is None):
            self.streams[-1].push(frame)
        elif self.stream is not None:
            self.stream.push(frame)
        else:
            self._waiting.append(frame)

    # --- from the client ----------------------------------------------------------------------------------

    def answered(self, message: Message) -> None:
        """The client answers a question of the server's. What was not asked is not passed on."""
        identity = b"" if message.id is UNSET else bytes(message.id)  # pyright: ignore[reportArgumentType]
        if identity not in self._asked:
            return
        self._asked.discard(identity)
        if message.error is not UNSET:
            self.child.respond(identity, error=messages.raw(message.error))
        else:
            self.child.respond(identity, result=messages.raw(message.result))

    def notified(self, method: str, params: bytes | None) -> None:
        """The client says something."""
        if method != "notifications/cancelled":
            self.child.notify(method, params)
            return
        call = self.calls.get(bytes(messages.fields(params or b"{}").get("requestId", b"")))
        if call is not None and self.child.forget(call, "the client has cancelled it"):
            call.fail(messages.error(_CANCELLED, "Request cancelled"))

    def open(self, stream: Call) -> None:
        """The client listens: what has waited goes out."""
        self.stream = stream
        while self._waiting:
            stream.push(self._waiting.popleft())

    def end(self) -> None:
        """Nothing more passes."""
        self.over = True
        if self.stream is not None:
            self.stream.succeed(b"{}")


class Sessions:
    """Every session."""

    def __init__(self, settings: Settings, start: Start) -> None:
        self.settings = settings
        self.start = start
        self.all: dict[str, ClientSession] = {}

    # --- requests -----------------------------------------------------------------------------------------

    async def post(self, exchange: Exchange, message: Message) -> None:
        """Answer a POST.

        Raises:
            Refused: The message can't be passed on.
        """
        if message.method == "initialize" and HEADER not in exchange.headers:
            await self._begin(exchange, message)
            return
        session = self._session(exchange)
        if message.method is UNSET:
            session.answered(message)
            await exchange.empty(202)
            return
        method, identity, params = str(message.method), messages.request_id(message), params_of(message)
        if identity is None:
            session.notified(method, params)
            await exchange.empty(202)
            return
        if identity in session.calls:
            raise MessageError(messages.INVALID_REQUEST, "a request with this id is under way in this session already")
        await self._call(exchange, session, Call(identity, method, params))

    async def _begin(self, exchange: Exchange, message: Message) -> None:
        identity = messages.request_id(message)
        if identity is None:
            raise MessageError(messages.INVALID_REQUEST, "initialize is a request and needs an id")
        session = self.new(exchange)
        try:
            params = params_of(message) or b"{}"
            await session.child.start(self.start, params, self.settings.start_seconds, greet=False)
        except StartError as error:
            await self.end(session)
            raise Unavailable(f"The MCP server can't be started: {error}") from None
        except BaseException:
            await self.end(session)
            raise
        exchange.extra = (*exchange.extra, (HEADER, session.identity.encode()))
        await exchange.finish(200, messages.result(identity, session.child.greeting))

    async def _call(self, exchange: Exchange, session: ClientSession, call: Call) -> None:
        loop = asyncio.get_running_loop()
        seconds = self.settings.call_seconds
        deadline = loop.time() + seconds
        session.calls[call.identity] = call
        if exchange.takes_stream:
            session.streams.append(call)
        session.child.submit(call)
        outcome = Outcome.TIMED_OUT
        try:
            outcome = await exchange.follow(call, seconds)
        finally:
            session.used = loop.time()
            if call in session.streams:
                session.streams.remove(call)
            if outcome is Outcome.VANISHED and call.answer is None:
                # A lost connection is no cancellation (specification, 2025-11-25); the call may have effects to finish.
                loop.call_at(deadline, session.child.forget, call, Outcome.TIMED_OUT.value)
            elif call.answer is None:
                session.child.forget(call, outcome.value)
            session.calls.pop(call.identity, None)
        await exchange.conclude(call, outcome, seconds)

    async def get(self, exchange: Exchange) -> None:
        """Answer a GET: the stream of what the server sends of its own accord."""
        session = self._session(exchange)
        if not exchange.takes_stream:
            raise Refused(messages.INVALID_REQUEST, "The answer is a text/event-stream", status=406)
        if session.stream is not None:
            raise Refused(messages.INVALID_REQUEST, "This session has a stream open already", status=409)
        await exchange.stream(b": open\r\n\r\n")
        stream = Call(b"null", "GET", None)
        session.open(stream)
        try:
            exchange.watch(stream)
            await exchange.follow(stream, FOREVER)
        finally:
            session.stream = None
            session.used = asyncio.get_running_loop().time()
        await exchange.end()

    async def delete(self, exchange: Exchange) -> None:
        """Answer a DELETE: the client is done."""
        await self.end(self._session(exchange))
        await exchange.empty(204)

    # --- sessions -----------------------------------------------------------------------------------------

    def new(self, exchange: Exchange) -> ClientSession:
        """A new session, its process not yet started.

        Raises:
            Unavailable: There are as many as may be, or as the caller may have.
        """
        caller, most = exchange.caller, self.settings.sessions
        if len(self.all) >= most or has_full_share(caller, (one.caller for one in self.all.values()), most):
            raise Unavailable("There are as many sessions as there may be")
        session = ClientSession(caller, asyncio.get_running_loop().time())
        self.all[session.identity] = session
        return session

    def find(self, exchange: Exchange, identity: str) -> ClientSession | None:
        """The session of that id, if the caller began it and it still lives."""
        session = self.all.get(identity)
        if session is None or session.over or session.caller != exchange.caller:
            return None
        session.used = asyncio.get_running_loop().time()
        return session

    def _session(self, exchange: Exchange) -> ClientSession:
        header = exchange.headers.get(HEADER)
        if header is None:
            raise Refused(messages.INVALID_REQUEST, "Mcp-Session-Id is missing; begin with initialize")
        session = self.find(exchange, header.decode("latin-1"))
        if session is None:
            # The specification's word for "begin anew".
            raise Refused(messages.TIMED_OUT, "Session not found; begin anew with initialize", status=404)
        return session

    async def end(self, session: ClientSession) -> None:
        """End a session and its process."""
        session.end()
        self.all.pop(session.identity, None)
        await session.child.stop()

    async def expire(self, now: float) -> None:
        """End the sessions whose clients have not been heard of for long, and those whose process has ended."""
        for session in list(self.all.values()):
            busy = bool(session.calls) or session.stream is not None
            if session.over or (not busy and now - session.used >= self.settings.session_idle):
                await self.end(session)

    def close_streams(self) -> None:
        """End the open streams; calls go on."""
        for session in self.all.values():
            if session.stream is not None:
                session.stream.succeed(b"{}")

    async def close(self) -> None:
        """End every session."""
        await asyncio.gather(*(self.end(session) for session in list(self.all.values())))
