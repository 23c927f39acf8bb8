"""The outputs of a stack, which are public: their names and types.

Tools read these with `pulumi stack output --json`. Keys can be added, but not renamed or removed without a note in the
changelog.
"""

from collections.abc import Iterable, Sequence
from typing import TypedDict

import pulumi

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.clients import (
    AcceptedTokens,
    ClientConfig,
    accepted_tokens,
    client_config,
    proxy_command,
    proxy_port,
)
from pulumi_mcpfleet.components.load_balancer import DnsRecord
from pulumi_mcpfleet.components.mcp_client import McpClient
from pulumi_mcpfleet.components.mcp_server import McpServer
from pulumi_mcpfleet.fleet import Fleet
from pulumi_mcpfleet.fleet.access import access_kind, program_audience, public_reason


class ServerOutput(TypedDict):
    """The output of one server, for clients and tools.

    Attributes:
        mcp_url: The URL of the MCP endpoint, which does not redirect.
        service_url: The URL of the server: that of its domain, else that of its service.
        urls: The URL of the service in each region.
        audience: The required audience of a caller's ID token.
        service: The name of the Cloud Run service.
        region: The first of its regions.
        project: The Google Cloud project.
        access: Who checks the caller: iam, iap, login, oauth or public.
        public_reason: The reason why anybody can call; null if access is not public.
        oauth: The required tokens, if the server checks them itself; else null.
        ingress: The origin of allowed requests: all, internal or internal-and-lb.
        reached: How a person's client reaches the server: through a proxy, by its url, or only from the network.
        invokers: The principals that can call, if IAM or IAP checks callers.
        program_audience: The OAuth client that is the audience of a program's token, if IAP checks callers; else null.
        transports: Its MCP transports.
        sessions: stateless or stateful.
        health_path: The path of its HTTP probes; null if they don't use HTTP.
        domain: Its domain, or null.
        address: The address for the A record of its domain, or null.
        dns_records: The DNS records that its domain needs, each with a name, type and data; null without a domain.
        client_config: A configuration for MCP clients; null if a desktop client can't reach the server.
        proxy_command: The command that opens the configuration's authenticated proxy; null if it needs none.
        proxy_port: The local port of this proxy; null if there is none.
    """

    mcp_url: pulumi.Output[str]
    service_url: pulumi.Output[str]
    urls: dict[str, pulumi.Output[str]]
    audience: pulumi.Output[str]
    service: pulumi.Output[str]
    region: str
    project: str
    access: str
    public_reason: str | None
    oauth: AcceptedTokens | None
    ingress: str
    reached: str
    invokers: list[str]
    program_audience: str | None
    transports: list[str]
    sessions: str
    health_path: str | None
    domain: str | None
    address: pulumi.Output[str] | None
    dns_records: pulumi.Output[Sequence[DnsRecord]] | None
    client_config: pulumi.Input[ClientConfig] | None
    proxy_command: str | None
    proxy_port: int | None


def servers_output(project: str, fleet: Fleet, servers: Iterable[McpServer]) -> dict[str, ServerOutput]:
    """Return the output `servers`: every server of the fleet, sorted by name, as Pulumi sorts its config.

    Each server's proxy has a local port of its own, so that several can run at the same time.
    """
    return {
        name: {
            "mcp_url": server.mcp_url,
            "service_url": server.url,
            "urls": dict(server.urls),
            "audience": server.audience,
            "service": server.service,
            "region": fleet.all_regions[0],
            "project": project,
            "access": access_kind(spec.access),
            "public_reason": public_reason(spec.access),
            "oauth": accepted_tokens(spec, server.base_url),
            "ingress": spec.ingress,
            "reached": spec.reached,
            "invokers": list(spec.invokers),
            "program_audience": program_audience(spec.access),
            "transports": list(spec.transports),
            "sessions": spec.sessions,
            "health_path": spec.health_path,
            "domain": spec.domain,
            "address": server.address,
            "dns_records": server.dns_records,
            "client_config": client_config(name, spec, server.mcp_url, port),
            "proxy_command": proxy_command(name, spec, project=project, region=fleet.all_regions[0], port=port),
            "proxy_port": proxy_port(spec, port),
        }
        for (name, spec), server, port in zip(
            fleet.servers.items(), servers, naming.proxy_ports(len(fleet.servers)), strict=True
        )
    }


class ClientOutput(TypedDict):
    """The output of one client.

    Attributes:
        url: The URL of its service.
        service: The name of the Cloud Run service.
        region: Its region.
        project: The Google Cloud project.
        account: The service account with which it calls servers.
        calls: The names of the servers that it calls.
        topology: service, sidecar or mesh.
        access: Who checks its callers: iam, iap or public.
        public_reason: The reason why anybody can call it; null if access is not public.
        invokers: The principals that can call it, if IAM or IAP checks callers.
        program_audience: The OAuth client that is the audience of a program's token, if IAP checks callers; else null.
        health_path: The path of its HTTP probes; null if they don't use HTTP.
    """

    url: pulumi.Output[str]
    service: pulumi.Output[str]
    region: str
    project: str
    account: pulumi.Output[str]
    calls: list[str]
    topology: str
    access: str
    public_reason: str | None
    invokers: list[str]
    program_audience: str | None
    health_path: str | None


def clients_output(project: str, fleet: Fleet, clients: Iterable[McpClient]) -> dict[str, ClientOutput]:
    """Return the output `clients`: every client of the fleet by name."""
    return {
        name: {
            "url": client.url,
            "service": client.service,
            "region": fleet.all_regions[0],
            "project": project,
            "account": client.account,
            "calls": list(spec.calls),
            "topology": spec.topology,
            "access": access_kind(spec.access),
            "public_reason": public_reason(spec.access),
            "invokers": list(spec.invokers),
            "program_audience": program_audience(spec.access),
            "health_path": spec.health_path,
        }
        for (name, spec), client in zip(fleet.clients.items(), clients, strict=True)
    }
