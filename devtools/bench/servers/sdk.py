"""A stateless server on the official Python SDK's high-level class with defaults; MODE=json disables streams."""

import os
from typing import Any

from mcp.server.mcpserver import MCPServer

server: MCPServer[Any] = MCPServer("payload", version="1.0.0", log_level="WARNING")


@server.tool(structured_output=False)
async def payload(size: int) -> str:
    """Return a text of *size* bytes."""
    return "x" * size


if __name__ == "__main__":
    port, json_alone = int(os.environ["PORT"]), os.environ.get("MODE") == "json"
    server.run("streamable-http", host="127.0.0.1", port=port, stateless_http=True, json_response=json_alone)
