"""Compute Engine v1, as far as networks of Cloud Run services and load balancers in front of them need it."""

from mcpfleet_local_cloud.services.compute.model import Compute
from mcpfleet_local_cloud.services.compute.routes import routes

__all__ = ["Compute", "routes"]
