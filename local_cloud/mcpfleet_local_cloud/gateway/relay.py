"""Two TCP connections as one: bytes, their pace, ends and breaks pass both ways. Standard library only (see `wire`)."""

import asyncio
import socket
import struct
from typing import Final, cast

_BUFFER: Final = 64 * 1024
_IDLE_SECONDS: Final = 30
_RESET: Final = struct.pack("ii", 1, 0)


class End(asyncio.BufferedProtocol):
    """One of the two connections; `join` makes a pair of it and *other*.

    Until then what arrives goes to `received`.
    """

    transport: asyncio.Transport
    _buffer: Final = memoryview(bytearray(_BUFFER))
    """One for all: what arrives is passed on before anybody else reads."""

    def __init__(self) -> None:
        self.other: End | None = None
        self._ended = False
        self._lost = False

    # For whoever makes one of it.

    def made(self) -> None:
        """The connection is there."""

    def received(self, data: bytes) -> None:
        """Bytes before there is a pair."""

    def ended(self) -> bool:
        """The end of bytes before there is a pair; whether the connection stays open nevertheless."""
        return False

    def lost(self) -> None:
        """The connection is gone."""

    def join(self, other: "End") -> None:
        """Pass everything to *other* from now on, and everything of it here."""
        self.other, other.other = other, self

    def reset(self) -> None:
        """Break the connection off, so that the other side sees that it was no proper end."""
        if self._lost:
            return
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    # asyncio's.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_BUFFER)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Who is gone without a word is found out, also after we have seen the end of its bytes.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
        self.made()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what arrives."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what arrived."""
        data = bytes(self._buffer[:nbytes])
        if self.other is None:
            self.received(data)
        else:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass the end of bytes on; the other direction goes on."""
        self._ended = True
        if self.other is None:
            return self.ended()
        if not self.other._lost:
            self.other.transport.write_eof()
        return not self.other._ended  # both have ended: what is still to be written is, then each closes

    def pause_writing(self) -> None:
        """The other one has to wait."""
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """The other one may go on."""
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other one, or break it off where this one was."""
        self._lost = True
        self.lost()
        if self.other is None or self.other._lost:
            return
        if exc is not None or not self._ended:
            self.other.reset()
        else:
            self.other.transport.close()
