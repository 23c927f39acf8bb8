"""The service mesh of a fleet: host names for the servers that its mesh clients call, and their routes.

Cloud Service Mesh for Cloud Run is a preview (docs/clients.md). Each server that a mesh client calls gets a serverless
group in each region, a backend service, an HTTP route for `http://mcp-SERVER`, and a private DNS zone, because the host
name must resolve before the mesh can route the request. No VPC network is created: Cloud Run keeps a subnetwork's
addresses for an hour or two after a service is deleted, and until then a stack with the subnetwork can't be destroyed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.foundation import Foundation
from pulumi_mcpfleet.components.mcp_server import McpServer
from pulumi_mcpfleet.tokens import SERVICE_MESH

SCHEME: Final = "INTERNAL_SELF_MANAGED"
ADDRESS: Final = "10.0.0.1"
"""The address of every host name of the mesh. The mesh routes requests to any RFC 1918 address by their host; Google's
guide uses this address."""


@dataclass(frozen=True, kw_only=True)
class ServiceMeshArgs:
    """The servers that clients in the mesh call, and the clients' networks."""

    project: str
    foundation: Foundation
    servers: Mapping[str, McpServer]
    networks: Sequence[str]
    """The VPC networks of the clients, in which the host names resolve."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class ServiceMesh(pulumi.ComponentResource):
    """The mesh of all mesh clients of a fleet. IAM, not the mesh, decides which client may call which server."""

    mesh: pulumi.Output[str]
    """The mesh's full name. Known when its routes exist, so that a client can use them from its first start."""

    def __init__(self, name: str, args: ServiceMeshArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(SERVICE_MESH, name, None, opts)
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        self._after_apis = pulumi.ResourceOptions(parent=self, depends_on=[*args.foundation.apis])
        mesh = gcp.networkservices.Mesh(
            name, project=args.project, name=naming.MESH_ID, labels=args.labels or None, opts=self._after_apis
        )
        ready = [
            resource.urn
            for name, server in args.servers.items()
            for resource in (self._create_route(name, server, mesh), self._create_record(name))
        ]
        self.mesh = pulumi.Output.all(mesh.id, *ready).apply(lambda values: str(values[0]))
        self.register_outputs({"mesh": self.mesh})

    def _create_route(self, name: str, server: McpServer, mesh: gcp.networkservices.Mesh) -> pulumi.Resource:
        """Create the route from the server's host name to its services."""
        args, resource, service_name = self._args, naming.mesh_name(name), server.spec.service_name
        groups = [
            gcp.compute.RegionNetworkEndpointGroup(
                naming.regional_name(naming.per_service_name(resource, service_name), region),
                project=args.project,
                region=region,
                name=naming.group_name(resource, service_name),
                network_endpoint_type="SERVERLESS",
                cloud_run={"service": service},
                opts=self._child,
            )
            for region, service in server.services.items()
        ]
        backend = gcp.compute.BackendService(
            resource,
            project=args.project,
            name=resource,
            load_balancing_scheme=SCHEME,
            # No timeout: a backend service of serverless groups can't have one; the service's own applies.
            backends=[{"group": group.id} for group in groups],
            opts=self._child,
        )
        destination = backend.name.apply(lambda backend_name: naming.mesh_backend(backend_name, project=args.project))
        return gcp.networkservices.HttpRoute(
            resource,
            project=args.project,
            name=resource,
            hostnames=[naming.mesh_host(name)],
            meshes=[mesh.id],
            # Always set: the behavior of a route without a timeout is not documented, and the mesh's proxy by default
            # ends a request after 15 s, which is less than a cold start and a long tool call need.
            rules=[{"action": {"destinations": [{"service_name": destination}], "timeout": f"{server.spec.timeout}s"}}],
            labels=args.labels or None,
            opts=self._child,
        )

    def _create_record(self, name: str) -> pulumi.Resource:
        """Create the address record of the server's host name. The name has no dots, so it needs its own zone."""
        args, resource = self._args, naming.mesh_name(name)
        dns_name = f"{naming.mesh_host(name)}."
        zone = gcp.dns.ManagedZone(
            resource,
            project=args.project,
            name=resource,
            dns_name=dns_name,
            description=f"The name of MCP server {name} in the service mesh",
            visibility="private",
            private_visibility_config={
                "networks": [{"network_url": naming.network_path(network, args.project)} for network in args.networks]
            },
            labels=args.labels or None,
            opts=self._after_apis,
        )
        return gcp.dns.RecordSet(
            resource,
            project=args.project,
            managed_zone=zone.name,
            name=dns_name,
            type="A",
            ttl=300,
            rrdatas=[ADDRESS],
            opts=self._child,
        )
