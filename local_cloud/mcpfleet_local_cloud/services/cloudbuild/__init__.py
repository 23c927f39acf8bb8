"""Cloud Build v1, as far as building an image from an uploaded source needs it."""

from mcpfleet_local_cloud.services.cloudbuild.model import Builds
from mcpfleet_local_cloud.services.cloudbuild.routes import routes
from mcpfleet_local_cloud.services.cloudbuild.worker import Step, StepError, Worker

__all__ = ["Builds", "Step", "StepError", "Worker", "routes"]
