"""Image layers on disk, by digest, and the uploads that become them. Knows no HTTP, no names of images."""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK = 1 << 20


def is_digest(text: str) -> bool:
    """Whether *text* is a sha256 digest as OCI writes it; no other algorithm is accepted (nor by Google)."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(content: bytes) -> str:
    """The digest of *content*."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class DigestMismatchError(Exception):
    """What was uploaded is not what the client said it would be."""


class UploadBusyError(Exception):
    """Another request is writing to the upload."""


class BlobStore:
    """Files named by their digest below *root*; a blob is there whole or not at all, also after a `kill -9`."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._uploads.mkdir(parents=True, exist_ok=True)
        # The running hash of an upload spares a second reading; an upload that outlives a restart is read again.
        self._hashes: dict[str, Any] = {}
        self._busy: set[str] = set()

    def path(self, digest: str) -> Path:
        """Where the blob lies; it may not be there."""
        return self._blobs / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """The blob's size in bytes."""
        return self.path(digest).stat().st_size

    def begin(self) -> str:
        """Open an upload and return its id."""
        upload = uuid4().hex
        (self._uploads / upload).touch()
        self._hashes[upload] = hashlib.sha256()
        return upload

    def received(self, upload: str) -> int | None:
        """How many bytes of the upload are there; None where there is no such upload."""
        path = self._uploads / upload
        return path.stat().st_size if upload.isalnum() and path.is_file() else None

    @contextmanager
    def claimed(self, upload: str) -> Generator[None]:
        """Have the upload for oneself: two writers at once would mix their bytes.

        Raises:
            UploadBusyError: another request has it.
        """
        if upload in self._busy:
            raise UploadBusyError(upload)
        self._busy.add(upload)
        try:
            yield
        finally:
            self._busy.discard(upload)

    async def append(self, upload: str, chunks: AsyncIterable[bytes]) -> int:
        """Add *chunks* to the upload and return its size; a broken stream leaves what had arrived out of the hash."""
        running = self._hashes.pop(upload, None)
        with (self._uploads / upload).open("ab") as file:
            async for chunk in chunks:
                file.write(chunk)
                if running is not None:
                    running.update(chunk)
            size = file.tell()
        if running is not None:
            self._hashes[upload] = running
        return size

    async def finish(self, upload: str, digest: str) -> None:
        """Make the upload the blob *digest*.

        Raises:
            DigestMismatchError: its content has another digest; the upload is gone then.
        """
        path = self._uploads / upload
        running = self._hashes.pop(upload, None) or await asyncio.to_thread(_hash_file, path)
        if f"sha256:{running.hexdigest()}" != digest:
            path.unlink()
            raise DigestMismatchError(digest)
        await asyncio.to_thread(_sync, path)
        path.replace(self.path(digest))

    def cancel(self, upload: str) -> None:
        """Throw the upload away."""
        self._hashes.pop(upload, None)
        (self._uploads / upload).unlink(missing_ok=True)

    def put(self, content: bytes) -> str:
        """Store *content* as a blob and return its digest."""
        digest = digest_of(content)
        if not self.has(digest):
            upload = self.begin()
            path = self._uploads / upload
            try:
                path.write_bytes(content)
                _sync(path)
                path.replace(self.path(digest))
            finally:
                self.cancel(upload)
        return digest

    def keep_only(self, digests: Iterable[str]) -> int:
        """Delete every blob but *digests*; return how many bytes that freed. Open uploads stay."""
        wanted = {self.path(digest).name for digest in digests}
        freed = 0
        for path in self._blobs.iterdir():
            if path.name not in wanted:
                freed += path.stat().st_size
                path.unlink()
        return freed

    def drop_uploads(self, before: float | None = None) -> list[str]:
        """Throw away every upload, or those that got nothing since *before* (seconds since 1970); returns their ids."""
        dropped: list[str] = []
        for path in self._uploads.iterdir():
            if path.name not in self._busy and (before is None or path.stat().st_mtime < before):
                self.cancel(path.name)
                dropped.append(path.name)
        return dropped


def _hash_file(path: Path) -> Any:
    running = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            running.update(chunk)
    return running


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
