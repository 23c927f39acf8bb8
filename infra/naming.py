"""The names a fleet gives to things, as pure functions, with the cloud's limits beside them.

No random suffixes: a name computed from what the user wrote can be found again, granted on and
imported. Nothing here reads configuration; `infra.fleet` has already refused what does not fit.
"""

from typing import Final

SERVER_PREFIX: Final = "mcp-"
"""Every service and service account of a fleet begins with it, so a project's list shows whose they are."""

# IAM's REST reference, projects.serviceAccounts.create, on accountId: 6 to 30 characters that match
# [a-z]([-a-z0-9]*[a-z0-9]) as a whole.
ACCOUNT_ID_MIN: Final = 6
ACCOUNT_ID_MAX: Final = 30

# Cloud Run's REST reference, projects.locations.services.create, on serviceId: "must begin with letter,
# and cannot end with hyphen; must contain fewer than 50 characters".
SERVICE_NAME_MAX: Final = 49

# The account is the tighter of the two that a server's name becomes.
SERVER_NAME_MIN: Final = ACCOUNT_ID_MIN - len(SERVER_PREFIX)
SERVER_NAME_MAX: Final = min(ACCOUNT_ID_MAX, SERVICE_NAME_MAX) - len(SERVER_PREFIX)

REPOSITORY_ID: Final = "mcpfleet"
"""The Artifact Registry repository that holds every image a fleet builds."""

FIRST_PROXY_PORT: Final = 3000
"""Where the first server's authenticated proxy listens on a user's machine; the next takes the next."""


def service_name(server: str) -> str:
    """The Cloud Run service of *server*."""
    return f"{SERVER_PREFIX}{server}"


def account_id(server: str) -> str:
    """The service account (the part before the @) that *server* runs as."""
    return f"{SERVER_PREFIX}{server}"


def grant_name(server: str, member: str) -> str:
    """The stack's own name for the grant that lets *member* call *server*."""
    return f"{server}-invoker-{member}"


def api_host(api: str) -> str:
    """The full name of a Google API, as Service Usage lists it: `run` is `run.googleapis.com`."""
    return f"{api}.googleapis.com"


def image_repository(registry_uri: str, server: str) -> str:
    """Where in the registry the images of *server* are, without tag or digest."""
    return f"{registry_uri}/{server}"


def registry_host(registry_uri: str) -> str:
    """The host (and port) of a registry address; credentials are kept by host, not by path."""
    return registry_uri.partition("/")[0]


def allowed_hosts(server: str) -> tuple[str, ...]:
    """The Host headers under which *server* is reached; `*` stands for any run of characters.

    A service answers on two run.app hosts. `SERVICE-NUMBER.REGION.run.app` could be computed from the
    project's number, `SERVICE-HASH-xx.a.run.app` could not, so both are covered by one pattern; it
    begins with the service's whole name, and Google routes a run.app host only to its own service.
    """
    return (f"{service_name(server)}-*.run.app",)


def mcp_url(service_url: str, path: str) -> str:
    """The URL a client is given: the endpoint itself, so that no redirect is needed."""
    return f"{service_url.rstrip('/')}{path}"


def proxy_ports(count: int) -> range:
    """The local ports of the proxies of *count* servers, in the order of their names, as Pulumi sorts its config."""
    return range(FIRST_PROXY_PORT, FIRST_PROXY_PORT + count)


def proxy_url(port: int, path: str) -> str:
    """Where a client on the user's machine reaches a server through its authenticated proxy."""
    return mcp_url(f"http://127.0.0.1:{port}", path)


def proxy_command(server: str, *, project: str, region: str, port: int) -> str:
    """The command that opens a local port to *server* and adds the caller's ID token to each request."""
    return f"gcloud run services proxy {service_name(server)} --project {project} --region {region} --port {port}"
