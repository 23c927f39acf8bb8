"""The tools of the reference server, which are small examples. Replace them with yours and keep the rest.

A tool's signature becomes its schema, and its docstring its description, which models read: write both for the caller.
A tool that returns at once, or that waits, is `async`. A tool that computes for long, or whose library blocks, is a
plain `def`, which the SDK runs in a thread. `examples/` shows the rest of the protocol.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from mcp_server import __version__
from mcp_server.examples import client_features, colors
from mcp_server.examples.subscriptions import LastCountdown
from mcpfleet_server.caller import current_caller
from mcpfleet_server.hosting.adapt import lowlevel_of, paginate
from mcpfleet_server.hosting.settings import Settings

# The tools change only with a deployment, and are the same for all callers.
_UNTIL_NEXT_DEPLOYMENT = CacheHint(ttl_ms=5 * 60 * 1000, scope="public")

_PUBLIC_METHODS: tuple[CacheableMethod, ...] = (
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
)

_READ_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)


class Whoami(BaseModel):
    """The service that responds, and the caller."""

    service: str | None = Field(description="Cloud Run service that responds; null elsewhere")
    revision: str | None = Field(description="revision that responds")
    caller: str | None = Field(description="email or id of the account whose token Cloud Run verified")
    protocol: str = Field(description="MCP revision of this request")


class Countdown(BaseModel):
    """The result of a countdown."""

    seconds: int = Field(description="number of seconds that were counted")


def build_server(settings: Settings, sleep: Callable[[float], Awaitable[None]] = anyio.sleep) -> MCPServer[Any]:
    """Build the reference server.

    Args:
        settings: The settings from the environment.
        sleep: Waits for a number of seconds; tests replace it.
    """
    server: MCPServer[Any] = MCPServer(
        settings.service or "mcp-server",
        title="mcpfleet reference server",
        version=__version__,
        instructions="Small example tools. `countdown` reports its progress while it runs.",
        cache_hints=dict.fromkeys(_PUBLIC_METHODS, _UNTIL_NEXT_DEPLOYMENT),
    )
    last = LastCountdown(server, sessions=settings.has_sessions)

    @server.tool(annotations=_READ_ONLY)
    async def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        return a + b

    @server.tool(annotations=_READ_ONLY)
    async def echo(text: str) -> str:
        """Return a text unchanged."""
        return text

    @server.tool(annotations=_READ_ONLY)
    async def whoami(ctx: Context[Any, Any]) -> Whoami:
        """Return the service and revision that responds, and the caller that Cloud Run verified."""
        caller = current_caller()
        return Whoami(
            service=settings.service,
            revision=settings.revision,
            caller=None if caller is None else caller.email or caller.subject,
            protocol=ctx.request_context.protocol_version,
        )

    @server.tool(annotations=_READ_ONLY)
    async def countdown(
        ctx: Context[Any, Any],
        seconds: Annotated[int, Field(ge=1, le=60, description="how long to count")] = 5,
    ) -> Countdown:
        """Count down and report progress once per second, to try progress notifications and cancellation."""
        for elapsed in range(seconds):
            await ctx.report_progress(elapsed, seconds, f"{seconds - elapsed} s left")
            await sleep(1)
        await ctx.report_progress(seconds, seconds, "done")
        await last.set_finished(ctx, seconds)
        return Countdown(seconds=seconds)

    colors.register(server)
    client_features.register(server)
    paginate(lowlevel_of(server))
    return server
