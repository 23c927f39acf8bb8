"""Rules between the domains of a fleet's servers: several servers can share a domain with a path for each."""

from collections.abc import Iterator, Mapping
from typing import Any

from pulumi_mcpfleet.fleet.base import Mistake
from pulumi_mcpfleet.fleet.server import Server


def domain_mistakes(servers: Mapping[str, Server], fleet: Mapping[str, Any]) -> Iterator[Mistake]:
    """Find domains and paths that two servers have; *fleet* has no keys with mistakes."""
    is_shared = fleet.get("load_balancer", "shared") == "shared"
    used: dict[tuple[str, str | None], str] = {}
    for name, server in servers.items():
        if server.domain is None:
            continue
        if server.domain_path is not None and not is_shared:
            message = f"{server.domain_path} needs one load balancer for all; write load_balancer: shared in the fleet"
            yield (name, "domain_path"), message
        address = (server.domain, server.domain_path if is_shared else None)
        other = used.setdefault(address, name)
        if other != name and server.domain_path is not None and is_shared:
            yield (name, "domain_path"), f"{server.domain}{server.domain_path} leads to {other} already; write another"
        elif other != name:
            alternative = ", or domain_path: /NAME to share it" if is_shared else ""
            yield (name, "domain"), f"{server.domain} leads to {other} already; write another{alternative}"
