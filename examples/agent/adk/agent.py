"""The agent, built with Google's Agent Development Kit: https://google.github.io/adk-docs/."""

from collections.abc import Mapping
from typing import Any, cast

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import McpToolset, StreamableHTTPConnectionParams
from google.genai.types import Content, Part

from mcpfleet.service import CalledServer, HttpClients

MODEL = "gemini-3.5-flash"

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
        model: str | BaseLlm,
        servers: Mapping[str, CalledServer],
        clients: Mapping[str, HttpClients],
        timeout: float,
    ) -> None:
        self._toolsets = [
            McpToolset(
                connection_params=StreamableHTTPConnectionParams(
                    url=server.url,
                    # A cold start can take longer than ADK's default of 5 seconds.
                    timeout=timeout,
                    # Not headers or header_provider, which are read once per session: a session can outlive a token.
                    httpx_client_factory=cast("Any", clients[name]),  # ADK's types know httpx only, not httpx2
                ),
                tool_name_prefix=name,  # servers may have tools with the same name
            )
            for name, server in servers.items()
        ]
        agent = LlmAgent(name="assistant", model=model, instruction=INSTRUCTION, tools=[*self._toolsets])
        self._runner = InMemoryRunner(agent, app_name="agent")

    async def ask(self, question: str) -> str:
        """Answer one question in a new session."""
        sessions = self._runner.session_service
        session = await sessions.create_session(app_name="agent", user_id="caller")
        answer = ""
        try:
            async for event in self._runner.run_async(
                user_id="caller", session_id=session.id, new_message=Content(role="user", parts=[Part(text=question)])
            ):
                if event.is_final_response() and event.content:
                    answer = "".join(part.text or "" for part in event.content.parts or ())
        finally:
            await sessions.delete_session(app_name="agent", user_id="caller", session_id=session.id)
        return answer

    async def aclose(self) -> None:
        """Close the sessions with the servers."""
        await self._runner.close()
