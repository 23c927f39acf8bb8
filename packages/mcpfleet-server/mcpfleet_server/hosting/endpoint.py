"""Handles POSTs on the MCP path: the fast path from a request to its response, for every protocol version.

For every request, the SDK (mcp 2.3) creates a task group, two to six memory streams, up to four tasks and several
layers of middleware. That, not validation, is nine tenths of the time of a small call. Here, the request's own
task runs the SDK's kernel (`mcp.server.runner.serve_one`: routing, validation, middleware, handlers, formatting of
the result) and writes its output:

- A result without notifications before it is sent as JSON.
- The first notification makes the response an event stream, into which the handler's own task writes.
- After `KEEPALIVE_SECONDS` without output, the response becomes an event stream, too, and comments keep it alive, so
  that no proxy closes the connection.
- Only a call that takes longer than `WATCH_AFTER_SECONDS` gets a second task, which waits for the client to
  disconnect. Then the call is cancelled: without a session, nobody could fetch its result.

The SDK handles everything else: sessions, notifications, posted responses, and batches (which it rejects). The checks
here call the SDK's own functions (`mcp.shared.inbound`), and `tests/integration/test_mcp_server_conformance.py` proves
that both paths respond alike.
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

from mcpfleet_server.hosting.call import Call, ServerRuntime
from mcpfleet_server.hosting.responses import Headers, headers_of, refuse

logger = logging.getLogger(__name__)

_PARAM_HEADER: Final = "mcp-param-"


class ToolAuthorizer(Protocol):
    """Checks the scopes that a tool requires."""

    def missing_scopes(self, tool: object) -> frozenset[str]:
        """Return the scopes that the tool requires and the caller of this request does not have."""
        ...

    async def refuse_tool(self, send: Send, missing: frozenset[str], request_id: str | int) -> None:
        """Send a response that names the missing scopes."""
        ...


class McpEndpoint:
    """The ASGI application at the MCP path."""

    def __init__(
        self,
        app: ASGIApp,
        runtime: ServerRuntime,
        *,
        stateless: bool,
        max_body_bytes: int,
        authorizer: ToolAuthorizer | None = None,
    ) -> None:
        """Serve a low-level server.

        Args:
            app: The SDK's application for the same server, for everything that is not one request with its response.
            runtime: The server, with the parts that its calls need.
            stateless: Whether requests of clients with a handshake are handled here, too.
            max_body_bytes: Maximum size of a request body.
            authorizer: Checks the scopes that single tools require.
        """
        self._app = app
        self._runtime = runtime
        self._server = runtime.server
        self._stateless = stateless
        self._max_body_bytes = max_body_bytes
        self._authorizer = authorizer
        self._has_param_headers: dict[str, tuple[object, bool]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers: Headers = scope.get("mcp_server.headers") or headers_of(scope)
        version = headers.get("mcp-protocol-version")
        modern = version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
        is_handled_here = modern or self._stateless
        if "accept" not in headers:
            # RFC 9110, 12.5.1: without the header, any type is acceptable. The SDK (2.3) does not implement this.
            headers = {**headers, "accept": "*/*"}
            scope = {**scope, "headers": [*scope["headers"], (b"accept", b"*/*")]}
        if is_handled_here and (refusal := _find_header_refusal(headers)) is not None:
            await refuse(send, *refusal)
            return
        try:
            body = await _read_body(receive, headers, self._max_body_bytes)
        except ClientDisconnect:
            return
        if body is None:
            await refuse(send, 413, INVALID_REQUEST, f"The body is larger than {self._max_body_bytes} bytes")
            return
        if not is_handled_here:
            # The body is read here anyway: the SDK (2.3) treats a client that disconnects halfway as an internal error.
            await self._app(scope, _replay_body(body, receive), send)
            return
        try:
            message: object = pydantic_core.from_json(body, allow_inf_nan=False)
        except ValueError:
            await refuse(send, 400, PARSE_ERROR, "Parse error")
            return
        if not _is_request(message):
            await self._handle_other(message, body, scope, receive, send)
            return
        request = cast("dict[str, Any]", message)
        if modern:
            connection = self._open_connection(request, scope, headers)
            if connection is _USE_SDK:
                # The schema is available only from the server's `tools/list`, which the SDK calls.
                await self._app(scope, _replay_body(body, receive), send)
                return
            if isinstance(connection, InboundLadderRejection):
                status = ERROR_CODE_HTTP_STATUS.get(connection.code, 400)
                await refuse(send, status, connection.code, connection.message, request["id"], connection.data)
                return
        else:
            connection = Connection.from_envelope(version or DEFAULT_NEGOTIATED_VERSION, None, None)
        if self._authorizer is not None and request["method"] == "tools/call":
            params: dict[str, Any] = request.get("params") or {}
            if missing := self._authorizer.missing_scopes(params.get("name")):
                await self._authorizer.refuse_tool(send, missing, request["id"])
                return
        await Call(request, connection, scope, receive, send, modern=modern, runtime=self._runtime).run()

    def _open_connection(
        self, request: dict[str, Any], scope: Scope, headers: Headers
    ) -> Connection | InboundLadderRejection:
        """Check a request of 2026-07-28; return its connection, or a rejection."""
        # A dict hides duplicate headers. If there are any, look for them in the raw list.
        if len(headers) != len(scope["headers"]):
            pairs = [(name.decode("latin-1"), "") for name, _ in scope["headers"]]
            if (duplicate := find_duplicated_routing_header(pairs)) is not None:
                return InboundLadderRejection(HEADER_MISMATCH, f"{duplicate} header appears more than once")
        classified = classify_inbound_request(request, headers=headers)
        if isinstance(classified, InboundLadderRejection):
            return classified
        if request["method"] == "tools/call":
            rejection = self._check_param_headers(request["params"], scope, headers)
            if rejection is not None:
                return rejection
        return Connection.from_envelope(
            classified.protocol_version, classified.client_info, classified.client_capabilities
        )

    def _check_param_headers(
        self, params: Mapping[str, Any], scope: Scope, headers: Headers
    ) -> InboundLadderRejection | None:
        """Return a rejection if `Mcp-Param-*` headers differ from the arguments."""
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str) or not (arguments is None or isinstance(arguments, dict)):
            return None
        has_headers = any(header.startswith(_PARAM_HEADER) for header in headers)
        if not arguments and not has_headers:
            return None
        lookup = self._server.get_tool_input_schema
        if lookup is None:
            return None if self._server.get_request_handler("tools/list") is None else _USE_SDK
        try:
            schema = lookup(name)
        except Exception:
            # Like the SDK: a check of headers must not break a call that works.
            logger.exception("The input schema of %.100r can't be read; its headers are not checked", name)
            return None
        if schema is None:
            return None
        cached = self._has_param_headers.get(name)
        if cached is None or cached[0] is not schema:
            cached = (schema, bool(x_mcp_header_map(schema)))
            self._has_param_headers[name] = cached
        if not cached[1]:
            return None
        # Request.headers keeps duplicates, which are a mismatch as well.
        return validate_mcp_param_headers(schema, cast("Mapping[str, Any]", arguments or {}), Request(scope).headers)

    async def _handle_other(self, message: object, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a body that is not a request: pass notifications and responses to the SDK, refuse anything else."""
        try:
            # The SDK would validate it the same way, but send pydantic's message to the client.
            parsed = jsonrpc_message_adapter.validate_python(message, by_name=False)
        except ValidationError:
            parsed = None
        # With an invalid ID, a request would count as a notification, and its client would wait for a response.
        if parsed is None or (isinstance(parsed, JSONRPCNotification) and "id" in cast("dict[str, Any]", message)):
            await refuse(send, 400, INVALID_REQUEST, "The body must be one JSON-RPC request or notification")
        else:
            await self._app(scope, _replay_body(body, receive), send)


