"""`python -m mcp_server`, the command of the image."""

import sys
from typing import Any

from mcpfleet_server.hosting import serve
from mcpfleet_server.hosting.settings import Settings


def build(settings: Settings) -> Any:
    """Build the reference server. Its import is here, after the check of the environment, because the SDK is slow."""
    from mcp_server.app import build_server

    return build_server(settings)


if __name__ == "__main__":
    sys.exit(serve(build))
