"""The conformance suite's server over stdio with a handshake; the bridge translates it to 2026-07-28.

Run as a program by `test_bridge_conformance.py`.
"""

from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import SamplingMessage, TextContent
from pydantic import BaseModel

from mcpfleet_server.hosting.settings import Settings
from tests.integration.conformance_server.app import build_server

Ctx = Context[Any, Any]


class Name(BaseModel):
    name: str


class Confirmation(BaseModel):
    ok: bool


class Color(BaseModel):
    color: str


class Background(BaseModel):
    context: str


async def asked(ctx: Ctx, message: str, schema: type[BaseModel]) -> Any:
    answer = await ctx.elicit(message, schema)
    return answer.data if answer.action == "accept" else schema.model_construct()


async def said(ctx: Ctx, text: str) -> str:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    answer = await ctx.session.create_message(
        messages=[message], max_tokens=100, related_request_id=ctx.request_context.request_id
    )
    return answer.content.text


def build() -> MCPServer[Any]:
    server = build_server(Settings())
    of_2026 = [
        *("elicitation", "sampling", "list_roots", "capabilities"),
        *("request_state", "tampered_state", "multiple_inputs", "multi_round"),
    ]
    for name in of_2026:
        server.remove_tool(f"test_input_required_result_{name}")
    server.remove_tool("test_streaming_elicitation")
    server._prompt_manager._prompts.pop("test_input_required_result_prompt")

    @server.prompt()
    async def test_input_required_result_prompt(ctx: Ctx) -> str:
        """Ask the client."""
        return f"Context: {(await asked(ctx, 'What context should the prompt use?', Background)).context}"

    @server.tool()
    async def test_input_required_result_elicitation(ctx: Ctx) -> str:
        """Ask the client."""
        return f"Hello, {(await asked(ctx, 'What is your name?', Name)).name}!"

    @server.tool()
    async def test_input_required_result_sampling(ctx: Ctx) -> str:
        """Ask the client."""
        return await said(ctx, "What is the capital of France?")

    @server.tool()
    async def test_input_required_result_list_roots(ctx: Ctx) -> str:
        """Ask the client."""
        return f"Roots: {[str(root.uri) for root in (await ctx.session.list_roots()).roots]}"

    @server.tool()
    async def test_input_required_result_capabilities(ctx: Ctx) -> str:
        """Ask the client."""
        known = ctx.client_capabilities
        if known is not None and known.sampling is not None:
            await said(ctx, "Say a word")
        elif known is not None and known.elicitation is not None:
            await asked(ctx, "Say a word", Name)
        return "Answered."

    @server.tool()
    async def test_input_required_result_request_state(ctx: Ctx) -> str:
        """Ask the client."""
        await asked(ctx, "Please confirm", Confirmation)
        return "state-ok"

    @server.tool()
    async def test_input_required_result_tampered_state(ctx: Ctx) -> str:
        """Ask the client."""
        await asked(ctx, "Please confirm", Confirmation)
        return "The state is as it was."

    @server.tool()
    async def test_input_required_result_multiple_inputs(ctx: Ctx) -> str:
        """Ask the client."""
        found: dict[str, Any] = {}

        async def keep(name: str, question: Any) -> None:
            found[name] = await question

        async with anyio.create_task_group() as group:
            group.start_soon(keep, "user", asked(ctx, "What is your name?", Name))
            group.start_soon(keep, "greeting", said(ctx, "Generate a greeting"))
            group.start_soon(keep, "roots", ctx.session.list_roots())
        return f"{found['greeting']}, {found['user'].name}! You have {len(found['roots'].roots)} roots."

    @server.tool()
    async def test_input_required_result_multi_round(ctx: Ctx) -> str:
        """Ask the client."""
        name = (await asked(ctx, "Step 1: What is your name?", Name)).name
        return f"{name} likes {(await asked(ctx, 'Step 2: What is your favorite color?', Color)).color}."

    @server.tool()
    async def test_streaming_elicitation(ctx: Ctx) -> str:
        """Report progress, then ask."""
        await ctx.report_progress(1, 2, "a question is left")
        return f"Hello, {(await asked(ctx, 'What is your name?', Name)).name}!"

    return server


if __name__ == "__main__":
    build().run("stdio")
