"""The server for the official conformance suite, on the same hosting layer as the reference server.

    python -m tests.integration.conformance_server

Its tools, resources and prompts have the names, texts and schemas that the suite checks
(https://github.com/modelcontextprotocol/conformance); nobody would want them in a server of their own.
"""

import sys
from typing import Any

from mcpfleet_server.hosting import serve
from mcpfleet_server.hosting.settings import Settings


def build(settings: Settings) -> Any:
    """The server of the suite."""
    from tests.integration.conformance_server.app import build_server

    return build_server(settings)


if __name__ == "__main__":
    sys.exit(serve(build))
