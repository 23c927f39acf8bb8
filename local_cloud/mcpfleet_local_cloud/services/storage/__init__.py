"""Cloud Storage's JSON API v1, as far as buckets for volumes and for source builds need it."""

from mcpfleet_local_cloud.services.storage.model import Storage
from mcpfleet_local_cloud.services.storage.routes import routes

__all__ = ["Storage", "routes"]
