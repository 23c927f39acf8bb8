"""Agent Registry v1: a record of each service that agents can use. Nothing reads it here but its own API."""

from mcpfleet_local_cloud.services.agentregistry.routes import routes

__all__ = ["routes"]
