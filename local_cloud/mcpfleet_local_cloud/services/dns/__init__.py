"""Cloud DNS v1: private zones, as far as containers on a VPC network ask for names in them."""

from mcpfleet_local_cloud.services.dns.model import Dns
from mcpfleet_local_cloud.services.dns.routes import routes

__all__ = ["Dns", "routes"]
