"""How an MCP client on a person's machine reaches a server, as its configuration has it."""

from typing import TypedDict

import pulumi

from infra import naming
from infra.fleet import Server


class ClientEntry(TypedDict):
    """One server in an MCP client's configuration."""

    type: str
    url: str


class ClientConfig(TypedDict):
    """A configuration that MCP clients take as it is."""

    mcpServers: dict[str, ClientEntry]


def client_config(name: str, spec: Server, mcp_url: pulumi.Output[str], port: int) -> pulumi.Input[ClientConfig] | None:
    """The configuration for *name*: through its proxy at *port* where IAM checks the caller, else its URL."""
    match spec.reached:
        case "proxy":
            return _entry(name, naming.proxy_url(port, spec.path))
        case "url":
            return mcp_url.apply(lambda url: _entry(name, url))
        case "network":
            return None


def proxy_command(name: str, spec: Server, *, project: str, region: str, port: int) -> str | None:
    """The command that opens the proxy in the configuration; none where the client needs none, or cannot come in."""
    if spec.reached != "proxy":
        return None
    if spec.domain is not None:
        return naming.domain_proxy_command(spec.domain, spec.path, port=port)
    return naming.proxy_command(name, project=project, region=region, port=port)


def _entry(name: str, url: str) -> ClientConfig:
    return {"mcpServers": {name: {"type": "http", "url": url}}}
