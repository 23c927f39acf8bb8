"""A registry for container images, as the OCI Distribution Specification 1.1 says, behind Google's IAM."""

from local_cloud.registry.blobs import BlobStore
from local_cloud.registry.catalog import Catalog, ImageName, RegistryError
from local_cloud.registry.routes import routes

__all__ = ["BlobStore", "Catalog", "ImageName", "RegistryError", "routes"]
