"""Objects as files: a bucket is a folder, so that a container can mount it and read and write the same objects.

The file is authoritative. Type and metadata of an upload are in a record, which is valid while the file is the one that
was uploaded. A file that a container created or changed gets a new record when it is next read.
"""

import base64
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import google_crc32c

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.state.store import Document, Store

OBJECT: Final = "storageObject"
_UPLOAD_PREFIX: Final = ".upload-"
_MAX_SEGMENT_BYTES: Final = 255
_MAX_NAME_BYTES: Final = 1024
_CHUNK_BYTES: Final = 1024 * 1024


class Objects:
    """The files of all buckets, below *root*."""

    def __init__(self, store: Store, root: Path, clock: Callable[[], float]) -> None:
        self._store = store
        self._root = root
        self._clock = clock
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in root.glob(f"{_UPLOAD_PREFIX}*"):  # uploads that an earlier process did not finish
            leftover.unlink(missing_ok=True)

    def folder(self, bucket: str) -> Path:
        """Return the bucket's folder, which every user in a container can write to."""
        folder = self._root / bucket
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o777)
        return folder

    def delete_bucket(self, bucket: str) -> None:
        """Delete the bucket's folder with all its objects."""
        shutil.rmtree(self._root / bucket, ignore_errors=True)
        for name, _ in self._store.list(OBJECT, f"{bucket}/"):
            self._store.delete(OBJECT, name)

    def delete_all(self) -> None:
        """Delete every file."""
        for folder in self._root.iterdir():
            shutil.rmtree(folder, ignore_errors=True)

    def create_temporary_file(self) -> tuple[int, Path]:
        """Create a file for an upload; return its open handle and its path."""
        handle, path = tempfile.mkstemp(dir=self._root, prefix=_UPLOAD_PREFIX)
        return handle, Path(path)

    def now(self) -> float:
        """The time, in seconds since 1970."""
        return self._clock()

    def put(self, bucket: str, name: str, content: Path, metadata: Document) -> Document:
        """Move the file *content* to the object *name*; on an error, the file is deleted.

        Raises:
            GoogleError: INVALID_ARGUMENT (the name, a checksum), UNIMPLEMENTED (no file can have this name).
        """
        try:
            checksums = _compute_checksums(content)
            for field, computed in checksums.items():
                if metadata.get(field, computed) != computed:
                    raise invalid(
                        f"Provided {field} '{metadata[field]}' doesn't match calculated {field} '{computed}'."
                    )
            target = self._move_into_place(bucket, name, content)
        finally:
            content.unlink(missing_ok=True)
        return self._create_record(bucket, name, target, metadata, checksums)

    def _move_into_place(self, bucket: str, name: str, content: Path) -> Path:
        target = self._path(bucket, name)
        if not target.parent.resolve().is_relative_to(self.folder(bucket).resolve()):
            raise unimplemented(
                f"object.name = {name}", "a container created a link at its path; remove the link first."
            )
        try:
            for parent in reversed([target.parent, *target.parent.parents]):
                if parent.is_relative_to(self.folder(bucket)) and not parent.exists():
                    parent.mkdir()
                    parent.chmod(0o777)
            if target.is_dir():
                raise IsADirectoryError
            content.chmod(0o666)
            content.replace(target)
        except (NotADirectoryError, FileExistsError, IsADirectoryError):
            raise unimplemented(
                f"object.name = {name}",
                "a bucket is a folder here: a name cannot be that of another object followed by '/'.",
            ) from None
        return target

    def find(self, bucket: str, name: str) -> tuple[Path, Document] | None:
        """Return the object's file and its record, or None."""
        path = self._path(bucket, name)
        return (path, self._current_record(bucket, name, path)) if self._is_regular_file(bucket, path) else None

    def update(self, bucket: str, name: str, record: Document) -> None:
        """Store *record* for the object."""
        self._store.put(OBJECT, f"{bucket}/{name}", record)

    def delete(self, bucket: str, name: str) -> bool:
        """Delete the object and the folders that are empty then; return False if there was none."""
        path = self._path(bucket, name)
        self._store.delete(OBJECT, f"{bucket}/{name}")
        if not self._is_regular_file(bucket, path):
            return False
        path.unlink()
        root = self.folder(bucket)
        for parent in path.parents:
            if parent == root or any(parent.iterdir()):
                break
            parent.rmdir()
        return True

    def list(self, bucket: str, prefix: str = "") -> Iterator[tuple[str, Document]]:
        """Yield every object whose name begins with *prefix*, sorted by name."""
        root = self.folder(bucket)
        names: list[str] = []
        for folder, _, files in os.walk(root):
            names += [str((Path(folder) / file).relative_to(root)) for file in files]
        for name in sorted(names):
            path = root / name
            if name.startswith(prefix) and self._is_regular_file(bucket, path):
                yield name, self._current_record(bucket, name, path)

    def _path(self, bucket: str, name: str) -> Path:
        parts = name.split("/")
        if not name or len(name.encode()) > _MAX_NAME_BYTES or any(char in name for char in "\r\n\0"):
            raise invalid(f"Invalid object name: {name!r}")
        if any(part in ("", ".", "..") or len(part.encode()) > _MAX_SEGMENT_BYTES for part in parts):
            raise unimplemented(
                f"object.name = {name}", "a bucket is a folder here: no part of a name may be empty, '.' or '..'."
            )
        return self.folder(bucket) / name

    def _is_regular_file(self, bucket: str, path: Path) -> bool:
        """Whether *path* is a regular file in the bucket: containers can create links to anywhere on this machine."""
        try:
            mode = path.lstat().st_mode
            return stat.S_ISREG(mode) and path.parent.resolve().is_relative_to(self.folder(bucket).resolve())
        except OSError:
            return False

    def _current_record(self, bucket: str, name: str, path: Path) -> Document:
        record = self._store.get(OBJECT, f"{bucket}/{name}")
        status = path.stat()
        if record is not None and (record["mtime"], record["size"]) == (status.st_mtime_ns, str(status.st_size)):
            return record
        return self._create_record(bucket, name, path, {}, _compute_checksums(path))

    def _create_record(
        self, bucket: str, name: str, path: Path, metadata: Document, checksums: dict[str, str]
    ) -> Document:
        status = path.stat()
        timestamp = json_api.format_timestamp(self._clock(), "milliseconds")
        record: Document = {
            "contentType": "application/octet-stream",
            **metadata,
            "size": str(status.st_size),
            **checksums,
            "generation": str(
                int(self._clock() * 1_000_000) * 1000 + self._store.next_number("storage-generation") % 1000
            ),
            "metageneration": "1",
            "timeCreated": timestamp,
            "updated": timestamp,
            "mtime": status.st_mtime_ns,
        }
        self._store.put(OBJECT, f"{bucket}/{name}", record)
        return record


def _compute_checksums(path: Path) -> dict[str, str]:
    md5, crc32c = hashlib.md5(usedforsecurity=False), google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            md5.update(chunk)
            crc32c.update(chunk)  # pyright: ignore[reportUnknownMemberType]
    return {
        "md5Hash": base64.b64encode(md5.digest()).decode(),
        "crc32c": base64.b64encode(crc32c.digest()).decode(),
    }


def object_not_found(bucket: str, name: str) -> GoogleError:
    """Google's error for an object that does not exist."""
    return GoogleError("NOT_FOUND", f"No such object: {bucket}/{name}")
