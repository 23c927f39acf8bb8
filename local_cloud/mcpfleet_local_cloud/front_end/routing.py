"""How a request came to the front end, and which service it means.

Google routes by Host. Here a request comes
- *from outside*, at the loopback port that is the service's own;
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
    """One request's way in."""

    door: ServiceEndpoint | None
    """The service; None where there is none."""
    port: int = 0
    """The loopback port, where the Host header need not name the service."""
    inside: bool = False
    """Whether it comes from the project's own VPC network (docs/local-cloud.md says when a container does)."""
    balanced: bool = False
    """Whether it came through an external load balancer."""
    address: str = ""
    """The load balancer's own address; empty without one."""
    secure: bool = True
    """Whether the caller spoke HTTPS: always, but for a load balancer's forwarding rule of plain HTTP."""
    unserved: bool = False
    """Whether it came to a backend of a load balancer that has nothing in it."""
    redirect: tuple[int, str] | None = None
    """Status and location that a load balancer answers with by itself."""


Router = Callable[[Scope], RoutedRequest]
"""Says how the request with an ASGI scope arrived."""


def at_port(lookup: Callable[[int], ServiceEndpoint | None]) -> Router:
    """From outside: *lookup* knows the service of a loopback port."""

    def arrive(scope: Scope) -> RoutedRequest:
        port: int = scope["server"][1]
        return RoutedRequest(door=lookup(port), port=port)

    return arrive


def host_of(headers: Headers) -> str:
    """The host that the request names, without a port, in lower case; empty unless there is exactly one."""
    found = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
    if len(found) != 1:
        return ""
    name, _, port = found[0].rpartition(":")
    return name if name and port.isdigit() else found[0]
