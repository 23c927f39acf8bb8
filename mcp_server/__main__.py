"""`python -m mcp_server`: what the image runs."""

import sys
from typing import Any

from mcpfleet_server.hosting import serve
from mcpfleet_server.hosting.settings import Settings


def build(settings: Settings) -> Any:
    """The reference server. Imported here: the SDK takes most of the start, a wrong environment is told before it."""
    from mcp_server.app import build_server

    return build_server(settings)


if __name__ == "__main__":
    sys.exit(serve(build))
