"""Compute Engine v1: the resources of load balancers and networks of Cloud Run services."""

from mcpfleet_local_cloud.services.compute.model import Compute
from mcpfleet_local_cloud.services.compute.routes import routes

__all__ = ["Compute", "routes"]
