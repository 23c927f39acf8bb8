"""The stand-in for pulumi-docker-build: one resource type, no configuration of its own."""

from typing import Final

from mcpfleet_local_cloud.plugins.docker_build.image import Image
from mcpfleet_local_cloud.plugins.failures import CheckFailure, ProviderError
from mcpfleet_local_cloud.plugins.servicer import Provider
from mcpfleet_local_cloud.plugins.values import Properties

_KEYS: Final = frozenset({"host", "version", "pluginDownloadURL", "__internal"})


class DockerBuildProvider(Provider):
    """The `docker-build` plugin."""

    package = "docker-build"
    version = "0.0.22"

    def __init__(self) -> None:
        super().__init__([Image()])

    def check_configuration(self, name: str, news: Properties) -> list[CheckFailure]:
        """Every key that the stand-in does not have."""
        return [
            CheckFailure(f"docker-build:{key}: the local stand-in does not have this setting", key)
            for key in news
            if key not in _KEYS
        ]

    def configuration(self, news: Properties) -> None:
        """Docker is found through the environment.

        Raises:
            ProviderError: another Docker host is configured.
        """
        if news.get("host"):
            raise ProviderError("docker-build:host: the local stand-in takes the Docker host from DOCKER_HOST alone")
