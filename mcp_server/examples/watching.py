"""A resource that changes, and telling who watches it.

What a process remembers, other instances do not know, and it ends with the process: fit for an example, and for what
belongs to an instance. Share a `SubscriptionBus` of your own between instances for more.
"""

import json
from typing import Any, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from mcpfleet_server.hosting.adapt import lowlevel_of

URI: Final = "countdown://last"


class LastCountdown:
    """The last countdown of this instance, as a resource."""

    def __init__(self, server: MCPServer[Any], *, sessions: bool) -> None:
        """Add it to a server.

        Args:
            server: Gets the resource.
            sessions: Whether clients of revisions before 2026-07-28 have sessions through which they can be told.
        """
        self._seconds: int | None = None
        # By session: a client that subscribes twice is told once.
        self._watchers: dict[Any, Any] = {}

        @server.resource(URI, mime_type="application/json")
        async def last_countdown() -> str:
            """How long the last countdown of this instance was; null before the first."""
            return json.dumps({"seconds": self._seconds})

        if sessions:
            lowlevel = lowlevel_of(server)
            lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
            lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)

    async def finished(self, ctx: Context[Any, Any], seconds: int) -> None:
        """A countdown has ended: remember it and tell who watches."""
        self._seconds = seconds
        await ctx.notify_resource_updated(URI)  # since 2026-07-28: those who listen
        for session in list(self._watchers.values()):
            await session.send_resource_updated(URI)

    async def _subscribe(self, ctx: Any, params: SubscribeRequestParams) -> EmptyResult:
        if str(params.uri) == URI:
            self._watchers[_connection(ctx)] = ctx.session
        return EmptyResult()

    async def _unsubscribe(self, ctx: Any, params: UnsubscribeRequestParams) -> EmptyResult:
        if str(params.uri) == URI:
            self._watchers.pop(_connection(ctx), None)
        return EmptyResult()


def _connection(ctx: Any) -> str:
    return str(ctx.request.headers.get("mcp-session-id") or ctx.request.query_params.get("session_id"))
