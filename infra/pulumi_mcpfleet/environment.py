"""The environment a fleet gives to a container: the documented contract between infra and any server.

Pure data; `McpServer` sets the values. Names of our own begin with `MCPFLEET_`, which no other server reads: the
hosting layer (`mcpfleet_server.hosting`) and the bridge take them, and `pulumi_mcpfleet.fleet` refuses a user's
variable of the same name. Any other name may mean something else to somebody's server, so it is set only where the
source is known to read it (`pulumi_mcpfleet.sources.reads`), and a user's own value replaces it: FastMCP's settings, by
which a server that ends in `mcp.run()` listens where Cloud Run asks, stateless, and checks Host and Origin; and exact
hosts for a server that reads `MCP_ALLOWED_HOSTS`. The official SDK reads no environment.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

PROJECT: Final = "GOOGLE_CLOUD_PROJECT"
"""Google's own libraries look for it, and log entries need it to belong to a trace. A user may say another."""

OWN: Final = "MCPFLEET_"
"""What the names of our own begin with; `mcpfleet_server.environment` reads `MCPFLEET_PATH` as `MCP_PATH`."""

BASE_URL: Final = f"{OWN}BASE_URL"
AUDIENCE: Final = f"{OWN}AUDIENCE"
OAUTH_AUDIENCE: Final = f"{OWN}OAUTH_AUDIENCE"
ACCESS: Final = f"{OWN}ACCESS"
"""Who has checked the caller, as `access` says it: whom the container may believe (mcpfleet_server.caller)."""
IAP_AUDIENCE: Final = f"{OWN}IAP_AUDIENCE"

INJECTED: Final[Mapping[str, str]] = {
    f"{OWN}PATH": "set `path`",
    f"{OWN}TRANSPORTS": "set `transports`",
    f"{OWN}STATELESS": "set `sessions`",
    f"{OWN}HEALTH_PATH": "set `health_path`",
    f"{OWN}ALLOWED_HOSTS": "it is computed from the server's name and `domain`",
    f"{OWN}ALLOWED_ORIGINS": "set `allowed_origins`",
    BASE_URL: "it is computed from the server's name, or is its `domain`",
    AUDIENCE: "it is the base URL with `audiences`",
    ACCESS: "set `access`",
    IAP_AUDIENCE: "it is computed from the server's name, the project's number and the regions",
    f"{OWN}OAUTH_ISSUER": "set `access: {oauth: {issuer: …}}`",
    OAUTH_AUDIENCE: "set `access: {oauth: {audience: …}}`",
    f"{OWN}OAUTH_SCOPES": "set `access: {oauth: {scopes: …}}`",
}
"""Each name of our own, and what a user writes instead."""

_LOCALHOST: Final = ("localhost:*", "127.0.0.1:*")
"""Sidecars, and clients behind a proxy on their own machine. The reference server always allows them."""


def container_environment(
    *,
    path: str,
    transports: Sequence[str],
    stateless: bool,
    health_path: str | None,
    allowed_hosts: Sequence[str],
    allowed_origins: Sequence[str],
) -> dict[str, str]:
    """What every server's container finds in its environment beside Cloud Run's own PORT and K_*, but for its address.

    An empty value is left out: the API drops it, and it reads the same. `FORWARDED_ALLOW_IPS=*` makes uvicorn and
    gunicorn believe X-Forwarded-Proto from the front end; without it a redirect would lead from https to http.
    """
    ours = {
        f"{OWN}PATH": path if "streamable-http" in transports else "",
        f"{OWN}TRANSPORTS": ",".join(transports),
        f"{OWN}STATELESS": "true" if stateless else "false",
        f"{OWN}HEALTH_PATH": health_path or "",
        f"{OWN}ALLOWED_HOSTS": ",".join(allowed_hosts),
        f"{OWN}ALLOWED_ORIGINS": ",".join(allowed_origins),
        "FORWARDED_ALLOW_IPS": "*",
    }
    return {name: value for name, value in ours.items() if value}


def fastmcp_environment(
    *,
    port: int,
    path: str,
    transports: Sequence[str],
    stateless: bool,
    allowed_hosts: Sequence[str],
    allowed_origins: Sequence[str],
) -> dict[str, str]:
    """FastMCP's settings (fastmcp 4.1, `fastmcp.settings`), whose lists of hosts take patterns as ours do."""
    sse = "streamable-http" not in transports
    # With SSE alone FastMCP refuses to be stateless.
    of_transport = (
        {"TRANSPORT": "sse", "SSE_PATH": path}
        if sse
        else {
            "TRANSPORT": "streamable-http",
            "STREAMABLE_HTTP_PATH": path,
            "STATELESS_HTTP": "true" if stateless else "false",
        }
    )
    settings = {
        **of_transport,
        "HOST": "0.0.0.0",  # noqa: S104 - in a container, behind Cloud Run's front end
        "PORT": str(port),
        "HTTP_HOST_ORIGIN_PROTECTION": "true",
        "HTTP_ALLOWED_HOSTS": json.dumps([*allowed_hosts, *_LOCALHOST]),
        "HTTP_ALLOWED_ORIGINS": json.dumps(list(allowed_origins)),
        "SHOW_SERVER_BANNER": "false",
        "CHECK_FOR_UPDATES": "off",
    }
    return {f"FASTMCP_{name}": value for name, value in settings.items()}


def oauth_environment(*, issuer: str, scopes: Sequence[str]) -> dict[str, str]:
    """What a server that checks OAuth tokens itself finds besides, but for their audience."""
    return {f"{OWN}OAUTH_ISSUER": issuer, **({f"{OWN}OAUTH_SCOPES": ",".join(scopes)} if scopes else {})}
