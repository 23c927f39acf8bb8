"""HTTP/1.1 to one container: kept-alive connections, bodies streamed both ways.

On asyncio's transports and llhttp (`httptools`), the parser that is in front already: ADR 0029 says why there is no
client library in between.
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

from mcpfleet_local_cloud.network.dial import Dial, direct
from mcpfleet_local_cloud.network.gathering import Gathered

Headers = list[tuple[bytes, bytes]]
_CONNECT_SECONDS: Final = 5.0
_KEEP_SECONDS: Final = 4.0
"""Below the 5 s after which uvicorn and Node close an idle connection, so that we never write into a closing one."""
_BUFFER: Final = 64 * 1024
"""Bytes of an answer that wait for the caller, and of a request that wait for the container, before the other waits."""
_OVERHEAD: Final = 100 * 1024
"""Bytes that a container may send without a byte of a body: status lines, headers, trailers, what is around chunks."""
_BREAKS: Final = re.compile(rb"[\0\r\n]")


class UpstreamError(Exception):
    """The container closed or broke the connection, or what it said is not HTTP."""


@dataclass(frozen=True)
class Answer:
    """A response whose body is still on its way."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]


class Upstream(Protocol):
    """Where the ingress sends a request."""

    def send(
        self, method: bytes, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request; leaving the context gives up whatever is still on its way.

        The answer may come before the request's body has been sent; what *body* raises ends the exchange, too.

        Raises:
            UpstreamError: also from the answer's body.
        """
        ...


class HttpUpstream:
    """One container's server, at *host*:*port*, to which *dial* connects."""

    def __init__(self, host: str, port: int, dial: Dial = direct) -> None:
        self._host = host
        self._port = port
        self._dial = dial
        # The number of requests is the instance pool's affair, so there is no limit.
        self._open: set[_Connection] = set()
        self._idle: deque[_Connection] = deque()
        """In the order in which they became idle."""

    def send(
        self, method: bytes, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[Answer]:
        """See `Upstream.send`."""
        return _Exchange(self, method, target, headers, body)

    async def close(self) -> None:
        """Close every connection; what was on its way on one of them fails."""
        for connection in list(self._open):
            connection.abandon()

    async def take(self) -> "_Connection":
        """A connection that is idle, or a new one.

        Raises:
            UpstreamError: there is none.
        """
        loop = asyncio.get_running_loop()
        oldest = loop.time() - _KEEP_SECONDS
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().abandon()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                sock = await self._dial(self._host, self._port)
            try:
                _, connection = await loop.create_connection(lambda: _Connection(self), sock=sock)
            except BaseException:
                sock.close()
                raise
        except OSError as refusal:  # TimeoutError is one
            raise UpstreamError(str(refusal) or "no connection in time") from refusal
        return connection

    def opened(self, connection: "_Connection") -> None:
        """*connection* is there."""
        self._open.add(connection)

    def give_back(self, connection: "_Connection") -> None:
        """*connection* may be used again."""
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def lost(self, connection: "_Connection") -> None:
        """*connection* is gone."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class _Exchange:
    """One request and its answer."""

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
        self._head = _head(method, target, headers)
        self._chunked = any(name == b"transfer-encoding" for name, _ in headers)
        self._body = body
        self._sender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Answer:
        self._connection = connection = await self._upstream.take()
        try:
            if self._body is not None:  # its first turn is before the head is sent, so that they go together
                self._sender = asyncio.create_task(connection.send_body(self._body, chunked=self._chunked))
            connection.begin(self._head, bodiless=self._method == b"HEAD")
            while connection.status == 0:
                await connection.more()
        except BaseException:
            await self._end()
            raise
        return Answer(connection.status, connection.headers, connection)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        sent = self._sender is None or (self._sender.done() and not self._sender.cancelled())
        if sent and self._connection.reusable:
            self._upstream.give_back(self._connection)
            return
        self._connection.abandon()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)


class _Connection(asyncio.Protocol):
    """One connection; iterating over it gives the current answer's body."""

    _transport: asyncio.Transport

    def __init__(self, upstream: HttpUpstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpResponseParser(self)
        # Of a length and chunks, chunks count (RFC 9112, 6.3; `authorizer.returned` drops the length); lines may end in
        # LF alone (2.2). Nothing is passed on as it was written, so neither can mean two things to two readers.
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_optional_cr_before_lf=True)
        self.idle_since = 0.0
        self._busy = False
        self._spoiled = False
        """It cannot be used again."""
        self._paused = False
        self._lost = False
        self._drained: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._forget()

    def _forget(self) -> None:
        """Know nothing of an exchange."""
        self.status = 0
        """Of the answer, once its head is there."""
        self.headers: Headers = []
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._overhead = 0
        self._in_head = True
        self._bodiless = False
        self._until_close = False
        self._complete = False
        self._broken: BaseException | None = None

    # For an exchange.

    def begin(self, head: bytes, *, bodiless: bool) -> None:
        """Send the head of a request, whose answer has no body where it is *bodiless*."""
        self._forget()
        self._bodiless = bodiless
        self._busy = True
        if self._lost or self._transport.is_closing():
            self._break(UpstreamError("the container closed the connection"))
        self._out.write(head)

    async def send_body(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        """Send the body of a request; whatever goes wrong with it ends the exchange."""
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
            self._spoiled = True
            self._break(error)

    @property
    def reusable(self) -> bool:
        """Whether the exchange is over and another may follow."""
        return self._complete and not self._spoiled and not self._lost and not self._transport.is_closing()

    def abandon(self) -> None:
        """Close it, whatever is still on its way."""
        self._break(UpstreamError("the connection was closed"))
        self._transport.abort()

    async def more(self) -> None:
        """Wait until something has happened.

        Raises:
            UpstreamError: nothing more can.
        """
        if self._broken is not None:
            raise self._broken
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._complete:
                raise StopAsyncIteration
            await self.more()
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if self._held > _BUFFER and not self._transport.is_closing():
            self._transport.resume_reading()
        self._held = 0
        return chunk

    # asyncio's.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_BUFFER)
        self._out = Gathered(self._transport, asyncio.get_running_loop())
        self._upstream.opened(self)

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._complete:
            self._spoiled = True  # nothing was asked
            self._transport.abort()
            return
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._spoiled = True
        except httptools.HttpParserError as error:
            self._spoiled = True
            self._break(UpstreamError(str(error)))
        if self._overhead > _OVERHEAD:
            self._break(UpstreamError(f"the container sent {_OVERHEAD // 1024} KiB of headers"))
        if self._held > _BUFFER and not self._transport.is_closing():
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._spoiled = True
        if self._until_close and not self._in_head:
            self._finish()
        else:
            self._break(UpstreamError("the container closed the connection before its answer was complete"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._upstream.lost(self)
        self._break(UpstreamError(str(exc) if exc else "the container closed the connection"))
        self.resume_writing()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # The parser's.

    def on_message_begin(self) -> None:
        if self._complete:
            self._spoiled = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:  # another head follows
            self.headers = []
            return
        self._in_head = False
        self.status = status
        if self._bodiless:
            # The parser does not know what was asked, and waits for a body.
            self._spoiled = True
            self._finish()
            return
        self._until_close = not any(
            name == b"content-length" or (name == b"transfer-encoding" and value.lower().endswith(b"chunked"))
            for name, value in ((name.lower(), value) for name, value in self.headers)
        )
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return
        self._overhead = 0
        self._chunks.append(body)
        self._held += len(body)
        self._wake()

    def on_message_complete(self) -> None:
        if not self._in_head:
            self._spoiled = self._spoiled or not self._parser.should_keep_alive()
            self._finish()

    # Both.

    def _finish(self) -> None:
        if not self._complete and self._broken is None:
            self._complete = True
            self._wake()

    def _break(self, error: BaseException) -> None:
        if not self._complete and self._broken is None:
            self._broken = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            if self._broken is not None:
                self._waiter.set_exception(self._broken)
            else:
                self._waiter.set_result(None)


def _head(method: bytes, target: bytes, headers: Headers) -> bytes:
    """The first line and the headers of a request.

    Raises:
        UpstreamError: one of them would be read as two.
    """
    lines = [b"%b %b HTTP/1.1" % (method, target), *[b"%b: %b" % one for one in headers]]
    if any(map(_BREAKS.search, lines)):
        raise UpstreamError("a line of the request's head has a break in it")
    return b"\r\n".join(lines) + b"\r\n\r\n"
