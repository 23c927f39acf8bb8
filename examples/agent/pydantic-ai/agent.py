"""The agent, by Pydantic AI: https://ai.pydantic.dev/."""

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
    """An agent whose tools are those of the fleet's servers.

    Args:
        model: The model's name, or a model.
        servers: The servers, by name.
        clients: What makes the HTTP clients for each.
        timeout: Seconds that a server may take.
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
                # Not headers: those would be read once for a session, which a token does not outlive.
                http_client=client,
                init_timeout=timeout,
                read_timeout=timeout,
            ).prefixed(name)  # two servers may have a tool of one name
            for (name, server), client in zip(servers.items(), self._clients, strict=True)
        ]
        self._agent = pydantic_ai.Agent(model, instructions=INSTRUCTION, toolsets=toolsets)

    async def ask(self, question: str) -> str:
        """Answer one question, in sessions of its own with the servers."""
        return (await self._agent.run(question)).output

    async def aclose(self) -> None:
        """Close the HTTP clients."""
        for client in self._clients:
            await client.aclose()
