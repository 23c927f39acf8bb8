"""Which image holds which manifest, tag and blob. Knows no HTTP; says no in the specification's error codes."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from mcpfleet_local_cloud.registry.blobs import BlobStore, digest_of, is_digest
from mcpfleet_local_cloud.rest.json_api import as_list, as_object, parse_strict_json
from mcpfleet_local_cloud.state.store import Document, Store

MANIFEST: Final = "registry.manifest"
TAG: Final = "registry.tag"
BLOB: Final = "registry.blob"
UPLOAD: Final = "registry.upload"

INDEX_TYPES: Final = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
IMAGE_TYPES: Final = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
# Layers that never leave their own registry need not be here (OCI image spec, "non-distributable layers").
_FOREIGN: Final = ("nondistributable", "foreign")

# A layer comes before the manifest that names it; a push may take this many seconds.
_PUSH_TIME: Final = 3600

_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class RegistryError(Exception):
    """A refusal with one of the specification's error codes (`NAME_UNKNOWN`, `MANIFEST_INVALID` …)."""

    def __init__(self, http_code: int, code: str, message: str) -> None:
        super().__init__(message)
        self.http_code = http_code
        self.code = code
        self.message = message


@dataclass(frozen=True)
class ImageName:
    """`LOCATION/PROJECT/REPOSITORY/IMAGE`: an image in an Artifact Registry repository."""

    location: str
    project: str
    repository: str
    image: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read the name part of a registry URL.

        Raises:
            RegistryError: NAME_INVALID.
        """
        parts = name.split("/", 3)
        if len(name) > 255 or _PATH.fullmatch(name) is None or len(parts) != 4:
            message = f'"{name}" is not LOCATION/PROJECT/REPOSITORY/IMAGE'
            raise RegistryError(400, "NAME_INVALID", message)
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.location}/{self.project}/{self.repository}/{self.image}"

    @property
    def resource(self) -> str:
        """The full name of the repository."""
        return f"projects/{self.project}/locations/{self.location}/repositories/{self.repository}"


class Catalog:
    """Manifests, tags and blob links of every image."""

    def __init__(self, store: Store, blobs: BlobStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self.blobs = blobs
        self._clock = clock

    def begin_upload(self, image: ImageName) -> str:
        """Open an upload to the image and return its id."""
        upload = self.blobs.begin()
        self._store.put(UPLOAD, upload, {"image": str(image)})
        return upload

    def received(self, image: ImageName, upload: str) -> int:
        """How many bytes of the image's upload are there.

        Raises:
            RegistryError: BLOB_UPLOAD_UNKNOWN; also for an upload to another image, whose rights are not this one's.
        """
        record = self._store.get(UPLOAD, upload)
        size = self.blobs.received(upload) if record is not None and record["image"] == str(image) else None
        if size is None:
            raise RegistryError(404, "BLOB_UPLOAD_UNKNOWN", f"there is no upload {upload}")
        return size

    def end_upload(self, upload: str) -> None:
        """Forget the upload, whether it became a blob or not."""
        self.blobs.cancel(upload)
        self._store.delete(UPLOAD, upload)

    def link_blob(self, image: ImageName, digest: str) -> None:
        """The image may from now on be asked for this blob."""
        self._store.put(BLOB, f"{image}@{digest}", {"linked": self._clock()})

    def has_blob(self, image: ImageName, digest: str) -> bool:
        """Whether the image holds this blob."""
        return self._store.get(BLOB, f"{image}@{digest}") is not None and self.blobs.has(digest)

    def unlink_blob(self, image: ImageName, digest: str) -> None:
        """Take the blob from the image.

        Raises:
            RegistryError: BLOB_UNKNOWN.
        """
        if not self._store.delete(BLOB, f"{image}@{digest}"):
            raise RegistryError(404, "BLOB_UNKNOWN", f"{image} has no blob {digest}")
        self.collect()

    def put_manifest(self, image: ImageName, reference: str, content: bytes, media_type: str) -> str:
        """Store a manifest under its digest and, where *reference* is a tag, under that tag; return the digest.

        Raises:
            RegistryError: MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN, DIGEST_INVALID, TAG_INVALID.
        """
        manifest = self._checked(image, content, media_type)
        digest = digest_of(content)
        if is_digest(reference):
            if reference != digest:
                raise RegistryError(400, "DIGEST_INVALID", f"the manifest's digest is {digest}, not {reference}")
        elif _TAG.fullmatch(reference) is None:
            raise RegistryError(400, "TAG_INVALID", f'"{reference}" is not a tag')
        subject = _optional_descriptor(manifest.get("subject"))
        config = _optional_descriptor(manifest.get("config"))
        layers = _descriptors(manifest.get("layers"))
        self.blobs.put(content)
        with self._store.transaction():
            known = self._store.get(MANIFEST, f"{image}@{digest}")
            self._store.put(
                MANIFEST,
                f"{image}@{digest}",
                {
                    "mediaType": media_type,
                    "size": len(content),
                    "imageSize": sum(layer.get("size", 0) for layer in layers),
                    "blobs": [entry["digest"] for entry in (config, *layers) if entry],
                    "uploaded": known["uploaded"] if known else self._clock(),
                    "subject": subject.get("digest") if subject else None,
                    "artifactType": manifest.get("artifactType") or (config or {}).get("mediaType"),
                    "annotations": manifest.get("annotations"),
                },
            )
            if not is_digest(reference):
                self._store.put(TAG, f"{image}:{reference}", {"digest": digest})
        return digest

    def manifest(self, image: ImageName, reference: str) -> tuple[str, Document]:
        """The digest and the record (media type, size) of a manifest by tag or digest.

        Raises:
            RegistryError: MANIFEST_UNKNOWN.
        """
        digest = reference
        if not is_digest(reference):
            tag = self._store.get(TAG, f"{image}:{reference}")
            digest = tag["digest"] if tag else ""
        record = self._store.get(MANIFEST, f"{image}@{digest}")
        if record is None:
            raise RegistryError(404, "MANIFEST_UNKNOWN", f'Failed to fetch "{reference}" from {image}')
        return digest, record

    def delete_manifest(self, image: ImageName, reference: str) -> None:
        """Delete a tag, or a manifest with every tag that points to it.

        Raises:
            RegistryError: MANIFEST_UNKNOWN.
        """
        digest, _ = self.manifest(image, reference)
        if not is_digest(reference):
            self._store.delete(TAG, f"{image}:{reference}")
            return
        with self._store.transaction():
            self._store.delete(MANIFEST, f"{image}@{digest}")
            for tag in self.tags_of(image, digest):
                self._store.delete(TAG, f"{image}:{tag}")
        self.collect()

    def tags(self, image: ImageName) -> list[str]:
        """The image's tags in order."""
        prefix = f"{image}:"
        return [name.removeprefix(prefix) for name, _ in self._store.list(TAG, prefix)]

    def tags_of(self, image: ImageName, digest: str) -> list[str]:
        """The tags that point to *digest*."""
        prefix = f"{image}:"
        return [name.removeprefix(prefix) for name, tag in self._store.list(TAG, prefix) if tag["digest"] == digest]

    def manifests(self, repository: str) -> list[tuple[ImageName, str, Document]]:
        """Every (image, digest, record) of a repository, *repository* being its full name."""
        found: list[tuple[ImageName, str, Document]] = []
        for name, record in self._store.list(MANIFEST, _prefix(repository)):
            image, _, digest = name.partition("@")
            found.append((ImageName.parse(image), digest, record))
        return found

    def referrers(self, image: ImageName, digest: str) -> list[tuple[str, Document]]:
        """Every manifest of the image whose subject is *digest*."""
        records = ((name.rpartition("@")[2], record) for name, record in self._store.list(MANIFEST, f"{image}@"))
        return [(known, record) for known, record in records if record["subject"] == digest]

    def knows(self, image: ImageName) -> bool:
        """Whether anything was ever pushed to the image."""
        return bool(self._store.list(MANIFEST, f"{image}@"))

    def drop_repository(self, repository: str) -> None:
        """Forget every image of the repository, and delete the blobs that no other image holds."""
        with self._store.transaction():
            for kind in (MANIFEST, TAG, BLOB):
                for name, _ in self._store.list(kind, _prefix(repository)):
                    self._store.delete(kind, name)
        self.collect()

    def collect(self) -> int:
        """Delete the blobs that no manifest and no push under way needs; return the bytes freed."""
        manifests = self._store.list(MANIFEST)
        wanted = {name.rpartition("@")[2] for name, _ in manifests}
        held = {f"{name.partition('@')[0]}@{blob}" for name, record in manifests for blob in record["blobs"]}
        fresh = self._clock() - _PUSH_TIME
        for name, link in self._store.list(BLOB):
            if name in held or link["linked"] > fresh:
                wanted.add(name.rpartition("@")[2])
            else:
                self._store.delete(BLOB, name)
        for upload in self.blobs.drop_uploads(before=fresh):
            self._store.delete(UPLOAD, upload)
        return self.blobs.keep_only(wanted)

    def _checked(self, image: ImageName, content: bytes, media_type: str) -> dict[str, Any]:
        try:
            manifest = as_object(parse_strict_json(content))
        except (ValueError, RecursionError) as malformed:
            raise RegistryError(400, "MANIFEST_INVALID", f"the manifest is not JSON: {malformed}") from None
        if manifest is None or manifest.get("mediaType", media_type) != media_type:
            message = f"the manifest is not of the media type {media_type} that the request names"
            raise RegistryError(400, "MANIFEST_INVALID", message)
        _check_texts(manifest)
        if media_type in INDEX_TYPES:
            missing = [
                entry["digest"]
                for entry in _descriptors(manifest.get("manifests"))
                if self._store.get(MANIFEST, f"{image}@{entry['digest']}") is None
            ]
        elif media_type in IMAGE_TYPES:
            wanted = _descriptors([manifest.get("config"), *(as_list(manifest.get("layers")) or ())])
            missing = [
                entry["digest"]
                for entry in wanted
                if not any(word in entry.get("mediaType", "") for word in _FOREIGN)
                and not self.has_blob(image, entry["digest"])
            ]
        else:
            raise RegistryError(400, "MANIFEST_INVALID", f"{media_type} is not an image manifest or index")
        if missing:
            raise RegistryError(404, "MANIFEST_BLOB_UNKNOWN", f"{image} does not hold {', '.join(missing)}")
        return manifest


