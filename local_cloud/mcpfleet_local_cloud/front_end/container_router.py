"""How a container's request arrives: by the service's own name, at the gateway container.

On Google a container calls `https://NAME-NUMBER.REGION.run.app`, or a domain, whoever it is; whether it is *inside* for
the called service depends on its own way out. The names of `run.app` are public, so only a caller that sends all its
traffic through the VPC network arrives from there.
"""

import json
import re
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.front_end.balancer import Balancer
from mcpfleet_local_cloud.front_end.routing import RoutedRequest, host_of
from mcpfleet_local_cloud.identity.metadata import Workload
from mcpfleet_local_cloud.services.iap.model import KEYS_HOST, KEYS_PATH, Keys
from mcpfleet_local_cloud.state.folder import Settings

_HOST: Final = re.compile(r"([a-z](?:[a-z0-9-]{0,47}[a-z0-9])?)-(\d{1,19})\.([a-z0-9-]{1,30})\.run\.app")


class ContainerRouter:
    """See `routing.Router`.

    Args:
        doors: the front door of a service, by its full name.
        balancer: the load balancers.
        workload: who has an address on the cloud's network.
        settings: the cloud.
    """

    def __init__(
        self,
        doors: Callable[[str], ServiceEndpoint | None],
        balancer: Balancer,
        workload: Callable[[str], Workload | None],
        settings: Settings,
    ) -> None:
        self._doors = doors
        self._balancer = balancer
        self._workload = workload
        self._settings = settings

    def named(self, host: str) -> bool:
        """Whether *host* leads to this cloud: a service of its project, whether it exists or not, a domain, or keys."""
        return host == KEYS_HOST or self._service(host) is not None or self._balancer.secured(host)

    def __call__(self, scope: Scope) -> RoutedRequest:
        """The arrival of a container's request."""
        host = host_of(scope["headers"])
        service = self._service(host)
        if service is None:
            query = scope["query_string"].decode("latin-1")
            return self._balancer.arrive_by_name(host, scope["path"], query) or RoutedRequest(door=None)
        client: tuple[str, int] | None = scope["client"]
        caller = self._workload(client[0]) if client else None
        return RoutedRequest(door=self._doors(service), inside=caller is not None and caller.inside)

    def _service(self, host: str) -> str | None:
        found = _HOST.fullmatch(host)
        if found is None or found[2] != str(self._settings.project_number):
            return None
        return f"projects/{self._settings.project}/locations/{found[3]}/services/{found[1]}"


def with_iap_keys(keys: Keys, front: ASGIApp) -> ASGIApp:
    """The ASGI app at port 443 of the gateway container: *front*, and the proxy's public keys by their own host.

    Whoever checks the assertions of Identity-Aware Proxy has that address built in, and would find Google's own keys
    there, which sign nothing here.
    """

    async def published(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or host_of(scope["headers"]) != KEYS_HOST:
            await front(scope, receive, send)
            return
        found = scope["path"] == KEYS_PATH and scope["method"] in ("GET", "HEAD")
        body = json.dumps(keys.jwks()).encode() if found else b""
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return published
