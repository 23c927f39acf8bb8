"""The ASGI application that hosts a server, put together from the other modules of this package."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_server.caller import caller_reader
from mcpfleet_server.hosting.adapt import HostedServer
from mcpfleet_server.hosting.authentication import IapAuthorizer
from mcpfleet_server.hosting.call import ServerRuntime
from mcpfleet_server.hosting.drain import DRAIN_SECONDS, Drain
from mcpfleet_server.hosting.edge import Edge
from mcpfleet_server.hosting.endpoint import McpEndpoint
from mcpfleet_server.hosting.lazy_import import LazyCodec
from mcpfleet_server.hosting.middleware import CallMiddleware, ToolNames
from mcpfleet_server.hosting.settings import Settings
from mcpfleet_server.iap import AssertionVerifier
from mcpfleet_server.logs import Trace

if TYPE_CHECKING:
    from mcpfleet_server.hosting.telemetry import Telemetry


_CLOSE_BY_SECONDS: Final = 9.5
"""Seconds after SIGTERM at which the last export of traces and metrics is given up; Cloud Run kills after 10."""

_EXPORT_SECONDS: Final = 3.0
"""Maximum seconds of that export. A sidecar collector responds in milliseconds, and is shutting down as well."""


class Application:
    """The ASGI application that hosts a server."""

    def __init__(self, server: Any, settings: Settings, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Build the application. Nothing runs before its lifespan begins.

        Args:
            server: An `MCPServer`, a low-level `Server` or a `FastMCP`. Don't use it elsewhere: the application adds
                middleware to it.
            settings: The settings.
            drain_seconds: How long calls in flight may still run at shutdown.

        Raises:
            UnknownServerError: The server is of another kind.
        """
        hosted = HostedServer(server, settings)
        self._is_started = False
        self._app: ASGIApp = hosted.app
        self._settings = settings
        self._telemetry: Telemetry | None = None
        authorizer = _create_authorizer(settings)
        tool_authorizer = authorizer if settings.oauth_issuer is not None else None
        self.drain = Drain(drain_seconds, lambda: _close_subscriptions(hosted.server))

        def wrap(app: ASGIApp) -> ASGIApp:
            return McpEndpoint(
                app,
                ServerRuntime(hosted.server, hosted.lifespan_state, self.drain),
                stateless=settings.stateless,
                max_body_bytes=settings.max_body_bytes,
                authorizer=tool_authorizer,
            )

        self._install_middleware(hosted.server, tool_authorizer)
        self._edge = Edge(
            hosted.wrap_endpoint(settings.mcp_path, wrap),
            self._lifespan,
            hosts=settings.accepted_hosts,
            origins=settings.allowed_origins,
            path=settings.mcp_path,
            health_path=settings.health_path,
            stateless=settings.stateless,
            drain=self.drain,
            is_ready=lambda: self._is_started and not self.drain.is_ending,
            authorizer=authorizer,
            read_caller=caller_reader(settings.access),
            on_trace=_attach_parent if settings.otel else None,
            is_streamable="streamable-http" in settings.transports,
            max_sessions=settings.max_sessions,
            variable=settings.variable,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        await self._edge(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def tracked_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._is_started = True
            elif message["type"].startswith("lifespan.shutdown."):
                # Before the message is passed on, because uvicorn then stops the event loop.
                await self._close()
            await send(message)

        if self._settings.otel:
            # Not earlier: exporters have threads, which do not survive the fork of the serving processes.
            from mcpfleet_server.hosting.telemetry import Telemetry

            self._telemetry = Telemetry(self._settings)
        try:
            await self._app(scope, receive, tracked_send)
        finally:
            await self._close()

    async def _close(self) -> None:
        telemetry, self._telemetry = self._telemetry, None
        if telemetry is not None:
            await asyncio.to_thread(
                telemetry.close, min(_EXPORT_SECONDS, self.drain.remaining_seconds(_CLOSE_BY_SECONDS))
            )

    def _install_middleware(self, server: Any, tool_authorizer: Any) -> None:
        """Add the middleware of the hosting layer to the server's own."""
        settings = self._settings
        if not settings.otel:
            # Without an exporter, nobody reads the SDK's spans. Its documentation: "Drop it from this list to opt out".
            server.middleware[:] = [
                middleware for middleware in server.middleware if not isinstance(middleware, OpenTelemetryMiddleware)
            ]
        if settings.request_state_key is not None:
            security = RequestStateSecurity(codec=LazyCodec(settings.request_state_key.get_secret_value()))
            boundary = RequestStateBoundary(security, default_audience=server.name)
            server.middleware[:] = [
                boundary if isinstance(middleware, RequestStateBoundary) else middleware
                for middleware in server.middleware
            ]
        call_middleware = CallMiddleware(
            self.drain,
            concurrency=settings.tool_concurrency,
            timeout=settings.tool_timeout,
            has_sessions=settings.has_sessions,
            tools=ToolNames(server, {*settings.tool_concurrency, *settings.tool_timeout}),
            missing_scopes=None if tool_authorizer is None else tool_authorizer.missing_scopes,
            observe=self._observe if settings.otel else None,
        )
        server.middleware.insert(0, call_middleware)

    def _observe(self, tool: str, outcome: str, seconds: float) -> None:
        if self._telemetry is not None:
            self._telemetry.observe(tool, outcome, seconds)


def build_app(server: Any, settings: Settings, *, drain_seconds: float = DRAIN_SECONDS) -> Application:
    """Return the ASGI application that hosts a server; see `Application`."""
    return Application(server, settings, drain_seconds=drain_seconds)


def _attach_parent(trace: Trace | None) -> None:
    from mcpfleet_server.hosting.telemetry import attach_parent_span

    attach_parent_span(trace)


def _create_authorizer(settings: Settings) -> Any:
    if settings.access == "iap":
        return IapAuthorizer(AssertionVerifier(settings.iap_audience))
    if settings.oauth_issuer is None:
        return None
    from mcpfleet_server.hosting.oauth import OAuthAuthorizer

    return OAuthAuthorizer.from_settings(settings)


def _close_subscriptions(server: Any) -> None:
    entry = server.get_request_handler("subscriptions/listen")
    close = getattr(entry.handler, "close", None) if entry is not None else None
    if close is not None:
        close()
