"""Adapts each supported kind of server to the SDK's low-level server and its ASGI application.

Supported are `MCPServer` and the low-level `Server` of the official SDK (mcp 2.3 and later), and `FastMCP` (4.1 and
later), which builds on the same low-level server.
"""

import base64
import binascii
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, PaginatedRequestParams
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcpfleet_server.caller import caller_share
from mcpfleet_server.hosting.edge import MESSAGES_PATH, SSE_PATH
from mcpfleet_server.hosting.settings import Settings

# Off only because `Edge` checks both headers instead: its lists take patterns, and the SDK's only exact names.
_NO_CHECKS = TransportSecuritySettings(enable_dns_rebinding_protection=False)

PAGE_SIZE: Final = 50

_LISTS: Final[Mapping[str, str]] = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resource_templates",
    "prompts/list": "prompts",
}


class UnknownServerError(TypeError):
    """The object is not a supported MCP server; the text lists the supported ones."""


class HostedServer:
    """A low-level server and its ASGI application."""

    def __init__(self, server: Any, settings: Settings) -> None:
        """Create the application.

        Args:
            server: An `MCPServer`, a low-level `Server` or a `FastMCP`.
            settings: The settings.

        Raises:
            UnknownServerError: The server is of another kind.
        """
        if _has_member(server, "streamable_http_app"):
            self.app: Starlette = server.streamable_http_app(
                streamable_http_path=settings.mcp_path,
                stateless_http=settings.stateless,
                # JSON responses would drop progress. Short calls get a JSON response anyway.
                json_response=False,
                transport_security=_NO_CHECKS,
                max_request_body_size=settings.max_body_bytes,
                max_sessions=settings.max_sessions,
            )
            self.server: Any = server.session_manager.app
        elif _has_member(server, "http_app") and _has_member(server, "_mcp_server"):
            # FastMCP has no public attribute for its low-level server.
            self.server = _get_wrapped_server(server)
            self.app = server.http_app(
                path=settings.mcp_path,
                stateless_http=settings.stateless,
                json_response=False,
                host_origin_protection=False,
            )
        else:
            raise UnknownServerError(
                f"{type(server).__module__}.{type(server).__qualname__} can't be hosted; give an MCPServer or a "
                "low-level Server of the official SDK (mcp 2.3 or later), or a FastMCP (4.1 or later)"
            )
        if "sse" in settings.transports:
            _add_routes(self.app, _build_sse_routes(server, self.server, settings))
        self.app.router.redirect_slashes = False
        self._lifespan_state: Any = None
        self._endpoint: Any = None
        self._capture_lifespan(settings.max_sessions)

    def _capture_lifespan(self, max_sessions: int) -> None:
        """Capture the state of the server's lifespan when the SDK's session manager enters it, and limit sessions."""
        original: Callable[[Any], Any] = self.server.lifespan
        entered = False

        @asynccontextmanager
        async def capturing(server: Any) -> AsyncGenerator[Any]:
            # The session manager comes first; later, each connection of the legacy transport enters a lifespan.
            nonlocal entered
            is_first, entered = not entered, True
            async with original(server) as state:
                if is_first:
                    self._lifespan_state = state
                    # Not earlier, because FastMCP creates its session manager at startup.
                    _limit_sessions(self._endpoint.session_manager, max_sessions)
                yield state

        self.server.lifespan = capturing

    def lifespan_state(self) -> Any:
        """Return the state that the server's lifespan has created."""
        return self._lifespan_state

    def wrap_endpoint(self, path: str, wrap: Callable[[ASGIApp], ASGIApp]) -> ASGIApp:
        """Wrap the SDK's innermost application for a path.

        Returns:
            The application for POSTs on that path: the wrapped one, unless the server has its own middleware
            (authentication, FastMCP's request context), which must run before it.
        """
        parent: Any = next(route for route in self.app.routes if isinstance(route, Route) and route.path == path)
        route = parent
        while not hasattr(parent.app, "session_manager"):
            parent = parent.app
        self._endpoint = parent.app
        parent.app = wrap(parent.app)
        return parent.app if parent is route and not self.app.user_middleware else self.app


