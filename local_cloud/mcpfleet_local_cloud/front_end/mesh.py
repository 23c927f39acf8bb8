"""Cloud Service Mesh for containers: the names of private zones, and the sidecar proxy of a revision in a mesh.

On Google an Envoy proxy runs as a sidecar of a revision that names a mesh. It takes every request to an RFC 1918
address, finds the host's HTTP route, and calls the backend's Cloud Run service at its default URL, with an ID token of
the revision's account (docs.cloud.google.com/service-mesh, "Configure Cloud Service Mesh for Cloud Run"). Here names
resolve to the gateway container, and this module is the proxy: its requests pass the same front end as all others.

Google does not document the details; they are Envoy's: its `gcp_authn` filter replaces `Authorization`, an unknown host
gets 404 without a body, a backend without a service 503. The Host is the service's own, because Google's front end
routes by it, and a service whose default URL is disabled cannot be reached over the mesh.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_local_cloud.data_plane.contract import Revision, RolloutError, ServiceEndpoint
from mcpfleet_local_cloud.front_end.routing import read_host
from mcpfleet_local_cloud.identity.metadata import Workload
from mcpfleet_local_cloud.network.upstream import Headers
from mcpfleet_local_cloud.services.compute.documents import parse_reference
from mcpfleet_local_cloud.services.compute.model import Compute
from mcpfleet_local_cloud.services.dns import Dns
from mcpfleet_local_cloud.services.networkservices import NetworkServices

APIS: Final = ("networksecurity.googleapis.com", "networkservices.googleapis.com", "trafficdirector.googleapis.com")
CONFIG_PERMISSION: Final = "trafficdirector.networks.getConfigs"
_CAPTURED_RANGES: Final = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_TOKEN_SECONDS: Final = 45 * 60
"""Seconds for which a token is reused; it is valid for an hour."""
_CACHED_TOKENS: Final = 1024


class Permissions(Protocol):
    """The part of `policy.Policies` that this module needs."""

    def allows(self, email: str | None, permission: str, resource: str) -> bool:
        """Return whether *email* has *permission* on *resource*."""
        ...


@dataclass(frozen=True)
class Route:
    """The target of a request through the proxy."""

    host: str
    """The service's own host."""
    token: str
    """An ID token of the caller's account, for that service."""
    timeout: float | None = None
    """The time limit of the request in seconds; None: only the service's own."""


