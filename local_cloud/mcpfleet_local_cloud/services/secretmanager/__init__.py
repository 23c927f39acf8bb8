"""Secret Manager v1: secrets, their versions and their IAM policies."""

from mcpfleet_local_cloud.services.secretmanager.model import SecretManager
from mcpfleet_local_cloud.services.secretmanager.routes import routes

__all__ = ["SecretManager", "routes"]
