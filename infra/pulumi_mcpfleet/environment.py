"""The environment variables that a fleet sets in containers: the documented contract between infra and any server.

This is pure data; `McpServer` sets the values. mcpfleet's own names begin with `MCPFLEET_`, which no other server
reads. The hosting layer (`mcpfleet_server.hosting`) and the bridge read them, and `pulumi_mcpfleet.fleet` refuses a
user's variable with such a name. Any other name can have another meaning in somebody's server. So it is set only if the
source is known to read it (`pulumi_mcpfleet.sources.environment_use`), and the user's value takes precedence. These are
FastMCP's settings, with which a server that ends in `mcp.run()` listens on Cloud Run's port, is stateless, and checks
Host and Origin; and exact hosts for a server that reads `MCP_ALLOWED_HOSTS`. The official SDK reads no environment.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

PROJECT: Final = "GOOGLE_CLOUD_PROJECT"
"""Google's libraries read it, and log entries need it to belong to a trace. A user can set another value."""

PREFIX: Final = "MCPFLEET_"
"""The prefix of mcpfleet's own names. `mcpfleet_server.environment` reads `MCPFLEET_PATH` as `MCP_PATH`."""

BASE_URL: Final = f"{PREFIX}BASE_URL"
AUDIENCE: Final = f"{PREFIX}AUDIENCE"
OAUTH_AUDIENCE: Final = f"{PREFIX}OAUTH_AUDIENCE"
ACCESS: Final = f"{PREFIX}ACCESS"
"""The access mode: who has checked the caller, and so what the container can trust (mcpfleet_server.caller)."""
IAP_AUDIENCE: Final = f"{PREFIX}IAP_AUDIENCE"
LOGIN_CLIENT_SECRET: Final = f"{PREFIX}LOGIN_CLIENT_SECRET"
LOGIN_KEYS: Final = f"{PREFIX}LOGIN_KEYS"

INJECTED: Final[Mapping[str, str]] = {
    f"{PREFIX}PATH": "set `path`",
    f"{PREFIX}TRANSPORTS": "set `transports`",
    f"{PREFIX}STATELESS": "set `sessions`",
    f"{PREFIX}HEALTH_PATH": "set `health_path`",
    f"{PREFIX}ALLOWED_HOSTS": "it is computed from the server's name and `domain`",
    f"{PREFIX}ALLOWED_ORIGINS": "set `allowed_origins`",
    BASE_URL: "it is computed from the server's name, or is its `domain`",
    AUDIENCE: "it is the base URL with `audiences`",
    ACCESS: "set `access`",
    IAP_AUDIENCE: "it is computed from the server's name, the project's number and the regions",
    f"{PREFIX}OAUTH_ISSUER": "set `access: {oauth: {issuer: …}}`",
    OAUTH_AUDIENCE: "set `access: {oauth: {audience: …}}`",
    f"{PREFIX}OAUTH_SCOPES": "set `access: {oauth: {scopes: …}}`",
}
"""mcpfleet's own names, with what a user does instead of setting one."""

_LOCALHOST: Final = ("localhost:*", "127.0.0.1:*")
"""Hosts of sidecars, and of clients behind a proxy on their own machine. The reference server always allows them."""


def container_environment(
    *,
    path: str,
    transports: Sequence[str],
    stateless: bool,
    health_path: str | None,
    allowed_hosts: Sequence[str],
    allowed_origins: Sequence[str],
) -> dict[str, str]:
    """Return the environment variables of every server's container, except for its address.

    An empty value is left out, because the API drops it. `FORWARDED_ALLOW_IPS=*` makes uvicorn and
    gunicorn trust X-Forwarded-Proto from the front end; otherwise redirects would lead from https to http.
    """
    variables = {
        f"{PREFIX}PATH": path if "streamable-http" in transports else "",
        f"{PREFIX}TRANSPORTS": ",".join(transports),
        f"{PREFIX}STATELESS": "true" if stateless else "false",
        f"{PREFIX}HEALTH_PATH": health_path or "",
        f"{PREFIX}ALLOWED_HOSTS": ",".join(allowed_hosts),
        f"{PREFIX}ALLOWED_ORIGINS": ",".join(allowed_origins),
        "FORWARDED_ALLOW_IPS": "*",
    }
    return {name: value for name, value in variables.items() if value}


def fastmcp_environment(
    *,
    port: int,
    path: str,
    transports: Sequence[str],
    stateless: bool,
    allowed_hosts: Sequence[str],
    allowed_origins: Sequence[str],
) -> dict[str, str]:
    """Return FastMCP's settings (fastmcp 4.1, `fastmcp.settings`). Its lists of hosts accept the same patterns."""
    sse_only = "streamable-http" not in transports
    # FastMCP refuses to be stateless with SSE alone.
    transport_settings = (
        {"TRANSPORT": "sse", "SSE_PATH": path}
        if sse_only
        else {
            "TRANSPORT": "streamable-http",
            "STREAMABLE_HTTP_PATH": path,
            "STATELESS_HTTP": "true" if stateless else "false",
        }
    )
    settings = {
        **transport_settings,
        "HOST": "0.0.0.0",  # noqa: S104 - in a container, behind Cloud Run's front end
        "PORT": str(port),
        "HTTP_HOST_ORIGIN_PROTECTION": "true",
        "HTTP_ALLOWED_HOSTS": json.dumps([*allowed_hosts, *_LOCALHOST]),
        "HTTP_ALLOWED_ORIGINS": json.dumps(list(allowed_origins)),
        "SHOW_SERVER_BANNER": "false",
        "CHECK_FOR_UPDATES": "off",
    }
    return {f"FASTMCP_{name}": value for name, value in settings.items()}


def login_environment(
    *,
    path: str,
    health_path: str | None,
    allowed_origins: Sequence[str],
    issuer: str,
    client_id: str,
    members: Sequence[str],
    registration: bool,
    application_port: int,
) -> dict[str, str]:
    """Return the variables of the container of `access: login`, except for its address, its bucket and its secrets.

    An empty value is left out, because the API drops it.
    """
    variables = {
        f"{PREFIX}PATH": path,
        f"{PREFIX}HEALTH_PATH": health_path or "",
        f"{PREFIX}ALLOWED_ORIGINS": ",".join(allowed_origins),
        f"{PREFIX}LOGIN_ISSUER": issuer,
        f"{PREFIX}LOGIN_CLIENT_ID": client_id,
        f"{PREFIX}LOGIN_MEMBERS": ",".join(members),
        f"{PREFIX}LOGIN_REGISTRATION": "true" if registration else "false",
        f"{PREFIX}LOGIN_APPLICATION_PORT": str(application_port),
        "FORWARDED_ALLOW_IPS": "*",
    }
    return {name: value for name, value in variables.items() if value}


def oauth_environment(*, issuer: str, scopes: Sequence[str]) -> dict[str, str]:
    """Return the further variables of a server that checks OAuth tokens itself, except for their audience."""
    return {f"{PREFIX}OAUTH_ISSUER": issuer, **({f"{PREFIX}OAUTH_SCOPES": ",".join(scopes)} if scopes else {})}
