"""One POST on the MCP path: the fast way from a request to its answer, for both eras of the protocol.

The SDK's own way (mcp 2.3) makes, for every request, a task group, two to six memory streams, up to four tasks
and several layers of middleware: that, not validation, is nine tenths of a small call. Here the request's own
task runs the SDK's kernel (`mcp.server.runner.serve_one`: routing, validation, middleware, handlers, shaping of
the result) and writes what comes out:

- An answer that comes without a notification before it goes out as JSON, in both eras.
- The first notification makes the response an event stream, into which the handler's own task writes.
- After `PATIENCE` seconds of silence the response becomes an event stream too and is kept alive by comments, so that
  no proxy on the way takes it for dead.
- Only a call that lasts longer than a blink gets a second task, which looks out for the client's going away. Then
  the call is cancelled, in both eras: without a session nobody could fetch its result.

What needs more than one exchange is left to the SDK: sessions, notifications, posted responses, batches (which it
refuses). What is checked here is checked by the SDK's own functions (`mcp.shared.inbound`), and
`tests/integration/test_mcp_server_conformance.py` proves that both ways answer alike.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

import anyio
import pydantic_core
from mcp.server.connection import Connection
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    validate_mcp_param_headers,
    x_mcp_header_map,
)
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCNotification,
    jsonrpc_message_adapter,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_server.hosting.drain import Drain
from mcp_server.hosting.wire import Headers, headers_of, refuse, send_bytes, to_json

logger = logging.getLogger(__name__)

PATIENCE: Final = 15.0
"""Seconds of silence after which a response becomes an event stream, and between two comments on one."""

BLINK: Final = 0.05
"""Seconds after which it pays to look out for the client's going away."""

_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    # Google's front end and nginx would else hold events back.
    (b"x-accel-buffering", b"no"),
]

_PARAM_HEADER: Final = "mcp-param-"


class ToolGate(Protocol):
    """Knows which scopes a caller lacks for a tool."""

    def missing(self, tool: object) -> frozenset[str]:
        """The scopes that the caller of this request lacks."""
        ...

    async def refuse_tool(self, send: Send, missing: frozenset[str], request_id: str | int) -> None:
        """Answer that they are missing."""
        ...


