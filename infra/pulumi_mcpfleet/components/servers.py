"""Creates the servers of a fleet, and the load balancer that their domains share."""

import pulumi

from pulumi_mcpfleet.components.deferred import Deferred
from pulumi_mcpfleet.components.foundation import Foundation
from pulumi_mcpfleet.components.load_balancer import LoadBalancer, LoadBalancerArgs
from pulumi_mcpfleet.components.mcp_server import McpServer, ServerInFleet
from pulumi_mcpfleet.fleet import Fleet


def create_servers(
    fleet: Fleet, project: str, foundation: Foundation, *, name: str, child: pulumi.ResourceOptions, deferred: Deferred
) -> dict[str, McpServer]:
    """Create every server of *fleet*, and return them by name.

    Args:
        fleet: The fleet.
        project: The Google Cloud project.
        foundation: The resources that the servers share.
        name: The name of the load balancer.
        child: The options of each component.
        deferred: The outputs among the fleet's arguments.
    """
    mesh_servers, _ = fleet.mesh
    servers: dict[str, McpServer] = {}
    for server, spec in fleet.servers.items():
        args = ServerInFleet(
            project=project,
            regions=fleet.all_regions,
            foundation=foundation,
            spec=spec,
            balanced=fleet.load_balancer != "shared",
            in_mesh=server in mesh_servers,
            labels=fleet.labels,
            deferred=deferred,
        )
        servers[server] = McpServer.in_fleet(server, args, child)
    backends = {name: server.backend for name, server in servers.items() if server.backend is not None}
    if backends and fleet.load_balancer != "per-server":
        args = LoadBalancerArgs(project=project, backends=backends, apis=foundation.apis, labels=fleet.labels)
        load_balancer = LoadBalancer(name, args, child)
        for server in backends:
            servers[server].use_load_balancer(load_balancer)
    return servers
