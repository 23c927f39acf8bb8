"""The HTTP+SSE transport of 2024-11-05, for clients that know no newer one.

A session whose answers all go into one stream.

`GET /sse` opens it and names the address for messages; a POST there is answered 202 and nothing more.
"""

import asyncio
import logging
from typing import Final

from msgspec import UNSET

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, StartError
from mcpfleet_bridge.legacy import params_of
from mcpfleet_bridge.listening import FOREVER
from mcpfleet_bridge.messages import Message, MessageError, Refused
from mcpfleet_bridge.replies import Exchange, Outcome
from mcpfleet_bridge.sessions import ClientSession, Sessions

logger = logging.getLogger(__name__)

STREAM_PATH: Final = "/sse"
MESSAGES_PATH: Final = "/messages/"


class _StreamedCall(Call):
    """A call whose answer goes into a stream that other calls share."""

    def __init__(
        self, stream: Call, session: ClientSession, identity: bytes, method: str, params: bytes | None
    ) -> None:
        super().__init__(identity, method, params)
        self._stream = stream
        self._session = session

    def push(self, frame: bytes, *, droppable: bool = False) -> None:
        self._stream.push(frame, droppable=droppable)

    def wake(self) -> None:
        super().wake()
        if self.answer is not None and self._session.calls.pop(self.identity, None) is self:
            make = messages.result if self.answer[0] else messages.failure
            self._stream.push(make(self.identity, self.answer[1]))


class Sse:
    """Serves clients of the older transport; each has a session."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._starting: set[asyncio.Task[None]] = set()

    async def get(self, exchange: Exchange) -> None:
        """Open a stream; returns when it ends, and the session with it.

        Raises:
            Unavailable: There are as many sessions as there may be.
        """
        session = self._sessions.new(exchange)
        stream = Call(b"null", "GET", None)
        try:
            address = f"{MESSAGES_PATH}?session_id={session.identity}"
            await exchange.stream(b"event: endpoint\r\ndata: %s\r\n\r\n" % address.encode())
            session.open(stream)
            exchange.watch(stream)
            await exchange.follow(stream, FOREVER)
        finally:
            await asyncio.shield(self._sessions.end(session))
        await exchange.end()

    async def post(self, exchange: Exchange, message: Message, identity: str) -> None:
        """Take one message.

        Raises:
            Refused: The message can't be passed on.
        """
        session = self._sessions.find(exchange, identity)
        if session is None or session.stream is None:
            raise Refused(messages.TIMED_OUT, "Session not found; open the stream anew", status=404)
        self._take(session, session.stream, message)
        await exchange.empty(202)

    def _take(self, session: ClientSession, stream: Call, message: Message) -> None:
        if message.method is UNSET:
            session.answered(message)
            return
        method, identity, params = str(message.method), messages.request_id(message), params_of(message)
        if identity is None:
            session.notified(method, params)
            return
        if identity in session.calls:
            raise MessageError(messages.INVALID_REQUEST, "a request with this id is under way in this session already")
        call = _StreamedCall(stream, session, identity, method, params)
        session.calls[identity] = call
        if method == "initialize":
            task = asyncio.create_task(self._initialize(session, call))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)
            return
        session.child.submit(call)
        asyncio.get_running_loop().call_later(self._sessions.settings.call_seconds, self._late, session, call)

    async def _initialize(self, session: ClientSession, call: Call) -> None:
        if session.child.greeting:
            call.fail(messages.error(messages.INVALID_REQUEST, "the session is initialized already"))
            return
        settings = self._sessions.settings
        try:
            await session.child.start(self._sessions.start, call.params or b"{}", settings.start_seconds, greet=False)
            call.succeed(session.child.greeting)
        except StartError as error:
            call.fail(messages.error(messages.SERVER_BUSY, f"The MCP server can't be started: {error}"))

    @staticmethod
    def _late(session: ClientSession, call: Call) -> None:
        if session.child.forget(call, Outcome.TIMED_OUT.value):
            call.fail(messages.error(messages.TIMED_OUT, "The MCP server did not answer in time"))