def _limit_sessions(manager: Any, limit: int) -> None:
    """Limit all sessions to *limit*, and those of each known caller to its share."""
    manager.max_sessions = limit
    most_of_caller = caller_share(limit)
    # The SDK has no public hook. It calls this method for each new session, one at a time.
    admit: Callable[[Any], Any] = manager._admit_session
    owners: dict[str, Any] = manager._session_owners

    def admit_fairly(caller: Any) -> Any:
        if caller is not None and sum(owner == caller for owner in owners.values()) >= most_of_caller:
            return None
        return admit(caller)

    manager._admit_session = admit_fairly


def _get_wrapped_server(server: object) -> Any:
    members: dict[str, Any] = vars(server)
    return members["_mcp_server"]


def _has_member(server: object, name: str) -> bool:
    return hasattr(server, name)


def _add_routes(app: Starlette, routes: list[BaseRoute]) -> None:
    existing = {getattr(route, "path", None) for route in app.routes}
    for route in routes:
        if isinstance(route, Route) and route.methods is not None:
            # Starlette accepts HEAD wherever it accepts GET; a stream without a body would stay open for nothing.
            route.methods.discard("HEAD")
    app.router.routes.extend(route for route in routes if getattr(route, "path", None) not in existing)


def _build_sse_routes(server: Any, lowlevel: Any, settings: Settings) -> list[BaseRoute]:
    """Build the routes of the legacy transport: the server's own, with its authentication if it has one."""
    if _has_member(server, "sse_app"):
        app = server.sse_app(
            sse_path=SSE_PATH,
            message_path=MESSAGES_PATH,
            transport_security=_NO_CHECKS,
            max_request_body_size=settings.max_body_bytes,
        )
        routes: list[BaseRoute] = list(app.routes)
        return routes
    if _has_member(server, "http_app"):
        return list(server.http_app(path=SSE_PATH, transport="sse", host_origin_protection=False).routes)
    from mcp.server.sse import SseServerTransport

    transport = SseServerTransport(
        MESSAGES_PATH, security_settings=_NO_CHECKS, max_request_body_size=settings.max_body_bytes
    )
    return [
        Route(SSE_PATH, _SseEndpoint(transport, lowlevel), methods=["GET"]),
        Mount(MESSAGES_PATH, app=transport.handle_post_message),
    ]


class _SseEndpoint:
    """The stream of one client of a low-level server."""

    def __init__(self, transport: Any, server: Any) -> None:
        self._transport = transport
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._transport.connect_sse(scope, receive, send) as (read, write):
            await self._server.run(read, write, self._server.create_initialization_options())


def lowlevel_of(server: Any) -> Any:
    """Return a server's low-level server, for handlers that the server's own class has no decorator for."""
    if _has_member(server, "http_app"):
        return _get_wrapped_server(server)
    # The session manager is the SDK's only public access to it. The application is discarded.
    server.streamable_http_app()
    return server.session_manager.app


# --- pagination with MCP's cursors ----------------------------------------------------------------------------


def paginate(lowlevel: Any, size: int = PAGE_SIZE) -> None:
    """Make a low-level server return each list in pages of *size* entries.

    A cursor is a position in the list. The SDK lists entries in the order of registration, which is the same at each
    instance of a revision, so any instance can continue a list of another one.
    """
    for method, field in _LISTS.items():
        entry = lowlevel.get_request_handler(method)
        if entry is not None:
            lowlevel.add_request_handler(method, PaginatedRequestParams, _paginate_handler(entry.handler, field, size))


def _paginate_handler(
    handler: Callable[[Any, Any], Any], field: str, size: int
) -> Callable[[Any, PaginatedRequestParams], Any]:
    async def page(ctx: Any, params: PaginatedRequestParams) -> Any:
        start = _decode_cursor(params.cursor)
        result = await handler(ctx, params)
        entries = getattr(result, field)
        if start > len(entries):
            raise MCPError(INVALID_PARAMS, "Invalid cursor")
        next_cursor = _encode_cursor(start + size) if start + size < len(entries) else None
        return result.model_copy(update={field: entries[start : start + size], "next_cursor": next_cursor})

    return page


def _encode_cursor(position: int) -> str:
    return base64.urlsafe_b64encode(b"%d" % position).decode()


def _decode_cursor(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii"))
        position = int(text) if text.isdigit() and len(text) < 10 else -1
    except (ValueError, binascii.Error):
        position = -1
    if position < 0:
        raise MCPError(INVALID_PARAMS, "Invalid cursor")
    return position
