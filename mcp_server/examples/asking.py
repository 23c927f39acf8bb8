"""Tools that ask back: the user by elicitation, the client's model by sampling, and log messages to the client.

A parameter with `Resolve` is filled by the client's answer, however its revision of the protocol has it: since
2026-07-28 the call ends with a question and is made again with the answer, on any instance; before, the question is a
request of the server's own, for which a session is needed (MCP_STATELESS=false).
"""

import warnings
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve, Sample
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import CreateMessageResult, SamplingMessage, TextContent, ToolAnnotations
from pydantic import BaseModel, Field


class Wishes(BaseModel):
    """What has to be known before tea can be made."""

    cups: int = Field(1, ge=1, le=4, description="How many cups?")
    milk: bool = Field(default=False, description="With milk?")


class Tea(BaseModel):
    """An order, as it was understood."""

    kind: str
    cups: int
    milk: bool


def _wishes(kind: str) -> Elicit[Wishes]:
    return Elicit(f"How would you like your {kind} tea?", Wishes)


def _verse(topic: str) -> Sample:
    text = f"Write a haiku about {topic}. Answer with the haiku alone."
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text=text))], max_tokens=100)


def register(server: MCPServer[Any]) -> None:
    """Add them to a server."""
    # Messages to the client's log are deprecated since 2026-07-28, and shown for the clients that there are.
    warnings.filterwarnings("ignore", "The logging capability is deprecated", MCPDeprecationWarning)

    @server.tool(annotations=ToolAnnotations(destructive_hint=False, open_world_hint=False))
    async def order_tea(
        kind: Annotated[Literal["black", "green", "mint"], Field(description="which tea")],
        wishes: Annotated[Wishes, Resolve(_wishes)],
    ) -> Tea:
        """Order tea; the user is asked for the rest."""
        return Tea(kind=kind, cups=wishes.cups, milk=wishes.milk)

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=True))
    async def haiku(
        topic: Annotated[str, Field(max_length=100, description="what it is about")],
        answer: Annotated[CreateMessageResult, Resolve(_verse)],
    ) -> str:
        """Have the client's own model write a haiku."""
        return answer.content.text if isinstance(answer.content, TextContent) else ""

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    async def rehearse(
        ctx: Context[Any, Any],
        steps: Annotated[list[str], Field(max_length=20, description="what to go through")],
    ) -> int:
        """Go through some steps and tell the client's log of each; gives their number."""
        for number, step in enumerate(steps, 1):
            await ctx.log("info", f"step {number} of {len(steps)}: {step}")  # pyright: ignore[reportDeprecated]
        return len(steps)
