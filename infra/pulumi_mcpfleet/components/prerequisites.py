"""What a fleet names and does not make, looked for before anything is made: versions of secrets, networks, subnetworks.

All that is missing is said at once, each under its path in the config. What cannot be looked at, as the deployer may
not or the API does not answer, is left to the deployment itself.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import pulumi
from pulumi.runtime import invoke_async

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import Fleet, IapAccess, Workload
from pulumi_mcpfleet.fleet.mistakes import format_path
from pulumi_mcpfleet.fleet.volumes import SecretVolume

SECRET: Final = "gcp:secretmanager/getSecretVersion:getSecretVersion"  # noqa: S105 - a function's name
NETWORK: Final = "gcp:compute/getNetwork:getNetwork"
SUBNETWORK: Final = "gcp:compute/getSubnetwork:getSubnetwork"

# How the provider says 404; a network's and a subnetwork's function turn it into words of their own.
_MISSING: Final = re.compile(r"Error 404\b|projects/\S+ not found")

# Of the provider that the resources have; without a version the engine would take any that is there.
_VERSION: Final = version("pulumi-gcp")


@dataclass(frozen=True)
class Need:
    """One thing that has to exist.

    Attributes:
        path: Where the fleet names it, from the fleet on.
        function: The provider's function that reads it.
        arguments: Of that function.
        what: The thing, in words.
        advice: What to type to have it.
    """

    path: tuple[str, ...]
    function: str
    arguments: Mapping[str, Any]
    what: str
    advice: str


def needs(fleet: Fleet, project: str) -> list[Need]:
    """What *fleet* names, each thing once, at the first place that names it."""
    found: dict[str, Need] = {}
    for section, named in (("servers", fleet.servers), ("clients", fleet.clients)):
        for name, spec in named.items():
            regions = fleet.all_regions if section == "servers" else fleet.all_regions[:1]
            for need in (*_secrets(spec, project), *_networks(spec, project, regions)):
                placed = Need((section, name, *need.path), need.function, need.arguments, need.what, need.advice)
                found.setdefault(f"{need.function} {sorted(need.arguments.items())}", placed)
    return list(found.values())


async def check(wanted: Sequence[Need], parent: pulumi.Resource) -> None:
    """Look for all of *wanted* at once, with the provider of *parent*.

    Raises:
        pulumi.RunError: Something is missing; a line for each.
    """
    lines = [line for line in await asyncio.gather(*(_line(one, parent) for one in wanted)) if line]
    if lines:
        raise pulumi.RunError("\n".join(lines))


async def _line(need: Need, parent: pulumi.Resource) -> str | None:
    options = pulumi.InvokeOptions(parent=parent, version=_VERSION)
    try:
        found: Any = await invoke_async(need.function, dict(need.arguments), options)
    except Exception as error:  # the SDK raises a plain one, with the provider's words
        if _MISSING.search(str(error)):
            return f"{format_path(need.path)}: there is no {need.what}; {need.advice}"
        return None
    if need.function == SECRET and not found["enabled"]:
        return f"{format_path(need.path)}: {need.what} is disabled or destroyed; enable it, or name another"
    return None


def _secrets(spec: Workload, project: str) -> Iterator[Need]:
    for place, ref in spec.secrets.items():
        yield _secret(("secrets", place), ref.secret, ref.version, project)
    for name, sidecar in spec.all_sidecars.items():
        for place, ref in sidecar.secrets.items():
            yield _secret(("sidecars", name, "secrets", place), ref.secret, ref.version, project)
    for name, volume in spec.volumes.items():
        if isinstance(volume, SecretVolume):
            for one in volume.files.values():
                yield _secret(("volumes", name), volume.secret, one.version, project)
    if isinstance(spec.access, IapAccess) and (client := spec.access.iap.oauth_client) is not None:
        yield _secret(("access", "iap", "oauth_client"), client.secret, client.version, project)


def _secret(path: tuple[str, ...], secret: str, number: str, project: str) -> Need:
    owner, name = naming.secret_project(secret, project), naming.secret_id(secret)
    arguments: dict[str, Any] = {"project": owner, "secret": name, "fetchSecretData": False}
    if number != "latest":
        arguments["version"] = number
    return Need(
        path,
        SECRET,
        arguments,
        f"version {number} of the secret {name} in {owner}",
        f"gcloud secrets versions add {name} --project={owner} --data-file=- adds one"
        f" (gcloud secrets create {name} … the first)",
    )


def _networks(spec: Workload, project: str, regions: Sequence[str]) -> Iterator[Need]:
    if spec.vpc is None or spec.vpc.connector is not None:
        return
    network, subnetwork = spec.vpc.network, spec.vpc.subnetwork
    if network is not None:
        owner, name = _place(network, project)
        listed = f"gcloud compute networks list --project={owner}"
        yield Need(("vpc", "network"), NETWORK, {"project": owner, "name": name}, f"network {name}", f"see {listed}")
    for region in regions:
        path, where = ("vpc", "subnetwork" if subnetwork is not None else "network"), region
        given = subnetwork or naming.subnetwork_of(network or "", region)
        owner, name = _place(given, project)
        if "/" in given:
            where = given.split("/")[3]
        yield Need(
            path,
            SUBNETWORK,
            {"project": owner, "region": where, "name": name},
            f"subnetwork {name} in {where}",
            f"name one of gcloud compute networks subnets list --project={owner} --regions={where}",
        )


def _place(path: str, project: str) -> tuple[str, str]:
    """The project and the name of a network or subnetwork, which may be given in full."""
    return (path.split("/")[1] if "/" in path else project), path.rpartition("/")[2]
