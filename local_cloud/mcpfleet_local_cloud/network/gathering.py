"""What is written to a connection in one turn of the event loop, sent by one system call.

A head and a body are two writes, and a write to a socket costs more than the rest of a small request: it wakes whoever
waits at the other end.
"""

import asyncio
from typing import Final

_MOST: Final = 64 * 1024
"""Bytes that are gathered: what is more goes at once, so that who writes too fast is told."""


class Gathered(asyncio.WriteTransport):
    """Writes to *transport*, at the end of the turn; what else is wanted of that is asked of itself."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data* after what was written before."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(bytes(data))
        self._size += len(data)
        if self._size >= _MOST:
            self._flush()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close after everything is sent."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._parts.clear()
        self._size = 0
        self._transport.abort()

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        self._parts.clear()
        self._size = 0
