"""`python -m mcp_server.conformance`."""

import sys
from typing import Any

from mcpfleet_server.hosting import serve
from mcpfleet_server.hosting.settings import Settings


def build(settings: Settings) -> Any:
    """The server of the suite."""
    from mcp_server.conformance.app import build_server

    return build_server(settings)


if __name__ == "__main__":
    sys.exit(serve(build))
