"""The tools of hello, called by an MCP client in the same process: uv run --directory servers/hello pytest"""

import asyncio

from mcp.client import Client

from server import server


def test_greet_names_who_is_greeted():
    async def call():
        async with Client(server) as client:
            return await client.call_tool("greet", {"name": "Grace"})

    result = asyncio.run(call())
    assert result.structured_content == {"result": "Hello Grace, from somebody unknown!"}
