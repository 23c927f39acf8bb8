"""The stack's public contract: the names, types and shape of what it exports.

Tools read these by `pulumi stack output --json`. A key is added freely, never renamed or removed
without a note in the changelog.
"""

from collections.abc import Iterable
from typing import TypedDict

import pulumi

from infra import naming
from infra.components.mcp_server import McpServer
from infra.fleet import Fleet


class ClientEntry(TypedDict):
    """One server in an MCP client's configuration."""

    type: str
    url: str


class ClientConfig(TypedDict):
    """A configuration that MCP clients take as it is; it goes through the local proxy."""

    mcpServers: dict[str, ClientEntry]


class ServerOutput(TypedDict):
    """One server, as clients and tools need it."""

    mcp_url: pulumi.Output[str]
    service_url: pulumi.Output[str]
    audience: pulumi.Output[str]
    service: pulumi.Output[str]
    region: str
    project: str
    invokers: list[str]
    client_config: ClientConfig
    proxy_command: str


def servers_output(project: str, fleet: Fleet, servers: Iterable[McpServer]) -> dict[str, ServerOutput]:
    """The export `servers`: every server of the fleet by name, in the order of their names, as Pulumi sorts its config.

    Each server's proxy has a local port of its own, so that several run side by side.
    """
    return {
        name: {
            "mcp_url": server.mcp_url,
            "service_url": server.url,
            "audience": server.url,
            "service": server.service,
            "region": fleet.region,
            "project": project,
            "invokers": list(spec.access.iam.invokers),
            "client_config": {"mcpServers": {name: {"type": "http", "url": naming.proxy_url(port, spec.path)}}},
            "proxy_command": naming.proxy_command(name, project=project, region=fleet.region, port=port),
        }
        for (name, spec), server, port in zip(
            fleet.servers.items(), servers, naming.proxy_ports(len(fleet.servers)), strict=True
        )
    }
