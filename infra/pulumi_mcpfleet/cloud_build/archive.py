"""Reproducible archives of sources: the same content gives the same bytes on every machine, at any time.

Names are sorted, and every file has the same time. Owners, empty folders, and all permissions except "executable" are
left out. The archive's hash is that of the tar before compression, because compressors differ between machines.
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
from pulumi_mcpfleet.cloud_build.ignore_files import included_files
from pulumi_mcpfleet.cloud_build.source_files import is_own_file, open_file

CONTEXT: Final = "source"
"""The folder within the archive that is the Dockerfile's build context."""

FILE_TIME: Final = 315_619_200
"""The time of every file: 2 January 1980 in UTC. Zip files, such as wheels, can't have a time before 1980."""

GENERATED_DOCKERFILE: Final = "Dockerfile"
"""The path in the archive of a generated Dockerfile: outside of the build context, so that no COPY can include it."""


@dataclass(frozen=True)
class ArchiveSource:
    """A folder with its Dockerfile, to be built.

    Attributes:
        folder: The folder, relative to the working directory.
        dockerfile: The path of the Dockerfile within it; ignored if `inline` is set.
        inline: The text of a generated Dockerfile.
    """

    folder: str
    dockerfile: str = "Dockerfile"
    inline: str = ""

    @property
    def archived_dockerfile(self) -> str:
        """The path of the Dockerfile in the archive."""
        return GENERATED_DOCKERFILE if self.inline else f"{CONTEXT}/{self.dockerfile}"


class _Writer(Protocol):
    def write(self, content: memoryview, /) -> int: ...


class _HashingWriter(io.RawIOBase):
    """A writer that hashes its bytes, and passes them to another writer if there is one."""

    def __init__(self, target: _Writer | None) -> None:
        super().__init__()
        self._target = target
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        content = memoryview(data)  # pyright: ignore[reportArgumentType]  any buffer
        self.digest.update(content)
        if self._target is not None:
            self._target.write(content)
        return len(content)


def source_hash(source: ArchiveSource) -> str:
    """Return the SHA-256 hash of the archive of *source*, in hexadecimal digits.

    Raises:
        BuildError: The source can't be read, or has no Dockerfile.
    """
    return _write(source, None)


def write_archive(source: ArchiveSource, target: IO[bytes]) -> str:
    """Write the compressed archive of *source* to *target*, and return its hash (see `source_hash`).

    Raises:
        BuildError: The source can't be read, or has no Dockerfile.
    """
    with gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=6, mtime=0) as compressed:
        return _write(source, compressed)


def _write(source: ArchiveSource, target: _Writer | None) -> str:
    root = Path(source.folder)
    if not root.is_dir():
        raise BuildError(f"there is no folder {source.folder} beside Pulumi.yaml; correct the path")
    if not source.inline and not is_own_file(root, source.dockerfile):
        raise BuildError(f"there is no {source.dockerfile} in {source.folder}; add it, or correct its name")
    hashing = _HashingWriter(target)
    try:
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            if source.inline:
                _add_bytes(archive, GENERATED_DOCKERFILE, source.inline.encode())
            for name in included_files(root, None if source.inline else source.dockerfile):
                _add_file(archive, root / name, f"{CONTEXT}/{name}")
    except OSError as error:
        raise BuildError(f"the source {source.folder} can't be read: {error}") from None
    return hashing.digest.hexdigest()


def _entry(name: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)  # owner 0:0 without names
    entry.mode, entry.mtime = mode, FILE_TIME
    return entry


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = _entry(name, 0o644)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _add_file(archive: tarfile.TarFile, path: Path, name: str) -> None:
    if path.is_symlink():
        entry = _entry(name, 0o777)
        entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
        archive.addfile(entry)
        return
    with open_file(path) as file:
        status = os.fstat(file.fileno())
        entry = _entry(name, 0o755 if status.st_mode & stat.S_IXUSR else 0o644)
        entry.size = status.st_size
        archive.addfile(entry, file)


def content_hash(source: str, build_args: Mapping[str, str], labels: Mapping[str, str], stage: str = "") -> str:
    """Return one hash of everything that determines an image: its source, arguments, labels and stage.

    Args:
        source: The hash of the source (see `source_hash`).
        build_args: Values of the Dockerfile's ARGs.
        labels: Labels of the image.
        stage: The stage of the Dockerfile that becomes the image; empty for the last one.
    """
    parts = [source, *(f"arg {key}={value}" for key, value in sorted(build_args.items()))]
    parts += [f"label {key}={value}" for key, value in sorted(labels.items())]
    parts += [f"stage {stage}"] if stage else []
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
