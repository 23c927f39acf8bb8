"""Cloud DNS v1: private zones, as far as containers on a VPC network ask for names in them."""

from local_cloud.services.dns.model import Dns
from local_cloud.services.dns.routes import routes

__all__ = ["Dns", "routes"]
