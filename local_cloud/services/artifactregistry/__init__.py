"""Artifact Registry v1: Docker repositories, their policies and their cleanup."""

from local_cloud.services.artifactregistry.model import ArtifactRegistry
from local_cloud.services.artifactregistry.routes import routes

__all__ = ["ArtifactRegistry", "routes"]
