"""One MCP server that speaks stdio: the handshake, and calls under the bridge's own ids.

Every request goes to the server under a number of ours, and progress tokens are those numbers too, so that
two clients with the same id never meet. Nobody can guess the numbers: a client that has the server print an answer, or
names a progress token under a name that only the server reads, would have to name a call of somebody else's.
What the server sends without being asked goes to the child's owner.
"""

import asyncio
import logging
import os
import re
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Protocol

from msgspec import UNSET

from mcpfleet_bridge import __version__, messages
from mcpfleet_bridge.lines import NotOneLine, TooLong
from mcpfleet_bridge.messages import Message, MessageError
from mcpfleet_bridge.process import Channel, Reader

logger = logging.getLogger(__name__)

PROTOCOL: Final = "2025-11-25"
"""What the bridge offers a server: the newest revision that has a handshake, as stdio has it."""

_OUR_ID: Final = re.compile(rb'"id"\s*:\s*([0-9]{1,18})\s*[,}]')
_SHOWN: Final = 500  # bytes of a stray line that are logged

MAX_FRAMES: Final = 1000
"""Messages that may wait for a client that reads slowly. Beyond them progress is left out, which MCP allows."""

_ESCAPE: Final = ord("\\")


def _unguessable() -> Iterator[int]:
    # 31 bits, because some servers read ids as 32 with a sign. Many at once, because asking the kernel takes longer.
    while True:
        for number in array("I", os.urandom(1024)):
            yield number & 0x7FFFFFFF


_numbers: Final = _unguessable()

Start = Callable[[Reader], Awaitable[Channel]]
"""Starts a process for a reader; `process.ProcessSpec.start` is the real one."""


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


class StartError(Exception):
    """A server could not be started; the text says why."""


class Owner(Protocol):
    """Who has a child, and hears what it says of itself."""

    def on_request(self, child: "Child", identity: bytes, method: str, params: bytes | None) -> None:
        """The server asks the client something."""

    def on_notification(self, child: "Child", method: str, params: bytes | None) -> None:
        """The server says something that belongs to no call."""

    def on_gone(self, child: "Child", reason: str) -> None:
        """The process has ended; every call in it has been answered."""


def initialize_params(capabilities: bytes = b"{}") -> bytes:
    """What the bridge says of itself when it greets a server on behalf of clients with these capabilities."""
    return (
        b'{"protocolVersion":"%s","capabilities":%s,"clientInfo":{"name":"mcpfleet-stdio-bridge","version":"%s"}}'
        % (
            PROTOCOL.encode(),
            capabilities,
            __version__.encode(),
        )
    )


