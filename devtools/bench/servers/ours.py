"""On our hosting layer, as shipped: stream-capable, stateless, logging each call."""

import sys
from typing import Any

from mcpfleet_server.hosting import serve
from mcpfleet_server.hosting.settings import Settings


def build(settings: Settings) -> Any:
    """The server."""
    from mcp.server.mcpserver import MCPServer

    server: MCPServer[Any] = MCPServer("payload", version="1.0.0")

    @server.tool(structured_output=False)
    async def payload(size: int) -> str:
        """A text of that many bytes."""
        return "x" * size

    return server


if __name__ == "__main__":
    sys.exit(serve(build))
