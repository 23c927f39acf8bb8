"""Which Google APIs a fleet needs: the ones of every fleet, and those of the keys that it uses."""

from collections.abc import Iterator
from typing import Final

from pulumi_mcpfleet.fleet import Fleet, IapAccess, Server, builds_in_cloud
from pulumi_mcpfleet.fleet.roles import names as role_names

FIRST: Final = "cloudresourcemanager"
"""The provider asks it for the project after it has enabled any other, so it is enabled before them."""

MESH: Final = ("compute", "dns", "networksecurity", "networkservices", "trafficdirector")
"""What Cloud Service Mesh for Cloud Run asks for, and Compute Engine for the backend services."""

ALWAYS: Final = ("artifactregistry", "iam", "iamcredentials", "run")


CLOUD_BUILD: Final = ("cloudbuild", "logging", "storage")
"""What building in the cloud needs: the builds, their logs, the bucket of the sources."""


def of_fleet(fleet: Fleet) -> tuple[str, ...]:
    """The APIs besides `FIRST`, each once and in a fixed order."""
    servers = (api for server in fleet.servers.values() for api in _of_server(server))
    sources = (one.source for one in (*fleet.servers.values(), *fleet.clients.values()))
    builds = CLOUD_BUILD if any(map(builds_in_cloud, sources)) else ()
    clients = (api for client in fleet.clients.values() for api in _of_server(client.as_server))
    mesh = MESH if fleet.meshed[0] else ()
    return tuple(sorted({*ALWAYS, *servers, *clients, *mesh, *builds}))


def _of_server(server: Server) -> Iterator[str]:
    client = server.access.iap.oauth_client if isinstance(server.access, IapAccess) else None
    if server.all_secrets or client is not None:
        yield "secretmanager"
    if server.domain is not None or server.vpc is not None:
        yield "compute"
    if server.buckets:
        yield "storage"
    if isinstance(server.access, IapAccess):
        yield "iap"
    if server.agent_registry is not None:
        yield "agentregistry"
    if any(
        role.startswith("roles/aiplatform.") for role in role_names(server.roles)
    ):  # models, which an agent asks as its account
        yield "aiplatform"
