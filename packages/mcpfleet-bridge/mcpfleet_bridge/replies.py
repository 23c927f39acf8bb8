"""One HTTP exchange: what came in, and the answer as JSON, or as an event stream once there is more to say.

A stream is begun as late as possible. An answer that is the first thing to come goes out as plain JSON, which
is quicker and which clients bound less tightly than events.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, MutableMapping
from enum import Enum
from typing import Any, Final

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call
from mcpfleet_bridge.lines import one_line
from mcpfleet_bridge.messages import Message, MessageError, Refused
from mcpfleet_server.caller import Identity, cloud_run_caller

Scope = MutableMapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[MutableMapping[str, Any]], Any]

KEEPALIVE: Final = 15.0
"""Seconds of silence after which a comment goes out, so that no proxy takes the stream for dead."""

_WATCH_AFTER: Final = 0.2
"""A call that takes longer is watched: its client may go away. Shorter ones are not worth a task."""

_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


class Outcome(Enum):
    """How following a call ended."""

    ANSWERED = "answered"
    ASKED = "the server asks the client"
    VANISHED = "the client has gone away"
    TIMED_OUT = "the call took longer than MCP_STDIO_CALL_SECONDS allows"


class Exchange:
    """One request and its answer.

    Attributes:
        headers: By lower-case name; of several with one name, the last.
        message: What the body holds, once it has been read.
        unread: Header lines in which the caller that Cloud Run has checked is still to be looked for.
        gone: Whether the client has closed the connection.
    """

    def __init__(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        self.headers = headers
        self.message: Message | None = None
        self.unread: Iterable[tuple[bytes, bytes]] | None = None
        self._caller: Identity | None = None
        self.gone = False
        self.streaming = False
        self.extra: tuple[tuple[bytes, bytes], ...] = ()
        accept = headers.get(b"accept", b"*/*").lower()
        anything = b"*/*" in accept
        self.takes_json = anything or b"application/json" in accept or b"application/*" in accept
        self.takes_stream = anything or b"text/event-stream" in accept or b"text/*" in accept
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None

    @property
    def caller(self) -> Identity | None:
        """Issuer and subject of who calls; None where nobody is believed (`caller.py`). Most calls need not know."""
        if self.unread is not None:
            found, self.unread = cloud_run_caller(self.unread), None
            self._caller = None if found is None else found.identity
        return self._caller

    @caller.setter
    def caller(self, identity: Identity) -> None:
        self._caller = identity

    # --- going out ----------------------------------------------------------------------------------------

    async def receive(self) -> MutableMapping[str, Any]:
        """The next piece of the body, or the news that the client is gone."""
        return await self._receive()

    async def json(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The whole answer, as JSON."""
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [_JSON, (b"content-length", b"%d" % len(body)), *self.extra, *headers],
            }
        )
        await self._send({"type": "http.response.body", "body": body})

    async def empty(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The whole answer, which is a status."""
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-length", b"0"), *self.extra, *headers],
            }
        )
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refused: Refused) -> None:
        """The whole answer, or the end of a stream: an error.

        JSON-RPC always, for clients read it to tell the protocol's eras apart. It has the id of what it answers, if
        that is a proper one.
        """
        identity = None
        if self.message is not None:
            with contextlib.suppress(MessageError):
                identity = messages.request_id(self.message)
        said = messages.failure(identity or b"null", messages.error(refused.code, str(refused), refused.data))
        if self.streaming:
            await self.stream(event(said))
            await self.end()
        else:
            await self.json(refused.status, said, [(b"retry-after", b"1")] if refused.status == 503 else [])

    async def stream(self, data: bytes) -> None:
        """A piece of an event stream, which begins with the first one."""
        if not self.streaming:
            self.streaming = True
            headers = [*_STREAM, *self.extra]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, status: int, message: bytes) -> None:
        """The answer, as JSON or as the stream's last event."""
        if not self.streaming and self.takes_json:
            await self.json(status, message)
            return
        await self.stream(event(message))
        await self.end()

    async def conclude(
        self,
        call: Call,
        outcome: Outcome,
        seconds: float,
        render: Callable[[bool, bytes], tuple[int, bool, bytes]] | None = None,
    ) -> None:
        """Send what following a call has come to, in the server's own words where it is not rendered."""
        if outcome is Outcome.VANISHED:
            return
        if call.answer is None:
            late = messages.error(messages.TIMED_OUT, f"The MCP server did not answer within {seconds:g} s")
            await self.finish(200, messages.failure(call.identity, late))
            return
        status, succeeded, body = (200, *call.answer) if render is None else render(*call.answer)
        make = messages.result if succeeded else messages.failure
        await self.finish(status, make(call.identity, body))

    async def end(self) -> None:
        """The end of a stream."""
        await self._send({"type": "http.response.body", "body": b""})

    # --- waiting ------------------------------------------------------------------------------------------

    async def follow(self, call: Call, seconds: float, asked: Callable[[], object] = lambda: False) -> Outcome:
        """Pass on what comes for a call, until it is answered or something else ends the waiting.

        Args:
            call: The call.
            seconds: How long it may take.
            asked: Says whether the server waits for the client; looked at whenever the call is woken.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline, spoken, wait = now + seconds, now, _WATCH_AFTER
        try:
            while True:
                news = await call.news(min(wait, max(0.0, deadline - now)))
                now = loop.time()
                if call.frames:
                    frames = b"".join(map(event, call.frames))
                    call.frames.clear()
                    if self.takes_stream and not self.gone:
                        await self.stream(frames)
                        now = spoken = loop.time()
                if call.answer is not None:
                    return Outcome.ANSWERED
                if asked():
                    return Outcome.ASKED
                if self.gone:
                    return Outcome.VANISHED
                if now >= deadline:
                    return Outcome.TIMED_OUT
                if news:
                    continue
                self.watch(call)
                if self.takes_stream and now - spoken >= KEEPALIVE:
                    await self.stream(b": still at it\r\n\r\n")
                    now = spoken = loop.time()
                wait = max(0.0, spoken + KEEPALIVE - now) if self.takes_stream else KEEPALIVE
        finally:
            self.unwatch()

    def watch(self, call: Call) -> None:
        """Wake a call when its client goes away."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(call))

    def unwatch(self) -> None:
        """Look out no longer."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def _watch(self, call: Call) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.gone = True
            call.wake()


def event(message: bytes) -> bytes:
    """A message as an event of a stream. It begins no field and ends no event, for it holds no line end."""
    return b"event: message\r\ndata: %s\r\n\r\n" % one_line(message)
