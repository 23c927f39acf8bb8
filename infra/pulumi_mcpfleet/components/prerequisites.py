"""Prerequisites: resources that a fleet uses but doesn't create, such as versions of secrets, networks and subnetworks.

They are looked up before anything is created, and all that are missing are reported at once, each with its config path.
If a lookup fails for another reason, such as a missing permission, the deployment itself finds out.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Final

import pulumi
from pulumi.runtime import invoke_async

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import Fleet, IapAccess, LoginAccess, Workload
from pulumi_mcpfleet.fleet.mistakes import format_path
from pulumi_mcpfleet.fleet.volumes import SecretVolume

SECRET: Final = "gcp:secretmanager/getSecretVersion:getSecretVersion"  # noqa: S105 - a function's name
NETWORK: Final = "gcp:compute/getNetwork:getNetwork"
SUBNETWORK: Final = "gcp:compute/getSubnetwork:getSubnetwork"

# The provider's messages for 404; the functions of networks and subnetworks have their own.
_MISSING: Final = re.compile(r"Error 404\b|projects/\S+ not found")

# The same provider as that of the resources; without a version, the engine would use any that is installed.
_VERSION: Final = version("pulumi-gcp")


@dataclass(frozen=True)
class Prerequisite:
    """A resource that must exist before the deployment.

    Attributes:
        path: The config path that names it, relative to the fleet.
        function: The provider's function that reads it.
        arguments: The arguments of that function.
        description: What it is, for error messages.
        advice: What the user can type to create it.
    """

    path: tuple[str, ...]
    function: str
    arguments: Mapping[str, Any]
    description: str
    advice: str


def find_prerequisites(fleet: Fleet, project: str) -> list[Prerequisite]:
    """Return the prerequisites of *fleet*, each once, with the first config path that names it."""
    prerequisites: dict[str, Prerequisite] = {}
    for section, workloads in (("servers", fleet.servers), ("clients", fleet.clients)):
        for name, spec in workloads.items():
            regions = fleet.all_regions if section == "servers" else fleet.all_regions[:1]
            for need in (*_secrets(spec, project), *_networks(spec, project, regions)):
                prerequisites.setdefault(
                    f"{need.function} {sorted(need.arguments.items())}",
                    replace(need, path=(section, name, *need.path)),
                )
    return list(prerequisites.values())


async def check_prerequisites(prerequisites: Sequence[Prerequisite], parent: pulumi.Resource) -> None:
    """Look up all *prerequisites* at the same time, with the provider of *parent*.

    Raises:
        pulumi.RunError: Prerequisites are missing; the text has one line for each.
    """
    lines = [line for line in await asyncio.gather(*(_look_up(need, parent) for need in prerequisites)) if line]
    if lines:
        raise pulumi.RunError("\n".join(lines))


async def _look_up(need: Prerequisite, parent: pulumi.Resource) -> str | None:
    """Look up *need*; return an error message if it is missing."""
    options = pulumi.InvokeOptions(parent=parent, version=_VERSION)
    try:
        result: Any = await invoke_async(need.function, dict(need.arguments), options)
    except Exception as error:  # the SDK raises a plain Exception, with the provider's message
        if _MISSING.search(str(error)):
            return f"{format_path(need.path)}: there is no {need.description}; {need.advice}"
        return None
    if need.function == SECRET and not result["enabled"]:
        return f"{format_path(need.path)}: {need.description} is disabled or destroyed; enable it, or name another"
    return None


def _secrets(spec: Workload, project: str) -> Iterator[Prerequisite]:
    for target, ref in spec.secrets.items():
        yield _secret(("secrets", target), ref.secret, ref.version, project)
    for name, sidecar in spec.all_sidecars.items():
        for target, ref in sidecar.secrets.items():
            yield _secret(("sidecars", name, "secrets", target), ref.secret, ref.version, project)
    for name, volume in spec.volumes.items():
        if isinstance(volume, SecretVolume):
            for file in volume.files.values():
                yield _secret(("volumes", name), volume.secret, file.version, project)
    if isinstance(spec.access, IapAccess) and (client := spec.access.iap.oauth_client) is not None:
        yield _secret(("access", "iap", "oauth_client"), client.secret, client.version, project)
    if isinstance(spec.access, LoginAccess):
        login = spec.access.login
        path = ("access", "login", "oidc" if login.oidc else "google", "client")
        yield _secret(path, login.client.secret, login.client.version, project)
        yield _secret(("access", "login", "key"), login.key.secret, login.key.version, project)


def _secret(path: tuple[str, ...], secret: str, number: str, project: str) -> Prerequisite:
    owner, name = naming.secret_project(secret, project), naming.secret_id(secret)
    arguments: dict[str, Any] = {"project": owner, "secret": name, "fetchSecretData": False}
    if number != "latest":
        arguments["version"] = number
    return Prerequisite(
        path,
        SECRET,
        arguments,
        f"version {number} of the secret {name} in {owner}",
        f"gcloud secrets versions add {name} --project={owner} --data-file=- adds one"
        f" (gcloud secrets create {name} … the first)",
    )


def _networks(spec: Workload, project: str, regions: Sequence[str]) -> Iterator[Prerequisite]:
    if spec.vpc is None or spec.vpc.connector is not None:
        return
    network, subnetwork = spec.vpc.network, spec.vpc.subnetwork
    if network is not None:
        owner, name = _split_path(network, project)
        advice = f"see gcloud compute networks list --project={owner}"
        yield Prerequisite(("vpc", "network"), NETWORK, {"project": owner, "name": name}, f"network {name}", advice)
    for region in regions:
        path, location = ("vpc", "subnetwork" if subnetwork is not None else "network"), region
        subnetwork_path = subnetwork or naming.subnetwork_of(network or "", region)
        owner, name = _split_path(subnetwork_path, project)
        if "/" in subnetwork_path:
            location = subnetwork_path.split("/")[3]
        yield Prerequisite(
            path,
            SUBNETWORK,
            {"project": owner, "region": location, "name": name},
            f"subnetwork {name} in {location}",
            f"name one of gcloud compute networks subnets list --project={owner} --regions={location}",
        )


def _split_path(path: str, project: str) -> tuple[str, str]:
    """Return the project and the name of a network or subnetwork, from its name or its full resource name."""
    return (path.split("/")[1] if "/" in path else project), path.rpartition("/")[2]
