"""One request in the works: the kernel's `DispatchContext`, and the response that its handler writes.

How a response comes to be an event stream, and what becomes of a call whose client goes away, is told in `exchange.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
from mcp.server.connection import Connection
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import INTERNAL_ERROR, ErrorData
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from mcpfleet_server.hosting.drain import Drain
from mcpfleet_server.hosting.responses import send_bytes, to_json

logger = logging.getLogger(__name__)

SILENCE_SECONDS: Final = 15.0
"""Seconds of silence after which a response becomes an event stream, and between two comments on one."""

BLINK: Final = 0.05
"""Seconds after which it pays to look out for the client's going away."""

_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    # Google's front end and nginx would else hold events back.
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Kernel:
    """What every call of a server runs in.

    Attributes:
        server: The `mcp.server.lowlevel.Server`.
        lifespan_state: Gives what the server's lifespan has made, once it runs.
        drain: Knows what runs, and tells when it has to end.
    """

    server: Any
    lifespan_state: Callable[[], Any]
    drain: Drain


class Call:
    """One request in the works."""

    can_send_request: Final = False

    def __init__(
        self,
        request: dict[str, Any],
        connection: Connection,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        modern: bool,
        kernel: Kernel,
    ) -> None:
        self.request_id: str | int = request["id"]
        self._method: str = request["method"]
        self._params: dict[str, Any] | None = request.get("params")
        self._progress_token = progress_token_from_params(self._params)
        self._connection = connection
        self._receive = receive
        self._send = send
        self._modern = modern
        self._kernel = kernel
        self._cancel = anyio.CancelScope()
        self._lock: asyncio.Lock | None = None
        self._streams = False
        self._answered = False
        self._cancelled: anyio.Event | None = None
        http = Request(scope, receive)
        self.message_metadata = ServerMessageMetadata(request_context=http, can_send_request=False)
        self.transport = TransportContext(kind="streamable-http", can_send_request=False, headers=http.headers)

    async def run(self) -> None:
        """Run the kernel, answer, and leave nothing behind."""
        loop = asyncio.get_running_loop()
        watching: list[asyncio.Task[None]] = []
        timer = loop.call_later(BLINK, lambda: watching.append(loop.create_task(self._watch())))
        answer: dict[str, Any] | None = None
        self._kernel.drain.enter(self)
        try:
            with self._cancel:
                answer = await self._outcome()
            if answer is not None:
                await self._finish(answer)
        finally:
            self._kernel.drain.leave(self)
            timer.cancel()
            for task in watching:
                task.cancel()

    async def _outcome(self) -> dict[str, Any]:
        try:
            result = await serve_one(
                self._kernel.server,
                self,  # pyright: ignore[reportArgumentType]  # a DispatchContext, but for `Final` attributes
                self._method,
                self._params,
                connection=self._connection,
                lifespan_state=self._kernel.lifespan_state(),
            )
        except Exception as exception:
            return {"error": modern_error_data(exception).model_dump(mode="json", by_alias=True, exclude_none=True)}
        return {"result": result}

    async def _finish(self, outcome: dict[str, Any]) -> None:
        if self._answered:
            return
        self._answered = True
        try:
            payload = to_json({"jsonrpc": "2.0", "id": self.request_id, **outcome})
        except ValueError:
            logger.exception("The result of %s cannot be written as JSON", self._method)
            outcome = {"error": {"code": INTERNAL_ERROR, "message": "Internal server error"}}
            payload = to_json({"jsonrpc": "2.0", "id": self.request_id, **outcome})
        if self._streams:
            async with self._turn():
                await self._send({"type": "http.response.body", "body": _event(payload), "more_body": False})
            return
        # A handshake client takes a 4xx for a broken transport; a modern one reads the era from it.
        error = outcome.get("error") if self._modern else None
        status = 200 if error is None else ERROR_CODE_HTTP_STATUS.get(error["code"], 200)
        await send_bytes(self._send, status, payload)

    async def abandon(self, error: ErrorData) -> None:
        """Answer with an error now, whatever the handler still does: the process is about to end."""
        outcome = {"error": error.model_dump(mode="json", by_alias=True, exclude_none=True)}
        try:
            await self._finish(outcome)
        finally:
            self._cancel.cancel()

    # --- DispatchContext: what the kernel and the handlers ask of a request -------------------------------

    @property
    def cancel_requested(self) -> anyio.Event:
        """Never set: no later request could name this one. A client cancels by closing the response."""
        if self._cancelled is None:
            self._cancelled = anyio.Event()
        return self._cancelled

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Refuse: without a session the client's reply could reach another instance."""
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Write a notification into this request's response."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        await self._write(_event(to_json(message)))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress, if the client has asked for it."""
        if self._progress_token is None:
            return
        told = {"progressToken": self._progress_token, "progress": progress, "total": total, "message": message}
        await self.notify("notifications/progress", {name: value for name, value in told.items() if value is not None})

    # --- the response ---------------------------------------------------------------------------------------

    def _turn(self) -> asyncio.Lock:
        # Only a stream has more than one writer: the handler, its own tasks, and the comments in between.
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock

    async def _write(self, event: bytes) -> None:
        async with self._turn():
            if self._answered:
                return
            if not self._streams:
                self._streams = True
                await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def _watch(self) -> None:
        """Look out for the client's going away, and keep a silent response alive."""
        gone = asyncio.ensure_future(self._receive())
        try:
            while not (await asyncio.wait({gone}, timeout=SILENCE_SECONDS))[0]:
                await self._write(b": still at work\r\n\r\n")
            if not self._answered:
                self._answered = True
                self._cancel.cancel()
        finally:
            gone.cancel()


def _event(payload: bytes) -> bytes:
    """JSON as an event, on one line for readers that split at more than the standard's line ends, too (httpx's do)."""
    if not payload.isascii():
        payload = payload.replace(b"\xc2\x85", rb"\u0085").replace(b"\xe2\x80\xa8", rb"\u2028")
        payload = payload.replace(b"\xe2\x80\xa9", rb"\u2029")
    return b"event: message\r\ndata: " + payload + b"\r\n\r\n"
