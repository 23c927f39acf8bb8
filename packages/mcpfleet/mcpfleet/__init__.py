"""Reach private MCP servers on Cloud Run: ID tokens, a local proxy, checks."""
