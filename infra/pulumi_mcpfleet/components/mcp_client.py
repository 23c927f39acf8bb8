"""A client of MCP servers on Cloud Run: its service account, its service, and the permission to call its servers.

The client's environment has `MCP_SERVERS`: for each server that it calls, the MCP URL and the audience of the ID token
for its calls. The mesh itself is in `service_mesh`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import environment, naming
from pulumi_mcpfleet.components import template
from pulumi_mcpfleet.components.access import (
    GrantTarget,
    access_arguments,
    access_environment,
    grant_access,
    grant_client_access,
    grant_permissions,
)
from pulumi_mcpfleet.components.arguments import McpClientArgs
from pulumi_mcpfleet.components.deferred import Deferred
from pulumi_mcpfleet.components.foundation import Foundation, standalone_foundation
from pulumi_mcpfleet.components.image import build_image
from pulumi_mcpfleet.components.mcp_server import McpServer, pullable_image
from pulumi_mcpfleet.components.service_mesh import ServiceMesh
from pulumi_mcpfleet.components.standalone import read_client
from pulumi_mcpfleet.fleet import Client, ExistingImage, IapAccess, PublicAccess, Server
from pulumi_mcpfleet.fleet.client import sidecar_ports
from pulumi_mcpfleet.tokens import MCP_CLIENT

if TYPE_CHECKING:
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateContainerArgsDict as Container,
    )

SERVERS: Final = "MCP_SERVERS"
MESH_ROLES: Final = ("roles/trafficdirector.client", "roles/cloudtrace.agent")
"""A mesh client's roles on the project: to read its routes, and to send traces (Google's guide, "Required roles")."""


@dataclass(frozen=True, kw_only=True)
class ClientInFleet:
    """The arguments of a client of a fleet."""

    project: str
    region: str
    foundation: Foundation
    spec: Client
    servers: Mapping[str, McpServer]
    """All servers of the fleet; `spec.calls` names those that the client calls."""
    mesh: ServiceMesh | None = None
    """The fleet's mesh; None if no client is in one."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    deferred: Deferred | None = None
    """The outputs among the arguments."""


