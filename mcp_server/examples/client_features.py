"""Tools that use features of the client: elicitation from the user, sampling from its model, and log messages.

The client's response fills a parameter with `Resolve`. In protocol version 2026-07-28, the call ends with a request for
input, and the client repeats the call with its response, on any instance. In older versions, the server sends a request
of its own, which needs a session (MCP_STATELESS=false).
"""

import warnings
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve, Sample
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import CreateMessageResult, SamplingMessage, TextContent, ToolAnnotations
from pydantic import BaseModel, Field


class TeaOptions(BaseModel):
    """The options of a tea order, which the user is asked for."""

    cups: int = Field(1, ge=1, le=4, description="How many cups?")
    milk: bool = Field(default=False, description="With milk?")


class Tea(BaseModel):
    """A tea order."""

    kind: str
    cups: int
    milk: bool


def _ask_for_options(kind: str) -> Elicit[TeaOptions]:
    return Elicit(f"How would you like your {kind} tea?", TeaOptions)


def _request_haiku(topic: str) -> Sample:
    text = f"Write a haiku about {topic}. Answer with only the haiku."
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text=text))], max_tokens=100)


def register(server: MCPServer[Any]) -> None:
    """Add the tools to a server."""
    # Log messages are deprecated since 2026-07-28, but older clients show them.
    warnings.filterwarnings("ignore", "The logging capability is deprecated", MCPDeprecationWarning)

    @server.tool(annotations=ToolAnnotations(destructive_hint=False, open_world_hint=False))
    async def order_tea(
        kind: Annotated[Literal["black", "green", "mint"], Field(description="which tea")],
        options: Annotated[TeaOptions, Resolve(_ask_for_options)],
    ) -> Tea:
        """Order tea; asks the user for the options."""
        return Tea(kind=kind, cups=options.cups, milk=options.milk)

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=True))
    async def haiku(
        topic: Annotated[str, Field(max_length=100, description="what it is about")],
        answer: Annotated[CreateMessageResult, Resolve(_request_haiku)],
    ) -> str:
        """Let the client's model write a haiku."""
        return answer.content.text if isinstance(answer.content, TextContent) else ""

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    async def rehearse(
        ctx: Context[Any, Any],
        steps: Annotated[list[str], Field(max_length=20, description="what to go through")],
    ) -> int:
        """Go through some steps and send a log message for each; returns the number of steps."""
        for number, step in enumerate(steps, 1):
            await ctx.log("info", f"step {number} of {len(steps)}: {step}")  # pyright: ignore[reportDeprecated]
        return len(steps)
