"""Calls the servers of a deployed stack with the official client, as ada."""

import asyncio

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client


async def call(checkout, server, tool, arguments, mode="2026-07-28", **callbacks):
    """The names of the server's tools, and what one of them answers."""
    target = checkout.servers[server]
    auth = checkout.who("ada", target["audience"])
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(target["mcp_url"], http_client=http), mode=mode, **callbacks) as client,
    ):
        tools = {item.name for item in (await client.list_tools()).tools}
        result = await client.call_tool(tool, arguments)
        assert not result.is_error
        return tools, result.content[0].text


def answer(*arguments, **options):
    """Return a tool's answer."""
    return asyncio.run(call(*arguments, **options))[1]
