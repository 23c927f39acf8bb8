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

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

import pydantic_core
from mcp.server.connection import Connection
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    validate_mcp_param_headers,
    x_mcp_header_map,
)
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    HEADER_MISMATCH,
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCNotification,
    jsonrpc_message_adapter,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_server.hosting.call import Call, Kernel
from mcpfleet_server.hosting.responses import Headers, headers_of, refuse

logger = logging.getLogger(__name__)

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
        kernel: Kernel,
        *,
        stateless: bool,
        max_body_bytes: int,
        gate: ToolGate | None = None,
    ) -> None:
        """Serve a low-level server of the SDK.

        Args:
            app: The SDK's application for the same server, for all that is not one request and its answer.
            kernel: That server, and what its calls run in.
            stateless: Whether requests of handshake clients are answered here, too.
            max_body_bytes: The largest body that is read.
            gate: Knows the scopes that single tools need.
        """
        self._app = app
        self._kernel = kernel
        self._server = kernel.server
        self._stateless = stateless
        self._max_body_bytes = max_body_bytes
        self._gate = gate
        self._declares_headers: dict[str, tuple[object, bool]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers: Headers = scope.get("mcp_server.headers") or headers_of(scope)
        version = headers.get("mcp-protocol-version")
        modern = version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
        ours = modern or self._stateless
        if "accept" not in headers:
            # RFC 9110, 12.5.1: without the header anything is acceptable, which the SDK (2.3) does not know.
            headers = {**headers, "accept": "*/*"}
            scope = {**scope, "headers": [*scope["headers"], (b"accept", b"*/*")]}
        if ours and (refusal := _unacceptable(headers)) is not None:
            await refuse(send, *refusal)
            return
        try:
            body = await _read(receive, headers, self._max_body_bytes)
        except ClientDisconnect:
            return
        if body is None:
            await refuse(send, 413, INVALID_REQUEST, f"The body is larger than {self._max_body_bytes} bytes")
            return
        if not ours:
            # Read here all the same: the SDK (2.3) takes a client that goes away halfway for a failure of its own.
            await self._app(scope, _replay(body, receive), send)
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
        await Call(request, connection, scope, receive, send, modern=modern, kernel=self._kernel).run()

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
    accept = headers["accept"]
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
    """The body, or None where it is larger than the limit, which is noticed before it is read in full.

    Raises:
        ClientDisconnect: The client has gone away before its end: what came is no request, though it may look whole.
    """
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limit:
        return None
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body if len(body) <= limit else None
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
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
