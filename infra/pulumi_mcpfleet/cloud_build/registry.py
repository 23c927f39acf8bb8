"""Images in their registry, over the registry's own API (OCI Distribution Specification)."""

from collections.abc import Callable
from typing import Final

import httpx2

_MANIFESTS: Final = ", ".join(
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


class Registry:
    """The registries that images name.

    Args:
        login: What a registry is told about who asks, by its host; None: nothing.
        transport: What carries the requests; the network where it is None.
    """

    def __init__(self, login: Callable[[str], Login | None], transport: httpx2.BaseTransport | None = None) -> None:
        self._login = login
        self._transport = transport

    def has(self, image: str, digest: str) -> bool | None:
        """Whether the registry has *image*, named without a tag, under *digest*; None where it does not tell."""
        try:
            answer = self._asked("HEAD", image, digest)
        except httpx2.TransportError:
            return None
        if answer.status_code == _NOT_FOUND:
            return False
        return True if answer.is_success else None

    def delete(self, image: str, digest: str) -> None:
        """Delete it, without complaint where the registry will not: the repository's clean-up policies are there."""
        try:
            self._asked("DELETE", image, digest)
        except httpx2.TransportError:
            return

    def _asked(self, method: str, image: str, digest: str) -> httpx2.Response:
        host, _, path = image.partition("/")
        # Docker takes registries on loopback for plain ones, and so does this.
        plain = host.startswith(("127.", "localhost:", "[::1]")) or host == "localhost"
        url = f"{'http' if plain else 'https'}://{host}/v2/{path}/manifests/{digest}"
        with httpx2.Client(transport=self._transport, timeout=30, trust_env=not plain) as client:
            return client.request(method, url, headers={"accept": _MANIFESTS}, auth=self._login(host))
