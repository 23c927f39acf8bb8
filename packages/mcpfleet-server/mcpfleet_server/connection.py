"""uvicorn's HTTP/1.1 protocol, with limits on the bytes and requests that one connection can make it buffer.

uvicorn (0.54) with httptools limits neither headers nor pipelining, and treats the trailers after a body as headers.
A platform's front end may limit both, but a sidecar or a neighbor connects without it.
"""

import asyncio
from collections.abc import Sized
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES: Final = 256 * 1024
"""Maximum bytes of a request's line and headers, or of its trailers; uvicorn's other parser stops at 64 KiB."""

MAX_PIPELINED_REQUESTS: Final = 16
"""Requests that may wait on one connection before it stops reading. MCP clients wait for each response."""

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _BoundedFlowControl(FlowControl):
    """Resumes reading only while few requests wait. uvicorn's own flow control resumes after each response."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._connection = transport
        self._waiting = waiting

    def pause_reading(self) -> None:
        if not self._connection.is_closing():
            super().pause_reading()

    def resume_reading(self) -> None:
        if len(self._waiting) <= MAX_PIPELINED_REQUESTS and not self._connection.is_closing():
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """An HTTP/1.1 connection with limits on headers, trailers and pipelined requests."""

    _in_head = False
    _pending_bytes = 0  # received since the parser's last event: an unfinished head, trailer or chunk extension

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Prepare flow control for a new connection."""
        super().connection_made(transport)
        self.flow = _BoundedFlowControl(transport, self.pipeline)
        self._open_cycles: list[RequestResponseCycle] = []

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every open request that the client has disconnected; uvicorn tells only the last one."""
        for cycle in self._open_cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; close the connection if an unfinished head or trailer is too large."""
        self._pending_bytes += len(data)
        super().data_received(data)
        if self._pending_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            if not self.tasks:  # otherwise the bytes would end up inside another request's response
                self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._in_head, self._pending_bytes = True, 0  # earlier bytes of this read belong to the previous request

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a header. Trailers are dropped: they arrive after the headers have been checked."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request's cycle once its headers are complete."""
        self._in_head, self._pending_bytes = False, 0
        super().on_headers_complete()
        self._open_cycles = [*(cycle for cycle in self._open_cycles if not cycle.response_complete), self.cycle]

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the request's body."""
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Finish the request."""
        self._pending_bytes = 0
        super().on_message_complete()


def create_uvicorn_config(app: Any, forwarded_allow_ips: str, drain_seconds: int, **options: Any) -> uvicorn.Config:
    """Create uvicorn's configuration for serving *app* on Cloud Run.

    Args:
        app: An ASGI application.
        forwarded_allow_ips: Proxies whose X-Forwarded-* headers are believed.
        drain_seconds: How long calls in flight may still run after shutdown has begun.
        **options: Further settings of uvicorn.
    """
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=forwarded_allow_ips,
        timeout_graceful_shutdown=drain_seconds,
        **options,
    )
