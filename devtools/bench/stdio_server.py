"""The stdio server for the bridge benchmarks, with small tools on the official SDK."""

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
    """Return a text unchanged."""
    return text


@server.tool()
def pid() -> int:
    """Return the id of the server's process."""
    return os.getpid()


@server.tool()
async def slow(seconds: float, text: str = "") -> str:
    """Return a text after some seconds."""
    await asyncio.sleep(seconds)
    return text


@server.tool()
async def steps(count: int, ctx: Context) -> int:
    """Report progress a number of times."""
    for step in range(count):
        await ctx.report_progress(step, count, f"step {step}")
    return count


@server.tool()
def stray(text: str) -> str:
    """Print to stdout, which is reserved for the protocol."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return text


@server.tool()
def crash() -> str:
    """End the process in the middle of a call."""
    os._exit(3)


if __name__ == "__main__":
    server.run("stdio")
