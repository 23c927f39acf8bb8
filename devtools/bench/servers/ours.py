"""A server on our hosting layer with defaults: with streams, stateless, and a log entry for each call."""

import sys
from typing import Any

from mcpfleet_server.hosting import serve
from mcpfleet_server.hosting.settings import Settings


def build(settings: Settings) -> Any:
    """Build the server."""
    from mcp.server.mcpserver import MCPServer

    server: MCPServer[Any] = MCPServer("payload", version="1.0.0")

    @server.tool(structured_output=False)
    async def payload(size: int) -> str:
        """Return a text of *size* bytes."""
        return "x" * size

    return server


if __name__ == "__main__":
    sys.exit(serve(build))
