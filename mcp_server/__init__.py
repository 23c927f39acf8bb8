"""The reference MCP server of mcpfleet: what a user starts from. Replace `app.py` and what is in `examples/`.

What hosting on Cloud Run asks of any MCP server is `mcpfleet_server`'s. Nothing here is built at import time.
"""

__version__ = "0.1.0"
