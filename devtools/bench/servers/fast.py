"""A stateless FastMCP server with defaults; MODE=json disables streams, HOSTED=1 uses our hosting layer."""

# pyright: basic, reportMissingImports=false

import os
import sys

from fastmcp import FastMCP

server = FastMCP("payload", version="1.0.0")


@server.tool(output_schema=None)
async def payload(size: int) -> str:
    """Return a text of *size* bytes."""
    return "x" * size


if __name__ == "__main__":
    if os.environ.get("HOSTED"):
        from mcpfleet_server.hosting import serve

        sys.exit(serve(server))
    server.run(
        transport="http",
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        stateless_http=True,
        json_response=os.environ.get("MODE") == "json",
        show_banner=False,
        log_level="WARNING",
    )
