"""One HTTP request and its response, which is JSON, or an event stream if there is more than one message.

A stream starts as late as possible. If the result comes first, it is sent as plain JSON, which is faster, and for
which clients have higher size limits than for events.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, MutableMapping
from enum import Enum
from typing import Any, Final

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call
from mcpfleet_bridge.lines import to_one_line
from mcpfleet_bridge.messages import Message, MessageError, RefusedError
from mcpfleet_server.caller import Caller, Identity

Scope = MutableMapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[MutableMapping[str, Any]], Any]

KEEPALIVE_SECONDS: Final = 15.0
"""Seconds without output after which a comment is sent, so that no proxy closes the stream."""

_WATCH_AFTER_SECONDS: Final = 0.2
"""Seconds after which a call is watched for a disconnect of its client. Shorter calls are not worth a task."""

_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


class Outcome(Enum):
    """The reason why following a call ended; the values go into logs and cancellations."""

    ANSWERED = "answered"
    INPUT_REQUIRED = "the server asks the client"
    DISCONNECTED = "the client has gone away"
    TIMED_OUT = "the call took longer than MCP_STDIO_CALL_SECONDS allows"


class Exchange:
    """One HTTP request and its response.

    Attributes:
        headers: The request's headers by lower-case name; of duplicates, the last one.
        message: The message in the body, once it has been read.
        read_caller: Reads the caller whom something in front of the container has verified; called once.
        is_disconnected: Whether the client has closed the connection.
    """

    def __init__(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        self.headers = headers
        self.message: Message | None = None
        self.read_caller: Callable[[], Caller | None] | None = None
        self._caller: Identity | None = None
        self.is_disconnected = False
        self.is_streaming = False
        self.extra_headers: tuple[tuple[bytes, bytes], ...] = ()
        accept = headers.get(b"accept", b"*/*").lower()
        accepts_any = b"*/*" in accept
        self.accepts_json = accepts_any or b"application/json" in accept or b"application/*" in accept
        self.accepts_stream = accepts_any or b"text/event-stream" in accept or b"text/*" in accept
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None

    @property
    def caller(self) -> Identity | None:
        """The verified caller, or None (`mcpfleet_server.caller`). Read on first use: most calls don't need it."""
        if self.read_caller is not None:
            caller, self.read_caller = self.read_caller(), None
            self._caller = None if caller is None else caller.identity
        return self._caller

    @caller.setter
    def caller(self, identity: Identity) -> None:
        self._caller = identity

    # --- the response -------------------------------------------------------------------------------------

    async def receive(self) -> MutableMapping[str, Any]:
        """Receive the next ASGI message: a part of the body, or the disconnect."""
        return await self._receive()

    async def send_json(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a complete JSON response."""
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [_JSON, (b"content-length", b"%d" % len(body)), *self.extra_headers, *headers],
            }
        )
        await self._send({"type": "http.response.body", "body": body})

    async def send_empty(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a response without a body."""
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-length", b"0"), *self.extra_headers, *headers],
            }
        )
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refused: RefusedError) -> None:
        """Send an error, as a response or as the last event of a stream.

        It is always JSON-RPC, because clients use it to find out which protocol version the server speaks. It has the
        ID of the request, if that is valid.
        """
        request_id = None
        if self.message is not None:
            with contextlib.suppress(MessageError):
                request_id = messages.request_id(self.message)
        response = messages.failure(request_id or b"null", messages.error(refused.code, str(refused), refused.data))
        if self.is_streaming:
            await self.send_part(format_event(response))
            await self.end_stream()
        else:
            await self.send_json(refused.status, response, [(b"retry-after", b"1")] if refused.status == 503 else [])

    async def send_part(self, data: bytes) -> None:
        """Send a part of an event stream; the first part starts the stream."""
        if not self.is_streaming:
            self.is_streaming = True
            headers = [*_STREAM, *self.extra_headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def send_message(self, status: int, message: bytes) -> None:
        """Send the final message, as JSON or as the last event of the stream."""
        if not self.is_streaming and self.accepts_json:
            await self.send_json(status, message)
            return
        await self.send_part(format_event(message))
        await self.end_stream()

    async def send_outcome(
        self,
        call: Call,
        outcome: Outcome,
        seconds: float,
        translate: Callable[[bool, bytes], tuple[int, bool, bytes]] | None = None,
    ) -> None:
        """Send the outcome of a call; the server's own result or error, unless *translate* changes it."""
        if outcome is Outcome.DISCONNECTED:
            return
        if call.answer is None:
            error = messages.error(messages.TIMED_OUT, f"The MCP server did not answer within {seconds:g} s")
            await self.send_message(200, messages.failure(call.request_id, error))
            return
        status, succeeded, body = (200, *call.answer) if translate is None else translate(*call.answer)
        build = messages.result if succeeded else messages.failure
        await self.send_message(status, build(call.request_id, body))

    async def end_stream(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b""})

    # --- waiting ------------------------------------------------------------------------------------------

    async def follow(
        self, call: Call, seconds: float, is_input_required: Callable[[], object] = lambda: False
    ) -> Outcome:
        """Pass on the messages for a call, until it has a result or something else ends it.

        Args:
            call: The call.
            seconds: Maximum duration.
            is_input_required: Returns whether the server waits for the client; checked whenever the call is woken.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline, last_sent, wait = now + seconds, now, _WATCH_AFTER_SECONDS
        try:
            while True:
                has_news = await call.wait(min(wait, max(0.0, deadline - now)))
                now = loop.time()
                if call.frames:
                    frames = b"".join(map(format_event, call.frames))
                    call.frames.clear()
                    if self.accepts_stream and not self.is_disconnected:
                        await self.send_part(frames)
                        now = last_sent = loop.time()
                if call.answer is not None:
                    return Outcome.ANSWERED
                if is_input_required():
                    return Outcome.INPUT_REQUIRED
                if self.is_disconnected:
                    return Outcome.DISCONNECTED
                if now >= deadline:
                    return Outcome.TIMED_OUT
                if has_news:
                    continue
                self.watch(call)
                if self.accepts_stream and now - last_sent >= KEEPALIVE_SECONDS:
                    await self.send_part(b": still at it\r\n\r\n")
                    now = last_sent = loop.time()
                wait = max(0.0, last_sent + KEEPALIVE_SECONDS - now) if self.accepts_stream else KEEPALIVE_SECONDS
        finally:
            self.unwatch()

    def watch(self, call: Call) -> None:
        """Wake a call when its client goes away."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(call))

    def unwatch(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def _watch(self, call: Call) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.is_disconnected = True
            call.wake()


def format_event(message: bytes) -> bytes:
    """Format a message as an event. The message has no line end, so it can't start a field or end the event."""
    return b"event: message\r\ndata: %s\r\n\r\n" % to_one_line(message)
