"""Graceful shutdown: every call in flight gets a response before the process exits.

Cloud Run sends SIGTERM, and kills the container after 10 seconds. Until then, no new request is accepted, and running
calls may finish. Calls that don't finish in time get an error, because a client without a response can't know whether
to call again. Streams of the server's own messages end with a comment.
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
"""Seconds that calls in flight may still run after SIGTERM; Cloud Run kills the container after 10 seconds."""

SHUTTING_DOWN: Final = ErrorData(
    code=CONNECTION_CLOSED, message="The server is shutting down and this call did not finish. Call again."
)

SHUTDOWN_COMMENT: Final = b": the server is shutting down; connect again\r\n\r\n"


class RunningCall(Protocol):
    """A call that shutdown can end."""

    async def abandon(self, error: ErrorData) -> None:
        """Send an error now, and cancel the handler."""
        ...


class Drain:
    """Tracks the running calls and the open streams, and ends them at shutdown."""

    def __init__(
        self,
        seconds: float = DRAIN_SECONDS,
        close_subscriptions: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a drain without calls.

        Args:
            seconds: How long calls may still run after shutdown has begun.
            close_subscriptions: Ends the streams of `subscriptions/listen`, each with its final result.
            clock: A monotonic clock, in seconds.
        """
        self._seconds = seconds
        self._close_subscriptions = close_subscriptions
        self._calls: set[RunningCall] = set()
        self._running_handlers = 0
        self._idle = asyncio.Event()
        self._clock = clock
        self._began_at: float | None = None
        self.time_up = asyncio.Event()
        """Set when the time of all calls is up."""

    @property
    def is_ending(self) -> bool:
        """Whether shutdown has begun."""
        return self._began_at is not None

    def begin(self) -> None:
        """Begin the shutdown; further calls have no effect."""
        if self._began_at is None:
            self._began_at = self._clock()

    def remaining_seconds(self, seconds: float) -> float:
        """Return how many of *seconds* since the beginning of the shutdown remain; at least 0.5."""
        return max(0.5, seconds if self._began_at is None else self._began_at + seconds - self._clock())

    def add_call(self, call: RunningCall) -> None:
        """Add a call in progress."""
        self._calls.add(call)

    def remove_call(self, call: RunningCall) -> None:
        """Remove a call that has been answered."""
        self._calls.discard(call)
        self._signal_if_idle()

    def begin_work(self) -> None:
        """Count a handler that runs, even if its response is not tracked here, as in a session."""
        self._running_handlers += 1

    def end_work(self) -> None:
        """Count the end of a handler."""
        self._running_handlers -= 1
        self._signal_if_idle()

    def _signal_if_idle(self) -> None:
        if self.is_ending and not self._calls and not self._running_handlers:
            self._idle.set()

    async def end(self) -> None:
        """Shut down: wait for running calls, send an error to the rest, and end all streams."""
        self.begin()
        self._close_subscriptions()
        self._signal_if_idle()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._seconds)
        unfinished = list(self._calls)
        if unfinished or self._running_handlers:
            logger.warning(
                "%d calls did not finish within %g s and were answered with an error",
                max(len(unfinished), self._running_handlers),
                self._seconds,
            )
        await asyncio.gather(*(call.abandon(SHUTTING_DOWN) for call in unfinished), return_exceptions=True)
        self.time_up.set()

    async def run_stream(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run an application that keeps a stream open for its client; at shutdown, end the stream with a comment."""
        state = _StreamState(send)

        async def receive_until_shutdown() -> Message:
            futures = [asyncio.ensure_future(receive()), asyncio.ensure_future(self.time_up.wait())]
            try:
                await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
                if futures[0].done():
                    return futures[0].result()  # pyright: ignore[reportReturnType]
                await state.send_shutdown_comment()
                return {"type": "http.disconnect"}
            finally:
                for future in futures:
                    future.cancel()

        try:
            await app(scope, receive_until_shutdown, state.send)
        finally:
            await state.close()


class _StreamState:
    """A `send` that tracks the state of its response."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_open = False
        self._is_event_stream = False
        self._is_ended = False

    async def send(self, message: Message) -> None:
        if self._is_ended:
            return
        if message["type"] == "http.response.start":
            self._is_open = True
            self._is_event_stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            self._is_open = False
        await self._send(message)

    async def send_shutdown_comment(self) -> None:
        # From now on, nothing that the application sends is passed on.
        self._is_ended = True
        if self._is_open and self._is_event_stream:
            await self._send({"type": "http.response.body", "body": SHUTDOWN_COMMENT, "more_body": True})

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._send({"type": "http.response.body", "body": b""})