class Mesh:
    """The service meshes of the project.

    Args:
        zones: The DNS zones.
        routing: The meshes and routes.
        compute: The backend services and their groups.
        find_endpoint: Finds a service's endpoint by its full name.
        policies: The IAM policies.
        enabled: Whether an API is enabled in a project (its id).
        token: Returns an ID token of an account, by e-mail, for an audience.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        *,
        zones: Dns,
        routing: NetworkServices,
        compute: Compute,
        find_endpoint: Callable[[str], ServiceEndpoint | None],
        policies: Permissions,
        enabled: Callable[[str, str], bool],
        token: Callable[[str, str], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._zones = zones
        self._routing = routing
        self._compute = compute
        self._find_endpoint = find_endpoint
        self._policies = policies
        self._enabled = enabled
        self._token = token
        self._clock = clock
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}

    def resolves(self, host: str, caller: Workload | None) -> bool:
        """Return whether the caller's proxy takes requests to *host*: it has an address that the proxy captures.

        For a container outside of a mesh the name does not resolve here. On Google it resolves, but no server answers.
        """
        if caller is None or not caller.mesh or not caller.network:
            return False
        addresses = self._zones.resolve(caller.network, host)
        return any(ipaddress.IPv4Address(address) in network for address in addresses for network in _CAPTURED_RANGES)

    def route(self, host: str, caller: Workload) -> Route | None:
        """Find the route for *host* in the caller's mesh; None if there is none.

        Raises:
            LookupError: The route's backend has no service.
        """
        route = self._routing.resolve_backend(caller.mesh, host)
        if route is None:
            return None
        backend, timeout = route
        endpoint = next(self._find_endpoints(backend), None)
        if endpoint is None:
            raise LookupError(backend)
        name = min(endpoint.hosts)
        return Route(name, self._id_token(caller.service_account, f"https://{name}"), timeout)

    def check(self, revision: Revision) -> None:
        """Check that the revision's proxy would get its configuration; without it, the proxy does not start.

        Raises:
            RolloutError: The mesh, an API or a permission is missing.
        """
        if not revision.mesh:
            return
        start = f"Revision '{revision.name}' is not ready and cannot serve traffic. The proxy of its service mesh "
        if not self._routing.exists(revision.mesh):
            raise RolloutError(f"{start}found no mesh {revision.mesh}.")
        for api in APIS:
            if not self._enabled(revision.project, api):
                raise RolloutError(f"{start}failed to start: {api} is not enabled in project {revision.project}.")
        if not self._policies.allows(revision.service_account, CONFIG_PERMISSION, f"projects/{revision.project}"):
            raise RolloutError(
                f"{start}failed to start: the service account {revision.service_account} lacks {CONFIG_PERMISSION} on "
                "the project. Grant it 'Traffic Director Client' (roles/trafficdirector.client) there."
            )

    def _find_endpoints(self, backend: str) -> Iterator[ServiceEndpoint]:
        """Find the endpoints of a backend service: Google takes the nearest region's, this proxy the first."""
        record = self._compute.find(backend) or {}
        for backend_item in record.get("backends", []):
            group = parse_reference(backend_item["group"])
            endpoint_group = self._compute.find(group) or {}
            _, project, _, region, *_ = group.split("/")
            service = endpoint_group.get("cloudRun", {}).get("service", "")
            endpoint = self._find_endpoint(f"projects/{project}/locations/{region}/services/{service}")
            if endpoint is not None:
                yield endpoint

    def _id_token(self, account: str, audience: str) -> str:
        token, expires = self._tokens.get((account, audience), ("", 0.0))
        if self._clock() >= expires:
            token = self._token(account, audience)
            if len(self._tokens) >= _CACHED_TOKENS:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[account, audience] = (token, self._clock() + _TOKEN_SECONDS)
        return token


def create_proxy(
    mesh: Mesh, find_workload: Callable[[str], Workload | None], front_end: ASGIApp, metadata: ASGIApp
) -> ASGIApp:
    """Create the app on port 80 of the gateway: the caller's proxy for names of its mesh, else the metadata server.

    Args:
        mesh: The meshes.
        find_workload: Finds the workload with an address on the cloud's network.
        front_end: Cloud Run's front end for requests of containers.
        metadata: The metadata server.
    """

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        client: tuple[str, int] | None = scope["client"]
        caller = find_workload(client[0]) if client else None
        host = read_host(scope["headers"])
        if caller is None or not mesh.resolves(host, caller):
            await metadata(scope, receive, send)
            return
        try:
            route = mesh.route(host, caller)
        except LookupError:
            await _send_envoy_response(send, 503, b"no healthy upstream")
            return
        if route is None:
            await _send_envoy_response(send, 404, b"")
            return
        has_started = False

        async def send_message(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            async with asyncio.timeout(route.timeout):
                await front_end({**scope, "headers": _proxied_headers(route, scope["headers"])}, receive, send_message)
        except TimeoutError:
            if not has_started:  # a response that has started is cut off
                await _send_envoy_response(send, 504, b"upstream request timeout")

    return proxy


def _proxied_headers(route: Route, headers: Headers) -> Headers:
    """The headers of the request that the proxy sends."""
    others = [(name, value) for name, value in headers if name not in (b"host", b"authorization")]
    return [(b"host", route.host.encode()), (b"authorization", b"Bearer " + route.token.encode()), *others]


async def _send_envoy_response(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"server", b"envoy")]
    if body:
        headers.append((b"content-type", b"text/plain"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
