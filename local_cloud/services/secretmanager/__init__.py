"""Secret Manager v1: secrets, their versions, who may read them."""

from local_cloud.services.secretmanager.model import SecretManager
from local_cloud.services.secretmanager.routes import routes

__all__ = ["SecretManager", "routes"]
