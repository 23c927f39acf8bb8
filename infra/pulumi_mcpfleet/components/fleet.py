"""A whole fleet as one component: what its servers share, the servers, the clients, the mesh and the load balancer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import pulumi

from pulumi_mcpfleet import config, outputs
from pulumi_mcpfleet.components.alone import PROJECT, Arguments, read_fleet
from pulumi_mcpfleet.components.arguments import FleetArgs
from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet, apis_of
from pulumi_mcpfleet.components.mcp_client import ClientInFleet, McpClient
from pulumi_mcpfleet.components.mcp_server import McpServer
from pulumi_mcpfleet.components.prerequisites import needs
from pulumi_mcpfleet.components.servers import all_servers
from pulumi_mcpfleet.components.service_mesh import ServiceMesh, ServiceMeshArgs
from pulumi_mcpfleet.fleet import FleetError, parse_fleet
from pulumi_mcpfleet.outputs import ClientOutput, ServerOutput
from pulumi_mcpfleet.tokens import FLEET


class Fleet(pulumi.ComponentResource):
    """MCP servers on Cloud Run, and the clients that call them.

    Its parts keep the names that they had when a program created each of them itself, and are aliased to their places
    of that time: a stack of such a program changes nothing of them.
    """

    servers: dict[str, ServerOutput]
    """Where each server answers and how it is called, by name."""

    clients: dict[str, ClientOutput]
    """Where each client answers, by name."""

    def __init__(self, name: str, args: FleetArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Create the fleet *name*.

        Args:
            name: The component's name, and that of what its servers share.
            args: The fleet.
            opts: The component's options; its parts have its providers, transforms and `protect`.

        Raises:
            pulumi.RunError: The fleet has mistakes; all of them are in the text, one to a line.
        """
        found = read_fleet(args)
        project, spec, deferred = found.project, found.fleet, found.deferred
        opts = deferred.options(opts)
        super().__init__(FLEET, name, None, opts)
        child = pulumi.ResourceOptions(parent=self, aliases=[pulumi.Alias(parent=pulumi.ROOT_STACK_RESOURCE)])
        foundation = Foundation.in_fleet(
            name,
            FoundationInFleet(
                project=project,
                region=spec.all_regions[0],
                apis=apis_of(spec),
                registry=spec.registry,
                cloud_build=spec.cloud_build,
                platform=spec.platform,
                root=Path.cwd(),
                labels=spec.labels,
                needs=[need for need in needs(spec, project) if not deferred.is_placeholder(need.arguments)],
            ),
            child,
        )
        servers = all_servers(spec, project, foundation, name=name, child=child, deferred=deferred)
        clients = _clients(found, foundation, servers, name=name, child=child)
        self.servers = deferred.resolve(outputs.servers_output(project, spec, servers.values()))
        self.clients = deferred.resolve(outputs.clients_output(project, spec, clients.values()))
        self.register_outputs({"servers": self.servers, "clients": self.clients})

    @classmethod
    def from_config(cls, name: str = "fleet", opts: pulumi.ResourceOptions | None = None) -> Self:
        """The fleet in the stack's config file: `mcpfleet:fleet`, in the project `gcp:project`.

        Folders in it are looked for from the folder in which the program runs, that of Pulumi.yaml.

        Args:
            name: The component's name, and that of what its servers share.
            opts: The component's options.

        Raises:
            pulumi.RunError: The fleet has mistakes; all of them are in the text, one to a line.
        """
        project, found = config.read_project(), config.read_fleet()
        if not isinstance(found, Mapping) or PROJECT in found:
            try:
                parse_fleet(cast("Any", found))  # says what is wrong
            except FleetError as error:
                raise pulumi.RunError(str(error)) from None
        return cls(name, cast("FleetArgs", {**cast("Mapping[str, Any]", found), PROJECT: project}), opts)


def _clients(
    found: Arguments,
    foundation: Foundation,
    servers: Mapping[str, McpServer],
    *,
    name: str,
    child: pulumi.ResourceOptions,
) -> dict[str, McpClient]:
    project, spec = found.project, found.fleet
    called, networks = spec.mesh
    mesh = None
    if called:
        callees = {called_name: servers[called_name] for called_name in called}
        meshed = ServiceMeshArgs(
            project=project, foundation=foundation, servers=callees, networks=networks, labels=spec.labels
        )
        mesh = ServiceMesh(name, meshed, child)
    return {
        client: McpClient.in_fleet(
            client,
            ClientInFleet(
                project=project,
                region=spec.all_regions[0],
                foundation=foundation,
                spec=client_spec,
                servers=servers,
                mesh=mesh,
                labels=spec.labels,
                deferred=found.deferred,
            ),
            child,
        )
        for client, client_spec in spec.clients.items()
    }
