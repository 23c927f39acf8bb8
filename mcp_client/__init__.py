"""The reference client service: an app on Cloud Run that calls private MCP servers with its own service account."""

__version__ = "0.1.0"
