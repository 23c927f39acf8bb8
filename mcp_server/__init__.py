"""The reference MCP server of mcpfleet, a start for your own server: replace `app.py` and `examples/`.

The package `mcpfleet_server` does what every MCP server needs on Cloud Run. Importing this package creates no server.
"""

__version__ = "0.1.0"
