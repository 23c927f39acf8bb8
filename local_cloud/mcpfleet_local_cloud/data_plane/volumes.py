"""An instance's volumes: memory, a secret's versions as files, a bucket's folder (Cloud Run v2 `Volume`).

- *emptyDir* is a Docker volume, one for each instance. In memory it is a tmpfs: the kernel counts its pages to the
  container that wrote them, so they count against its memory limit. On disk it is a folder of Docker's, unbounded.
- *secret*: files below the cloud's state, in a folder that only its owner enters, mounted read-only. They are written
  when an instance starts and again when the secret changes: a volume with `latest` shows the newest version.
- *gcs*: the folder of the cloud's object store that holds the bucket's objects.
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
    """Makes, refreshes and removes what the instances of one revision mount.

    Args:
        revision: whose.
        engine: Docker.
        root: a folder for files of secrets, private to the cloud's owner.
        sources: where secrets and buckets come from.
        base_image: of the container that lets every user into a volume on disk.
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

    def secrets_of(self, container: Container) -> dict[str, str]:
        """The values of the container's secret variables, read now.

        Raises:
            RolloutError: one is gone, or may not be read any more.
        """
        account = self._revision.service_account
        return {
            name: self._needed.secret(ref, account).decode("utf-8", "surrogateescape")
            for name, ref in container.secret_env
        }

    async def prepare(self, number: int) -> None:
        """Make what the instance *number* mounts.

        Raises:
            RolloutError: a secret is gone, or may not be read any more; or a volume cannot be made.
        """
        self._write_secrets()
        for name, source in self._by_name.items():
            if isinstance(source, EmptyDir):
                await self._make(self._volume(name, number), source, number)

    async def release(self, number: int) -> None:
        """Remove what was the instance's own."""
        for name, source in self._by_name.items():
            if isinstance(source, EmptyDir):
                await self._engine.call(self._remove, self._volume(name, number))

    def mounts(self, container: Container, number: int) -> Sequence[DockerMount]:
        """Docker's mounts for *container* of the instance *number*."""
        return [self._mount(mount, number) for mount in container.mounts]

    def rewrite(self) -> None:
        """Bring the files of secrets up to date, after a time in which nobody did."""
        for source in self._by_name.values():
            if isinstance(source, SecretFiles):
                self.refresh(source.secret)

    def refresh(self, secret: str) -> None:
        """Show the secret's versions as they are now, where one of its volumes asks for the latest.

        What cannot be read any more stays as it was, as a mounted value does on Cloud Run until it is asked for again.
        """
        try:
            self._write_secrets(only=secret.rpartition("/")[2])
        except Exception as refusal:
            _log.warning("%s: the files of %s stay as they are: %s", self._revision.name, secret, refusal)

    def destroy(self) -> None:
        """Forget every file."""
        shutil.rmtree(self._root, ignore_errors=True)

    @property
    def _needed(self) -> InstanceData:
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
        root = self._needed.folder(source.bucket)
        folder = root / mount.sub_path
        # A container could have made a link in its place, and would get to see whatever it points to.
        if not folder.resolve().is_relative_to(root.resolve()):
            raise RolloutError(
                f"subPath {mount.sub_path} of the bucket '{source.bucket}' leads out of it: it is a link."
            )
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        return DockerMount(mount.path, str(folder), type="bind", read_only=source.read_only)

    async def _make(self, name: str, source: EmptyDir, number: int) -> None:
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
                await self._engine.let_in(name, self._base_image)
            except BaseException:
                await self._engine.call(self._remove, name)
                raise

    def _remove(self, name: str) -> None:
        try:
            self._engine.client.volumes.get(name).remove(force=True)
        except NotFound:
            return
        except APIError as refusal:
            _log.warning("volume %s stays: %s", name, refusal)

    def _write_secrets(self, only: str | None = None) -> None:
        account = self._revision.service_account
        for name, source in self._by_name.items():
            if not isinstance(source, SecretFiles) or (only and source.secret.rpartition("/")[2] != only):
                continue
            for file in source.files:
                value = self._needed.secret(SecretRef(secret=source.secret, version=file.version), account)
                _replace(self._root / name, file.path, value, file.mode)


def _replace(folder: Path, path: str, value: bytes, mode: int) -> None:
    """Write one file whole or not at all; the folders around it may be entered by any user of the container."""
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
