"""The stdio server that the bridge's benchmark and soak put behind every bridge: small tools on the official SDK."""

import asyncio
import os
import sys

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("bench", version="1.0.0", log_level="WARNING")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def echo(text: str) -> str:
    """Give a text back."""
    return text


@server.tool()
def pid() -> int:
    """The process that answers."""
    return os.getpid()


@server.tool()
async def slow(seconds: float, text: str = "") -> str:
    """Answer after a while."""
    await asyncio.sleep(seconds)
    return text


@server.tool()
async def steps(count: int, ctx: Context) -> int:
    """Report progress so many times."""
    for step in range(count):
        await ctx.report_progress(step, count, f"step {step}")
    return count


@server.tool()
def stray(text: str) -> str:
    """Print to stdout, which is the protocol's."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return text


@server.tool()
def crash() -> str:
    """End the process in the middle of a call."""
    os._exit(3)


if __name__ == "__main__":
    server.run("stdio")
