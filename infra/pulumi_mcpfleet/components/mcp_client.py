"""A client of the fleet's servers on Cloud Run: its account, its service, and the right to call just its servers.

What it finds in its environment is `MCP_SERVERS`: for each server that it calls the MCP URL, and the audience of the ID
token that goes with a call. The mesh itself is in `service_mesh`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import environment, naming
from pulumi_mcpfleet.components import template
from pulumi_mcpfleet.components.access import GrantTarget, admitted, grants, rights, switches, told
from pulumi_mcpfleet.components.alone import read_client
from pulumi_mcpfleet.components.arguments import McpClientArgs
from pulumi_mcpfleet.components.deferred import Deferred
from pulumi_mcpfleet.components.foundation import Foundation, foundation_alone
from pulumi_mcpfleet.components.image import built_image
from pulumi_mcpfleet.components.mcp_server import McpServer, pulled
from pulumi_mcpfleet.components.service_mesh import ServiceMesh
from pulumi_mcpfleet.fleet import Client, ExistingImage, IapAccess, PublicAccess, Server
from pulumi_mcpfleet.fleet.client import sidecar_ports
from pulumi_mcpfleet.tokens import MCP_CLIENT

if TYPE_CHECKING:
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateContainerArgsDict as Container,
    )

SERVERS: Final = "MCP_SERVERS"
MESH_ROLES: Final = ("roles/trafficdirector.client", "roles/cloudtrace.agent")
"""What a client in the mesh needs on the project: its routes, and to send traces (Google's guide, "Required roles")."""


@dataclass(frozen=True, kw_only=True)
class ClientInFleet:
    """A client as its fleet describes it, and the servers that it calls."""

    project: str
    region: str
    foundation: Foundation
    spec: Client
    servers: Mapping[str, McpServer]
    """Every server of the fleet; the client gets what has to do with those that it calls."""
    mesh: ServiceMesh | None = None
    """The mesh, where some client of the fleet is in it."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    deferred: Deferred | None = None
    """The outputs among its arguments."""


class McpClient(pulumi.ComponentResource):
    """A service that calls MCP servers as its own service account, which may call just these."""

    service: pulumi.Output[str]
    """The Cloud Run service's name."""

    url: pulumi.Output[str]
    """Where it answers. Known once its callers may call it, and it its servers."""

    account: pulumi.Output[str]
    """The account that it runs as."""

    def __init__(self, name: str, args: McpClientArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Create the client *name*, which needs no fleet and no config file.

        Args:
            name: The client's name: 2 to 26 of `a-z`, `0-9` and `-`.
            args: The arguments.
            opts: The component's options; its parts have its providers, transforms and `protect`.

        Raises:
            pulumi.RunError: The arguments have mistakes; all of them are in the text, one to a line.
        """
        shared = args.get("foundation")
        servers = {server.pulumi_resource_name: server for server in args["calls"]}
        own = {key: value for key, value in args.items() if key not in ("foundation", "calls")}
        specs = {called: server.spec for called, server in servers.items()}
        found = read_client(name, own, specs, shared=bool(shared))
        opts = found.deferred.options(opts)
        super().__init__(MCP_CLIENT, name, None, opts)
        self._create(
            name,
            ClientInFleet(
                project=found.project,
                region=found.fleet.all_regions[0],
                foundation=foundation_alone(name, found, shared, self),
                spec=found.fleet.clients[name],
                servers=servers,
                deferred=found.deferred,
            ),
        )

    @classmethod
    def in_fleet(cls, name: str, args: ClientInFleet, opts: pulumi.ResourceOptions | None = None) -> Self:
        """The client *name* of a fleet, whose arguments are checked already."""
        component = cls.__new__(cls)
        pulumi.ComponentResource.__init__(component, MCP_CLIENT, name, None, opts)
        component._create(name, args)
        return component

    def _create(self, name: str, args: ClientInFleet) -> None:
        self._name, self._args, self._spec = name, args, args.spec
        self._mesh = args.mesh if args.spec.topology == "mesh" else None
        self._servers = {called: args.servers[called] for called in args.spec.calls}
        self._service_name = naming.service_name(name, args.spec.service_name)
        self._place = naming.per_service_name(name, args.spec.service_name)
        self._child = pulumi.ResourceOptions(parent=self, delete_before_replace=True)

        self.account = self._identity()
        also = MESH_ROLES if self._mesh else ()
        own = rights(name, args.spec, project=args.project, email=self.account, child=self._child, also=also)
        held = [*own, *(self._may_call() if args.spec.topology != "sidecar" else ())]
        service = self._service(held)
        guarded = GrantTarget(server=self._place, project=args.project, region=args.region, service=service.name)
        callers = grants(args.spec.access, guarded, args.foundation, self._child)

        self.service = service.name
        self.url = pulumi.Output.all(service.uri, *(one.urn for one in (*callers, *held))).apply(
            lambda known: str(known[0])
        )
        self.register_outputs({"service": self.service, "url": self.url, "account": self.account})

    def _identity(self) -> pulumi.Output[str]:
        return gcp.serviceaccount.Account(
            self._name,
            project=self._args.project,
            account_id=naming.account_id(self._name),
            display_name=f"MCP client {self._name}",
            opts=pulumi.ResourceOptions(
                parent=self, delete_before_replace=True, depends_on=[*self._args.foundation.apis]
            ),
        ).email

    def _may_call(self) -> list[pulumi.Resource]:
        """The right to come in to each server, past IAM or past IAP; one that lets in everybody needs none."""
        member = self.account.apply(naming.account_member)
        return [
            admitted(
                server.spec.access,
                GrantTarget(server=called, project=self._args.project, region=region, service=service),
                naming.grant_name(
                    self._name,
                    "calls",
                    naming.regional_name(naming.per_service_name(called, server.spec.service_name), region),
                ),
                member,
                self._child,
            )
            for called, server in self._servers.items()
            if not isinstance(server.spec.access, PublicAccess)
            for region, service in server.services.items()
        ]

    def _service(self, held: Sequence[pulumi.Resource]) -> gcp.cloudrunv2.Service:
        spec, args = self._spec, self._args
        revision = template.revision(spec, self.account, self._containers(), project=args.project, region=args.region)
        if self._mesh is not None:
            revision["service_mesh"] = {"mesh": self._mesh.mesh}
        return gcp.cloudrunv2.Service(
            self._place,
            name=self._service_name,
            project=args.project,
            location=args.region,
            description=spec.description or None,
            labels={**args.labels, **spec.labels} or None,
            ingress="INGRESS_TRAFFIC_ALL",
            deletion_protection=spec.deletion_protection,
            scaling={"min_instance_count": 0},
            launch_stage="BETA" if self._mesh is not None or spec.needs_beta else "GA",
            template=revision,
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True, depends_on=[*held]),
            **switches(spec),
        )

    def _containers(self) -> list["Container"]:
        spec = self._spec
        beside = sidecar_ports(spec, {name: one.spec for name, one in self._servers.items()})
        near = spec.topology == "sidecar"
        match spec.topology:
            case "sidecar":
                found = _near(self._servers, beside)
            case "mesh":
                found = _meshed(self._servers)
            case "service":
                found = _far(self._servers)
        env = {environment.PROJECT: self._args.project, **spec.env, SERVERS: found}
        env |= told(spec.access, self._service_name, [self._args.region], self._args.foundation)
        own = template.own_container(spec, self._image(), template.variables(env, spec.secrets))
        if not near:
            return [own]
        own["name"] = "client"
        own["depends_ons"] = list(beside)
        idle = spec.cpu_throttling
        return [own, *(self._servers[name].as_sidecar(port, idle=idle) for name, port in beside.items())]

    def _image(self) -> template.Image:
        match self._spec.source:
            case ExistingImage(image=image, args=args):
                return template.Image(pulled(image, self._args.foundation), args)
            case source:
                return built_image(
                    self._name,
                    source,
                    project=self._args.project,
                    foundation=self._args.foundation,
                    parent=self,
                    section="clients",
                )


def _far(servers: Mapping[str, McpServer]) -> pulumi.Output[str]:
    """Where servers answer over HTTPS: the address that is known before they exist, which is an audience of theirs."""

    def written(known: Sequence[str]) -> str:
        return json.dumps(
            {
                name: {"url": naming.mcp_url(base, server.spec.endpoint)} | _token(server.spec, base)
                for (name, server), base in zip(servers.items(), known, strict=True)
            }
        )

    return pulumi.Output.all(*(server.base_url for server in servers.values())).apply(written)


def _meshed(servers: Mapping[str, McpServer]) -> str:
    """Where servers answer in the mesh, which adds the ID token: so there is no audience."""
    return json.dumps(
        {name: {"url": naming.mcp_url(naming.mesh_url(name), one.spec.endpoint)} for name, one in servers.items()}
    )


def _token(spec: Server, base: str) -> dict[str, str]:
    """What the token for a server is for, and which header carries it, where that is not Cloud Run's own."""
    match spec.access:
        case PublicAccess():
            return {}
        case IapAccess(iap=iap):
            # IAP looks into this one and Proxy-Authorization (cloud.google.com/iap/docs/authentication-howto).
            return {"audience": iap.program_audience or "", "header": "Authorization"}
        case _:
            return {"audience": naming.audience(base, spec.domain_path)}


def _near(servers: Mapping[str, McpServer], ports: Mapping[str, int]) -> str:
    """Where servers beside the client answer."""
    urls = {
        name: naming.mcp_url(f"http://localhost:{port}", servers[name].spec.endpoint) for name, port in ports.items()
    }
    return json.dumps({name: {"url": url} for name, url in urls.items()})
