"""Routes a request to its service.

Google routes by Host. Here a request comes
- *from outside*, at the service's own loopback port;
- *from a container*, at the gateway container, by the service's deterministic host or a domain;
- *through a load balancer*, at its forwarding rule's address, by the domain's URL map.
"""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Scope

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.network.upstream import Headers


@dataclass(frozen=True, kw_only=True)
class RoutedRequest:
    """The service of a request, and the way by which the request came."""

    endpoint: ServiceEndpoint | None
    """The service; None if there is none."""
    port: int = 0
    """The loopback port, at which the Host header need not name the service; 0 for other requests."""
    is_internal: bool = False
    """Whether it comes from the project's own VPC network (docs/local-cloud.md says when a container does)."""
    is_balanced: bool = False
    """Whether it came through an external load balancer."""
    balancer_address: str = ""
    """The load balancer's own address; empty without one."""
    is_https: bool = True
    """Whether the caller used HTTPS: always, except for a load balancer's forwarding rule of plain HTTP."""
    has_no_backend: bool = False
    """Whether the load balancer's backend is empty."""
    redirect: tuple[int, str] | None = None
    """Status and location of a load balancer's redirect."""


Router = Callable[[Scope], RoutedRequest]
"""Routes the request of an ASGI scope."""


def route_by_port(find_endpoint: Callable[[int], ServiceEndpoint | None]) -> Router:
    """Return a router for requests from outside; *find_endpoint* finds the service of a loopback port."""

    def route(scope: Scope) -> RoutedRequest:
        port: int = scope["server"][1]
        return RoutedRequest(endpoint=find_endpoint(port), port=port)

    return route


def read_host(headers: Headers) -> str:
    """Read the request's host, without a port, in lower case; empty unless there is exactly one Host header."""
    hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return ""
    name, _, port = hosts[0].rpartition(":")
    return name if name and port.isdigit() else hosts[0]
