"""The agent, built with Pydantic AI: https://ai.pydantic.dev/."""

from collections.abc import Mapping

import pydantic_ai
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models import Model

from mcpfleet.service import CalledServer, HttpClients

MODEL = "google-cloud:gemini-3.5-flash"

INSTRUCTION = """\
You answer questions with the tools that you have. Use a tool wherever one can tell what you would otherwise guess.
If a tool says that it failed, say so, and why.
"""


class Agent:
    """An agent with the tools of the fleet's servers.

    Args:
        model: The model's name, or a model.
        servers: The servers, by name.
        clients: The factories of HTTP clients, by server.
        timeout: The maximum seconds for a call of a server.
    """

    def __init__(
        self,
        model: str | Model,
        servers: Mapping[str, CalledServer],
        clients: Mapping[str, HttpClients],
        timeout: float,
    ) -> None:
        self._clients = [clients[name]() for name in servers]
        toolsets = [
            MCPToolset(
                server.url,
                id=name,
                # Not headers, which are read once per session: a session can outlive a token.
                http_client=client,
                init_timeout=timeout,
                read_timeout=timeout,
            ).prefixed(name)  # servers may have tools with the same name
            for (name, server), client in zip(servers.items(), self._clients, strict=True)
        ]
        self._agent = pydantic_ai.Agent(model, instructions=INSTRUCTION, toolsets=toolsets)

    async def ask(self, question: str) -> str:
        """Answer one question, with new sessions with the servers."""
        return (await self._agent.run(question)).output

    async def aclose(self) -> None:
        """Close the HTTP clients."""
        for client in self._clients:
            await client.aclose()
