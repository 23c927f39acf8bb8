"""The data plane: revisions as Docker containers, under Cloud Run's container contract (docs/google-apis.md 5.2)."""

from mcpfleet_local_cloud.data_plane.cleanup import remove_docker_objects
from mcpfleet_local_cloud.data_plane.gateway import FrontEnd
from mcpfleet_local_cloud.data_plane.plane import DockerDataPlane

__all__ = ["DockerDataPlane", "FrontEnd", "remove_docker_objects"]
