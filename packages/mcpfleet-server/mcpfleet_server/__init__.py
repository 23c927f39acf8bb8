"""Hosts an MCP server on Cloud Run. To use it, call `serve(server)`.

The base (callers, logs, the allow-list, limits of connections) does not need the MCP SDK. `serve` and the rest of
`hosting` need it: install the extra `hosting`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcpfleet_server.hosting.runner import serve

__all__ = ["serve"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on access: the bridge and clients install the base alone.
    if name != "serve":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mcpfleet_server.hosting.runner import serve

    return serve
