"""The environment a fleet gives to a container: the documented contract between infra and any server.

Pure data; `infra.fleet` refuses a user's variable of the same name, `McpServer` sets the values.
"""

from collections.abc import Mapping, Sequence
from typing import Final

PATH: Final = "MCP_PATH"
ALLOWED_HOSTS: Final = "MCP_ALLOWED_HOSTS"
ALLOWED_ORIGINS: Final = "MCP_ALLOWED_ORIGINS"
TRUSTED_PROXIES: Final = "FORWARDED_ALLOW_IPS"

INJECTED: Final[Mapping[str, str]] = {
    PATH: "set `path`",
    ALLOWED_HOSTS: "it is computed from the server's name",
    ALLOWED_ORIGINS: "set `allowed_origins`",
    TRUSTED_PROXIES: "Cloud Run's front end is always in front of the container",
}
"""Each name the fleet sets, and what a user writes instead."""


def container_environment(
    *, path: str, allowed_hosts: Sequence[str], allowed_origins: Sequence[str], user: Mapping[str, str]
) -> dict[str, str]:
    """Everything a server's container finds in its environment beside Cloud Run's own PORT and K_*.

    `MCP_ALLOWED_ORIGINS` is absent when no origin is allowed: an empty value is dropped by the API,
    and reads the same. `FORWARDED_ALLOW_IPS=*` makes uvicorn believe X-Forwarded-Proto from the front
    end; without it a redirect would lead from https to http.
    """
    ours = {PATH: path, ALLOWED_HOSTS: ",".join(allowed_hosts), TRUSTED_PROXIES: "*"}
    if allowed_origins:
        ours[ALLOWED_ORIGINS] = ",".join(allowed_origins)
    return {**ours, **user}
