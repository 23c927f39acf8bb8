"""Cloud Build v1: builds of images from uploaded sources."""

from mcpfleet_local_cloud.services.cloudbuild.model import Builds
from mcpfleet_local_cloud.services.cloudbuild.routes import routes
from mcpfleet_local_cloud.services.cloudbuild.worker import Step, StepError, Worker

__all__ = ["Builds", "Step", "StepError", "Worker", "routes"]