class Exchange:
    """The ASGI application at the MCP path."""

    def __init__(
        self,
        app: ASGIApp,
        server: Any,
        lifespan_state: Callable[[], Any],
        drain: Drain,
        *,
        stateless: bool,
        max_body_bytes: int,
        gate: ToolGate | None = None,
    ) -> None:
        """Serve a low-level server of the SDK.

        Args:
            app: The SDK's application for the same server, for all that is not one request and its answer.
            server: The `mcp.server.lowlevel.Server`.
            lifespan_state: Gives what the server's lifespan has made, once it runs.
            drain: Knows what runs, and tells when it has to end.
            stateless: Whether requests of handshake clients are answered here, too.
            max_body_bytes: The largest body that is read.
            gate: Knows the scopes that single tools need.
        """
        self._app = app
        self._server = server
        self._lifespan_state = lifespan_state
        self._drain = drain
        self._stateless = stateless
        self._max_body_bytes = max_body_bytes
        self._gate = gate
        self._declares_headers: dict[str, tuple[object, bool]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers: Headers = scope.get("mcp_server.headers") or headers_of(scope)
        version = headers.get("mcp-protocol-version")
        modern = version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
        if not (modern or self._stateless):
            await self._app(scope, receive, send)
            return
        if (refusal := _unacceptable(headers)) is not None:
            await refuse(send, *refusal)
            return
        body = await _read(receive, headers, self._max_body_bytes)
        if body is None:
            await refuse(send, 413, INVALID_REQUEST, f"The body is larger than {self._max_body_bytes} bytes")
            return
        try:
            message: object = pydantic_core.from_json(body, allow_inf_nan=False)
        except ValueError:
            await refuse(send, 400, PARSE_ERROR, "Parse error")
            return
        if not _is_request(message):
            await self._other(message, body, scope, receive, send)
            return
        request = cast("dict[str, Any]", message)
        if modern:
            connection = self._modern(request, scope, headers)
            if connection is _ASK_THE_SDK:
                # Only the server's own `tools/list` can tell the schema, so the SDK has to ask it.
                await self._app(scope, _replay(body, receive), send)
                return
            if isinstance(connection, InboundLadderRejection):
                status = ERROR_CODE_HTTP_STATUS.get(connection.code, 400)
                await refuse(send, status, connection.code, connection.message, request["id"], connection.data)
                return
        else:
            connection = Connection.from_envelope(version or DEFAULT_NEGOTIATED_VERSION, None, None)
        if self._gate is not None and request["method"] == "tools/call":
            params: dict[str, Any] = request.get("params") or {}
            if missing := self._gate.missing(params.get("name")):
                await self._gate.refuse_tool(send, missing, request["id"])
                return
        await _Call(request, connection, scope, receive, send, modern=modern, exchange=self).run()

    def _modern(self, request: dict[str, Any], scope: Scope, headers: Headers) -> Connection | InboundLadderRejection:
        """What a request of 2026-07-28 says about its sender, or why it is refused."""
        # A dict of headers hides doubles, so they are looked for in the raw list, and only where there are any.
        if len(headers) != len(scope["headers"]):
            pairs = [(name.decode("latin-1"), "") for name, _ in scope["headers"]]
            if (double := find_duplicated_routing_header(pairs)) is not None:
                return InboundLadderRejection(HEADER_MISMATCH, f"{double} header appears more than once")
        verdict = classify_inbound_request(request, headers=headers)
        if isinstance(verdict, InboundLadderRejection):
            return verdict
        if request["method"] == "tools/call":
            rejection = self._parameter_headers(request["params"], scope, headers)
            if rejection is not None:
                return rejection
        return Connection.from_envelope(verdict.protocol_version, verdict.client_info, verdict.client_capabilities)

    def _parameter_headers(
        self, params: Mapping[str, Any], scope: Scope, headers: Headers
    ) -> InboundLadderRejection | None:
        """A rejection for `Mcp-Param-*` headers that differ from the arguments."""
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str) or not (arguments is None or isinstance(arguments, dict)):
            return None
        sent = any(header.startswith(_PARAM_HEADER) for header in headers)
        if not arguments and not sent:
            return None
        lookup = self._server.get_tool_input_schema
        if lookup is None:
            return None if self._server.get_request_handler("tools/list") is None else _ASK_THE_SDK
        try:
            schema = lookup(name)
        except Exception:
            # As the SDK has it: a check of headers must not break a call that works.
            logger.exception("The input schema of %.100r could not be read; its headers are not checked", name)
            return None
        if schema is None:
            return None
        known = self._declares_headers.get(name)
        if known is None or known[0] is not schema:
            known = (schema, bool(x_mcp_header_map(schema)))
            self._declares_headers[name] = known
        if not known[1]:
            return None
        # Request.headers keeps doubles, which are a mismatch of their own.
        return validate_mcp_param_headers(schema, cast("Mapping[str, Any]", arguments or {}), Request(scope).headers)

    async def _other(self, message: object, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is not a request: a notification and a posted response go to the SDK, the rest is refused."""
        try:
            # The SDK would find the same, and tell the client what pydantic says of it.
            found = jsonrpc_message_adapter.validate_python(message, by_name=False)
        except ValidationError:
            found = None
        # With an id that is none, a request would pass for a notification, and wait for its answer.
        if found is None or (isinstance(found, JSONRPCNotification) and "id" in cast("dict[str, Any]", message)):
            await refuse(send, 400, INVALID_REQUEST, "The body must be one JSON-RPC request or notification")
        else:
            await self._app(scope, _replay(body, receive), send)

    @property
    def server(self) -> Any:
        """The low-level server."""
        return self._server

    @property
    def lifespan_state(self) -> Any:
        """What the server's lifespan has made."""
        return self._lifespan_state()

    @property
    def drain(self) -> Drain:
        """What knows of the calls that run."""
        return self._drain


class _Call:
    """One request in the works; the SDK's `DispatchContext` for it."""

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
        exchange: Exchange,
    ) -> None:
        self.request_id: str | int = request["id"]
        self._method: str = request["method"]
        self._params: dict[str, Any] | None = request.get("params")
        self._progress_token = progress_token_from_params(self._params)
        self._connection = connection
        self._receive = receive
        self._send = send
        self._modern = modern
        self._exchange = exchange
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
        self._exchange.drain.enter(self)
        try:
            with self._cancel:
                answer = await self._outcome()
            if answer is not None:
                await self._finish(answer)
        finally:
            self._exchange.drain.leave(self)
            timer.cancel()
            for task in watching:
                task.cancel()

    async def _outcome(self) -> dict[str, Any]:
        exchange = self._exchange
        try:
            result = await serve_one(
                exchange.server,
                self,  # pyright: ignore[reportArgumentType]  # a DispatchContext, but for `Final` attributes
                self._method,
                self._params,
                connection=self._connection,
                lifespan_state=exchange.lifespan_state,
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
            while not (await asyncio.wait({gone}, timeout=PATIENCE))[0]:
                await self._write(b": still at work\r\n\r\n")
            if not self._answered:
                self._answered = True
                self._cancel.cancel()
        finally:
            gone.cancel()


def _event(payload: bytes) -> bytes:
    return b"event: message\r\ndata: " + payload + b"\r\n\r\n"


def _is_request(message: object) -> bool:
    if not isinstance(message, dict):
        return False
    members = cast("dict[str, Any]", message)
    identity, params = members.get("id"), members.get("params")
    return (
        members.get("jsonrpc") == "2.0"
        and isinstance(members.get("method"), str)
        and (isinstance(identity, str) or (isinstance(identity, int) and not isinstance(identity, bool)))
        and (params is None or isinstance(params, dict))
    )


_ASK_THE_SDK: Final = InboundLadderRejection(0, "only the server's own tools/list can tell the schema")
"""Stands for no rejection: the request goes the SDK's way."""


def _unacceptable(headers: Headers) -> tuple[int, int, str] | None:
    accept = headers.get("accept", "")
    # The two forms that every SDK sends, before the general case.
    if accept not in ("application/json, text/event-stream", "*/*"):
        kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
        if not (
            kinds & {"*/*", "application/*", "application/json"} and kinds & {"*/*", "text/*", "text/event-stream"}
        ):
            return 406, INVALID_REQUEST, "Accept must name both application/json and text/event-stream"
    if headers.get("content-type", "") != "application/json":
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, INVALID_REQUEST, "Content-Type must be application/json"
    return None


async def _read(receive: Receive, headers: Headers, limit: int) -> bytes | None:
    """The body, or None where it is larger than the limit, which is noticed before it is read in full."""
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limit:
        return None
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body if len(body) <= limit else None
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit:
            return None
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application that has still to read the body."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
