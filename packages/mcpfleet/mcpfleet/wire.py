"""HTTP/1.1 for `mcpfleet connect`: kept connections, one request at a time on each, answers that stream.

httpx2 takes half a millisecond of a call, most of what the command would add to it; httptools (the parser of Node) on
asyncio takes a tenth of that. It does what a relay to one known service needs: no redirects, no cookies, no
compression, no company's proxy; where there is one, `mcpfleet.upstream` takes httpx2.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Final, cast

import httptools
import httpx2

from mcpfleet.bounds import BRACKETS, HEAD_BYTES, brackets_of, max_answer, too_large, too_many

CONNECT_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 60.0
"""How long an unused connection is kept: a new one costs a TLS handshake, an old one may be dead unnoticed."""
DEAD_SECONDS: Final = 30
"""A peer that acknowledges nothing for this long is gone: its network, or ours."""
_IDLE_AT_MOST: Final = 100
_BUFFER: Final = 1 << 20


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """A body in one piece.

    Raises:
        TooLargeError: It is longer than one may be.
    """
    limit, size, parts = max_answer(), 0, list[bytes]()
    async for piece in pieces:
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        parts.append(piece)
    body = b"".join(parts)
    if brackets_of(body) > BRACKETS:
        raise too_many(BRACKETS)
    return body


class BrokenError(OSError):
    """The connection ended before the answer did."""


class Reply:
    """One answer, as it comes.

    Attributes:
        status_code: The HTTP status.
        headers: By name in lower case; of one that is repeated the last.
    """

    def __init__(self, connection: _Connection, status: int, headers: Mapping[str, str]) -> None:
        self.status_code = status
        self.headers = headers
        self._connection = connection

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body's pieces.

        Raises:
            BrokenError: It ended too early.
        """
        while (chunk := await self._connection.chunk()) is not None:
            yield chunk

    async def aread(self) -> bytes:
        """The whole body. Raises as `aiter_bytes` does, and `TooLargeError`."""
        return await whole(self.aiter_bytes())


class Wire:
    """Kept connections to one service.

    Args:
        url: Its scheme, host and port.
        clock: Seconds.
    """

    def __init__(self, url: httpx2.URL, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = url.host
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = httpx2.create_ssl_context() if url.scheme == "https" else None
        self._clock = clock
        self._idle: list[tuple[_Connection, float]] = []

    @contextlib.asynccontextmanager
    async def send(self, head: bytes, body: bytes) -> AsyncGenerator[Reply]:
        """Send one request and hand out its answer.

        Raises:
            BrokenError: The connection ended before the answer began; the service may have seen the request.
            OSError: There is no connection, so it has not.
            TimeoutError: The same, after `CONNECT_SECONDS`.
        """
        connection = self._kept() or await self._connect()
        try:
            yield await connection.exchange(head + body)
        finally:
            if connection.reusable:
                del self._idle[: max(0, len(self._idle) - _IDLE_AT_MOST + 1)]
                self._idle.append((connection, self._clock()))
            else:
                connection.abort()

    def close(self) -> None:
        """End the connections that are not in use."""
        for connection, _ in self._idle:
            connection.abort()
        self._idle.clear()

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection, since = self._idle.pop()
            if connection.reusable and self._clock() - since < IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, connection = await dial(_Connection, self._host, self._port, self._tls)
        found: socket.socket | None = transport.get_extra_info("socket")
        for option in keep_alive() if found is not None else ():
            with contextlib.suppress(OSError):
                cast("Any", found).setsockopt(*option)
        return connection


async def dial(
    factory: Callable[[], _Connection], host: str, port: int, tls: ssl.SSLContext | None
) -> tuple[asyncio.BaseTransport, _Connection]:
    """Open a connection."""
    name = host if tls else None
    return await asyncio.get_running_loop().create_connection(factory, host, port, ssl=tls, server_hostname=name)


class _Connection(asyncio.Protocol):
    """One connection; httptools calls its `on_…` methods."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._lost = False
        self._busy = False
        self._reset()

    def _reset(self) -> None:
        self._headers: dict[str, str] = {}
        self._head = 0  # bytes that came before the headers were complete
        self._status = 0
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._whole = False
        self._keep = False
        self._waiter: asyncio.Future[None] | None = None

    # --- for the wire

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the last answer was read to its end, and nobody hung up."""
        return not self._busy and not self._lost and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> Reply:
        """Send a request; returns when the answer begins."""
        assert self._transport is not None  # noqa: S101 - it is connected
        self._reset()
        self._busy = True
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        while not self._status:
            await self._news()
        return Reply(self, self._status, self._headers)

    async def chunk(self) -> bytes | None:
        """The next piece of the body; None at its end."""
        while not self._chunks:
            if self._whole:
                self._busy = not self._keep
                return None
            await self._news()
        piece = self._chunks.popleft()
        self._size -= len(piece)
        if self._size < _BUFFER and self._transport is not None and not self._lost:
            self._transport.resume_reading()
        if self._whole and not self._chunks:
            self._busy = not self._keep
        return piece

    def abort(self) -> None:
        """Hang up."""
        self._lost = True
        if self._transport is not None:
            self._transport.abort()

    async def _news(self) -> None:
        if self._lost:
            raise BrokenError("the connection was closed")
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._whole:  # nobody asked
            self.abort()
            return
        if not self._status:
            self._head += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
        if not self._status and self._head > HEAD_BYTES:
            self.abort()
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        # An answer without a length ends with its connection.
        endless = not {"content-length", "transfer-encoding"} & self._headers.keys()
        self._whole = self._whole or bool(exc is None and self._status and endless and not self._lost)
        self._lost = True
        self._tell()

    # --- for httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            return  # a trailer
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._status = status
        else:
            self._headers.clear()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._size += len(body)
        if self._size >= _BUFFER and self._transport is not None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._status:
            self._whole = True
            self._keep = bool(self._parser.should_keep_alive())
            if not self._chunks:
                self._busy = not self._keep


def keep_alive() -> list[tuple[int, int, int]]:
    """Options with which the system ends a connection to a peer that is gone."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (
        ("TCP_KEEPIDLE", DEAD_SECONDS // 2),
        ("TCP_KEEPALIVE", DEAD_SECONDS // 2),  # the name on macOS
        ("TCP_KEEPINTVL", DEAD_SECONDS // 6),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", DEAD_SECONDS * 1000),
    ):
        number = getattr(socket, name, None)
        if isinstance(number, int):
            options.append((socket.IPPROTO_TCP, number, value))
    return options


def is_certificate(error: BaseException) -> bool:
    """Whether a connection failed because the other side's certificate is not trusted: trying again will not help."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError):
            return True
        below = below.__cause__ or below.__context__
    return False
