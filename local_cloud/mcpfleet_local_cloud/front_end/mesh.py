"""Cloud Service Mesh, as containers meet it: names of private zones, and the proxy beside a revision in a mesh.

On Google an Envoy proxy runs beside the containers of a revision that names a mesh. It takes every request to an RFC
1918 address, finds the host's HTTP route, and calls the backend's Cloud Run service at its default URL, with an ID
token of the revision's account (docs.cloud.google.com/service-mesh, "Configure Cloud Service Mesh for Cloud Run"). Here
names lead to the gateway container, and this module is the proxy: what it sends on passes the same front
end as every other request.

Of its details Google documents none; they are as Envoy's own: its `gcp_authn` filter replaces `Authorization`, an
unknown host is a 404 without a body, a backend without a service 503. The Host is the service's own, because Google's
front end routes by it, and a service whose default URL is switched off cannot be reached over the mesh.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_local_cloud.data_plane.contract import Revision, RolloutError, ServiceEndpoint
from mcpfleet_local_cloud.front_end.routing import host_of
from mcpfleet_local_cloud.identity.metadata import Workload
from mcpfleet_local_cloud.network.upstream import Headers
from mcpfleet_local_cloud.services.compute.documents import parse_reference
from mcpfleet_local_cloud.services.compute.model import Compute
from mcpfleet_local_cloud.services.dns import Dns
from mcpfleet_local_cloud.services.networkservices import NetworkServices

APIS: Final = ("networksecurity.googleapis.com", "networkservices.googleapis.com", "trafficdirector.googleapis.com")
CONFIGURED: Final = "trafficdirector.networks.getConfigs"
_CAPTURED: Final = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_TOKEN_SECONDS: Final = 45 * 60
"""How long a token is used; it lives an hour."""
_TOKENS: Final = 1024


class Rights(Protocol):
    """The part of `policy.Policies` that is needed here."""

    def allows(self, email: str | None, permission: str, resource: str) -> bool:
        """Whether *email* has *permission* on *resource*."""
        ...


@dataclass(frozen=True)
class Route:
    """Where the proxy sends a request."""

    host: str
    """The service's own host."""
    token: str
    """Of the caller's account, for that service."""
    timeout: float | None = None
    """Seconds that the request may take; None: as long as the service lets it."""


class Mesh:
    """What the meshes of the project do.

    Args:
        zones: answer for names.
        routing: meshes and routes.
        compute: backend services and their groups.
        doors: the front door of a service, by its full name.
        policies: know what an account may do.
        enabled: whether a project (its id) has an API.
        token: an ID token of an account, by e-mail, for an audience.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        zones: Dns,
        routing: NetworkServices,
        compute: Compute,
        doors: Callable[[str], ServiceEndpoint | None],
        policies: Rights,
        enabled: Callable[[str, str], bool],
        token: Callable[[str, str], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._zones = zones
        self._routing = routing
        self._compute = compute
        self._doors = doors
        self._policies = policies
        self._enabled = enabled
        self._token = token
        self._clock = clock
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}

    def resolves(self, host: str, caller: Workload | None) -> bool:
        """Whether the caller's proxy takes requests to *host*: its network knows an address that the proxy captures.

        A container outside of a mesh does not find the name here. On Google it finds the address, and nobody there.
        """
        if caller is None or not caller.mesh or not caller.network:
            return False
        found = self._zones.resolve(caller.network, host)
        return any(ipaddress.IPv4Address(one) in network for one in found for network in _CAPTURED)

    def route(self, host: str, caller: Workload) -> Route | None:
        """Where *host* leads in the caller's mesh; None where no route is for it.

        Raises:
            LookupError: the route's backend has no service.
        """
        found = self._routing.resolve_backend(caller.mesh, host)
        if found is None:
            return None
        backend, timeout = found
        door = next(self._services(backend), None)
        if door is None:
            raise LookupError(backend)
        name = min(door.hosts)
        return Route(name, self._identity(caller.service_account, f"https://{name}"), timeout)

    def check(self, revision: Revision) -> None:
        """Refuse a revision whose proxy would get no configuration, and so would not start.

        Raises:
            RolloutError: says what it lacks.
        """
        if not revision.mesh:
            return
        start = f"Revision '{revision.name}' is not ready and cannot serve traffic. The proxy of its service mesh "
        if not self._routing.exists(revision.mesh):
            raise RolloutError(f"{start}found no mesh {revision.mesh}.")
        for api in APIS:
            if not self._enabled(revision.project, api):
                raise RolloutError(f"{start}failed to start: {api} is not enabled in project {revision.project}.")
        if not self._policies.allows(revision.service_account, CONFIGURED, f"projects/{revision.project}"):
            raise RolloutError(
                f"{start}failed to start: the service account {revision.service_account} lacks {CONFIGURED} on the "
                "project. Grant it 'Traffic Director Client' (roles/trafficdirector.client) there."
            )

    def _services(self, backend: str) -> Iterator[ServiceEndpoint]:
        """The front doors behind a backend service: on Google the nearest region's is taken, here the first."""
        record = self._compute.find(backend) or {}
        for one in record.get("backends", []):
            group = parse_reference(one["group"])
            found = self._compute.find(group) or {}
            _, project, _, region, *_ = group.split("/")
            service = found.get("cloudRun", {}).get("service", "")
            door = self._doors(f"projects/{project}/locations/{region}/services/{service}")
            if door is not None:
                yield door

    def _identity(self, account: str, audience: str) -> str:
        token, until = self._tokens.get((account, audience), ("", 0.0))
        if self._clock() >= until:
            token = self._token(account, audience)
            if len(self._tokens) >= _TOKENS:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[account, audience] = (token, self._clock() + _TOKEN_SECONDS)
        return token


def create_proxy(mesh: Mesh, workload: Callable[[str], Workload | None], front: ASGIApp, metadata: ASGIApp) -> ASGIApp:
    """What answers on port 80 of the gateway: the caller's proxy for names of its mesh, else the metadata server.

    Args:
        mesh: says which names are whose, and where they lead.
        workload: who has an address on the cloud's network.
        front: Cloud Run's front end, as a container reaches it.
        metadata: the metadata server.
    """

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        client: tuple[str, int] | None = scope["client"]
        caller = workload(client[0]) if client else None
        host = host_of(scope["headers"])
        if caller is None or not mesh.resolves(host, caller):
            await metadata(scope, receive, send)
            return
        try:
            route = mesh.route(host, caller)
        except LookupError:
            await _envoy(send, 503, b"no healthy upstream")
            return
        if route is None:
            await _envoy(send, 404, b"")
            return
        began = False

        async def sent(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            async with asyncio.timeout(route.timeout):
                await front({**scope, "headers": _as(route, scope["headers"])}, receive, sent)
        except TimeoutError:
            if not began:  # what has begun is cut off
                await _envoy(send, 504, b"upstream request timeout")

    return proxy


def _as(route: Route, headers: Headers) -> Headers:
    """The request's headers as the proxy sends them on."""
    kept = [(name, value) for name, value in headers if name not in (b"host", b"authorization")]
    return [(b"host", route.host.encode()), (b"authorization", b"Bearer " + route.token.encode()), *kept]


async def _envoy(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"server", b"envoy")]
    if body:
        headers.append((b"content-type", b"text/plain"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
