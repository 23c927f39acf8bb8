"""Read the stack's config, check it, deploy the fleet, export where it answers."""

from pathlib import Path

import pulumi

from pulumi_mcpfleet.components.foundation import Foundation, FoundationArgs, apis_of
from pulumi_mcpfleet.components.mcp_client import McpClient, McpClientArgs
from pulumi_mcpfleet.components.prerequisites import needs
from pulumi_mcpfleet.components.servers import all_servers
from pulumi_mcpfleet.components.service_mesh import ServiceMesh, ServiceMeshArgs
from pulumi_mcpfleet.fleet import FleetError, parse_fleet
from pulumi_mcpfleet.outputs import clients_output, servers_output

root = Path(__file__).parent
project = pulumi.Config("gcp").require("project")
try:
    fleet = parse_fleet(pulumi.Config("mcpfleet").get_object("fleet"), root=root)
except FleetError as error:
    raise pulumi.RunError(str(error)) from None

regions, labels = fleet.all_regions, fleet.labels
foundation = Foundation(
    "fleet",
    FoundationArgs(
        project=project,
        region=regions[0],
        apis=apis_of(fleet),
        registry=fleet.registry,
        cloud_build=fleet.cloud_build,
        platform=fleet.platform,
        root=root,
        labels=labels,
        needs=needs(fleet, project),
    ),
)

called, networks = fleet.meshed
servers = all_servers(fleet, project, foundation)

mesh = None
if called:
    callees = {name: servers[name] for name in called}
    meshed = ServiceMeshArgs(project=project, foundation=foundation, servers=callees, networks=networks, labels=labels)
    mesh = ServiceMesh("fleet", meshed)
clients: dict[str, McpClient] = {}
for name, spec in fleet.clients.items():
    args = McpClientArgs(
        project=project, region=regions[0], foundation=foundation, spec=spec, servers=servers, mesh=mesh, labels=labels
    )
    clients[name] = McpClient(name, args)

pulumi.export("servers", servers_output(project, fleet, servers.values()))
pulumi.export("clients", clients_output(project, fleet, clients.values()))
