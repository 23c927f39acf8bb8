"""The parts put together: one ASGI application round a server."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_server.caller import checked_by_cloud_run
from mcpfleet_server.hosting.adapt import Hosted
from mcpfleet_server.hosting.call import Kernel
from mcpfleet_server.hosting.drain import DRAIN_SECONDS, Drain
from mcpfleet_server.hosting.edge import Edge
from mcpfleet_server.hosting.exchange import Exchange
from mcpfleet_server.hosting.lazy_import import CodecOnDemand
from mcpfleet_server.hosting.middleware import CallMiddleware, Tools
from mcpfleet_server.hosting.principal import IapGate
from mcpfleet_server.hosting.settings import Settings
from mcpfleet_server.iap import Assertions
from mcpfleet_server.logs import Trace

if TYPE_CHECKING:
    from mcpfleet_server.hosting.telemetry import Telemetry


_CLOSED_AFTER: Final = 9.5
"""Seconds after SIGTERM by which the last traces and metrics are sent or given up; Cloud Run kills after 10."""

_SENT_WITHIN: Final = 3.0
"""Seconds that sending them may take; a collector beside us answers in milliseconds, and has been told to end, too."""


class Application:
    """The ASGI application that hosts a server."""

    def __init__(self, server: Any, settings: Settings, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Build it; nothing runs before its lifespan does.

        Args:
            server: An `MCPServer`, a low-level `Server` or a `FastMCP`. It is the application's from here on:
                middleware is put into it.
            settings: What the environment says.
            drain_seconds: How long calls in flight may still run at the end.

        Raises:
            UnknownServerError: The server is none of these.
        """
        hosted = Hosted(server, settings)
        self._started = False
        self._rest: ASGIApp = hosted.app
        self._settings = settings
        self._telemetry: Telemetry | None = None
        gate = _gate(settings)
        scopes = gate if settings.oauth_issuer is not None else None
        self.drain = Drain(drain_seconds, lambda: _close_subscriptions(hosted.server))

        def around(app: ASGIApp) -> ASGIApp:
            return Exchange(
                app,
                Kernel(hosted.server, hosted.lifespan_state, self.drain),
                stateless=settings.stateless,
                max_body_bytes=settings.max_body_bytes,
                gate=scopes,
            )

        self._furnish(hosted.server, scopes)
        self._edge = Edge(
            hosted.insert(settings.mcp_path, around),
            self._lifespan,
            hosts=settings.accepted_hosts,
            origins=settings.allowed_origins,
            path=settings.mcp_path,
            health_path=settings.health_path,
            stateless=settings.stateless,
            drain=self.drain,
            ready=lambda: self._started and not self.drain.ending,
            gate=gate,
            read_caller=checked_by_cloud_run if settings.access == "iam" else None,
            on_trace=_parent if settings.otel else None,
            streamable="streamable-http" in settings.transports,
            max_sessions=settings.max_sessions,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Speak ASGI."""
        await self._edge(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._rest(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._started = True
            elif message["type"].startswith("lifespan.shutdown."):
                # Before it is told: the server ends its loop then, with whatever is still to be sent.
                await self._close()
            await send(message)

        if self._settings.otel:
            # Here, not before: exporters have threads, and the processes that serve are forked.
            from mcpfleet_server.hosting.telemetry import Telemetry

            self._telemetry = Telemetry(self._settings)
        try:
            await self._rest(scope, receive, watched)
        finally:
            await self._close()

    async def _close(self) -> None:
        telemetry, self._telemetry = self._telemetry, None
        if telemetry is not None:
            await asyncio.to_thread(telemetry.close, min(_SENT_WITHIN, self.drain.left(_CLOSED_AFTER)))

    def _furnish(self, server: Any, gate: Any) -> None:
        """Put the middleware of hosting round the server's own."""
        settings = self._settings
        if not settings.otel:
            # Without an exporter the SDK's spans are made for nobody. "Drop it from this list to opt out", it says.
            server.middleware[:] = [one for one in server.middleware if not isinstance(one, OpenTelemetryMiddleware)]
        if settings.request_state_key is not None:
            security = RequestStateSecurity(codec=CodecOnDemand(settings.request_state_key.get_secret_value()))
            boundary = RequestStateBoundary(security, default_audience=server.name)
            server.middleware[:] = [
                boundary if isinstance(one, RequestStateBoundary) else one for one in server.middleware
            ]
        guard = CallMiddleware(
            self.drain,
            concurrency=settings.tool_concurrency,
            timeout=settings.tool_timeout,
            sessions=settings.sessions,
            tools=Tools(server, {*settings.tool_concurrency, *settings.tool_timeout}),
            missing_scopes=None if gate is None else gate.missing,
            observe=self._observe if settings.otel else None,
        )
        server.middleware.insert(0, guard)

    def _observe(self, tool: str, outcome: str, seconds: float) -> None:
        if self._telemetry is not None:
            self._telemetry.observe(tool, outcome, seconds)


def build_app(server: Any, settings: Settings, *, drain_seconds: float = DRAIN_SECONDS) -> Application:
    """The ASGI application that hosts a server; see `Application`."""
    return Application(server, settings, drain_seconds=drain_seconds)


def _parent(trace: Trace | None) -> None:
    from mcpfleet_server.hosting.telemetry import attach

    attach(trace)


def _gate(settings: Settings) -> Any:
    if settings.access == "iap":
        return IapGate(Assertions(settings.iap_audience))
    if settings.oauth_issuer is None:
        return None
    from mcpfleet_server.hosting.oauth import OAuthGate

    return OAuthGate.of(settings)


def _close_subscriptions(server: Any) -> None:
    entry = server.get_request_handler("subscriptions/listen")
    close = getattr(entry.handler, "close", None) if entry is not None else None
    if close is not None:
        close()