def _is_request(message: object) -> bool:
    if not isinstance(message, dict):
        return False
    members = cast("dict[str, Any]", message)
    request_id, params = members.get("id"), members.get("params")
    return (
        members.get("jsonrpc") == "2.0"
        and isinstance(members.get("method"), str)
        and (isinstance(request_id, str) or (isinstance(request_id, int) and not isinstance(request_id, bool)))
        and (params is None or isinstance(params, dict))
    )


_USE_SDK: Final = InboundLadderRejection(0, "the schema is available only from the server's tools/list")
"""Not a rejection: marks a request for the SDK's application."""


def _find_header_refusal(headers: Headers) -> tuple[int, int, str] | None:
    accept = headers["accept"]
    # Every SDK sends one of these two forms, so they are checked first.
    if accept not in ("application/json, text/event-stream", "*/*"):
        media_types = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
        if not (
            media_types & {"*/*", "application/*", "application/json"}
            and media_types & {"*/*", "text/*", "text/event-stream"}
        ):
            return 406, INVALID_REQUEST, "Accept must name both application/json and text/event-stream"
    if headers.get("content-type", "") != "application/json":
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            return 415, INVALID_REQUEST, "Content-Type must be application/json"
    return None


async def _read_body(receive: Receive, headers: Headers, limit: int) -> bytes | None:
    """Read the body; return None as soon as it is larger than the limit.

    Raises:
        ClientDisconnect: The client disconnected before the end of the body. The received part may look complete,
            but is not a request.
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


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives an application the body again."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
