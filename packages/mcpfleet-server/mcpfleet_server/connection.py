"""One connection: uvicorn's HTTP/1.1, with bounds on what a client may have it hold before the application hears of it.

uvicorn (0.54) with httptools bounds neither headers nor pipelining, and takes the trailers after a body for headers.
Whatever a platform's front end holds back, a sidecar or a neighbour connects without it.
"""

import asyncio
from collections.abc import Sized
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD: Final = 256 * 1024
"""Bytes of a request's line and headers, or of its trailers, generously: uvicorn's other parser stops at 64 KiB."""

MAX_PIPELINED: Final = 16
"""Requests that may wait on one connection while more is read; no client of MCP sends one before the answer."""

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _Flow(FlowControl):
    """Reads on only while few requests wait. uvicorn's own reads on after each answer, however many do."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._connection = transport
        self._waiting = waiting

    def pause_reading(self) -> None:
        if not self._connection.is_closing():
            super().pause_reading()

    def resume_reading(self) -> None:
        if len(self._waiting) <= MAX_PIPELINED and not self._connection.is_closing():
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """A connection with bounds."""

    _in_head = False
    _pending = 0  # bytes since the parser last told something: of a head, a trailer or a chunk's extension without end

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._open: list[RequestResponseCycle] = []

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: every request hears of it, where uvicorn tells the last one alone."""
        for one in self._open:
            if not one.response_complete:
                one.disconnected = True
                one.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD and not self.transport.is_closing():
            if not self.tasks:  # else it would stand in the midst of another request's answer
                self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._pending = True, 0  # what else this read held belongs to the request before

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is none: whoever checked the headers has not seen it."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request's headers are there."""
        self._in_head, self._pending = False, 0
        super().on_headers_complete()
        self._open = [*(one for one in self._open if not one.response_complete), self.cycle]

    def on_body(self, body: bytes) -> None:
        """Some of a request's body is there."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has ended."""
        self._pending = 0
        super().on_message_complete()


def config(app: Any, forwarded_allow_ips: str, drain_seconds: int, **more: Any) -> uvicorn.Config:
    """How uvicorn serves *app* on Cloud Run.

    Args:
        app: An ASGI application.
        forwarded_allow_ips: Proxies whose X-Forwarded-* headers are believed.
        drain_seconds: How long calls in flight may still run once the end begins.
        more: Further settings of uvicorn's.
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
        **more,
    )
