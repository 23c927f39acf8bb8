"""Sends all data that is written to a connection in one iteration of the event loop with one system call.

A head and a body are two writes, and a write to a socket costs more than the rest of a small request: it wakes the
process at the other end.
"""

import asyncio
from typing import Final

_FLUSH_BYTES: Final = 64 * 1024
"""The largest buffer in bytes: with more, data is sent at once, so that the writer gets backpressure."""


class BufferedTransport(asyncio.WriteTransport):
    """Writes to *transport* at the end of the event loop's iteration. It has no other methods of a transport."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data* after the data that was written before."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(bytes(data))
        self._size += len(data)
        if self._size >= _FLUSH_BYTES:
            self._flush()

    def is_closing(self) -> bool:
        """Return whether the transport is closed or closing."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close after all data is sent."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once, and drop buffered data."""
        self._parts.clear()
        self._size = 0
        self._transport.abort()

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        self._parts.clear()
        self._size = 0
