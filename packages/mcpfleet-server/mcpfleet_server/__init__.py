"""Hosts an MCP server on Cloud Run.

The base (who called, logs, the allow-list, the bounds of connections) does not need the MCP SDK; `hosting` does, which
the extra of that name installs.
"""

__version__ = "0.1.0"
