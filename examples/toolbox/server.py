"""Toolbox: text and unit tools, served as MCP over streamable HTTP at /mcp.

It is an example of an existing image: it doesn't use mcpfleet, takes its address from the command line instead of PORT,
and listens on its own port.
"""

import argparse
import hashlib
import re
import unicodedata
from typing import Annotated, Literal

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from pydantic import Field

Unit = Literal["m", "km", "mi", "ft"]

METRES: dict[Unit, float] = {"m": 1.0, "km": 1000.0, "mi": 1609.344, "ft": 0.3048}

# Without this hint, clients must assume that a tool is destructive.
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)

Title = Annotated[str, Field(examples=["Under way"])]

server = MCPServer("toolbox", version="1.0.0", instructions="Small text and unit tools.")


@server.tool(annotations=READS)
def slugify(text: Title) -> str:
    """Turn a title into the form used in URLs: lower-case ASCII words joined by hyphens."""
    ascii_text = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")


@server.tool(annotations=READS)
def count_words(text: str) -> int:
    """Count the words of a text, as separated by white space."""
    return len(text.split())


@server.tool(annotations=READS)
def sha256(text: str) -> str:
    """The SHA-256 digest of a text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@server.tool(annotations=READS)
def convert_length(value: float, source: Unit, target: Unit) -> float:
    """Convert a length between metres, kilometres, miles and feet."""
    return value * METRES[source] / METRES[target]


def main() -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser(prog="toolbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="port to listen on (default: %(default)s)")
    options = parser.parse_args()
    server.run("streamable-http", host=options.host, port=options.port, stateless_http=True)


if __name__ == "__main__":
    main()
