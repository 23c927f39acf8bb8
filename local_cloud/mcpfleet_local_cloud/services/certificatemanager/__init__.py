"""Certificate Manager v1: certificates and the maps from which load balancers choose; `balancer.py` serves them."""

from mcpfleet_local_cloud.services.certificatemanager.model import CertificateManager
from mcpfleet_local_cloud.services.certificatemanager.routes import routes

__all__ = ["CertificateManager", "routes"]
