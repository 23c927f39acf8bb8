"""Removes all Docker objects of one local cloud, without its server or its state, which may be gone."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import docker
from docker.errors import APIError, NotFound

from mcpfleet_local_cloud import docker_engine

CLOUD_LABEL: Final = "dev.mcpfleet.cloud"


def remove_docker_objects(cloud_id: str, registry: str | None = None) -> list[str]:
    """Remove the containers, volumes and networks of the local cloud *cloud_id*, and the images of its registry.

    Args:
        cloud_id: The cloud's id, as in the objects' label.
        registry: `host:port` of a registry; images with a name on it are removed too.

    Returns:
        The removed objects, one line each.

    Raises:
        DockerException: Docker can't be reached.
    """
    client = docker_engine.create_client()
    try:
        filters: dict[str, Any] = {"label": f"{CLOUD_LABEL}={cloud_id}"}
        removed = [
            f"container {container.name}"
            for container in client.containers.list(all=True, filters=filters, ignore_removed=True)
            if _try_remove(partial(container.remove, force=True, v=True))
        ]
        removed += [
            f"volume {volume.name}"
            for volume in client.volumes.list(filters=filters)
            if _try_remove(partial(volume.remove, force=True))
        ]
        networks = client.networks.list(filters=filters)  # pyright: ignore[reportUnknownMemberType]
        removed += [f"network {network.name}" for network in networks if _try_remove(network.remove)]
        return removed + (remove_images(client, registry) if registry else [])
    finally:
        client.close()


def remove_images(client: docker.DockerClient, registry: str) -> list[str]:
    """Remove every image name on *registry* (`host:port`), and the images that have no other name."""
    names = [name for name in docker_engine.list_image_names(client) if name.startswith(f"{registry}/")]
    return [f"image {name}" for name in names if _try_remove(partial(client.images.remove, name))]


def _try_remove(remove: Callable[[], object]) -> bool:
    """Call *remove*; return False if the object is gone already, or if a container of another cloud uses the image."""
    try:
        remove()
    except NotFound:
        return False
    except APIError as error:
        if error.status_code == 409:  # in use, or its removal is in progress
            return False
        raise
    return True
