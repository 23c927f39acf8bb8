"""A container image registry according to the OCI Distribution Specification 1.1, with Google's IAM."""

from mcpfleet_local_cloud.registry.blobs import BlobStore
from mcpfleet_local_cloud.registry.catalog import Catalog, ImageName, RegistryError
from mcpfleet_local_cloud.registry.routes import routes

__all__ = ["BlobStore", "Catalog", "ImageName", "RegistryError", "routes"]
