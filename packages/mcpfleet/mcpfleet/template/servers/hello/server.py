"""The MCP server hello. A tool's signature is its schema, and its docstring is what a model reads."""

from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from mcpfleet_server import serve
from mcpfleet_server.caller import current_caller
from pydantic import Field

server = MCPServer("hello", version="0.1.0", instructions="Greets people.")


# Without the hint, a client has to take a tool for one that changes something.
@server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
def greet(name: Annotated[str, Field(description="who is greeted", examples=["Ada"])]) -> str:
    """Greet somebody, on behalf of the account that calls."""
    caller = current_caller()
    return f"Hello {name}, from {caller.name if caller else 'somebody unknown'}!"


if __name__ == "__main__":
    raise SystemExit(serve(server))