class McpClient(pulumi.ComponentResource):
    """A service that calls MCP servers as its own service account, which may call only these servers."""

    service: pulumi.Output[str]
    """The Cloud Run service's name."""

    url: pulumi.Output[str]
    """The service's URL. Known when its callers may call it, and it may call its servers."""

    account: pulumi.Output[str]
    """The email address of its service account."""

    def __init__(self, name: str, args: McpClientArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Create the client *name*, without a fleet or a config file.

        Args:
            name: The client's name: 2 to 26 characters of `a-z`, `0-9` and `-`.
            args: The arguments.
            opts: The component's options; its resources inherit its providers, transforms and `protect`.

        Raises:
            pulumi.RunError: The arguments have mistakes; the text has one line for each.
        """
        shared = args.get("foundation")
        servers = {server.pulumi_resource_name: server for server in args["calls"]}
        config = {key: value for key, value in args.items() if key not in ("foundation", "calls")}
        specs = {called: server.spec for called, server in servers.items()}
        arguments = read_client(name, config, specs, shared=bool(shared))
        opts = arguments.deferred.component_options(opts)
        super().__init__(MCP_CLIENT, name, None, opts)
        self._create(
            name,
            ClientInFleet(
                project=arguments.project,
                region=arguments.fleet.all_regions[0],
                foundation=standalone_foundation(name, arguments, shared, self),
                spec=arguments.fleet.clients[name],
                servers=servers,
                deferred=arguments.deferred,
            ),
        )

    @classmethod
    def in_fleet(cls, name: str, args: ClientInFleet, opts: pulumi.ResourceOptions | None = None) -> Self:
        """Create the client *name* of a fleet, whose arguments are already validated."""
        component = cls.__new__(cls)
        pulumi.ComponentResource.__init__(component, MCP_CLIENT, name, None, opts)
        component._create(name, args)
        return component

    def _create(self, name: str, args: ClientInFleet) -> None:
        self._name, self._args, self._spec = name, args, args.spec
        self._mesh = args.mesh if args.spec.topology == "mesh" else None
        self._servers = {called: args.servers[called] for called in args.spec.calls}
        self._service_name = naming.service_name(name, args.spec.service_name)
        self._resource_name = naming.per_service_name(name, args.spec.service_name)
        self._child = pulumi.ResourceOptions(parent=self, delete_before_replace=True)

        self.account = self._create_account()
        permissions = grant_permissions(
            name,
            args.spec,
            project=args.project,
            email=self.account,
            child=self._child,
            also=MESH_ROLES if self._mesh else (),
        )
        if args.spec.topology != "sidecar":
            permissions += self._grant_calls()
        service = self._create_service(permissions)
        target = GrantTarget(server=self._resource_name, project=args.project, region=args.region, service=service.name)
        callers = grant_access(args.spec.access, target, args.foundation, self._child)

        self.service = service.name
        self.url = pulumi.Output.all(service.uri, *(grant.urn for grant in (*callers, *permissions))).apply(
            lambda values: str(values[0])
        )
        self.register_outputs({"service": self.service, "url": self.url, "account": self.account})

    def _create_account(self) -> pulumi.Output[str]:
        return gcp.serviceaccount.Account(
            self._name,
            project=self._args.project,
            account_id=naming.account_id(self._name),
            display_name=f"MCP client {self._name}",
            opts=pulumi.ResourceOptions(
                parent=self, delete_before_replace=True, depends_on=[*self._args.foundation.apis]
            ),
        ).email

    def _grant_calls(self) -> list[pulumi.Resource]:
        """Grant the client access to each server that it calls, with IAM or IAP. A public server needs no grant."""
        member = self.account.apply(naming.account_member)
        return [
            grant_client_access(
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

    def _create_service(self, permissions: Sequence[pulumi.Resource]) -> gcp.cloudrunv2.Service:
        spec, args = self._spec, self._args
        revision = template.revision(spec, self.account, self._containers(), project=args.project, region=args.region)
        if self._mesh is not None:
            revision["service_mesh"] = {"mesh": self._mesh.mesh}
        return gcp.cloudrunv2.Service(
            self._resource_name,
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
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True, depends_on=[*permissions]),
            **access_arguments(spec),
        )

    def _containers(self) -> list["Container"]:
        spec = self._spec
        ports = sidecar_ports(spec, {name: server.spec for name, server in self._servers.items()})
        match spec.topology:
            case "sidecar":
                servers = _sidecar_servers(self._servers, ports)
            case "mesh":
                servers = _mesh_servers(self._servers)
            case "service":
                servers = _remote_servers(self._servers)
        env = {environment.PROJECT: self._args.project, **spec.env, SERVERS: servers}
        env |= access_environment(spec.access, self._service_name, [self._args.region], self._args.foundation)
        main = template.main_container(spec, self._image(), template.variables(env, spec.secrets))
        if spec.topology != "sidecar":
            return [main]
        main["name"] = "client"
        main["depends_ons"] = list(ports)
        idle = spec.cpu_throttling
        return [main, *(self._servers[name].as_sidecar(port, idle=idle) for name, port in ports.items())]

    def _image(self) -> template.Image:
        match self._spec.source:
            case ExistingImage(image=image, args=args):
                return template.Image(pullable_image(image, self._args.foundation), args)
            case source:
                return build_image(
                    self._name,
                    source,
                    project=self._args.project,
                    foundation=self._args.foundation,
                    parent=self,
                    section="clients",
                )


def _remote_servers(servers: Mapping[str, McpServer]) -> pulumi.Output[str]:
    """Return `MCP_SERVERS` with the servers' HTTPS URLs, which are known before the servers exist."""

    def to_json(base_urls: Sequence[str]) -> str:
        return json.dumps(
            {
                name: {"url": naming.mcp_url(base_url, server.spec.endpoint)} | _token_settings(server.spec, base_url)
                for (name, server), base_url in zip(servers.items(), base_urls, strict=True)
            }
        )

    return pulumi.Output.all(*(server.base_url for server in servers.values())).apply(to_json)


def _mesh_servers(servers: Mapping[str, McpServer]) -> str:
    """Return `MCP_SERVERS` with the servers' URLs in the mesh, which adds the ID tokens itself."""
    return json.dumps(
        {name: {"url": naming.mcp_url(naming.mesh_url(name), server.spec.endpoint)} for name, server in servers.items()}
    )


def _token_settings(spec: Server, base_url: str) -> dict[str, str]:
    """Return the audience of the ID token for a server, and the token's header if it is not Cloud Run's own."""
    match spec.access:
        case PublicAccess():
            return {}
        case IapAccess(iap=iap):
            # IAP reads it from this header or Proxy-Authorization (cloud.google.com/iap/docs/authentication-howto).
            return {"audience": iap.program_audience or "", "header": "Authorization"}
        case _:
            return {"audience": naming.audience(base_url, spec.domain_path)}


def _sidecar_servers(servers: Mapping[str, McpServer], ports: Mapping[str, int]) -> str:
    """Return `MCP_SERVERS` with the URLs of servers that run as sidecars of the client."""
    urls = {
        name: naming.mcp_url(f"http://localhost:{port}", servers[name].spec.endpoint) for name, port in ports.items()
    }
    return json.dumps({name: {"url": url} for name, url in urls.items()})
