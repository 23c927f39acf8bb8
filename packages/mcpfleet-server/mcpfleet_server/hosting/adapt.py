"""Every kind of server brought down to one: the SDK's low-level server and the application round it.

Known are `MCPServer` and the low-level `Server` of the official SDK (mcp 2.3 and later), and `FastMCP` (4.1 and
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

from mcpfleet_server.caller import share
from mcpfleet_server.hosting.edge import MESSAGES_PATH, SSE_PATH
from mcpfleet_server.hosting.settings import Settings

# Off only because Edge does both checks instead: the SDK's lists are exact, ours take patterns.
_NO_CHECKS = TransportSecuritySettings(enable_dns_rebinding_protection=False)

PAGE_SIZE: Final = 50

_LISTS: Final[Mapping[str, str]] = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resource_templates",
    "prompts/list": "prompts",
}


class UnknownServerError(TypeError):
    """What was given is no MCP server that can be hosted; the text says which can."""


class Hosted:
    """A server, and the SDK's application for it."""

    def __init__(self, server: Any, settings: Settings) -> None:
        """Build the application.

        Args:
            server: An `MCPServer`, a low-level `Server` or a `FastMCP`.
            settings: What the environment says.

        Raises:
            UnknownServerError: It is something else.
        """
        if _has(server, "streamable_http_app"):
            self.app: Starlette = server.streamable_http_app(
                streamable_http_path=settings.mcp_path,
                stateless_http=settings.stateless,
                # JSON alone would drop progress; short answers go out as JSON anyway.
                json_response=False,
                transport_security=_NO_CHECKS,
                max_request_body_size=settings.max_body_bytes,
                max_sessions=settings.max_sessions,
            )
            self.server: Any = server.session_manager.app
        elif _has(server, "http_app") and _has(server, "_mcp_server"):
            # FastMCP has no public name for the low-level server it wraps.
            self.server = _wrapped(server)
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
            _add(self.app, _sse_routes(server, self.server, settings))
        self.app.router.redirect_slashes = False
        self._state: Any = None
        self._endpoint: Any = None
        self._remember(settings.max_sessions)

    def _remember(self, max_sessions: int) -> None:
        """Keep what the server's lifespan makes when the SDK's session manager enters it, and share its sessions."""
        original: Callable[[Any], Any] = self.server.lifespan
        entered = False

        @asynccontextmanager
        async def remembering(server: Any) -> AsyncGenerator[Any]:
            # The manager is first; after it, each connection of the legacy transport has a state of its own.
            nonlocal entered
            first, entered = not entered, True
            async with original(server) as state:
                if first:
                    self._state = state
                    # Not before: FastMCP makes its session manager when it starts.
                    _share(self._endpoint.session_manager, max_sessions)
                yield state

        self.server.lifespan = remembering

    def lifespan_state(self) -> Any:
        """What the server's lifespan has made."""
        return self._state

    def insert(self, path: str, around: Callable[[ASGIApp], ASGIApp]) -> ASGIApp:
        """Put an application round the SDK's innermost one for a path.

        Returns:
            What to call for a POST on that path: the inserted one itself, unless the server has middleware of its own
            (authentication, FastMCP's request context), which must go on standing before it.
        """
        holder: Any = next(route for route in self.app.routes if isinstance(route, Route) and route.path == path)
        route = holder
        while not hasattr(holder.app, "session_manager"):
            holder = holder.app
        self._endpoint = holder.app
        holder.app = around(holder.app)
        return holder.app if holder is route and not self.app.user_middleware else self.app


def _share(manager: Any, limit: int) -> None:
    """Let there be *limit* sessions, and one caller have its share. Who is not known is everybody, and may have all."""
    manager.max_sessions = limit
    most = share(limit)
    # The SDK has no public place for it; this one is asked for each new session, one at a time.
    admit: Callable[[Any], Any] = manager._admit_session
    owners: dict[str, Any] = manager._session_owners

    def admit_fairly(caller: Any) -> Any:
        if caller is not None and sum(owner == caller for owner in owners.values()) >= most:
            return None
        return admit(caller)

    manager._admit_session = admit_fairly


def _wrapped(server: object) -> Any:
    members: dict[str, Any] = vars(server)
    return members["_mcp_server"]


def _has(server: object, name: str) -> bool:
    return hasattr(server, name)


def _add(app: Starlette, routes: list[BaseRoute]) -> None:
    have = {getattr(route, "path", None) for route in app.routes}
    for route in routes:
        if isinstance(route, Route) and route.methods is not None:
            # Starlette takes HEAD wherever it takes GET; a stream without a body would last for ever and carry nothing.
            route.methods.discard("HEAD")
    app.router.routes.extend(route for route in routes if getattr(route, "path", None) not in have)


def _sse_routes(server: Any, lowlevel: Any, settings: Settings) -> list[BaseRoute]:
    """The legacy transport: the server's own, with the authentication that it may ask for."""
    if _has(server, "sse_app"):
        app = server.sse_app(
            sse_path=SSE_PATH,
            message_path=MESSAGES_PATH,
            transport_security=_NO_CHECKS,
            max_request_body_size=settings.max_body_bytes,
        )
        routes: list[BaseRoute] = list(app.routes)
        return routes
    if _has(server, "http_app"):
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
    """The low-level server under a server, to register a handler that the kind above has no decorator for."""
    if _has(server, "http_app"):
        return _wrapped(server)
    # The session manager is the SDK's only public way to it; the application is thrown away.
    server.streamable_http_app()
    return server.session_manager.app


# --- lists in pages: MCP's cursors ----------------------------------------------------------------------------


def paginate(lowlevel: Any, size: int = PAGE_SIZE) -> None:
    """Give each list of a low-level server in pages of *size*.

    A cursor is a place in the list. The order of the SDK's lists is that of registration, the same at each instance
    of a revision, so any of them can go on where another stopped.
    """
    for method, field in _LISTS.items():
        entry = lowlevel.get_request_handler(method)
        if entry is not None:
            lowlevel.add_request_handler(method, PaginatedRequestParams, _paged(entry.handler, field, size))


def _paged(handler: Callable[[Any, Any], Any], field: str, size: int) -> Callable[[Any, PaginatedRequestParams], Any]:
    async def page(ctx: Any, params: PaginatedRequestParams) -> Any:
        start = _place(params.cursor)
        result = await handler(ctx, params)
        entries = getattr(result, field)
        if start > len(entries):
            raise MCPError(INVALID_PARAMS, "Invalid cursor")
        more = _cursor(start + size) if start + size < len(entries) else None
        return result.model_copy(update={field: entries[start : start + size], "next_cursor": more})

    return page


def _cursor(place: int) -> str:
    return base64.urlsafe_b64encode(b"%d" % place).decode()


def _place(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii"))
        place = int(text) if text.isdigit() and len(text) < 10 else -1
    except (ValueError, binascii.Error):
        place = -1
    if place < 0:
        raise MCPError(INVALID_PARAMS, "Invalid cursor")
    return place
