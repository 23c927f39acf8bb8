"""Reaches the domains of the local cloud's load balancers, which no DNS server knows, as their clients would on Google.

The request keeps its URL, its Host and the name that TLS asks for; only the connection goes to the load balancer's
address on this machine, and its certificate is checked against the local cloud's own authority.
"""

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx2

from mcpfleet_local_cloud.commands.background import CloudFolder


def addresses(held: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Address and port of each domain's HTTPS load balancer, from the local cloud's inventory."""
    found: dict[str, tuple[str, int]] = {}
    for balancer in held.get("loadBalancers", []):
        parts = urlsplit(str(balancer["url"]))
        if parts.hostname and parts.port:
            found |= dict.fromkeys(balancer["domains"], (parts.hostname, parts.port))
    return found


class DomainTransport(httpx2.AsyncBaseTransport):
    """Carries requests to the load balancers of *place*; may be closed and used again.

    Args:
        place: Where the local cloud lives.
        known: Where each domain is served (`addresses`).
        inner: What carries a request in the end; the network where it is not given.
    """

    def __init__(
        self, place: CloudFolder, known: Mapping[str, tuple[str, int]], inner: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._authority = place.state / "cloud" / "ca" / "ca.pem"
        self._known = known
        self._given = inner
        self._inner: httpx2.AsyncBaseTransport | None = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send *request* to where its host is served."""
        host = request.url.host
        if host in self._known:
            address, port = self._known[host]
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
            self._inner = self._given

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close it with its client."""
        await self.aclose()
