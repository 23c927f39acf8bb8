"""Objects as files: a bucket is a folder, so that a container can mount it and see, and make, the same objects.

The file is what counts. What an upload said besides (type, metadata) is a record beside it, good for as long as the
file is the one that was uploaded; a file that a container wrote or changed gets a new record when it is asked for.
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
_UNDER_WAY: Final = ".upload-"
_SEGMENT: Final = 255
_NAME: Final = 1024
_CHUNK: Final = 1024 * 1024


class Objects:
    """The files of every bucket, below *root*."""

    def __init__(self, store: Store, root: Path, clock: Callable[[], float]) -> None:
        self._store = store
        self._root = root
        self._clock = clock
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in root.glob(f"{_UNDER_WAY}*"):  # of uploads that ended with another process
            left.unlink(missing_ok=True)

    def folder(self, bucket: str) -> Path:
        """The bucket's folder; any user of a container may write there."""
        folder = self._root / bucket
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o777)
        return folder

    def drop(self, bucket: str) -> None:
        """Forget the bucket's folder and everything in it."""
        shutil.rmtree(self._root / bucket, ignore_errors=True)
        for name, _ in self._store.list(OBJECT, f"{bucket}/"):
            self._store.delete(OBJECT, name)

    def drop_all(self) -> None:
        """Forget every file."""
        for folder in self._root.iterdir():
            shutil.rmtree(folder, ignore_errors=True)

    def temporary(self) -> tuple[int, Path]:
        """A new file for an upload that is under way: its open handle and its path."""
        handle, path = tempfile.mkstemp(dir=self._root, prefix=_UNDER_WAY)
        return handle, Path(path)

    def now(self) -> float:
        """The time, in seconds since 1970."""
        return self._clock()

    def put(self, bucket: str, name: str, content: Path, about: Document) -> Document:
        """Make the file *content* the object *name*: it is moved there, or gone where that is refused.

        Raises:
            GoogleError: INVALID_ARGUMENT (the name, a checksum), UNIMPLEMENTED (a name that no file can have here).
        """
        try:
            sums = _sums(content)
            for field, found in sums.items():
                if about.get(field, found) != found:
                    raise invalid(f"Provided {field} '{about[field]}' doesn't match calculated {field} '{found}'.")
            target = self._placed(bucket, name, content)
        finally:
            content.unlink(missing_ok=True)
        return self._record(bucket, name, target, about, sums)

    def _placed(self, bucket: str, name: str, content: Path) -> Path:
        target = self._path(bucket, name)
        if not target.parent.resolve().is_relative_to(self.folder(bucket).resolve()):
            raise unimplemented(f"object.name = {name}", "a container made a link in its place; remove that first.")
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
                f"object.name = {name}", "a bucket is a folder here: no object can have another one's name and a '/'."
            ) from None
        return target

    def find(self, bucket: str, name: str) -> tuple[Path, Document] | None:
        """The object's file and its record; None where there is none."""
        path = self._path(bucket, name)
        return (path, self._known(bucket, name, path)) if self._regular(bucket, path) else None

    def change(self, bucket: str, name: str, record: Document) -> None:
        """Keep *record* for the object."""
        self._store.put(OBJECT, f"{bucket}/{name}", record)

    def delete(self, bucket: str, name: str) -> bool:
        """Remove the object, and folders that only it needed; False where there was none."""
        path = self._path(bucket, name)
        self._store.delete(OBJECT, f"{bucket}/{name}")
        if not self._regular(bucket, path):
            return False
        path.unlink()
        root = self.folder(bucket)
        for parent in path.parents:
            if parent == root or any(parent.iterdir()):
                break
            parent.rmdir()
        return True

    def list(self, bucket: str, prefix: str = "") -> Iterator[tuple[str, Document]]:
        """Every object whose name begins with *prefix*, by name."""
        root = self.folder(bucket)
        names: list[str] = []
        for folder, _, files in os.walk(root):
            names += [str((Path(folder) / one).relative_to(root)) for one in files]
        for name in sorted(names):
            path = root / name
            if name.startswith(prefix) and self._regular(bucket, path):
                yield name, self._known(bucket, name, path)

    def _path(self, bucket: str, name: str) -> Path:
        parts = name.split("/")
        if not name or len(name.encode()) > _NAME or any(sign in name for sign in "\r\n\0"):
            raise invalid(f"Invalid object name: {name!r}")
        if any(part in ("", ".", "..") or len(part.encode()) > _SEGMENT for part in parts):
            raise unimplemented(
                f"object.name = {name}", "a bucket is a folder here: no part of a name may be empty, '.' or '..'."
            )
        return self.folder(bucket) / name

    def _regular(self, bucket: str, path: Path) -> bool:
        """Whether *path* is a file in the bucket: containers can make links to anywhere on this machine."""
        try:
            kind = path.lstat().st_mode
            return stat.S_ISREG(kind) and path.parent.resolve().is_relative_to(self.folder(bucket).resolve())
        except OSError:
            return False

    def _known(self, bucket: str, name: str, path: Path) -> Document:
        record = self._store.get(OBJECT, f"{bucket}/{name}")
        now = path.stat()
        if record is not None and (record["mtime"], record["size"]) == (now.st_mtime_ns, str(now.st_size)):
            return record
        return self._record(bucket, name, path, {}, _sums(path))

    def _record(self, bucket: str, name: str, path: Path, about: Document, sums: dict[str, str]) -> Document:
        now = path.stat()
        stamp = json_api.format_timestamp(self._clock(), "milliseconds")
        record: Document = {
            "contentType": "application/octet-stream",
            **about,
            "size": str(now.st_size),
            **sums,
            "generation": str(
                int(self._clock() * 1_000_000) * 1000 + self._store.next_number("storage-generation") % 1000
            ),
            "metageneration": "1",
            "timeCreated": stamp,
            "updated": stamp,
            "mtime": now.st_mtime_ns,
        }
        self._store.put(OBJECT, f"{bucket}/{name}", record)
        return record


def _sums(path: Path) -> dict[str, str]:
    md5, crc32c = hashlib.md5(usedforsecurity=False), google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            md5.update(chunk)
            crc32c.update(chunk)  # pyright: ignore[reportUnknownMemberType]
    return {
        "md5Hash": base64.b64encode(md5.digest()).decode(),
        "crc32c": base64.b64encode(crc32c.digest()).decode(),
    }


def not_there(bucket: str, name: str) -> GoogleError:
    """Google's words for an object that does not exist."""
    return GoogleError("NOT_FOUND", f"No such object: {bucket}/{name}")
