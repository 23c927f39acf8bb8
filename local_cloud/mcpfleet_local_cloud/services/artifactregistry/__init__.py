"""Artifact Registry v1: Docker repositories, their IAM policies and their cleanup policies."""

from mcpfleet_local_cloud.services.artifactregistry.model import ArtifactRegistry
from mcpfleet_local_cloud.services.artifactregistry.routes import routes

__all__ = ["ArtifactRegistry", "routes"]
