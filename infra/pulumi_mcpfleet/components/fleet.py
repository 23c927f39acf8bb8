"""The component of a fleet: its foundation, servers, clients, service mesh and load balancer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import pulumi

from pulumi_mcpfleet import config, outputs
from pulumi_mcpfleet.components.arguments import FleetArgs
from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet, required_apis
from pulumi_mcpfleet.components.mcp_client import ClientInFleet, McpClient
from pulumi_mcpfleet.components.mcp_server import McpServer
from pulumi_mcpfleet.components.prerequisites import find_prerequisites
from pulumi_mcpfleet.components.servers import create_servers
from pulumi_mcpfleet.components.service_mesh import ServiceMesh, ServiceMeshArgs
from pulumi_mcpfleet.components.standalone import PROJECT, ValidatedArguments, read_fleet
from pulumi_mcpfleet.fleet import FleetError, parse_fleet
from pulumi_mcpfleet.outputs import ClientOutput, ServerOutput
from pulumi_mcpfleet.tokens import FLEET


class Fleet(pulumi.ComponentResource):
    """MCP servers on Cloud Run, and the clients that call them.

    A stack that was deployed before this component existed keeps its resources: they have the same names, and aliases
    for their former parents.
    """

    servers: dict[str, ServerOutput]
    """The URL of each server and how to call it, by the server's name."""

    clients: dict[str, ClientOutput]
    """The URL of each client, by the client's name."""

    def __init__(self, name: str, args: FleetArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Create the fleet *name*.

        Args:
            name: The name of the component, of the foundation and of the load balancer.
            args: The fleet.
            opts: The component's options; its resources inherit its providers, transforms and `protect`.

        Raises:
            pulumi.RunError: The fleet has mistakes; the text has one line for each.
        """
        arguments = read_fleet(args)
        project, spec, deferred = arguments.project, arguments.fleet, arguments.deferred
        opts = deferred.component_options(opts)
        super().__init__(FLEET, name, None, opts)
        child = pulumi.ResourceOptions(parent=self, aliases=[pulumi.Alias(parent=pulumi.ROOT_STACK_RESOURCE)])
        foundation = Foundation.in_fleet(
            name,
            FoundationInFleet(
                project=project,
                region=spec.all_regions[0],
                apis=required_apis(spec),
                registry=spec.registry,
                cloud_build=spec.cloud_build,
                platform=spec.platform,
                root=Path.cwd(),
                labels=spec.labels,
                prerequisites=[
                    prerequisite
                    for prerequisite in find_prerequisites(spec, project)
                    if not deferred.has_placeholder(prerequisite.arguments)
                ],
            ),
            child,
        )
        servers = create_servers(spec, project, foundation, name=name, child=child, deferred=deferred)
        clients = _create_clients(arguments, foundation, servers, name=name, child=child)
        self.servers = deferred.resolve(outputs.servers_output(project, spec, servers.values()))
        self.clients = deferred.resolve(outputs.clients_output(project, spec, clients.values()))
        self.register_outputs({"servers": self.servers, "clients": self.clients})

    @classmethod
    def from_config(cls, name: str = "fleet", opts: pulumi.ResourceOptions | None = None) -> Self:
        """Create the fleet in the stack's config file: `mcpfleet:fleet`, in the project `gcp:project`.

        Paths of folders in it are relative to the working directory, which is the folder of Pulumi.yaml.

        Args:
            name: The name of the component, of the foundation and of the load balancer.
            opts: The component's options.

        Raises:
            pulumi.RunError: The fleet has mistakes; the text has one line for each.
        """
        project, fleet = config.read_project(), config.read_fleet()
        if not isinstance(fleet, Mapping) or PROJECT in fleet:
            try:
                parse_fleet(cast("Any", fleet))  # raises the error
            except FleetError as error:
                raise pulumi.RunError(str(error)) from None
        return cls(name, cast("FleetArgs", {**cast("Mapping[str, Any]", fleet), PROJECT: project}), opts)


def _create_clients(
    arguments: ValidatedArguments,
    foundation: Foundation,
    servers: Mapping[str, McpServer],
    *,
    name: str,
    child: pulumi.ResourceOptions,
) -> dict[str, McpClient]:
    project, spec = arguments.project, arguments.fleet
    mesh_servers, networks = spec.mesh
    mesh = None
    if mesh_servers:
        mesh_args = ServiceMeshArgs(
            project=project,
            foundation=foundation,
            servers={server: servers[server] for server in mesh_servers},
            networks=networks,
            labels=spec.labels,
        )
        mesh = ServiceMesh(name, mesh_args, child)
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
                deferred=arguments.deferred,
            ),
            child,
        )
        for client, client_spec in spec.clients.items()
    }
