"""MCP servers on Google Cloud Run, for Pulumi programs in Python.

What a program imports is loaded when it is first named: checking a fleet needs no Pulumi.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pulumi_mcpfleet.components.arguments import FleetArgs, FoundationArgs, McpClientArgs, McpServerArgs
    from pulumi_mcpfleet.components.fleet import Fleet
    from pulumi_mcpfleet.components.foundation import Foundation
    from pulumi_mcpfleet.components.mcp_client import McpClient
    from pulumi_mcpfleet.components.mcp_server import McpServer

__all__ = [
    "Fleet",
    "FleetArgs",
    "Foundation",
    "FoundationArgs",
    "McpClient",
    "McpClientArgs",
    "McpServer",
    "McpServerArgs",
]

_COMPONENTS: Final = {
    "Fleet": "fleet",
    "Foundation": "foundation",
    "McpClient": "mcp_client",
    "McpServer": "mcp_server",
}
"""The module of each component; the arguments of all of them are in one."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.components.{_COMPONENTS.get(name, 'arguments')}")
    return getattr(module, name)
