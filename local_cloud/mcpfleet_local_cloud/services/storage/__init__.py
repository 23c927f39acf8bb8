"""Cloud Storage's JSON API v1: buckets for volumes and for the sources of builds."""

from mcpfleet_local_cloud.services.storage.model import Storage
from mcpfleet_local_cloud.services.storage.routes import routes

__all__ = ["Storage", "routes"]
