"""One MCP server that speaks stdio: the handshake, and calls with the bridge's own IDs.

Each request gets a number of the bridge as its ID, and the same number as its progress token, so that clients with
equal IDs don't conflict. The numbers can't be guessed. Otherwise, a client could make the server print a response to
another client's call, or hide the progress token of another call where only the server reads it. Messages that belong
to no call go to the child's owner.
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
from mcpfleet_bridge.lines import NotOneLineError, TruncatedLine
from mcpfleet_bridge.messages import Message, MessageError
from mcpfleet_bridge.process import Channel, ProcessListener

logger = logging.getLogger(__name__)

PROTOCOL_VERSION: Final = "2025-11-25"
"""The protocol version that the bridge requests: the newest one with a handshake, which stdio requires."""

_ID_MEMBER: Final = re.compile(rb'"id"\s*:\s*([0-9]{1,18})\s*[,}]')
_MAX_LOGGED_BYTES: Final = 500  # bytes of a stray line that are logged

MAX_FRAMES: Final = 1000
"""Messages that may wait for a slow client. Beyond that, progress is dropped, which MCP allows."""

_ESCAPE: Final = ord("\\")


def _generate_numbers() -> Iterator[int]:
    # 31 bits, because some servers read IDs as signed 32-bit integers. In batches, because each system call is slow.
    while True:
        for number in array("I", os.urandom(1024)):
            yield number & 0x7FFFFFFF


_numbers: Final = _generate_numbers()

Start = Callable[[ProcessListener], Awaitable[Channel]]
"""Starts a process for a reader; `process.ProcessSpec.start` is the real one."""


class Call:
    """One request of a client.

    Attributes:
        request_id: The client's own ID, as bytes.
        method: The method.
        params: The parameters, as one line of JSON, or None.
        progress: The client's own progress token, as bytes, or None if it wants no progress.
        frames: Messages for the client that precede the response.
        answer: The response without its envelope: whether it is a success, and the result or error as JSON.
    """

    __slots__ = ("_wake", "answer", "frames", "method", "number", "params", "progress", "request_id")

    def __init__(self, request_id: bytes, method: str, params: bytes | None, progress: bytes | None = None) -> None:
        self.request_id = request_id
        self.method = method
        self.params = params
        self.progress = progress
        self.number = 0  # the bridge's own ID, once the call is submitted to a child
        self.frames: deque[bytes] = deque()
        self.answer: tuple[bool, bytes] | None = None
        self._wake: asyncio.Future[None] | None = None

    def push(self, frame: bytes, *, droppable: bool = False) -> None:
        """Add a message that precedes the response."""
        if self.answer is not None or (droppable and len(self.frames) >= MAX_FRAMES):
            return
        self.frames.append(frame)
        self.wake()

    def succeed(self, result: bytes) -> None:
        """Set a result; only the first result or error counts."""
        if self.answer is None:
            self.answer = (True, result)
            self.wake()

    def fail(self, error: bytes) -> None:
        """Set an error object; only the first result or error counts."""
        if self.answer is None:
            self.answer = (False, error)
            self.wake()

    def wake(self) -> None:
        """Wake the task that waits for this call."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def wait(self, seconds: float) -> bool:
        """Wait for a message or the response; return False after *seconds* without either, or if woken."""
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
    """The server can't be started; the text says why."""


class Owner(Protocol):
    """The owner of a child, which receives the messages that belong to no call."""

    def on_request(self, child: "Child", request_id: bytes, method: str, params: bytes | None) -> None:
        """Handle a request of the server to the client."""

    def on_notification(self, child: "Child", method: str, params: bytes | None) -> None:
        """Handle a notification that belongs to no call."""

    def on_exit(self, child: "Child", reason: str) -> None:
        """Handle the exit of the process. All of its calls have been answered."""


def initialize_params(capabilities: bytes = b"{}") -> bytes:
    """Return the parameters of the bridge's `initialize` for clients with these capabilities."""
    return (
        b'{"protocolVersion":"%s","capabilities":%s,"clientInfo":{"name":"mcpfleet-stdio-bridge","version":"%s"}}'
        % (
            PROTOCOL_VERSION.encode(),
            capabilities,
            __version__.encode(),
        )
    )


