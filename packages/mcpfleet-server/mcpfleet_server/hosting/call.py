"""One request in progress: the `DispatchContext` of the SDK's kernel, and the response that the handler writes.

`endpoint.py` describes when a response becomes an event stream, and when a call is cancelled.
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

KEEPALIVE_SECONDS: Final = 15.0
"""Seconds without output after which a response becomes an event stream, and between two comments on a stream."""

WATCH_AFTER_SECONDS: Final = 0.05
"""Seconds after which a call is watched for a disconnect of its client. Shorter calls are not worth a task."""

_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    # Otherwise, Google's front end and nginx would buffer events.
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class ServerRuntime:
    """The parts of a hosted server that each of its calls needs.

    Attributes:
        server: The `mcp.server.lowlevel.Server`.
        lifespan_state: Returns the state that the server's lifespan has created.
        drain: Tracks running calls, and ends them at shutdown.
    """

    server: Any
    lifespan_state: Callable[[], Any]
    drain: Drain


class Call:
    """One request in progress."""

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
        runtime: ServerRuntime,
    ) -> None:
        self.request_id: str | int = request["id"]
        self._method: str = request["method"]
        self._params: dict[str, Any] | None = request.get("params")
        self._progress_token = progress_token_from_params(self._params)
        self._connection = connection
        self._receive = receive
        self._send = send
        self._modern = modern
        self._runtime = runtime
        self._cancel_scope = anyio.CancelScope()
        self._write_lock: asyncio.Lock | None = None
        self._is_stream = False
        self._is_answered = False
        self._cancel_event: anyio.Event | None = None
        http = Request(scope, receive)
        self.message_metadata = ServerMessageMetadata(request_context=http, can_send_request=False)
        self.transport = TransportContext(kind="streamable-http", can_send_request=False, headers=http.headers)

    async def run(self) -> None:
        """Run the handler, send the response, and stop all helper tasks."""
        loop = asyncio.get_running_loop()
        watchers: list[asyncio.Task[None]] = []
        timer = loop.call_later(WATCH_AFTER_SECONDS, lambda: watchers.append(loop.create_task(self._watch_client())))
        outcome: dict[str, Any] | None = None
        self._runtime.drain.add_call(self)
        try:
            with self._cancel_scope:
                outcome = await self._run_handler()
            if outcome is not None:
                await self._respond(outcome)
        finally:
            self._runtime.drain.remove_call(self)
            timer.cancel()
            for task in watchers:
                task.cancel()

    async def _run_handler(self) -> dict[str, Any]:
        try:
            result = await serve_one(
                self._runtime.server,
                self,  # pyright: ignore[reportArgumentType]  # a DispatchContext except for its `Final` attributes
                self._method,
                self._params,
                connection=self._connection,
                lifespan_state=self._runtime.lifespan_state(),
            )
        except Exception as exception:
            return {"error": modern_error_data(exception).model_dump(mode="json", by_alias=True, exclude_none=True)}
        return {"result": result}

    async def _respond(self, outcome: dict[str, Any]) -> None:
        if self._is_answered:
            return
        self._is_answered = True
        try:
            payload = to_json({"jsonrpc": "2.0", "id": self.request_id, **outcome})
        except ValueError:
            logger.exception("The result of %s can't be encoded as JSON", self._method)
            outcome = {"error": {"code": INTERNAL_ERROR, "message": "Internal server error"}}
            payload = to_json({"jsonrpc": "2.0", "id": self.request_id, **outcome})
        if self._is_stream:
            async with self._get_write_lock():
                await self._send({"type": "http.response.body", "body": _format_event(payload), "more_body": False})
            return
        # Clients with a handshake treat a 4xx as a broken transport; clients of 2026-07-28 expect it.
        error = outcome.get("error") if self._modern else None
        status = 200 if error is None else ERROR_CODE_HTTP_STATUS.get(error["code"], 200)
        await send_bytes(self._send, status, payload)

    async def abandon(self, error: ErrorData) -> None:
        """Send an error now and cancel the handler, because the process is about to exit."""
        outcome = {"error": error.model_dump(mode="json", by_alias=True, exclude_none=True)}
        try:
            await self._respond(outcome)
        finally:
            self._cancel_scope.cancel()

    # --- DispatchContext: the interface for the kernel and the handlers ------------------------------------

    @property
    def cancel_requested(self) -> anyio.Event:
        """Never set, because no other request can refer to this one. A client cancels by closing the connection."""
        if self._cancel_event is None:
            self._cancel_event = anyio.Event()
        return self._cancel_event

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Raise NoBackChannelError: without a session, the client's response could reach another instance."""
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Write a notification into this request's response."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        await self._write(_format_event(to_json(message)))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress if the client has sent a progress token."""
        if self._progress_token is None:
            return
        params = {"progressToken": self._progress_token, "progress": progress, "total": total, "message": message}
        await self.notify(
            "notifications/progress", {name: value for name, value in params.items() if value is not None}
        )

    # --- the response ---------------------------------------------------------------------------------------

    def _get_write_lock(self) -> asyncio.Lock:
        # Only a stream has several writers: the handler, its tasks, and the keepalive comments.
        if self._write_lock is None:
            self._write_lock = asyncio.Lock()
        return self._write_lock

    async def _write(self, event: bytes) -> None:
        async with self._get_write_lock():
            if self._is_answered:
                return
            if not self._is_stream:
                self._is_stream = True
                await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def _watch_client(self) -> None:
        """Cancel the call when its client disconnects, and keep a silent response alive."""
        disconnect = asyncio.ensure_future(self._receive())
        try:
            while not (await asyncio.wait({disconnect}, timeout=KEEPALIVE_SECONDS))[0]:
                await self._write(b": still at work\r\n\r\n")
            if not self._is_answered:
                self._is_answered = True
                self._cancel_scope.cancel()
        finally:
            disconnect.cancel()


def _format_event(payload: bytes) -> bytes:
    """Format JSON as an event, on one line even for readers that split at further line ends (as httpx does)."""
    if not payload.isascii():
        payload = payload.replace(b"\xc2\x85", rb"\u0085").replace(b"\xe2\x80\xa8", rb"\u2028")
        payload = payload.replace(b"\xe2\x80\xa9", rb"\u2029")
    return b"event: message\r\ndata: " + payload + b"\r\n\r\n"
