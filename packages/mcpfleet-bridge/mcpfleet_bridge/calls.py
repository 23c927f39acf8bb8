"""A client's request on its way: what has come for it so far, and who waits for it."""

import asyncio
from collections import deque
from typing import Final

MAX_FRAMES: Final = 1000
"""Messages that may wait for a client that reads slowly. Beyond them progress is left out, which MCP allows."""


class Call:
    """One request of a client.

    Attributes:
        identity: The client's own id, as the bytes it came in.
        method: What is asked for.
        params: The parameters, as one line of JSON, or None.
        progress: The client's own progress token, as its bytes, or None if it wants no progress.
        frames: Messages for the client that come before the answer.
        answer: The answer, without its envelope: whether it succeeded, and the result or error as JSON.
    """

    __slots__ = ("_wake", "answer", "frames", "identity", "method", "number", "params", "progress")

    def __init__(self, identity: bytes, method: str, params: bytes | None, progress: bytes | None = None) -> None:
        self.identity = identity
        self.method = method
        self.params = params
        self.progress = progress
        self.number = 0  # the bridge's own id, once a child has the call
        self.frames: deque[bytes] = deque()
        self.answer: tuple[bool, bytes] | None = None
        self._wake: asyncio.Future[None] | None = None

    def push(self, frame: bytes, *, droppable: bool = False) -> None:
        """Add a message that precedes the answer."""
        if self.answer is not None or (droppable and len(self.frames) >= MAX_FRAMES):
            return
        self.frames.append(frame)
        self.wake()

    def succeed(self, result: bytes) -> None:
        """Answer with a result; the first answer counts."""
        if self.answer is None:
            self.answer = (True, result)
            self.wake()

    def fail(self, error: bytes) -> None:
        """Answer with an error object; the first answer counts."""
        if self.answer is None:
            self.answer = (False, error)
            self.wake()

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def news(self, seconds: float) -> bool:
        """Wait until there is a message or the answer; False if *seconds* passed without (or it was woken)."""
        if self.frames or self.answer is not None:
            return True
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._wake
        finally:
            timer.cancel()
            self._wake = None
        return bool(self.frames) or self.answer is not None