class Child:
    """One running MCP server."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.calls: dict[int, Call] = {}
        self.response_count = 0
        self.is_alive = True
        self.initialize_result = b""
        self.is_stopped = False
        self._channel: Channel | None = None

    @property
    def name(self) -> str:
        """The name in log entries."""
        return "" if self._channel is None else self._channel.name

    async def start(self, start: Start, params: bytes, seconds: float, *, notify_initialized: bool = True) -> None:
        """Start the process and complete the handshake.

        Args:
            start: Starts the process.
            params: The parameters of `initialize`.
            seconds: Maximum seconds for the response.
            notify_initialized: Whether to send `notifications/initialized`, if the client does not send it itself.

        Raises:
            StartError: The program does not exist, exited, refused, or did not answer in time.
        """
        try:
            self._channel = await start(self)
        except OSError as error:
            self.is_alive = False
            raise StartError(f"the server can't be started: {error.strerror or error}: {error.filename}") from None
        call = Call(b"0", "initialize", params)
        self.submit(call)
        try:
            await call.wait(seconds)
            if call.answer is None:
                raise StartError(f"the server did not answer initialize within {seconds:g} s")
            succeeded, answer = call.answer
            if not succeeded:
                raise StartError(
                    f"the server refused initialize: {answer[:_MAX_LOGGED_BYTES].decode('utf-8', 'replace')}"
                )
            messages.fields(answer)
        except (StartError, MessageError) as error:
            await self.stop()
            raise StartError(str(error)) from None
        except asyncio.CancelledError:
            await self.stop()
            raise
        self.initialize_result = answer
        self.response_count = 0
        if notify_initialized:
            self.notify("notifications/initialized")

    # --- to the server ------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Send a call. Its result, or an error if it can't be sent, is set on the call."""
        number = call.number = self._new_number()
        if not self.is_alive or self._channel is None:
            call.fail(messages.error(messages.INTERNAL_ERROR, "The MCP server's process has exited"))
            return
        try:
            line = messages.request(number, call.method, self._replace_progress_token(call))
        except MessageError as mistake:
            call.fail(messages.error(mistake.code, f"params._meta: {mistake}"))
            return
        self.calls[number] = call
        try:
            if self._channel.write(line):
                return
            code, reason = messages.SERVER_BUSY, "The MCP server does not read its stdin"
        except NotOneLineError as mistake:
            code, reason = messages.INTERNAL_ERROR, f"The MCP server was sent nothing: {mistake}"
        del self.calls[number]
        call.fail(messages.error(code, reason))

    def _new_number(self) -> int:
        while (number := next(_numbers)) in self.calls or number == 0:
            pass
        return number

    def _replace_progress_token(self, call: Call) -> bytes | None:
        """Return the parameters with the bridge's number as the progress token, if the client sent one."""
        params = call.params
        # The key may be written with escapes.
        if params is None or (b"progressToken" not in params and not (_ESCAPE in params and b"\\u" in params)):
            return params
        members = messages.fields(params)
        raw = bytes(members.get("_meta", b""))
        meta = messages.fields(raw) if raw.startswith(b"{") else {}
        if "progressToken" in meta:
            call.progress = bytes(meta["progressToken"])
            meta["progressToken"] = messages.Raw(b"%d" % call.number)
            members["_meta"] = messages.Raw(messages.dump(meta))
        # Encode again in any case: the server might use the other one of two members with the same name.
        return messages.dump(members)

    def cancel(self, call: Call, reason: str) -> bool:
        """Cancel a call and notify the server; a later result is ignored.

        Returns:
            Whether the call was in progress.
        """
        if self.calls.pop(call.number, None) is None:
            return False
        # MCP does not allow a client to cancel initialize.
        if call.method != "initialize":
            params = b'{"requestId":%d,"reason":%s}' % (call.number, messages.dump(reason))
            self.notify("notifications/cancelled", params)
        return True

    def notify(self, method: str, params: bytes | None = None) -> None:
        """Send a notification."""
        self._write(messages.notification(method, params))

    def respond(self, request_id: bytes, *, result: bytes | None = None, error: bytes | None = None) -> None:
        """Respond to a request of the server."""
        if error is not None:
            self._write(messages.failure(request_id, error))
        else:
            self._write(messages.result(request_id, b"{}" if result is None else result))

    def _write(self, message: bytes) -> None:
        try:
            if self.is_alive and self._channel is not None and not self._channel.write(message + b"\n"):
                logger.warning("Dropped a message: the server does not read its stdin", extra={"child": self.name})
        except NotOneLineError as mistake:
            logger.error("Dropped a message: %s", mistake, extra={"child": self.name})  # noqa: TRY400

    async def stop(self) -> None:
        """End the process; calls that are under way are answered with an error."""
        self.is_stopped = True
        if self._channel is not None:
            await self._channel.stop()

    # --- from the server ----------------------------------------------------------------------------------

    def on_line(self, line: bytes) -> None:
        """Handle a line of stdout."""
        try:
            message = messages.parse_leniently(line)
        except MessageError as mistake:
            self._handle_stray_line(line, mistake)
            return
        if message.method is not UNSET:
            self._handle_request(message, str(message.method))
            return
        try:
            call = self.calls.pop(int(bytes(message.id)), None)  # pyright: ignore[reportArgumentType]
        except (ValueError, TypeError):
            call = None
        if call is None:
            return  # the response to a cancelled call
        self.response_count += 1
        if message.error is not UNSET and messages.raw_bytes(message.error) != b"null":
            call.fail(messages.raw_bytes(message.error))
        elif message.result is not UNSET:  # some servers add `"error": null`
            call.succeed(messages.raw_bytes(message.result))
        else:
            call.fail(messages.error(messages.INTERNAL_ERROR, "The MCP server's response has neither result nor error"))

    def _handle_request(self, message: Message, method: str) -> None:
        params = None if message.params is UNSET else messages.raw_bytes(message.params)
        if message.id is UNSET:
            if method == "notifications/progress":
                self._handle_progress(params)
            else:
                self.owner.on_notification(self, method, params)
            return
        try:
            request_id = messages.request_id(message) or b"null"
        except MessageError as mistake:
            logger.warning("Ignored the server's request %.100r: %s", method, mistake, extra={"child": self.name})
            return
        if method == "ping":
            self.respond(request_id)
        else:
            self.owner.on_request(self, request_id, method, params)

    def _handle_progress(self, params: bytes | None) -> None:
        try:
            members = messages.fields(params or b"{}")
            call = self.calls.get(int(bytes(members["progressToken"])))
        except (MessageError, KeyError, ValueError):
            return
        if call is not None and call.progress is not None:
            members["progressToken"] = messages.Raw(call.progress)
            call.push(messages.notification("notifications/progress", messages.dump(members)), droppable=True)

    def _handle_stray_line(self, line: bytes, error: MessageError) -> None:
        """Log a line that is not a message, such as debug output. If it is an invalid response, fail its call."""
        text = line[:_MAX_LOGGED_BYTES].decode("utf-8", "replace")
        logger.warning(
            "The server wrote a line to stdout that is not an MCP message (%s): %s",
            error,
            text,
            extra={"child": self.name},
        )
        # An invalid response still ends its call, which would otherwise wait in vain.
        if line.lstrip().startswith(b"{") and b'"method"' not in line:
            self._fail_call(_find_number(line[:_MAX_LOGGED_BYTES]), f"The MCP server's answer can't be read: {error}")

    def on_too_long(self, line: TruncatedLine) -> None:
        """Handle a line of stdout that was above the limit and dropped."""
        logger.error("The server wrote a message of %d bytes, too long", line.size, extra={"child": self.name})
        number = _find_number(line.head)
        if number is None and len(self.calls) == 1:
            number = next(iter(self.calls))  # the line can only belong to this call
        self._fail_call(
            number, f"The MCP server's answer of {line.size} bytes is longer than MCP_STDIO_MAX_ANSWER allows"
        )

    def _fail_call(self, number: int | None, reason: str) -> None:
        if number is not None and (call := self.calls.pop(number, None)):
            call.fail(messages.error(messages.INTERNAL_ERROR, reason))

    def on_exit(self, reason: str) -> None:
        """Fail the calls in progress, because the process has exited."""
        self.is_alive = False
        if not self.is_stopped:
            logger.error("The server's process has exited: %s", reason, extra={"child": self.name})
        error = messages.error(
            messages.INTERNAL_ERROR, f"The MCP server's process ended before it answered: {reason}", {"reason": reason}
        )
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.fail(error)
        self.owner.on_exit(self, reason)


def _find_number(beginning: bytes) -> int | None:
    """Return the ID in the beginning of a response that can't be read."""
    match = _ID_MEMBER.search(beginning)
    return int(match[1]) if match else None
