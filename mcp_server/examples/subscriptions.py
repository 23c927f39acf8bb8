"""A resource that changes, and notifications for its subscribers.

The state is in the memory of one instance: other instances don't have it, and it is lost when the process ends. That is
enough for an example. For state of all instances, share a `SubscriptionBus` of your own between them.
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
        """Add the resource to a server.

        Args:
            server: The server to add the resource to.
            sessions: Whether clients with protocol versions before 2026-07-28 have sessions, for notifications.
        """
        self._seconds: int | None = None
        # By session, so that a client that subscribes twice gets one notification.
        self._watchers: dict[Any, Any] = {}

        @server.resource(URI, mime_type="application/json")
        async def last_countdown() -> str:
            """The seconds of the last countdown of this instance; null before the first."""
            return json.dumps({"seconds": self._seconds})

        if sessions:
            lowlevel = lowlevel_of(server)
            lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
            lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)

    async def set_finished(self, ctx: Context[Any, Any], seconds: int) -> None:
        """Store a finished countdown and notify the subscribers."""
        self._seconds = seconds
        await ctx.notify_resource_updated(URI)  # for listeners since 2026-07-28
        for session in list(self._watchers.values()):
            await session.send_resource_updated(URI)

    async def _subscribe(self, ctx: Any, params: SubscribeRequestParams) -> EmptyResult:
        if str(params.uri) == URI:
            self._watchers[_session_id(ctx)] = ctx.session
        return EmptyResult()

    async def _unsubscribe(self, ctx: Any, params: UnsubscribeRequestParams) -> EmptyResult:
        if str(params.uri) == URI:
            self._watchers.pop(_session_id(ctx), None)
        return EmptyResult()


def _session_id(ctx: Any) -> str:
    return str(ctx.request.headers.get("mcp-session-id") or ctx.request.query_params.get("session_id"))
