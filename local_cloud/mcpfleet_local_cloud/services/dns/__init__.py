"""Cloud DNS v1: private zones, whose names containers on a VPC network can resolve."""

from mcpfleet_local_cloud.services.dns.model import Dns
from mcpfleet_local_cloud.services.dns.routes import routes

__all__ = ["Dns", "routes"]
