"""Hosts an MCP server on Cloud Run: `serve(server)` is the whole of it.

The base (who called, logs, the allow-list, the bounds of connections) does without the MCP SDK. `serve` and the rest of
`hosting` need it; the extra of that name installs it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcpfleet_server.hosting.runner import serve

__all__ = ["serve"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The bridge and clients have the base alone.
    if name != "serve":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mcpfleet_server.hosting.runner import serve

    return serve