class Child:
    """One running MCP server."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.calls: dict[int, Call] = {}
        self.answered = 0
        self.alive = True
        self.greeting = b""  # its InitializeResult
        self.stopped = False
        self._channel: Channel | None = None

    @property
    def name(self) -> str:
        """What log entries call it."""
        return "" if self._channel is None else self._channel.name

    async def start(self, start: Start, params: bytes, seconds: float, *, greet: bool = True) -> None:
        """Start the process and shake hands.

        Args:
            start: Starts the process.
            params: Those of `initialize`.
            seconds: How long the answer may take.
            greet: Send `notifications/initialized` too; not where the client itself will.

        Raises:
            StartError: There is no such program, it ended, it refused, or it did not answer in time.
        """
        try:
            self._channel = await start(self)
        except OSError as error:
            self.alive = False
            raise StartError(f"the server can't be started: {error.strerror or error}: {error.filename}") from None
        call = Call(b"0", "initialize", params)
        self.submit(call)
        try:
            await call.news(seconds)
            if call.answer is None:
                raise StartError(f"the server did not answer initialize within {seconds:g} s")
            succeeded, answer = call.answer
            if not succeeded:
                raise StartError(f"the server refused initialize: {answer[:_SHOWN].decode('utf-8', 'replace')}")
            messages.fields(answer)
        except (StartError, MessageError) as error:
            await self.stop()
            raise StartError(str(error)) from None
        except asyncio.CancelledError:
            await self.stop()
            raise
        self.greeting = answer
        self.answered = 0
        if greet:
            self.notify("notifications/initialized")

    # --- to the server ------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Send a call. Its answer, even if there is none, arrives at the call itself."""
        number = call.number = self._number()
        if not self.alive or self._channel is None:
            call.fail(messages.error(messages.INTERNAL_ERROR, "The MCP server's process has ended"))
            return
        try:
            line = messages.request(number, call.method, self._with_our_token(call))
        except MessageError as mistake:
            call.fail(messages.error(mistake.code, f"params._meta: {mistake}"))
            return
        self.calls[number] = call
        try:
            if self._channel.write(line):
                return
            code, reason = messages.SERVER_BUSY, "The MCP server does not read what it is sent"
        except NotOneLine as mistake:
            code, reason = messages.INTERNAL_ERROR, f"The MCP server was sent nothing: {mistake}"
        del self.calls[number]
        call.fail(messages.error(code, reason))

    def _number(self) -> int:
        while (number := next(_numbers)) in self.calls or number == 0:
            pass
        return number

    def _with_our_token(self, call: Call) -> bytes | None:
        """The parameters, with our number as the progress token if the client gave one."""
        params = call.params
        # Its letters may be written as escapes.
        if params is None or (b"progressToken" not in params and not (_ESCAPE in params and b"\\u" in params)):
            return params
        members = messages.fields(params)
        raw = bytes(members.get("_meta", b""))
        meta = messages.fields(raw) if raw.startswith(b"{") else {}
        if "progressToken" in meta:
            call.progress = bytes(meta["progressToken"])
            meta["progressToken"] = messages.Raw(b"%d" % call.number)
            members["_meta"] = messages.Raw(messages.dump(meta))
        # Written anew even if the word stands elsewhere: of a member that comes twice, the server might read the other.
        return messages.dump(members)

    def forget(self, call: Call, reason: str) -> bool:
        """Cancel a call that nobody waits for any more; the server is told, and its answer not awaited.

        Returns:
            Whether the call was under way.
        """
        if self.calls.pop(call.number, None) is None:
            return False
        # MCP forbids to cancel initialize.
        if call.method != "initialize":
            params = b'{"requestId":%d,"reason":%s}' % (call.number, messages.dump(reason))
            self.notify("notifications/cancelled", params)
        return True

    def notify(self, method: str, params: bytes | None = None) -> None:
        """Send a notification."""
        self._write(messages.notification(method, params))

    def respond(self, identity: bytes, *, result: bytes | None = None, error: bytes | None = None) -> None:
        """Answer a request of the server's."""
        if error is not None:
            self._write(messages.failure(identity, error))
        else:
            self._write(messages.result(identity, b"{}" if result is None else result))

    def _write(self, message: bytes) -> None:
        try:
            if self.alive and self._channel is not None and not self._channel.write(message + b"\n"):
                logger.warning("Dropped a message: the server does not read its stdin", extra={"child": self.name})
        except NotOneLine as mistake:
            logger.error("Dropped a message: %s", mistake, extra={"child": self.name})  # noqa: TRY400

    async def stop(self) -> None:
        """End the process; calls that are under way are answered with an error."""
        self.stopped = True
        if self._channel is not None:
            await self._channel.stop()

    # --- from the server ----------------------------------------------------------------------------------

    def line(self, line: bytes) -> None:
        """A line of stdout."""
        try:
            message = messages.parse_leniently(line)
        except MessageError as mistake:
            self._stray(line, mistake)
            return
        if message.method is not UNSET:
            self._asked(message, str(message.method))
            return
        try:
            call = self.calls.pop(int(bytes(message.id)), None)  # pyright: ignore[reportArgumentType]
        except (ValueError, TypeError):
            call = None
        if call is None:
            return  # the answer to a call that was cancelled
        self.answered += 1
        if message.error is not UNSET and messages.raw(message.error) != b"null":
            call.fail(messages.raw(message.error))
        elif message.result is not UNSET:  # some servers say `"error": null` beside it
            call.succeed(messages.raw(message.result))
        else:
            call.fail(messages.error(messages.INTERNAL_ERROR, "The MCP server's answer holds neither result nor error"))

    def _asked(self, message: Message, method: str) -> None:
        params = None if message.params is UNSET else messages.raw(message.params)
        if message.id is UNSET:
            if method == "notifications/progress":
                self._progressed(params)
            else:
                self.owner.on_notification(self, method, params)
            return
        try:
            identity = messages.request_id(message) or b"null"
        except MessageError as mistake:
            logger.warning("Ignored the server's request %.100r: %s", method, mistake, extra={"child": self.name})
            return
        if method == "ping":
            self.respond(identity)
        else:
            self.owner.on_request(self, identity, method, params)

    def _progressed(self, params: bytes | None) -> None:
        try:
            members = messages.fields(params or b"{}")
            call = self.calls.get(int(bytes(members["progressToken"])))
        except (MessageError, KeyError, ValueError):
            return
        if call is not None and call.progress is not None:
            members["progressToken"] = messages.Raw(call.progress)
            call.push(messages.notification("notifications/progress", messages.dump(members)), droppable=True)

    def _stray(self, line: bytes, mistake: MessageError) -> None:
        """Something on stdout that is no message: a print by mistake. Logged, not fatal, unless it was an answer."""
        shown = line[:_SHOWN].decode("utf-8", "replace")
        logger.warning(
            "The server wrote to stdout what is no MCP message (%s): %s",
            mistake,
            shown,
            extra={"child": self.name},
        )
        # A broken answer still answers: its call would wait for nothing.
        if line.lstrip().startswith(b"{") and b'"method"' not in line:
            self._fail(_number_in(line[:_SHOWN]), f"The MCP server's answer can't be read: {mistake}")

    def too_long(self, line: TooLong) -> None:
        """A line of stdout that was thrown away."""
        logger.error("The server wrote a message of %d bytes, too long", line.size, extra={"child": self.name})
        number = _number_in(line.head)
        if number is None and len(self.calls) == 1:
            number = next(iter(self.calls))  # whose else
        self._fail(number, f"The MCP server's answer of {line.size} bytes is longer than MCP_STDIO_MAX_ANSWER allows")

    def _fail(self, number: int | None, reason: str) -> None:
        if number is not None and (call := self.calls.pop(number, None)):
            call.fail(messages.error(messages.INTERNAL_ERROR, reason))

    def gone(self, reason: str) -> None:
        """The process has ended."""
        self.alive = False
        if not self.stopped:
            logger.error("The server's process has ended: %s", reason, extra={"child": self.name})
        error = messages.error(
            messages.INTERNAL_ERROR, f"The MCP server's process ended before it answered: {reason}", {"reason": reason}
        )
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.fail(error)
        self.owner.on_gone(self, reason)


def _number_in(head: bytes) -> int | None:
    """The id that the beginning of an unreadable answer names."""
    match = _OUR_ID.search(head)
    return int(match[1]) if match else None
