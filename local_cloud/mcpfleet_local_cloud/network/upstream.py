"""The HTTP/1.1 client for one container: persistent connections, bodies streamed both ways.

It uses asyncio's transports and llhttp (`httptools`), which the front end uses too: ADR 0029 explains why it uses no
client library.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self, cast

import httptools

from mcpfleet_local_cloud.network.dial import Dial, connect_directly
from mcpfleet_local_cloud.network.gathering import BufferedTransport

Headers = list[tuple[bytes, bytes]]
_CONNECT_SECONDS: Final = 5.0
_KEEP_SECONDS: Final = 4.0
"""Seconds that a connection stays idle: less than the 5 s after which uvicorn and Node close it."""
_BUFFER: Final = 64 * 1024
"""Bytes of a response or a request that are buffered before its sender has to wait."""
_OVERHEAD: Final = 100 * 1024
"""Bytes that a container may send without a byte of a body: status lines, headers, trailers, chunk extensions."""
_LINE_BREAK: Final = re.compile(rb"[\0\r\n]")


class UpstreamError(Exception):
    """The container closed or reset the connection, or its response is not HTTP."""


@dataclass(frozen=True)
class Response:
    """A response whose body is still being received."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]


class Upstream(Protocol):
    """The server to which the ingress sends a request."""

    def send(
        self, method: bytes, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[Response]:
        """Send a request; leaving the context aborts an unfinished exchange.

        The response may start before the request's body has been sent; an error that *body* raises ends the exchange.

        Raises:
            UpstreamError: The exchange failed; the response's body may raise it too.
        """
        ...


class HttpUpstream:
    """The server of one container, at *host*:*port*, to which *dial* connects."""

    def __init__(self, host: str, port: int, dial: Dial = connect_directly) -> None:
        self._host = host
        self._port = port
        self._dial = dial
        # The instance pool limits the number of requests, so there is no limit here.
        self._open: set[_Connection] = set()
        self._idle: deque[_Connection] = deque()
        """In the order in which they became idle."""

    def send(
        self, method: bytes, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[Response]:
        """See `Upstream.send`."""
        return _Exchange(self, method, target, headers, body)

    async def close(self) -> None:
        """Close every connection; running exchanges fail."""
        for connection in list(self._open):
            connection.abandon()

    async def acquire(self) -> "_Connection":
        """Return an idle connection, or a new one.

        Raises:
            UpstreamError: The container cannot be reached.
        """
        loop = asyncio.get_running_loop()
        oldest = loop.time() - _KEEP_SECONDS
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().abandon()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                sock = await self._dial(self._host, self._port)
            try:
                _, connection = await loop.create_connection(lambda: _Connection(self), sock=sock)
            except BaseException:
                sock.close()
                raise
        except OSError as error:  # TimeoutError is one
            raise UpstreamError(str(error) or "no connection in time") from error
        return connection

    def add(self, connection: "_Connection") -> None:
        """Add *connection* to the open connections."""
        self._open.add(connection)

    def release(self, connection: "_Connection") -> None:
        """Add *connection* to the idle connections."""
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def remove(self, connection: "_Connection") -> None:
        """Remove *connection*, which is closed."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class _Exchange:
    """One request and its response."""

    _connection: "_Connection"

    def __init__(
        self,
        upstream: HttpUpstream,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: AsyncIterator[bytes] | None,
    ) -> None:
        self._upstream = upstream
        self._method = method
        self._head = _format_head(method, target, headers)
        self._chunked = any(name == b"transfer-encoding" for name, _ in headers)
        self._body = body
        self._sender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Response:
        self._connection = connection = await self._upstream.acquire()
        try:
            if self._body is not None:  # it starts before the head is sent, so that both are sent together
                self._sender = asyncio.create_task(connection.send_body(self._body, chunked=self._chunked))
            connection.send_head(self._head, has_no_body=self._method == b"HEAD")
            while connection.status == 0:
                await connection.wait()
        except BaseException:
            await self._release()
            raise
        return Response(connection.status, connection.headers, connection)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._release()

    async def _release(self) -> None:
        is_sent = self._sender is None or (self._sender.done() and not self._sender.cancelled())
        if is_sent and self._connection.is_reusable:
            self._upstream.release(self._connection)
            return
        self._connection.abandon()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)


class _Connection(asyncio.Protocol):
    """One connection; iterating over it gives the current response's body."""

    _transport: asyncio.Transport

    def __init__(self, upstream: HttpUpstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpResponseParser(self)
        # Of a length and chunks, chunks count (RFC 9112, 6.3; `authorizer.returned` drops the length); lines may end in
        # LF alone (2.2). Nothing is passed on as it was written, so neither can mean two things to two readers.
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_optional_cr_before_lf=True)
        self.idle_since = 0.0
        self._has_request = False
        self._is_unusable = False
        """Whether it must not be used again."""
        self._paused = False
        self._is_lost = False
        self._drained: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._reset()

    def _reset(self) -> None:
        """Reset the state of the last exchange."""
        self.status = 0
        """The response's status; 0 before its head was received."""
        self.headers: Headers = []
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._overhead = 0
        self._in_head = True
        self._has_no_body = False
        self._until_close = False
        self._is_complete = False
        self._error: BaseException | None = None

    # Methods for `_Exchange`.

    def send_head(self, head: bytes, *, has_no_body: bool) -> None:
        """Send the head of a request, whose answer has no body where it is *bodiless*."""
        self._reset()
        self._has_no_body = has_no_body
        self._has_request = True
        if self._is_lost or self._transport.is_closing():
            self._fail(UpstreamError("the container closed the connection"))
        self._out.write(head)

    async def send_body(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        """Send the body of a request; an error of it ends the exchange."""
        try:
            async for chunk in body:
                if self._transport.is_closing():
                    return
                self._out.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                if self._paused:
                    self._drained = asyncio.get_running_loop().create_future()
                    await self._drained
            if chunked:
                self._out.write(b"0\r\n\r\n")
        except Exception as error:
            self._is_unusable = True
            self._fail(error)

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange is complete and another one may follow."""
        return self._is_complete and not self._is_unusable and not self._is_lost and not self._transport.is_closing()

    def abandon(self) -> None:
        """Close the connection, and abort its exchange."""
        self._fail(UpstreamError("the connection was closed"))
        self._transport.abort()

    async def wait(self) -> None:
        """Wait until the state of the exchange has changed.

        Raises:
            UpstreamError: The exchange failed.
        """
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._is_complete:
                raise StopAsyncIteration
            await self.wait()
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if self._buffered_bytes > _BUFFER and not self._transport.is_closing():
            self._transport.resume_reading()
        self._buffered_bytes = 0
        return chunk

    # The methods of asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_BUFFER)
        self._out = BufferedTransport(self._transport, asyncio.get_running_loop())
        self._upstream.add(self)

    def data_received(self, data: bytes) -> None:
        if not self._has_request or self._is_complete:
            self._is_unusable = True  # there is no request
            self._transport.abort()
            return
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_unusable = True
        except httptools.HttpParserError as error:
            self._is_unusable = True
            self._fail(UpstreamError(str(error)))
        if self._overhead > _OVERHEAD:
            self._fail(UpstreamError(f"the container sent {_OVERHEAD // 1024} KiB of headers"))
        if self._buffered_bytes > _BUFFER and not self._transport.is_closing():
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._is_unusable = True
        if self._until_close and not self._in_head:
            self._finish()
        else:
            self._fail(UpstreamError("the container closed the connection before its response was complete"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._upstream.remove(self)
        self._fail(UpstreamError(str(exc) if exc else "the container closed the connection"))
        self.resume_writing()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # The callbacks of the parser.

    def on_message_begin(self) -> None:
        if self._is_complete:
            self._is_unusable = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._is_complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:  # another head follows
            self.headers = []
            return
        self._in_head = False
        self.status = status
        if self._has_no_body:
            # The parser does not know the request's method, and would wait for a body.
            self._is_unusable = True
            self._finish()
            return
        self._until_close = not any(
            name == b"content-length" or (name == b"transfer-encoding" and value.lower().endswith(b"chunked"))
            for name, value in ((name.lower(), value) for name, value in self.headers)
        )
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self._is_complete:
            return
        self._overhead = 0
        self._chunks.append(body)
        self._buffered_bytes += len(body)
        self._wake()

    def on_message_complete(self) -> None:
        if not self._in_head:
            self._is_unusable = self._is_unusable or not self._parser.should_keep_alive()
            self._finish()

    # Shared by both.

    def _finish(self) -> None:
        if not self._is_complete and self._error is None:
            self._is_complete = True
            self._wake()

    def _fail(self, error: BaseException) -> None:
        if not self._is_complete and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            if self._error is not None:
                self._waiter.set_exception(self._error)
            else:
                self._waiter.set_result(None)


def _format_head(method: bytes, target: bytes, headers: Headers) -> bytes:
    """Format the first line and the headers of a request.

    Raises:
        UpstreamError: A line contains a line break.
    """
    lines = [b"%b %b HTTP/1.1" % (method, target), *[b"%b: %b" % header for header in headers]]
    if any(map(_LINE_BREAK.search, lines)):
        raise UpstreamError("a line of the request's head contains a line break")
    return b"\r\n".join(lines) + b"\r\n\r\n"
