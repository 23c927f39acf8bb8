"""The reference client service: an app on Cloud Run that calls private MCP servers as itself."""

__version__ = "0.1.0"
