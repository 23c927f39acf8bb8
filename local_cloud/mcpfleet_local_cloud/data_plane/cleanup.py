"""Removes every trace of one local cloud from Docker, with Docker alone: its server may be dead, its state gone."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import docker
from docker.errors import APIError, NotFound
from docker.models.images import Image

from mcpfleet_local_cloud import docker_engine

CLOUD_LABEL: Final = "dev.mcpfleet.cloud"


def remove_docker_objects(cloud_id: str, registry: str | None = None) -> list[str]:
    """Remove the containers, volumes and networks of the local cloud *cloud_id*, and the images of its registry.

    Args:
        cloud_id: whose objects, as in their label.
        registry: `host:port`; images that Docker knows under a name on it are removed too.

    Returns:
        What was removed, one line for each thing.

    Raises:
        DockerException: Docker can't be reached.
    """
    client = docker_engine.client()
    try:
        mine: dict[str, Any] = {"label": f"{CLOUD_LABEL}={cloud_id}"}
        removed = [
            f"container {container.name}"
            for container in client.containers.list(all=True, filters=mine, ignore_removed=True)
            if _gone(partial(container.remove, force=True, v=True))
        ]
        removed += [
            f"volume {volume.name}"
            for volume in client.volumes.list(filters=mine)
            if _gone(partial(volume.remove, force=True))
        ]
        networks = client.networks.list(filters=mine)  # pyright: ignore[reportUnknownMemberType]
        removed += [f"network {network.name}" for network in networks if _gone(network.remove)]
        return removed + (remove_images(client, registry) if registry else [])
    finally:
        client.close()


def remove_images(client: docker.DockerClient, registry: str) -> list[str]:
    """Remove every image name on *registry* (`host:port`), and the images that have no other name."""
    names: list[str] = [
        name for image in client.images.list() for name in _names(image) if name.startswith(f"{registry}/")
    ]
    return [f"image {name}" for name in names if _gone(partial(client.images.remove, name))]


def _names(image: Image) -> list[str]:
    digests: list[str] | None = image.attrs.get("RepoDigests")
    return [*image.tags, *(digests or [])]


def _gone(remove: Callable[[], object]) -> bool:
    """Do *remove*; False where somebody was faster, or where the image is in use by another cloud's container."""
    try:
        remove()
    except NotFound:
        return False
    except APIError as refusal:
        if refusal.status_code == 409:  # in use, or its removal is in progress
            return False
        raise
    return True
