"""Reads a stack's state from the files of Pulumi's file backend, without the engine."""

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
class StackState:
    """The parts of a stack's state that the commands use.

    Attributes:
        resources: Every resource but the stack itself.
        outputs: The stack's outputs; secrets in them are encrypted.
        pending: Whether a run was interrupted during an operation.
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


def _stacks_folder(state: Path) -> Path:
    return state / "pulumi" / ".pulumi" / "stacks"


def state_file(folder: CloudFolder) -> Path:
    """The file backend's state file of the stack."""
    return _stacks_folder(folder.state) / folder.project / f"{folder.stack}.json"


def find_deployed_stack(state: Path) -> str | None:
    """Find the stack that has a state in a local cloud's folder *state*, `local` first; None if there is none."""
    names = sorted(
        (file.stem for file in _stacks_folder(state).glob("*/*.json")), key=lambda name: (name != DEFAULT_STACK, name)
    )
    return names[0] if names else None


def read_stack_state(folder: CloudFolder) -> StackState:
    """Read the stack's state; it is empty if there is no stack.

    Raises:
        SetupError: The file cannot be read or is not a state; the next step is how to restore or remove it.
    """
    file = state_file(folder)
    try:
        return _parse(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return StackState([], {})
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        backup = file.with_name(f"{file.name}.bak")
        restore = (
            f"put its backup in its place ({shlex.join(['cp', str(backup), str(file)])}), or "
            if backup.exists()
            else ""
        )
        raise SetupError(
            f"The state of the stack {folder.stack} cannot be read: {file}: {reason}.",
            f"{restore}remove the whole deployment with {PROGRAM} down --force.",
        ) from None


def _parse(checkpoint: object) -> StackState:
    """Parse a checkpoint file; only the fields that are used are checked.

    Raises:
        ValueError: It does not have the shape that Pulumi writes.
    """
    latest = _object(_object(checkpoint, "the file").get("checkpoint"), "checkpoint").get("latest")
    raw_resources = _object(latest, "latest").get("resources") if latest is not None else None
    if raw_resources is not None and not isinstance(raw_resources, list):
        raise ValueError("resources is not a list")
    resources = [_object(resource, "a resource") for resource in cast("list[object]", raw_resources or [])]
    if not all(isinstance(resource.get(key), str) for resource in resources for key in ("type", "urn")):
        raise ValueError("a resource has no type or no URN")
    outputs = [
        _object(resource.get("outputs") or {}, "outputs") for resource in resources if resource["type"] == _STACK_TYPE
    ]
    pending = latest is not None and bool(_object(latest, "latest").get("pending_operations"))
    state = StackState(
        [resource for resource in resources if resource["type"] != _STACK_TYPE], outputs[0] if outputs else {}, pending
    )
    for name, server in _object(state.servers, "servers").items():
        _object(server, f"the server {name}")
    return state


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")  # noqa: TRY004 - like the errors of json, for one except
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
"""The provider's ids of resources with a unique name, by resource type; the names of inputs are in braces."""


def provider_id(resource: Mapping[str, Any]) -> str | None:
    """The provider's id of a resource whose creation was interrupted, if it follows from its inputs.

    None for a resource that can be created again: a grant, an enabled API, a pushed image. None too if the inputs lack
    the name, because the run was killed.
    """
    inputs: dict[str, Any] = resource.get("inputs") or {}
    fields = {key: value for key, value in inputs.items() if isinstance(value, str) and value}
    template = _IDS.get(resource["type"])
    if template is None:
        return None
    try:
        return template.format_map(fields)
    except KeyError:
        return None
