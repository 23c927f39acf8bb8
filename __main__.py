"""Read the stack's config, check it, deploy the fleet, export where it answers."""

from pathlib import Path

import pulumi

from infra import apis
from infra.components.foundation import Foundation, FoundationArgs
from infra.components.mcp_server import McpServer, McpServerArgs
from infra.fleet import FleetError, parse_fleet
from infra.outputs import servers_output

project = pulumi.Config("gcp").require("project")
try:
    fleet = parse_fleet(pulumi.Config("mcpfleet").get_object("fleet"), root=Path(__file__).parent)
except FleetError as error:
    raise pulumi.RunError(str(error)) from None

foundation = Foundation(
    "fleet",
    FoundationArgs(
        project=project,
        region=fleet.all_regions[0],
        apis=apis.of_fleet(fleet),
        registry=fleet.registry,
        labels=fleet.labels,
    ),
)
servers = [
    McpServer(
        name,
        McpServerArgs(
            project=project, regions=fleet.all_regions, foundation=foundation, spec=spec, labels=fleet.labels
        ),
    )
    for name, spec in fleet.servers.items()
]

pulumi.export("servers", servers_output(project, fleet, servers))
