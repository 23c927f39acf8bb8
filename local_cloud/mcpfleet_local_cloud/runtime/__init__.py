"""The data plane: revisions as Docker containers, under Cloud Run's container contract (google-apis.md 5.2)."""

from mcpfleet_local_cloud.runtime.bridge import Gateway
from mcpfleet_local_cloud.runtime.cleanup import remove_docker_objects
from mcpfleet_local_cloud.runtime.plane import DockerDataPlane

__all__ = ["DockerDataPlane", "Gateway", "remove_docker_objects"]
