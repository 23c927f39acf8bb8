"""Looks for what a destroyed stack may have left behind, everywhere that it could be, and removes it by force."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import docker
from docker.errors import ImageNotFound

from mcpfleet_local_cloud.commands.admin import Admin
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.state import recorded

_LABEL: Final = "dev.mcpfleet.cloud"
_SERVICE: Final = "dev.mcpfleet.service"
"""The label of a service's container; the gateway container, which has none, goes with the cloud."""
_PUBLIC: Final = "/mcpfleet-public/"
_FIRST: Final = ("deployer@", "481516234200-compute@")
"""The service accounts that every local project begins with."""


def find(
    place: CloudFolder, engine: docker.DockerClient, cloud: Mapping[str, Any], held: Mapping[str, Any]
) -> list[str]:
    """Everything that is left, each in words: records, containers, images, registry content, state.

    Args:
        place: Where the local cloud lives.
        engine: Docker.
        cloud: What the local cloud wrote about itself.
        held: What it holds: its inventory.
    """
    left = [f"service {service['name']}" for service in held["services"]]
    left += [f"repository {name}" for name in held["repositories"]]
    left += [f"registry content {name}" for name in held["images"] if _PUBLIC not in name]
    left += [f"service account {email}" for email in held["serviceAccounts"] if not email.startswith(_FIRST)]
    left += held["records"]
    left += [f"operation {name}" for name in held["operations"]]
    left += [f"container {one.name}" for one in _containers(engine, cloud) if _SERVICE in one.labels]
    left += [f"image {reference}" for reference in _images(engine, held["registry"])]
    left += [f"state: {resource['urn']}" for resource in recorded(place).resources]
    return left


def inventory(place: CloudFolder) -> dict[str, Any]:
    """What the local cloud holds."""
    return Admin(place).inventory()


def reset(place: CloudFolder, cloud: Admin, engine: docker.DockerClient) -> None:
    """Have the local cloud forget and remove everything, and drop the stack's state and the images that it built."""
    cloud.reset()
    for reference in _images(engine, cloud.inventory()["registry"]):
        with suppress(ImageNotFound):  # the last tag takes the digest with it
            engine.images.remove(reference)
    place.published.unlink(missing_ok=True)  # a reset empties the registry
    _drop_state(place)


def forget(place: CloudFolder, engine: docker.DockerClient, cloud: Mapping[str, Any]) -> None:
    """Remove what no stack needs once the local cloud has stopped: its gateway container and networks, the history.

    Raises:
        SetupError: Docker still has something of this cloud afterwards.
    """
    for container in _containers(engine, cloud):
        if _SERVICE not in container.labels:
            container.remove(force=True, v=True)
    for network in _networks(engine, cloud):
        network.remove()
    _drop_state(place)
    left = [str(one.name) for one in (*_containers(engine, cloud), *_networks(engine, cloud))]
    if left:
        raise SetupError(f"Docker still has {', '.join(left)}.", f"run {PROGRAM} down again.")


def _containers(engine: docker.DockerClient, cloud: Mapping[str, Any]) -> list[Any]:
    listed: Any = engine.containers.list(all=True, filters=_filters(cloud))
    return listed


def _networks(engine: docker.DockerClient, cloud: Mapping[str, Any]) -> list[Any]:
    networks: Any = engine.networks  # the stubs leave its filters untyped
    return networks.list(filters=_filters(cloud))


def _filters(cloud: Mapping[str, Any]) -> dict[str, Any]:
    # Without an id nothing may match: an empty label value would match every cloud on this machine.
    return {"label": f"{_LABEL}={cloud.get('id', 'no cloud')}"}


def _images(engine: docker.DockerClient, registry: str) -> list[str]:
    """Tags and digests of images that this cloud's *registry* (`host:port`) served, without its public ones."""
    names = [name for one in engine.images.list() for name in (*one.tags, *(one.attrs.get("RepoDigests") or ()))]
    return sorted(name for name in names if name.startswith(f"{registry}/") and _PUBLIC not in name)


def _drop_state(place: CloudFolder) -> None:
    """The stack is gone; its history and backups would otherwise keep every resource that it ever had."""
    folder = place.state / "pulumi"
    if folder.exists():
        shutil.rmtree(folder)
