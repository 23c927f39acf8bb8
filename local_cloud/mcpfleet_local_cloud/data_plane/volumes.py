"""An instance's volumes: memory, a secret's versions as files, a bucket's folder (Cloud Run v2 `Volume`).

- *emptyDir* is a Docker volume, one for each instance. In memory it is a tmpfs: its pages count against the memory
  limit of the container that wrote them. On disk it is a folder of Docker's, without a limit.
- *secret*: files below the cloud's state, in a folder that only its owner can enter, mounted read-only. They are
  written when an instance starts and again when the secret changes: a volume with `latest` has the newest version.
- *gcs*: the folder of the cloud's object store with the bucket's objects.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from docker.errors import APIError, NotFound
from docker.types import Mount as DockerMount

from mcpfleet_local_cloud.data_plane.cleanup import CLOUD_LABEL
from mcpfleet_local_cloud.data_plane.contract import (
    Container,
    EmptyDir,
    InstanceData,
    Mount,
    Revision,
    RolloutError,
    SecretFiles,
    SecretRef,
)
from mcpfleet_local_cloud.data_plane.engine import CloudContainers
from mcpfleet_local_cloud.data_plane.spec import INSTANCE_LABEL, revision_labels

_log = logging.getLogger(__name__)
_MEMORY: Final = "tmpfs"


class Volumes:
    """Creates, refreshes and removes the volumes of one revision's instances.

    Args:
        revision: The revision.
        engine: The Docker engine.
        root: A folder for files of secrets, private to the cloud's owner.
        sources: The secrets and buckets.
        base_image: The image of the container that makes volumes on disk writable.
    """

    def __init__(
        self, revision: Revision, *, engine: CloudContainers, root: Path, sources: InstanceData | None, base_image: str
    ) -> None:
        self._revision = revision
        self._engine = engine
        self._root = root / f"{revision.project}_{revision.region}_{revision.name}"
        self._sources = sources
        self._base_image = base_image
        self._by_name = {volume.name: volume.source for volume in revision.volumes}

    def read_secrets(self, container: Container) -> dict[str, str]:
        """Read the current values of the container's secret variables.

        Raises:
            RolloutError: A secret was deleted, or may not be read any more.
        """
        account = self._revision.service_account
        return {
            name: self._instance_data.secret(ref, account).decode("utf-8", "surrogateescape")
            for name, ref in container.secret_env
        }

    async def create(self, number: int) -> None:
        """Create the volumes of the instance *number*.

        Raises:
            RolloutError: A secret was deleted, or may not be read any more; or a volume cannot be created.
        """
        self._write_secrets()
        for name, source in self._by_name.items():
            if isinstance(source, EmptyDir):
                await self._create_volume(self._volume(name, number), source, number)

    async def remove(self, number: int) -> None:
        """Remove the volumes of the instance *number*."""
        for name, source in self._by_name.items():
            if isinstance(source, EmptyDir):
                await self._engine.call(self._remove_volume, self._volume(name, number))

    def mounts(self, container: Container, number: int) -> Sequence[DockerMount]:
        """The Docker mounts of *container* in the instance *number*."""
        return [self._mount(mount, number) for mount in container.mounts]

    def refresh_all(self) -> None:
        """Write the files of all secrets again, after the local cloud was stopped for a while."""
        for source in self._by_name.values():
            if isinstance(source, SecretFiles):
                self.refresh(source.secret)

    def refresh(self, secret: str) -> None:
        """Write the files of *secret* (its full name) again, after its versions changed.

        A value that cannot be read any more stays as it was. On Cloud Run a mounted value also stays until it is read
        again.
        """
        try:
            self._write_secrets(only=secret.rpartition("/")[2])
        except Exception as error:
            _log.warning("%s: the files of %s stay as they are: %s", self._revision.name, secret, error)

    def remove_files(self) -> None:
        """Remove every file."""
        shutil.rmtree(self._root, ignore_errors=True)

    @property
    def _instance_data(self) -> InstanceData:
        if self._sources is None:
            raise RuntimeError("this data plane was made without secrets and buckets")
        return self._sources

    def _volume(self, name: str, number: int) -> str:
        revision = self._revision
        return f"mcpfleet-{self._engine.cloud_id}-{revision.region}-{revision.name}-{number}-{name}"

    def _mount(self, mount: Mount, number: int) -> DockerMount:
        source = self._by_name[mount.volume]
        if isinstance(source, EmptyDir):
            return DockerMount(mount.path, self._volume(mount.volume, number), type="volume")
        if isinstance(source, SecretFiles):
            return DockerMount(mount.path, str(self._root / mount.volume), type="bind", read_only=True)
        root = self._instance_data.folder(source.bucket)
        folder = root / mount.sub_path
        # A container could have replaced the folder by a link, and would see the folder that it points to.
        if not folder.resolve().is_relative_to(root.resolve()):
            raise RolloutError(
                f"subPath {mount.sub_path} of the bucket '{source.bucket}' is a link to a folder outside of the bucket."
            )
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        return DockerMount(mount.path, str(folder), type="bind", read_only=source.read_only)

    async def _create_volume(self, name: str, source: EmptyDir, number: int) -> None:
        memory = {"type": _MEMORY, "device": _MEMORY, "o": f"size={source.size_bytes},mode=1777"}
        labels = {
            CLOUD_LABEL: self._engine.cloud_id,
            **revision_labels(self._revision),
            INSTANCE_LABEL: str(number),
        }
        options = {} if source.on_disk else memory
        await self._engine.call(
            lambda: self._engine.client.volumes.create(name, driver="local", driver_opts=options, labels=labels)
        )
        if source.on_disk:
            try:
                await self._engine.open_volume(name, self._base_image)
            except BaseException:
                await self._engine.call(self._remove_volume, name)
                raise

    def _remove_volume(self, name: str) -> None:
        try:
            self._engine.client.volumes.get(name).remove(force=True)
        except NotFound:
            return
        except APIError as error:
            _log.warning("volume %s stays: %s", name, error)

    def _write_secrets(self, only: str | None = None) -> None:
        account = self._revision.service_account
        for name, source in self._by_name.items():
            if not isinstance(source, SecretFiles) or (only and source.secret.rpartition("/")[2] != only):
                continue
            for file in source.files:
                value = self._instance_data.secret(SecretRef(secret=source.secret, version=file.version), account)
                _write_file(self._root / name, file.path, value, file.mode)


def _write_file(folder: Path, path: str, value: bytes, mode: int) -> None:
    """Write one file atomically; any user of the container may enter its folders."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    for parent in [target.parent, *target.parent.parents]:
        if parent == folder.parent:
            break
        parent.chmod(0o755)
    if target.exists() and target.read_bytes() == value and target.stat().st_mode & 0o777 == mode:
        return
    handle, temporary = tempfile.mkstemp(dir=folder.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(value)
    Path(temporary).chmod(mode)
    Path(temporary).replace(target)
