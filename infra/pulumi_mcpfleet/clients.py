"""How an MCP client on a person's machine reaches a server, as its configuration has it."""

from typing import TypedDict

import pulumi

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import OauthAccess, Server


class ClientEntry(TypedDict):
    """One server in an MCP client's configuration."""

    type: str
    url: str


class ClientConfig(TypedDict):
    """A configuration that MCP clients take as it is."""

    mcpServers: dict[str, ClientEntry]


class AcceptedTokens(TypedDict):
    """What tokens of a server's own OAuth have to be.

    Attributes:
        issuer: The authorization server.
        audience: What they are for.
        scopes: What each must have.
    """

    issuer: str
    audience: pulumi.Input[str]
    scopes: list[str]


def client_config(name: str, spec: Server, mcp_url: pulumi.Output[str], port: int) -> pulumi.Input[ClientConfig] | None:
    """The configuration for *name*: through its proxy at *port* where IAM checks the caller, else its URL."""
    match spec.reached:
        case "proxy":
            return _entry(name, naming.proxy_url(port, spec.endpoint), spec)
        case "url":
            return mcp_url.apply(lambda url: _entry(name, url, spec))
        case "network":
            return None


def proxy_command(name: str, spec: Server, *, project: str, region: str, port: int) -> str | None:
    """The command that opens the proxy in the configuration; none where the client needs none, or cannot come in."""
    if spec.reached != "proxy":
        return None
    if spec.domain is not None:
        return naming.domain_proxy_command(spec.domain, spec.endpoint, spec.domain_path, port=port)
    return naming.proxy_command(naming.service_name(name, spec.service_name), project=project, region=region, port=port)


def proxy_port(spec: Server, port: int) -> int | None:
    """The port of this machine that its proxy has; none where there is no proxy."""
    return port if spec.reached == "proxy" else None


def accepted_tokens(spec: Server, base_url: pulumi.Output[str]) -> AcceptedTokens | None:
    """The tokens that a server takes; none where it is not the server that checks them."""
    if not isinstance(spec.access, OauthAccess):
        return None
    oauth = spec.access.oauth
    audience = oauth.audience or base_url.apply(lambda url: naming.mcp_url(url, spec.endpoint))
    return {"issuer": oauth.issuer, "audience": audience, "scopes": list(oauth.scopes)}


def _entry(name: str, url: str, spec: Server) -> ClientConfig:
    kind = "http" if "streamable-http" in spec.transports else "sse"
    return {"mcpServers": {name: {"type": kind, "url": url}}}
