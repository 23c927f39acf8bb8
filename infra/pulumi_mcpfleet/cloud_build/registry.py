"""A client of image registries (OCI Distribution Specification)."""

from collections.abc import Callable
from typing import Final

import httpx2

_MANIFEST_TYPES: Final = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_NOT_FOUND: Final = 404

Login = tuple[str, str]
"""User name and password."""


class ImageRegistry:
    """Looks up and deletes images in the registries that their names refer to.

    Args:
        login: Returns the credentials for a registry's host, or None for anonymous requests.
        transport: The HTTP transport; None for the network.
    """

    def __init__(self, login: Callable[[str], Login | None], transport: httpx2.BaseTransport | None = None) -> None:
        self._login = login
        self._transport = transport

    def has_image(self, image: str, digest: str) -> bool | None:
        """Whether the registry has *image* (without tag) with *digest*; None if the registry doesn't tell."""
        try:
            response = self._request("HEAD", image, digest)
        except httpx2.TransportError:
            return None
        if response.status_code == _NOT_FOUND:
            return False
        return True if response.is_success else None

    def delete(self, image: str, digest: str) -> None:
        """Delete an image. Errors are ignored, because the repository's clean-up policies delete it later."""
        try:
            self._request("DELETE", image, digest)
        except httpx2.TransportError:
            return

    def _request(self, method: str, image: str, digest: str) -> httpx2.Response:
        host, _, path = image.partition("/")
        # As Docker does, use plain HTTP for registries on loopback.
        is_plain = host.startswith(("127.", "localhost:", "[::1]")) or host == "localhost"
        url = f"{'http' if is_plain else 'https'}://{host}/v2/{path}/manifests/{digest}"
        with httpx2.Client(transport=self._transport, timeout=30, trust_env=not is_plain) as client:
            return client.request(method, url, headers={"accept": _MANIFEST_TYPES}, auth=self._login(host))
