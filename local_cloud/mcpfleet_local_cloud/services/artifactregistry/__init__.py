"""Artifact Registry v1: Docker repositories, their policies and their cleanup."""

from mcpfleet_local_cloud.services.artifactregistry.model import ArtifactRegistry
from mcpfleet_local_cloud.services.artifactregistry.routes import routes

__all__ = ["ArtifactRegistry", "routes"]
