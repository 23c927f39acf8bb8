"""The tools of the reference server: small, honest examples. Replace them by yours and keep the rest.

A tool's signature is its schema and its docstring is what a model reads, so both are written for the caller. A tool
that answers at once, or that waits, is `async`. One that computes for long, or whose library blocks, is a plain `def`:
the SDK runs it in a thread. `examples/` shows the rest of the protocol.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from mcp_server import __version__
from mcp_server.examples import asking, colors
from mcp_server.examples.watching import LastCountdown
from mcpfleet_server.caller import current_caller
from mcpfleet_server.hosting.adapt import lowlevel_of, paginate
from mcpfleet_server.hosting.settings import Settings

# The tools change with a deployment only and are the same for every caller.
_UNTIL_NEXT_DEPLOYMENT = CacheHint(ttl_ms=5 * 60 * 1000, scope="public")

_SAME_FOR_ALL: tuple[CacheableMethod, ...] = (
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
)

_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


class Whoami(BaseModel):
    """Who answers and who asks."""

    service: str | None = Field(description="Cloud Run service that answers, if it runs there")
    revision: str | None = Field(description="revision that answers")
    caller: str | None = Field(description="email, or else id, of the account whose token Cloud Run verified")
    protocol: str = Field(description="MCP revision of this request")


class Countdown(BaseModel):
    """What a countdown did."""

    seconds: int = Field(description="how many seconds were counted")


def build_server(settings: Settings, sleep: Callable[[float], Awaitable[None]] = anyio.sleep) -> MCPServer[Any]:
    """The reference server.

    Args:
        settings: What the environment says.
        sleep: Waits for a number of seconds; a test gives one that doesn't.
    """
    server: MCPServer[Any] = MCPServer(
        settings.service or "mcp-server",
        title="mcpfleet reference server",
        version=__version__,
        instructions="Small example tools. `countdown` reports its progress while it runs.",
        cache_hints=dict.fromkeys(_SAME_FOR_ALL, _UNTIL_NEXT_DEPLOYMENT),
    )
    last = LastCountdown(server, sessions=settings.has_sessions)

    @server.tool(annotations=_READS)
    async def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        return a + b

    @server.tool(annotations=_READS)
    async def echo(text: str) -> str:
        """Give a text back unchanged."""
        return text

    @server.tool(annotations=_READS)
    async def whoami(ctx: Context[Any, Any]) -> Whoami:
        """Tell which service and revision answers, and as whom Cloud Run knows the caller."""
        caller = current_caller()
        return Whoami(
            service=settings.service,
            revision=settings.revision,
            caller=None if caller is None else caller.email or caller.subject,
            protocol=ctx.request_context.protocol_version,
        )

    @server.tool(annotations=_READS)
    async def countdown(
        ctx: Context[Any, Any],
        seconds: Annotated[int, Field(ge=1, le=60, description="how long to count")] = 5,
    ) -> Countdown:
        """Count down, one report of progress per second: a call long enough to see progress arrive, and to cancel."""
        for elapsed in range(seconds):
            await ctx.report_progress(elapsed, seconds, f"{seconds - elapsed} s left")
            await sleep(1)
        await ctx.report_progress(seconds, seconds, "done")
        await last.finished(ctx, seconds)
        return Countdown(seconds=seconds)

    colors.register(server)
    asking.register(server)
    paginate(lowlevel_of(server))
    return server
