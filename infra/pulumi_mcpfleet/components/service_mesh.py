"""The service mesh of a fleet: the names under which its mesh clients call servers, and where these lead.

Cloud Service Mesh for Cloud Run is a preview (docs/clients.md). Each server that a mesh client calls gets a serverless
group in each region, a backend service, an HTTP route for `http://mcp-SERVER`, and a private DNS zone, because a
request must find an address before the mesh can take it. It makes no VPC network: Cloud Run holds on to a subnetwork's
addresses for an hour or two after a service is gone, and a stack that owned it could not be destroyed meanwhile.
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
"""What every name of the mesh resolves to. The mesh takes requests to any RFC 1918 address and looks at the host alone;
Google's guide uses this one."""


@dataclass(frozen=True, kw_only=True)
class ServiceMeshArgs:
    """Whom clients in the mesh call, and from where."""

    project: str
    foundation: Foundation
    servers: Mapping[str, McpServer]
    networks: Sequence[str]
    """The VPC networks of the clients, where the names are known."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class ServiceMesh(pulumi.ComponentResource):
    """One mesh for all mesh clients of a fleet. Who may call whom is IAM's to say, not the mesh's."""

    mesh: pulumi.Output[str]
    """The mesh's full name. Known once its routes are there, so that a client finds them at its first start."""

    def __init__(self, name: str, args: ServiceMeshArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(SERVICE_MESH, name, None, opts)
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        self._first = pulumi.ResourceOptions(parent=self, depends_on=[*args.foundation.apis])
        mesh = gcp.networkservices.Mesh(
            name, project=args.project, name=naming.MESH_ID, labels=args.labels or None, opts=self._first
        )
        ready = [
            made.urn
            for server, one in args.servers.items()
            for made in (self._route(server, one, mesh), self._record(server))
        ]
        self.mesh = pulumi.Output.all(mesh.id, *ready).apply(lambda known: str(known[0]))
        self.register_outputs({"mesh": self.mesh})

    def _route(self, name: str, server: McpServer, mesh: gcp.networkservices.Mesh) -> pulumi.Resource:
        """What leads from the server's short name to its services."""
        args, resource, own = self._args, naming.mesh_name(name), server.spec.service_name
        groups = [
            gcp.compute.RegionNetworkEndpointGroup(
                naming.regional_name(naming.per_service_name(resource, own), region),
                project=args.project,
                region=region,
                name=naming.group_name(resource, own),
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
            # No timeout: a backend of serverless groups takes none, the service's own applies.
            backends=[{"group": group.id} for group in groups],
            opts=self._child,
        )
        destination = backend.name.apply(lambda known: naming.mesh_backend(known, project=args.project))
        return gcp.networkservices.HttpRoute(
            resource,
            project=args.project,
            name=resource,
            hostnames=[naming.mesh_host(name)],
            meshes=[mesh.id],
            # Said, because what a route without one does is not written, and a mesh's proxy by itself ends a request
            # after 15 s: less than a cold start and a long tool take.
            rules=[{"action": {"destinations": [{"service_name": destination}], "timeout": f"{server.spec.timeout}s"}}],
            labels=args.labels or None,
            opts=self._child,
        )

    def _record(self, name: str) -> pulumi.Resource:
        """The short name as an address. It has no dots, so a zone of its own: there is none above it but the root."""
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
                "networks": [{"network_url": naming.network_path(one, args.project)} for one in args.networks]
            },
            labels=args.labels or None,
            opts=self._first,
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
