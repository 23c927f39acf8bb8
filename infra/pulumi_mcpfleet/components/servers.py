"""The servers of a fleet, and the load balancer that their domains share."""

from pulumi_mcpfleet.components.foundation import Foundation
from pulumi_mcpfleet.components.load_balancer import LoadBalancer, LoadBalancerArgs
from pulumi_mcpfleet.components.mcp_server import McpServer, McpServerArgs
from pulumi_mcpfleet.fleet import Fleet


def all_servers(fleet: Fleet, project: str, foundation: Foundation) -> dict[str, McpServer]:
    """Make every server of *fleet*, by name."""
    called, _ = fleet.meshed
    servers: dict[str, McpServer] = {}
    for name, spec in fleet.servers.items():
        args = McpServerArgs(
            project=project,
            regions=fleet.all_regions,
            foundation=foundation,
            spec=spec,
            balanced=fleet.load_balancer != "shared",
            in_mesh=name in called,
            labels=fleet.labels,
        )
        servers[name] = McpServer(name, args)
    backends = {name: server.backend for name, server in servers.items() if server.backend is not None}
    if backends and fleet.load_balancer != "per-server":
        args = LoadBalancerArgs(project=project, backends=backends, apis=foundation.apis, labels=fleet.labels)
        balancer = LoadBalancer("fleet", args)
        for name in backends:
            servers[name].behind(balancer)
    return servers
