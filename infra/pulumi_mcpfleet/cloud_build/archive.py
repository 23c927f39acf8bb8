"""A source as one archive. The same content gives the same bytes, whenever, wherever and by whom it was made.

Names are in order, every time is the same; owners, empty folders, and all permissions but "may be run" are left out.
The archive's hash is that of the tar before compression: compressors differ from one machine to the next.
"""

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from pulumi_mcpfleet.cloud_build.errors import BuildError
from pulumi_mcpfleet.cloud_build.ignored import included
from pulumi_mcpfleet.cloud_build.reading import is_there, opened

CONTEXT: Final = "source"
"""The folder within the archive that the Dockerfile's COPY lines see."""

TIME: Final = 315_619_200
"""The time of every file: 2 January 1980 in UTC. Zip files (wheels, for one) know none before 1980."""

GENERATED_DOCKERFILE: Final = "Dockerfile"
"""Where the archive has a Dockerfile that is no file of the source: beside it, so that no COPY can take it along."""


@dataclass(frozen=True)
class ArchiveSource:
    """What is built.

    Attributes:
        folder: The folder, as seen from where the process runs.
        dockerfile: The path of the Dockerfile within it; empty where `inline` has its text.
        inline: The text of a Dockerfile.
    """

    folder: str
    dockerfile: str = "Dockerfile"
    inline: str = ""

    @property
    def file(self) -> str:
        """Where the archive has the Dockerfile."""
        return GENERATED_DOCKERFILE if self.inline else f"{CONTEXT}/{self.dockerfile}"


class _Target(Protocol):
    def write(self, content: memoryview, /) -> int: ...


class _Summing(io.RawIOBase):
    """Takes bytes, sums them up, and passes them on."""

    def __init__(self, onward: _Target | None) -> None:
        super().__init__()
        self._onward = onward
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        content = memoryview(data)  # pyright: ignore[reportArgumentType]  any buffer
        self.digest.update(content)
        if self._onward is not None:
            self._onward.write(content)
        return len(content)


def source_hash(source: ArchiveSource) -> str:
    """The sha256 of the archive of *source*, in hexadecimal digits.

    Raises:
        BuildError: It can't be read, or has no Dockerfile.
    """
    return _write(source, None)


def write_archive(source: ArchiveSource, target: IO[bytes]) -> str:
    """Write the archive of *source*, compressed, and give its hash.

    Raises:
        BuildError: It can't be read, or has no Dockerfile.
    """
    with gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=6, mtime=0) as compressed:
        return _write(source, compressed)


def _write(source: ArchiveSource, onward: _Target | None) -> str:
    root = Path(source.folder)
    if not root.is_dir():
        raise BuildError(f"there is no folder {source.folder} beside Pulumi.yaml; correct it")
    if not source.inline and not is_there(root, source.dockerfile):
        raise BuildError(f"there is no {source.dockerfile} in {source.folder}; add it, or name the one that is there")
    summing = _Summing(onward)
    try:
        with tarfile.open(fileobj=summing, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            if source.inline:
                _add(archive, GENERATED_DOCKERFILE, source.inline.encode())
            for name in included(root, None if source.inline else source.dockerfile):
                _add_file(archive, root / name, f"{CONTEXT}/{name}")
    except OSError as error:
        raise BuildError(f"the source {source.folder} can't be read: {error}") from None
    return summing.digest.hexdigest()


def _entry(name: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)  # owner 0:0 without names
    entry.mode, entry.mtime = mode, TIME
    return entry


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = _entry(name, 0o644)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _add_file(archive: tarfile.TarFile, path: Path, name: str) -> None:
    if path.is_symlink():
        entry = _entry(name, 0o777)
        entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
        archive.addfile(entry)
        return
    with opened(path) as file:
        status = os.fstat(file.fileno())
        entry = _entry(name, 0o755 if status.st_mode & stat.S_IXUSR else 0o644)
        entry.size = status.st_size
        archive.addfile(entry, file)


def content_hash(source: str, build_args: Mapping[str, str], labels: Mapping[str, str], stage: str = "") -> str:
    """One hash of all that decides what is in an image: the source's and what the Dockerfile is told.

    Args:
        source: The hash of the source.
        build_args: Values for its ARGs.
        labels: Labels of the image.
        stage: The stage of the Dockerfile that is the image; empty: the last.
    """
    told = [source, *(f"arg {key}={value}" for key, value in sorted(build_args.items()))]
    told += [f"label {key}={value}" for key, value in sorted(labels.items())]
    told += [f"stage {stage}"] if stage else []
    return hashlib.sha256("\0".join(told).encode()).hexdigest()
