"""The environment a fleet gives to a container: the documented contract between infra and any server.

Pure data; `pulumi_mcpfleet.fleet` refuses a user's variable of the same name, `McpServer` sets the values. Beside names
of our own, which the reference server understands, FastMCP's settings are set, so that a server that ends in
`mcp.run()` listens where Cloud Run asks, stateless, and checks Host and Origin. The official SDK reads no environment:
its servers take the same from `mcpfleet_server.hosting`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

PROJECT: Final = "GOOGLE_CLOUD_PROJECT"
"""Google's own libraries look for it, and log entries need it to belong to a trace. A user may say another."""

BASE_URL: Final = "MCP_BASE_URL"
AUDIENCE: Final = "MCP_AUDIENCE"
OAUTH_AUDIENCE: Final = "MCP_OAUTH_AUDIENCE"
ACCESS: Final = "MCP_ACCESS"
"""Who has checked the caller, as `access` says it: whom the container may believe (mcpfleet_server.caller)."""
IAP_AUDIENCE: Final = "MCP_IAP_AUDIENCE"

INJECTED: Final[Mapping[str, str]] = {
    "MCP_PATH": "set `path`",
    "MCP_TRANSPORTS": "set `transports`",
    "MCP_STATELESS": "set `sessions`",
    "MCP_HEALTH_PATH": "set `health_path`",
    "MCP_ALLOWED_HOSTS": "it is computed from the server's name and `domain`",
    "MCP_ALLOWED_ORIGINS": "set `allowed_origins`",
    BASE_URL: "it is computed from the server's name, or is its `domain`",
    AUDIENCE: "it is the base URL with `audiences`",
    ACCESS: "set `access`",
    IAP_AUDIENCE: "it is computed from the server's name, the project's number and the regions",
    "MCP_OAUTH_ISSUER": "set `access: {oauth: {issuer: …}}`",
    OAUTH_AUDIENCE: "set `access: {oauth: {audience: …}}`",
    "MCP_OAUTH_SCOPES": "set `access: {oauth: {scopes: …}}`",
    "FORWARDED_ALLOW_IPS": "Cloud Run's front end is always in front of the container",
    "FASTMCP_TRANSPORT": "set `transports`",
    "FASTMCP_HOST": "Cloud Run's front end has to reach the container",
    "FASTMCP_PORT": "set `source: {port: …}`",
    "FASTMCP_STREAMABLE_HTTP_PATH": "set `path`",
    "FASTMCP_STATELESS_HTTP": "set `sessions`",
    "FASTMCP_HTTP_HOST_ORIGIN_PROTECTION": "the allowed hosts and origins are always checked",
    "FASTMCP_HTTP_ALLOWED_HOSTS": "it is computed from the server's name and `domain`",
    "FASTMCP_HTTP_ALLOWED_ORIGINS": "set `allowed_origins`",
    "FASTMCP_SHOW_SERVER_BANNER": "a container's output is its log",
    "FASTMCP_CHECK_FOR_UPDATES": "a container is updated by its image",
}
"""Each name the fleet sets, and what a user writes instead."""

_LOCALHOST: Final = ("localhost:*", "127.0.0.1:*")
"""Sidecars, and clients behind a proxy on their own machine. The reference server always allows them."""


def container_environment(
    *,
    port: int,
    path: str,
    transports: Sequence[str],
    stateless: bool,
    health_path: str | None,
    allowed_hosts: Sequence[str],
    allowed_origins: Sequence[str],
    user: Mapping[str, str],
) -> dict[str, str]:
    """What a server's container finds in its environment beside Cloud Run's own PORT and K_*, but for its address.

    An empty value is left out: the API drops it, and it reads the same. `FORWARDED_ALLOW_IPS=*` makes uvicorn believe
    X-Forwarded-Proto from the front end; without it a redirect would lead from https to http.
    """
    truth = "true" if stateless else "false"
    ours = {
        "MCP_PATH": path,
        "MCP_TRANSPORTS": ",".join(transports),
        "MCP_STATELESS": truth,
        "MCP_HEALTH_PATH": health_path or "",
        "MCP_ALLOWED_HOSTS": ",".join(allowed_hosts),
        "MCP_ALLOWED_ORIGINS": ",".join(allowed_origins),
        "FORWARDED_ALLOW_IPS": "*",
        "FASTMCP_TRANSPORT": "streamable-http" if "streamable-http" in transports else "sse",
        "FASTMCP_HOST": "0.0.0.0",  # noqa: S104 - in a container, behind Cloud Run's front end
        "FASTMCP_PORT": str(port),
        "FASTMCP_STREAMABLE_HTTP_PATH": path,
        "FASTMCP_STATELESS_HTTP": truth,
        "FASTMCP_HTTP_HOST_ORIGIN_PROTECTION": "true",
        "FASTMCP_HTTP_ALLOWED_HOSTS": json.dumps([*allowed_hosts, *_LOCALHOST]),
        "FASTMCP_HTTP_ALLOWED_ORIGINS": json.dumps(list(allowed_origins)),
        "FASTMCP_SHOW_SERVER_BANNER": "false",
        "FASTMCP_CHECK_FOR_UPDATES": "off",
    }
    return {**{name: value for name, value in ours.items() if value}, **user}


def oauth_environment(*, issuer: str, scopes: Sequence[str]) -> dict[str, str]:
    """What a server that checks OAuth tokens itself finds besides, but for their audience."""
    return {"MCP_OAUTH_ISSUER": issuer, **({"MCP_OAUTH_SCOPES": ",".join(scopes)} if scopes else {})}
