"""Network Services v1: meshes and their HTTP routes; `mesh.py` routes requests by them."""

from mcpfleet_local_cloud.services.networkservices.model import NetworkServices
from mcpfleet_local_cloud.services.networkservices.routes import routes

__all__ = ["NetworkServices", "routes"]
