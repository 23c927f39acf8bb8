"""Stores blobs (image layers and manifests) by digest, and uploads in progress, without image names or HTTP."""

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
    """Whether *text* is a sha256 digest in OCI's format; like Google, the registry accepts no other algorithm."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(content: bytes) -> str:
    """The digest of *content*."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class DigestMismatchError(Exception):
    """The uploaded content doesn't have the digest that the client declared."""


class UploadBusyError(Exception):
    """Another request is writing to the upload."""


class BlobStore:
    """Files below *root*, named by digest; a blob is complete or absent, even after a `kill -9`."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._uploads.mkdir(parents=True, exist_ok=True)
        # Hashes are computed during uploads; only an upload that continues after a restart is read again.
        self._hashes: dict[str, Any] = {}
        self._busy: set[str] = set()

    def path(self, digest: str) -> Path:
        """The path of the blob, which may not exist."""
        return self._blobs / digest.removeprefix("sha256:")

    def exists(self, digest: str) -> bool:
        """Whether the blob exists."""
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """The blob's size in bytes."""
        return self.path(digest).stat().st_size

    def begin_upload(self) -> str:
        """Start an upload; returns its id."""
        upload = uuid4().hex
        (self._uploads / upload).touch()
        self._hashes[upload] = hashlib.sha256()
        return upload

    def received_bytes(self, upload: str) -> int | None:
        """The number of bytes that the upload has; None if there is no such upload."""
        path = self._uploads / upload
        return path.stat().st_size if upload.isalnum() and path.is_file() else None

    @contextmanager
    def lock_upload(self, upload: str) -> Generator[None]:
        """Hold exclusive access to the upload, so that concurrent writers don't mix their bytes.

        Raises:
            UploadBusyError: another request is writing to the upload.
        """
        if upload in self._busy:
            raise UploadBusyError(upload)
        self._busy.add(upload)
        try:
            yield
        finally:
            self._busy.discard(upload)

    async def append(self, upload: str, chunks: AsyncIterable[bytes]) -> int:
        """Append *chunks* to the upload; returns its size. After a broken stream, the file is hashed again."""
        hasher = self._hashes.pop(upload, None)
        with (self._uploads / upload).open("ab") as file:
            async for chunk in chunks:
                file.write(chunk)
                if hasher is not None:
                    hasher.update(chunk)
            size = file.tell()
        if hasher is not None:
            self._hashes[upload] = hasher
        return size

    async def finish(self, upload: str, digest: str) -> None:
        """Store the complete upload as the blob *digest*.

        Raises:
            DigestMismatchError: the content has another digest; the upload is deleted.
        """
        path = self._uploads / upload
        hasher = self._hashes.pop(upload, None) or await asyncio.to_thread(_hash_file, path)
        if f"sha256:{hasher.hexdigest()}" != digest:
            path.unlink()
            raise DigestMismatchError(digest)
        await asyncio.to_thread(_sync, path)
        path.replace(self.path(digest))

    def cancel(self, upload: str) -> None:
        """Delete the upload."""
        self._hashes.pop(upload, None)
        (self._uploads / upload).unlink(missing_ok=True)

    def put(self, content: bytes) -> str:
        """Store *content* as a blob; returns its digest."""
        digest = digest_of(content)
        if not self.exists(digest):
            upload = self.begin_upload()
            path = self._uploads / upload
            try:
                path.write_bytes(content)
                _sync(path)
                path.replace(self.path(digest))
            finally:
                self.cancel(upload)
        return digest

    def delete_except(self, digests: Iterable[str]) -> int:
        """Delete all blobs except *digests*, but no uploads; returns the number of bytes freed."""
        kept_names = {self.path(digest).name for digest in digests}
        freed = 0
        for path in self._blobs.iterdir():
            if path.name not in kept_names:
                freed += path.stat().st_size
                path.unlink()
        return freed

    def delete_uploads(self, older_than: float | None = None) -> list[str]:
        """Delete all uploads, or those without data since *older_than* (seconds since the epoch); returns their ids."""
        dropped: list[str] = []
        for path in self._uploads.iterdir():
            if path.name not in self._busy and (older_than is None or path.stat().st_mtime < older_than):
                self.cancel(path.name)
                dropped.append(path.name)
        return dropped


def _hash_file(path: Path) -> Any:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
