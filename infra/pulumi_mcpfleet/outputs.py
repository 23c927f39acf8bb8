"""The stack's public contract: the names, types and shape of what it exports.

Tools read these by `pulumi stack output --json`. A key is added freely, never renamed or removed
without a note in the changelog.
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
from pulumi_mcpfleet.fleet.access import kind, program_audience, public_reason


class ServerOutput(TypedDict):
    """One server, as clients and tools need it.

    Attributes:
        mcp_url: The MCP endpoint itself, without a redirect on the way.
        service_url: Where the server answers: its domain, else the service's own URL.
        urls: The service's own URL in each region.
        audience: What a caller's ID token must be for.
        service: The Cloud Run service's name.
        region: The first of its regions.
        project: The Google Cloud project.
        access: Who checks the caller: iam, iap, oauth or public.
        public_reason: Why anybody may call; null where not everybody may.
        oauth: What tokens have to be, where the server checks them itself; null elsewhere.
        ingress: From where requests may come: all, internal or internal-and-lb.
        reached: How a person's client reaches it: by a proxy, by its url, or from the network only.
        invokers: Who may call, where IAM or IAP checks it.
        program_audience: The OAuth client that a program's token is for, where IAP checks it; null elsewhere.
        transports: What it speaks.
        sessions: stateless or stateful.
        health_path: What its probes ask; null where they do not ask by HTTP.
        domain: Its own domain, or null.
        address: What the A record of its domain has to name, or null.
        dns_records: The records that the DNS of its domain needs, each with a name, type and data; null without one.
        client_config: A configuration that MCP clients take as it is; null where a desktop cannot reach the server.
        proxy_command: The command that opens the authenticated proxy in it; null where there is none.
        proxy_port: The port of a person's machine that this proxy has; null where there is none.
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
    """The export `servers`: every server of the fleet by name, in the order of their names, as Pulumi sorts its config.

    Each server's proxy has a local port of its own, so that several run side by side.
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
            "access": kind(spec.access),
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
            "dns_records": server.records,
            "client_config": client_config(name, spec, server.mcp_url, port),
            "proxy_command": proxy_command(name, spec, project=project, region=fleet.all_regions[0], port=port),
            "proxy_port": proxy_port(spec, port),
        }
        for (name, spec), server, port in zip(
            fleet.servers.items(), servers, naming.proxy_ports(len(fleet.servers)), strict=True
        )
    }


class ClientOutput(TypedDict):
    """One client.

    Attributes:
        url: Where it answers.
        service: The Cloud Run service's name.
        region: Its region.
        project: The Google Cloud project.
        account: The account that it calls as.
        calls: The servers that it calls.
        topology: service, sidecar or mesh.
        access: Who checks its own callers: iam, iap or public.
        public_reason: Why anybody may call it; null where not everybody may.
        invokers: Who may call it, where IAM or IAP checks that.
        program_audience: The OAuth client that a program's token is for, where IAP checks that; null elsewhere.
        health_path: What its probes ask; null where they do not ask by HTTP.
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
    """The export `clients`: every client of the fleet by name."""
    return {
        name: {
            "url": client.url,
            "service": client.service,
            "region": fleet.all_regions[0],
            "project": project,
            "account": client.account,
            "calls": list(spec.calls),
            "topology": spec.topology,
            "access": kind(spec.access),
            "public_reason": public_reason(spec.access),
            "invokers": list(spec.invokers),
            "program_audience": program_audience(spec.access),
            "health_path": spec.health_path,
        }
        for (name, spec), client in zip(fleet.clients.items(), clients, strict=True)
    }
