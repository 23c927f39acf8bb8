"""Joins two TCP connections: passes bytes, backpressure, ends and resets both ways.

Standard library only (see `protocol`).
"""

import asyncio
import socket
import struct
from typing import Final, cast

_BUFFER: Final = 64 * 1024
_IDLE_SECONDS: Final = 30
_RESET: Final = struct.pack("ii", 1, 0)


class RelayedConnection(asyncio.BufferedProtocol):
    """One of two connections that `pair` joins. Before that, received data goes to `on_data`."""

    transport: asyncio.Transport
    _buffer: Final = memoryview(bytearray(_BUFFER))
    """Shared by all connections: received data is passed on before another connection reads."""

    def __init__(self) -> None:
        self.other: RelayedConnection | None = None
        self._has_ended = False
        self._is_lost = False

    # Hooks for subclasses.

    def on_connect(self) -> None:
        """Handle the new connection."""

    def on_data(self, data: bytes) -> None:
        """Handle data that is received before `pair`."""

    def on_eof(self) -> bool:
        """Handle the end of data before `pair`; return whether the connection stays open."""
        return False

    def on_disconnect(self) -> None:
        """Handle the end of the connection."""

    def pair(self, other: "RelayedConnection") -> None:
        """Pass all further data to *other*, and its data to this connection."""
        self.other, other.other = other, self

    def reset(self) -> None:
        """Reset the connection, so that the other side sees an error and not a regular end."""
        if self._is_lost:
            return
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    # The methods of asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Configure the socket, and call `on_connect`."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_BUFFER)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Keep-alive detects a peer that has vanished, also after the end of its data.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
        self.on_connect()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for received data."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on the received data."""
        data = bytes(self._buffer[:nbytes])
        if self.other is None:
            self.on_data(data)
        else:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass on the end of the data; the other direction stays open."""
        self._has_ended = True
        if self.other is None:
            return self.on_eof()
        if not self.other._is_lost:
            self.other.transport.write_eof()
        return not self.other._has_ended  # if both have ended, pending data is written before each closes

    def pause_writing(self) -> None:
        """Pause reading from the other connection."""
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Resume reading from the other connection."""
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other connection; reset it if this one was reset."""
        self._is_lost = True
        self.on_disconnect()
        if self.other is None or self.other._is_lost:
            return
        if exc is not None or not self._has_ended:
            self.other.reset()
        else:
            self.other.transport.close()
