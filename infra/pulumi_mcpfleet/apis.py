"""Which Google APIs a fleet needs: the ones of every fleet, and those of the keys that it uses."""

from collections.abc import Iterator
from typing import Final

from pulumi_mcpfleet.fleet import Fleet, IapAccess, Server, Workload, builds_in_cloud
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
    all_of_it = (*fleet.servers.values(), *fleet.clients.values())
    used = (api for spec in all_of_it for api in _of(spec))
    mesh = MESH if fleet.meshed[0] else ()
    return tuple(sorted({*ALWAYS, *used, *mesh}))


def _of(spec: Workload) -> Iterator[str]:
    if builds_in_cloud(spec.source):
        yield from CLOUD_BUILD
    client = spec.access.iap.oauth_client if isinstance(spec.access, IapAccess) else None
    if spec.all_secrets or client is not None:
        yield "secretmanager"
    if spec.vpc is not None:
        yield "compute"
    if spec.buckets:
        yield "storage"
    if isinstance(spec.access, IapAccess):
        yield "iap"
    # Models, which an agent asks as its account.
    if any(role.startswith("roles/aiplatform.") for role in role_names(spec.roles)):
        yield "aiplatform"
    if isinstance(spec, Server):
        if spec.domain is not None:
            yield "compute"
        if spec.agent_registry is not None:
            yield "agentregistry"
