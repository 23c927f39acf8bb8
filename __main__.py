"""Read the stack's config, check it, deploy the fleet, export where it answers."""

from functools import partial
from pathlib import Path

import pulumi

from pulumi_mcpfleet import apis
from pulumi_mcpfleet.components.foundation import Foundation, FoundationArgs
from pulumi_mcpfleet.components.mcp_client import McpClient, McpClientArgs
from pulumi_mcpfleet.components.mcp_server import McpServer, McpServerArgs
from pulumi_mcpfleet.components.service_mesh import ServiceMesh, ServiceMeshArgs
from pulumi_mcpfleet.fleet import FleetError, parse_fleet
from pulumi_mcpfleet.outputs import clients_output, servers_output

root = Path(__file__).parent
project = pulumi.Config("gcp").require("project")
try:
    fleet = parse_fleet(pulumi.Config("mcpfleet").get_object("fleet"), root=root)
except FleetError as error:
    raise pulumi.RunError(str(error)) from None

regions, labels, needed = fleet.all_regions, fleet.labels, apis.of_fleet(fleet)
shared = partial(FoundationArgs, project=project, region=regions[0], apis=needed, root=root, labels=labels)
foundation = Foundation("fleet", shared(registry=fleet.registry, cloud_build=fleet.cloud_build))
of_server = partial(McpServerArgs, project=project, regions=regions, foundation=foundation, labels=labels)
called, networks = fleet.meshed
servers = {name: McpServer(name, of_server(spec=spec, in_mesh=name in called)) for name, spec in fleet.servers.items()}
of_mesh = partial(ServiceMeshArgs, project=project, foundation=foundation, labels=labels, networks=networks)
mesh = ServiceMesh("fleet", of_mesh(servers={name: servers[name] for name in called})) if called else None
of_client = partial(McpClientArgs, project=project, region=regions[0], foundation=foundation, labels=labels, mesh=mesh)
clients = {name: McpClient(name, of_client(spec=spec, servers=servers)) for name, spec in fleet.clients.items()}

pulumi.export("servers", servers_output(project, fleet, servers.values()))
pulumi.export("clients", clients_output(project, fleet, clients.values()))
