"""What Pulumi's file backend keeps of a stack, read without the engine."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from mcpfleet_local_cloud.commands.background import DEFAULT_STACK, CloudFolder
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import SetupError

_STACK_TYPE: Final = "pulumi:pulumi:Stack"


@dataclass(frozen=True)
class Recorded:
    """What a stack's state says.

    Attributes:
        resources: Every resource but the stack itself.
        outputs: The stack's outputs; secrets are encrypted in it.
        pending: Whether a run ended in the middle of an operation.
    """

    resources: list[dict[str, Any]]
    outputs: dict[str, Any]
    pending: bool = False

    @property
    def servers(self) -> dict[str, dict[str, Any]]:
        """The output `servers` (infra/pulumi_mcpfleet/outputs.py); empty where nothing is deployed."""
        return self.outputs.get("servers") or {}

    @property
    def clients(self) -> dict[str, dict[str, Any]]:
        """The output `clients` (infra/pulumi_mcpfleet/outputs.py); empty where there are none."""
        return self.outputs.get("clients") or {}


def _states(state: Path) -> Path:
    return state / "pulumi" / ".pulumi" / "stacks"


def state_file(place: CloudFolder) -> Path:
    """Where the file backend keeps the stack's state."""
    return _states(place.state) / place.project / f"{place.stack}.json"


def deployed_stack(state: Path) -> str | None:
    """The stack that a local cloud's folder *state* has; `local` before any other, None where it has none."""
    names = sorted(
        (file.stem for file in _states(state).glob("*/*.json")), key=lambda name: (name != DEFAULT_STACK, name)
    )
    return names[0] if names else None


def recorded(place: CloudFolder) -> Recorded:
    """What the state says; nothing where there is no stack.

    Raises:
        SetupError: The file is no state; it says how to go on.
    """
    file = state_file(place)
    try:
        return _parse(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Recorded([], {})
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        backup = file.with_name(f"{file.name}.bak")
        restore = (
            f"put its backup in its place ({shlex.join(['cp', str(backup), str(file)])}), or "
            if backup.exists()
            else ""
        )
        raise SetupError(
            f"The state of the stack {place.stack} cannot be read: {file}: {why}.",
            f"{restore}remove the deployment, whatever it is, with {PROGRAM} down --force.",
        ) from None


def _parse(checkpoint: object) -> Recorded:
    """The parts that are used here, each only as far as it is used.

    Raises:
        ValueError: It is not what Pulumi writes.
    """
    latest = _object(_object(checkpoint, "the file").get("checkpoint"), "checkpoint").get("latest")
    listed = _object(latest, "latest").get("resources") if latest is not None else None
    if listed is not None and not isinstance(listed, list):
        raise ValueError("resources is not a list")
    resources = [_object(one, "a resource") for one in cast("list[object]", listed or [])]
    if not all(isinstance(one.get(key), str) for one in resources for key in ("type", "urn")):
        raise ValueError("a resource has no type or no URN")
    outputs = [_object(one.get("outputs") or {}, "outputs") for one in resources if one["type"] == _STACK_TYPE]
    pending = latest is not None and bool(_object(latest, "latest").get("pending_operations"))
    found = Recorded([one for one in resources if one["type"] != _STACK_TYPE], outputs[0] if outputs else {}, pending)
    for name, server in _object(found.servers, "servers").items():
        _object(server, f"the server {name}")
    return found


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")  # noqa: TRY004 - like the errors of json, for one except
    return cast("dict[str, Any]", value)


_GLOBAL: Final = "projects/{project}/global/"
_IDS: Final[Mapping[str, str]] = {
    "gcp:agentregistry/service:Service": "projects/{project}/locations/{location}/services/{serviceId}",
    "gcp:artifactregistry/repository:Repository": "projects/{project}/locations/{location}/repositories/{repositoryId}",
    "gcp:cloudrunv2/service:Service": "projects/{project}/locations/{location}/services/{name}",
    "gcp:compute/backendService:BackendService": _GLOBAL + "backendServices/{name}",
    "gcp:compute/globalAddress:GlobalAddress": _GLOBAL + "addresses/{name}",
    "gcp:compute/globalForwardingRule:GlobalForwardingRule": _GLOBAL + "forwardingRules/{name}",
    "gcp:compute/managedSslCertificate:ManagedSslCertificate": _GLOBAL + "sslCertificates/{name}",
    "gcp:compute/network:Network": _GLOBAL + "networks/{name}",
    "gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup": (
        "projects/{project}/regions/{region}/networkEndpointGroups/{name}"
    ),
    "gcp:compute/subnetwork:Subnetwork": "projects/{project}/regions/{region}/subnetworks/{name}",
    "gcp:compute/targetHttpProxy:TargetHttpProxy": _GLOBAL + "targetHttpProxies/{name}",
    "gcp:compute/targetHttpsProxy:TargetHttpsProxy": _GLOBAL + "targetHttpsProxies/{name}",
    "gcp:compute/uRLMap:URLMap": _GLOBAL + "urlMaps/{name}",
    "gcp:secretmanager/secret:Secret": "projects/{project}/secrets/{secretId}",
    "gcp:serviceaccount/account:Account": (
        "projects/{project}/serviceAccounts/{accountId}@{project}.iam.gserviceaccount.com"
    ),
    "gcp:storage/bucket:Bucket": "{name}",
}
"""The provider's ids of what has a name that can be taken, with the inputs in braces."""


def identifier(resource: Mapping[str, Any]) -> str | None:
    """The provider's id of a resource whose creation was interrupted, where its name alone decides it.

    None for a resource that can simply be created again: a grant, an enabled API, a pushed image. None too where
    the inputs do not tell the name: they came from a run that was killed.
    """
    inputs: dict[str, Any] = resource.get("inputs") or {}
    words = {key: value for key, value in inputs.items() if isinstance(value, str) and value}
    shape = _IDS.get(resource["type"])
    if shape is None:
        return None
    try:
        return shape.format_map(words)
    except KeyError:
        return None
