"""Routes the requests of containers, which call a service by its host name through the gateway container.

On Google every container calls `https://NAME-NUMBER.REGION.run.app`, or a domain; whether its request is internal for
the called service depends on its own egress setting. The names of `run.app` are public, so only a caller that sends all
its traffic through the VPC network comes from there.
"""

import json
import re
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.front_end.balancer import Balancer
from mcpfleet_local_cloud.front_end.routing import RoutedRequest, read_host
from mcpfleet_local_cloud.identity.metadata import Workload
from mcpfleet_local_cloud.services.iap.model import KEYS_HOST, KEYS_PATH, Keys
from mcpfleet_local_cloud.services.storage.routes import API as STORAGE_HOST
from mcpfleet_local_cloud.state.folder import Settings

_HOST: Final = re.compile(r"([a-z](?:[a-z0-9-]{0,47}[a-z0-9])?)-(\d{1,19})\.([a-z0-9-]{1,30})\.run\.app")


class ContainerRouter:
    """The router (`routing.Router`) for requests of containers.

    Args:
        find_endpoint: Finds a service's endpoint by its full name.
        balancer: The load balancers.
        find_workload: Finds the workload with an address on the cloud's network.
        settings: The settings of the local cloud.
    """

    def __init__(
        self,
        find_endpoint: Callable[[str], ServiceEndpoint | None],
        balancer: Balancer,
        find_workload: Callable[[str], Workload | None],
        settings: Settings,
    ) -> None:
        self._find_endpoint = find_endpoint
        self._balancer = balancer
        self._find_workload = find_workload
        self._settings = settings

    def resolves(self, host: str) -> bool:
        """Return whether this cloud serves *host*: a service of its project, a domain, keys, or Cloud Storage."""
        return (
            host in (KEYS_HOST, STORAGE_HOST)
            or self._parse_service(host) is not None
            or self._balancer.has_certificate(host)
        )

    def __call__(self, scope: Scope) -> RoutedRequest:
        """Route a container's request."""
        host = read_host(scope["headers"])
        service = self._parse_service(host)
        if service is None:
            query = scope["query_string"].decode("latin-1")
            return self._balancer.route_by_host(host, scope["path"], query) or RoutedRequest(endpoint=None)
        client: tuple[str, int] | None = scope["client"]
        caller = self._find_workload(client[0]) if client else None
        is_internal = caller is not None and caller.is_internal
        return RoutedRequest(endpoint=self._find_endpoint(service), is_internal=is_internal)

    def _parse_service(self, host: str) -> str | None:
        match = _HOST.fullmatch(host)
        if match is None or match[2] != str(self._settings.project_number):
            return None
        return f"projects/{self._settings.project}/locations/{match[3]}/services/{match[1]}"


def with_storage(storage: ASGIApp, front_end: ASGIApp) -> ASGIApp:
    """The ASGI app *front_end*, and Cloud Storage at its own host, for containers that call it as their account."""

    async def serve_storage(scope: Scope, receive: Receive, send: Send) -> None:
        is_storage = scope["type"] == "http" and read_host(scope["headers"]) == STORAGE_HOST
        await (storage if is_storage else front_end)(scope, receive, send)

    return serve_storage


def with_iap_keys(keys: Keys, front_end: ASGIApp) -> ASGIApp:
    """The ASGI app on port 443 of the gateway container: *front_end*, and the public keys of Identity-Aware Proxy.

    Libraries that verify the proxy's assertions have the keys' URL built in, where they would get Google's own keys.
    """

    async def serve_keys(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or read_host(scope["headers"]) != KEYS_HOST:
            await front_end(scope, receive, send)
            return
        is_found = scope["path"] == KEYS_PATH and scope["method"] in ("GET", "HEAD")
        body = json.dumps(keys.jwks()).encode() if is_found else b""
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200 if is_found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return serve_keys