def _descriptors(entries: Any) -> list[dict[str, Any]]:
    return [_descriptor(value) for value in as_list(entries) or ()]


def _optional_descriptor(value: Any) -> dict[str, Any] | None:
    return None if value is None else _descriptor(value)


def _descriptor(value: Any) -> dict[str, Any]:
    """The descriptor (OCI image spec): what is kept of it and shown again must be of the right type."""
    entry = as_object(value)
    if entry is None or not is_digest(str(entry.get("digest"))):
        raise RegistryError(400, "MANIFEST_INVALID", "a descriptor has no sha256 digest")
    size = entry.get("size", 0)
    if type(size) is not int or not 0 <= size < 2**63:
        raise RegistryError(400, "MANIFEST_INVALID", "a descriptor's size is not a number of bytes")
    if not isinstance(entry.get("mediaType", ""), str):
        raise RegistryError(400, "MANIFEST_INVALID", "a descriptor's mediaType is not a string")
    return entry


def _check_texts(manifest: dict[str, Any]) -> None:
    annotations = as_object(manifest.get("annotations") or {})
    good = annotations is not None and all(isinstance(value, str) for value in annotations.values())
    if not good or not isinstance(manifest.get("artifactType") or "", str):
        raise RegistryError(400, "MANIFEST_INVALID", "artifactType must be a string, annotations a map of strings")


def _prefix(repository: str) -> str:
    _, project, _, location, _, name = repository.split("/")
    return f"{location}/{project}/{name}/"
