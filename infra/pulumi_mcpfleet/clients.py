"""The configuration with which an MCP client on a person's machine reaches a server."""

from typing import TypedDict

import pulumi

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import OauthAccess, Server


class ClientEntry(TypedDict):
    """A server in an MCP client's configuration.

    Attributes:
        type: The transport: http or sse.
        url: Where the client calls it.
    """

    type: str
    url: str


class ClientConfig(TypedDict):
    """A configuration in the format that MCP clients read.

    Attributes:
        mcpServers: The servers, by name.
    """

    mcpServers: dict[str, ClientEntry]


class AcceptedTokens(TypedDict):
    """The tokens that a server with its own OAuth accepts.

    Attributes:
        issuer: The authorization server.
        audience: The required audience.
        scopes: The required scopes.
    """

    issuer: str
    audience: pulumi.Input[str]
    scopes: list[str]


def client_config(name: str, spec: Server, mcp_url: pulumi.Output[str], port: int) -> pulumi.Input[ClientConfig] | None:
    """Return the configuration for *name*: its proxy at *port* if IAM checks callers, its URL, or None for neither."""
    match spec.reached:
        case "proxy":
            return _entry(name, naming.proxy_url(port, spec.endpoint), spec)
        case "url":
            return mcp_url.apply(lambda url: _entry(name, url, spec))
        case "network":
            return None


def proxy_command(name: str, spec: Server, *, project: str, region: str, port: int) -> str | None:
    """Return the command that opens the proxy of the configuration; None if the server has no proxy."""
    if spec.reached != "proxy":
        return None
    if spec.domain is not None:
        return naming.domain_proxy_command(spec.domain, spec.endpoint, spec.domain_path, port=port)
    return naming.proxy_command(naming.service_name(name, spec.service_name), project=project, region=region, port=port)


def proxy_port(spec: Server, port: int) -> int | None:
    """Return the local port of the server's proxy; None if it has no proxy."""
    return port if spec.reached == "proxy" else None


def accepted_tokens(spec: Server, base_url: pulumi.Output[str]) -> AcceptedTokens | None:
    """Return the tokens that a server accepts; None if the server doesn't check tokens itself."""
    if not isinstance(spec.access, OauthAccess):
        return None
    oauth = spec.access.oauth
    audience = oauth.audience or base_url.apply(lambda url: naming.mcp_url(url, spec.endpoint))
    return {"issuer": oauth.issuer, "audience": audience, "scopes": list(oauth.scopes)}


def _entry(name: str, url: str, spec: Server) -> ClientConfig:
    transport = "http" if "streamable-http" in spec.transports else "sse"
    return {"mcpServers": {name: {"type": transport, "url": url}}}
