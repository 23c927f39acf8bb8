"""The HTTP+SSE transport of 2024-11-05, for clients that support no newer one.

Each client has a session, whose responses all go into one stream.

`GET /sse` opens the stream, which names the URL for messages. A POST to that URL gets 202 without a body.
"""

import asyncio
import logging
from typing import Final

from msgspec import UNSET

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, StartError
from mcpfleet_bridge.exchange import Exchange, Outcome
from mcpfleet_bridge.legacy import params_of
from mcpfleet_bridge.messages import Message, MessageError, RefusedError
from mcpfleet_bridge.sessions import ClientSession, Sessions
from mcpfleet_bridge.subscriptions import NO_LIMIT_SECONDS

logger = logging.getLogger(__name__)

STREAM_PATH: Final = "/sse"
MESSAGES_PATH: Final = "/messages/"


class _StreamedCall(Call):
    """A call whose response goes into a stream that other calls share."""

    def __init__(
        self, stream: Call, session: ClientSession, request_id: bytes, method: str, params: bytes | None
    ) -> None:
        super().__init__(request_id, method, params)
        self._stream = stream
        self._session = session

    def push(self, frame: bytes, *, droppable: bool = False) -> None:
        self._stream.push(frame, droppable=droppable)

    def wake(self) -> None:
        super().wake()
        if self.answer is not None and self._session.calls.pop(self.request_id, None) is self:
            build = messages.result if self.answer[0] else messages.failure
            self._stream.push(build(self.request_id, self.answer[1]))


class SseHandler:
    """Serves clients of the HTTP+SSE transport."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._starting: set[asyncio.Task[None]] = set()

    async def get(self, exchange: Exchange) -> None:
        """Open a stream with a session; returns when both have ended.

        Raises:
            UnavailableError: The maximum number of sessions is reached.
        """
        session = self._sessions.create(exchange)
        stream = Call(b"null", "GET", None)
        try:
            address = f"{MESSAGES_PATH}?session_id={session.session_id}"
            await exchange.send_part(b"event: endpoint\r\ndata: %s\r\n\r\n" % address.encode())
            session.open_stream(stream)
            exchange.watch(stream)
            await exchange.follow(stream, NO_LIMIT_SECONDS)
        finally:
            await asyncio.shield(self._sessions.end(session))
        await exchange.end_stream()

    async def post(self, exchange: Exchange, message: Message, session_id: str) -> None:
        """Handle one message.

        Raises:
            RefusedError: The message can't be passed on.
        """
        session = self._sessions.find(exchange, session_id)
        if session is None or session.stream is None:
            raise RefusedError(messages.TIMED_OUT, "Session not found; open a new stream", status=404)
        self._handle_message(session, session.stream, message)
        await exchange.send_empty(202)

    def _handle_message(self, session: ClientSession, stream: Call, message: Message) -> None:
        if message.method is UNSET:
            session.handle_response(message)
            return
        method, request_id, params = str(message.method), messages.request_id(message), params_of(message)
        if request_id is None:
            session.handle_notification(method, params)
            return
        if request_id in session.calls:
            raise MessageError(
                messages.INVALID_REQUEST, "a request with this id is already in progress in this session"
            )
        call = _StreamedCall(stream, session, request_id, method, params)
        session.calls[request_id] = call
        if method == "initialize":
            task = asyncio.create_task(self._initialize(session, call))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)
            return
        session.child.submit(call)
        asyncio.get_running_loop().call_later(self._sessions.settings.call_seconds, self._time_out, session, call)

    async def _initialize(self, session: ClientSession, call: Call) -> None:
        if session.child.initialize_result:
            call.fail(messages.error(messages.INVALID_REQUEST, "the session is already initialized"))
            return
        settings = self._sessions.settings
        try:
            await session.child.start(
                self._sessions.start, call.params or b"{}", settings.start_seconds, notify_initialized=False
            )
            call.succeed(session.child.initialize_result)
        except StartError as error:
            call.fail(messages.error(messages.SERVER_BUSY, f"The MCP server can't be started: {error}"))

    @staticmethod
    def _time_out(session: ClientSession, call: Call) -> None:
        if session.child.cancel(call, Outcome.TIMED_OUT.value):
            call.fail(messages.error(messages.TIMED_OUT, "The MCP server did not answer in time"))
