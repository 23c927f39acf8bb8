"""Connects to the domains of the local cloud's load balancers, which no DNS server resolves.

The request keeps its URL, its Host header and its TLS server name; only the connection goes to the load balancer's
address on this machine. Its certificate is checked against the local cloud's own certificate authority.
"""

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx2

from mcpfleet_local_cloud.commands.background import CloudFolder


def parse_balancer_addresses(inventory: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Parse the address and port of each domain's HTTPS load balancer from the local cloud's inventory."""
    addresses: dict[str, tuple[str, int]] = {}
    for balancer in inventory.get("loadBalancers", []):
        parts = urlsplit(str(balancer["url"]))
        if parts.hostname and parts.port:
            addresses |= dict.fromkeys(balancer["domains"], (parts.hostname, parts.port))
    return addresses


class DomainTransport(httpx2.AsyncBaseTransport):
    """Sends requests to the load balancers of the local cloud in *folder*. It may be closed and used again.

    Args:
        folder: The checkout folder of the local cloud.
        addresses: Address and port of each domain (`parse_balancer_addresses`).
        inner: The transport that sends the requests. Default: the network.
    """

    def __init__(
        self,
        folder: CloudFolder,
        addresses: Mapping[str, tuple[str, int]],
        inner: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._authority = folder.state / "cloud" / "ca" / "ca.pem"
        self._addresses = addresses
        self._initial_inner = inner
        self._inner: httpx2.AsyncBaseTransport | None = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send *request* to the address of its host."""
        host = request.url.host
        if host in self._addresses:
            address, port = self._addresses[host]
            request.extensions = {**request.extensions, "sni_hostname": host}
            request.url = request.url.copy_with(host=address, port=port)
        if self._inner is None:
            trusted = ssl.create_default_context(cafile=str(self._authority))
            self._inner = httpx2.AsyncHTTPTransport(verify=trusted)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._inner is not None:
            await self._inner.aclose()
            self._inner = self._initial_inner

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close it with its client."""
        await self.aclose()
