"""What runs in this process, and its orderly end.

Cloud Run sends SIGTERM and kills after 10 seconds. In between: nothing new is accepted; what runs may finish; what
would not finish in time is answered with an error that says so, because a client that gets no answer can't know
whether to call again; streams that wait for news are ended with a word.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from mcp_types import CONNECTION_CLOSED, ErrorData
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 8.0
"""How long calls in flight may still run after SIGTERM; Cloud Run kills the container after 10 seconds."""

SHUTTING_DOWN: Final = ErrorData(
    code=CONNECTION_CLOSED, message="The server is shutting down and this call did not finish. Call again."
)

FAREWELL: Final = b": the server is shutting down; connect again\r\n\r\n"


class Running(Protocol):
    """A call that can be cut short."""

    async def abandon(self, error: ErrorData) -> None:
        """Answer with an error now."""
        ...


class Drain:
    """Knows the calls that run and the streams that are open, and ends them."""

    def __init__(
        self,
        seconds: float = DRAIN_SECONDS,
        close_subscriptions: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing running.

        Args:
            seconds: How long calls may still run once the end has begun.
            close_subscriptions: Ends the streams of `subscriptions/listen`, each with its final result.
            clock: Tells the time in seconds.
        """
        self._seconds = seconds
        self._close_subscriptions = close_subscriptions
        self._calls: set[Running] = set()
        self._busy = 0
        self._idle = asyncio.Event()
        self._clock = clock
        self._began: float | None = None
        self.over = asyncio.Event()
        """Set when whatever still runs has had its time."""

    @property
    def ending(self) -> bool:
        """Whether the end has begun."""
        return self._began is not None

    def begin(self) -> None:
        """The end begins; once."""
        if self._began is None:
            self._began = self._clock()

    def left(self, seconds: float) -> float:
        """How many of so many seconds from the begin of the end are left, at least half a one."""
        return max(0.5, seconds if self._began is None else self._began + seconds - self._clock())

    def enter(self, call: Running) -> None:
        """A request is being answered."""
        self._calls.add(call)

    def leave(self, call: Running) -> None:
        """It is answered."""
        self._calls.discard(call)
        self._settle()

    def begin_work(self) -> None:
        """A handler runs whose answer may take another way than its request: one of a session."""
        self._busy += 1

    def end_work(self) -> None:
        """It has ended."""
        self._busy -= 1
        self._settle()

    def _settle(self) -> None:
        if self.ending and not self._calls and not self._busy:
            self._idle.set()

    async def end(self) -> None:
        """Let finish what runs, answer what does not, end what only waits."""
        self.begin()
        self._close_subscriptions()
        self._settle()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._seconds)
        left = list(self._calls)
        if left or self._busy:
            logger.warning(
                "%d calls did not finish within %g s and were answered with an error",
                max(len(left), self._busy),
                self._seconds,
            )
        await asyncio.gather(*(call.abandon(SHUTTING_DOWN) for call in left), return_exceptions=True)
        self.over.set()

    async def stream(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run an application that holds a stream open until its client goes; at the end, end the stream with a word."""
        state = _Stream(send)

        async def until_the_end() -> Message:
            waits = [asyncio.ensure_future(receive()), asyncio.ensure_future(self.over.wait())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if waits[0].done():
                    return waits[0].result()  # pyright: ignore[reportReturnType]
                await state.farewell()
                return {"type": "http.disconnect"}
            finally:
                for wait in waits:
                    wait.cancel()

        try:
            await app(scope, until_the_end, state.send)
        finally:
            await state.finish()


class _Stream:
    """`send` that knows how far a response has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._open = False
        self._events = False
        self._left = False

    async def send(self, message: Message) -> None:
        if self._left:
            return
        if message["type"] == "http.response.start":
            self._open = True
            self._events = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            self._open = False
        await self._send(message)

    async def farewell(self) -> None:
        # Whatever the application still says, it says to a client that it takes for gone.
        self._left = True
        if self._open and self._events:
            await self._send({"type": "http.response.body", "body": FAREWELL, "more_body": True})

    async def finish(self) -> None:
        if self._open:
            self._open = False
            await self._send({"type": "http.response.body", "body": b""})
