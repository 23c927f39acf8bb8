"""Finds what a destroyed stack may have left behind, in the local cloud, in Docker and in the state, and removes it."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import docker
from docker.errors import ImageNotFound

from mcpfleet_local_cloud.commands.admin import AdminClient
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.stack_state import read_stack_state
from mcpfleet_local_cloud.docker_engine import list_image_names

_LABEL: Final = "dev.mcpfleet.cloud"
_SERVICE: Final = "dev.mcpfleet.service"
"""The label of a service's container. The gateway container lacks it: it is removed with the local cloud."""
_PUBLIC_REPOSITORY: Final = "/mcpfleet-public/"
_DEFAULT_ACCOUNTS: Final = ("deployer@", "481516234200-compute@")
"""Prefixes of the service accounts that every local project has from the beginning."""


def find(
    folder: CloudFolder, engine: docker.DockerClient, cloud: Mapping[str, Any], inventory: Mapping[str, Any]
) -> list[str]:
    """List everything that is left, one line each: records, containers, images, registry content, state.

    Args:
        folder: The checkout folder of the local cloud.
        engine: The Docker client.
        cloud: The content of the local cloud's ready file.
        inventory: The local cloud's inventory.
    """
    remaining = [f"service {service['name']}" for service in inventory["services"]]
    remaining += [f"repository {name}" for name in inventory["repositories"]]
    remaining += [f"registry content {name}" for name in inventory["images"] if _PUBLIC_REPOSITORY not in name]
    remaining += [
        f"service account {email}" for email in inventory["serviceAccounts"] if not email.startswith(_DEFAULT_ACCOUNTS)
    ]
    remaining += inventory["records"]
    remaining += [f"operation {name}" for name in inventory["operations"]]
    remaining += [
        f"container {container.name}" for container in _list_containers(engine, cloud) if _SERVICE in container.labels
    ]
    remaining += [f"image {reference}" for reference in _list_images(engine, inventory["registry"])]
    remaining += [f"state: {resource['urn']}" for resource in read_stack_state(folder).resources]
    return remaining


def inventory(place: CloudFolder) -> dict[str, Any]:
    """Read the inventory of the local cloud."""
    return AdminClient(place).inventory()


def reset(folder: CloudFolder, cloud: AdminClient, engine: docker.DockerClient) -> None:
    """Remove everything in the local cloud, the stack's state and the images that it built."""
    cloud.reset()
    for reference in _list_images(engine, cloud.inventory()["registry"]):
        with suppress(ImageNotFound):  # removing the last tag has removed the digest
            engine.images.remove(reference)
    folder.published_image_file.unlink(missing_ok=True)  # a reset empties the registry
    _remove_state(folder)


def remove_cloud(
    folder: CloudFolder, engine: docker.DockerClient, cloud: Mapping[str, Any], next_step: str | None = None
) -> None:
    """Remove the gateway container, the networks and the state's history, after the local cloud has stopped.

    Raises:
        SetupError: Docker still has objects of this cloud afterwards.
    """
    for container in _list_containers(engine, cloud):
        if _SERVICE not in container.labels:
            container.remove(force=True, v=True)
    for network in _list_networks(engine, cloud):
        network.remove()
    _remove_state(folder)
    remaining = [str(item.name) for item in (*_list_containers(engine, cloud), *_list_networks(engine, cloud))]
    if remaining:
        raise SetupError(f"Docker still has {', '.join(remaining)}.", next_step or f"run {PROGRAM} down again.")


def _list_containers(engine: docker.DockerClient, cloud: Mapping[str, Any]) -> list[Any]:
    containers: Any = engine.containers.list(all=True, filters=_filters(cloud))
    return containers


def _list_networks(engine: docker.DockerClient, cloud: Mapping[str, Any]) -> list[Any]:
    networks: Any = engine.networks  # the stubs leave its filters untyped
    return networks.list(filters=_filters(cloud))


def _filters(cloud: Mapping[str, Any]) -> dict[str, Any]:
    # Without an id nothing must match: an empty label value would match every cloud on this machine.
    return {"label": f"{_LABEL}={cloud.get('id', 'no cloud')}"}


def _list_images(engine: docker.DockerClient, registry: str) -> list[str]:
    """List tags and digests of the images of this cloud's *registry* (`host:port`), except its public repository."""
    names = list_image_names(engine)
    return sorted(name for name in names if name.startswith(f"{registry}/") and _PUBLIC_REPOSITORY not in name)


def _remove_state(folder: CloudFolder) -> None:
    """Remove Pulumi's folder: after the stack is gone, its history and backups still list every former resource."""
    pulumi_folder = folder.state / "pulumi"
    if pulumi_folder.exists():
        shutil.rmtree(pulumi_folder)
