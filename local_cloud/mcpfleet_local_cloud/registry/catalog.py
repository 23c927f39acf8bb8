"""The manifests, tags and blobs of images, without HTTP; errors have the specification's codes."""

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
# Layers that a push may omit (OCI image spec, "non-distributable layers").
_FOREIGN: Final = ("nondistributable", "foreign")

# The maximum duration of a push: a client uploads layers before the manifest that references them.
_PUSH_SECONDS: Final = 3600

_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class RegistryError(Exception):
    """An error response with one of the specification's codes (`NAME_UNKNOWN`, `MANIFEST_INVALID` …)."""

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
        """Parse the name in a registry URL.

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
    """The manifests, tags and blob links of all images."""

    def __init__(self, store: Store, blobs: BlobStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self.blobs = blobs
        self._clock = clock

    def begin_upload(self, image: ImageName) -> str:
        """Start an upload to the image; returns its id."""
        upload = self.blobs.begin_upload()
        self._store.put(UPLOAD, upload, {"image": str(image)})
        return upload

    def received_bytes(self, image: ImageName, upload: str) -> int:
        """The number of bytes that the image's upload has.

        Raises:
            RegistryError: BLOB_UPLOAD_UNKNOWN, also for an upload to another image, which may have other permissions.
        """
        record = self._store.get(UPLOAD, upload)
        size = self.blobs.received_bytes(upload) if record is not None and record["image"] == str(image) else None
        if size is None:
            raise RegistryError(404, "BLOB_UPLOAD_UNKNOWN", f"there is no upload {upload}")
        return size

    def end_upload(self, upload: str) -> None:
        """Delete the upload's record, and its data unless it became a blob."""
        self.blobs.cancel(upload)
        self._store.delete(UPLOAD, upload)

    def link_blob(self, image: ImageName, digest: str) -> None:
        """Make the blob part of the image."""
        self._store.put(BLOB, f"{image}@{digest}", {"linked": self._clock()})

    def has_blob(self, image: ImageName, digest: str) -> bool:
        """Whether the blob is part of the image and exists."""
        return self._store.get(BLOB, f"{image}@{digest}") is not None and self.blobs.exists(digest)

    def unlink_blob(self, image: ImageName, digest: str) -> None:
        """Remove the blob from the image.

        Raises:
            RegistryError: BLOB_UNKNOWN.
        """
        if not self._store.delete(BLOB, f"{image}@{digest}"):
            raise RegistryError(404, "BLOB_UNKNOWN", f"{image} has no blob {digest}")
        self.collect_garbage()

    def put_manifest(self, image: ImageName, reference: str, content: bytes, media_type: str) -> str:
        """Store a manifest by its digest, and by *reference* if that is a tag; returns the digest.

        Raises:
            RegistryError: MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN, DIGEST_INVALID, TAG_INVALID.
        """
        manifest = self._check_manifest(image, content, media_type)
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
            existing = self._store.get(MANIFEST, f"{image}@{digest}")
            self._store.put(
                MANIFEST,
                f"{image}@{digest}",
                {
                    "mediaType": media_type,
                    "size": len(content),
                    "imageSize": sum(layer.get("size", 0) for layer in layers),
                    "blobs": [entry["digest"] for entry in (config, *layers) if entry],
                    "uploaded": existing["uploaded"] if existing else self._clock(),
                    "subject": subject.get("digest") if subject else None,
                    "artifactType": manifest.get("artifactType") or (config or {}).get("mediaType"),
                    "annotations": manifest.get("annotations"),
                },
            )
            if not is_digest(reference):
                self._store.put(TAG, f"{image}:{reference}", {"digest": digest})
        return digest

    def find_manifest(self, image: ImageName, reference: str) -> tuple[str, Document]:
        """Find a manifest by tag or digest; returns its digest and record (media type, size).

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
        """Delete a tag, or a manifest with all its tags.

        Raises:
            RegistryError: MANIFEST_UNKNOWN.
        """
        digest, _ = self.find_manifest(image, reference)
        if not is_digest(reference):
            self._store.delete(TAG, f"{image}:{reference}")
            return
        with self._store.transaction():
            self._store.delete(MANIFEST, f"{image}@{digest}")
            for tag in self.tags_of(image, digest):
                self._store.delete(TAG, f"{image}:{tag}")
        self.collect_garbage()

    def list_tags(self, image: ImageName) -> list[str]:
        """The image's tags in alphabetical order."""
        prefix = f"{image}:"
        return [name.removeprefix(prefix) for name, _ in self._store.list(TAG, prefix)]

    def tags_of(self, image: ImageName, digest: str) -> list[str]:
        """The tags of the manifest *digest*."""
        prefix = f"{image}:"
        return [name.removeprefix(prefix) for name, tag in self._store.list(TAG, prefix) if tag["digest"] == digest]

    def list_manifests(self, repository: str) -> list[tuple[ImageName, str, Document]]:
        """The image, digest and record of all manifests in *repository* (its full name)."""
        entries: list[tuple[ImageName, str, Document]] = []
        for name, record in self._store.list(MANIFEST, _prefix(repository)):
            image, _, digest = name.partition("@")
            entries.append((ImageName.parse(image), digest, record))
        return entries

    def list_referrers(self, image: ImageName, digest: str) -> list[tuple[str, Document]]:
        """The digest and record of all manifests of the image whose subject is *digest*."""
        records = ((name.rpartition("@")[2], record) for name, record in self._store.list(MANIFEST, f"{image}@"))
        return [(manifest_digest, record) for manifest_digest, record in records if record["subject"] == digest]

    def has_image(self, image: ImageName) -> bool:
        """Whether the image has a manifest."""
        return bool(self._store.list(MANIFEST, f"{image}@"))

    def delete_repository(self, repository: str) -> None:
        """Delete all images of the repository, and the blobs that no other image has."""
        with self._store.transaction():
            for kind in (MANIFEST, TAG, BLOB):
                for name, _ in self._store.list(kind, _prefix(repository)):
                    self._store.delete(kind, name)
        self.collect_garbage()

    def collect_garbage(self) -> int:
        """Delete the blobs that no manifest and no push in progress needs; returns the number of bytes freed."""
        manifests = self._store.list(MANIFEST)
        needed_digests = {name.rpartition("@")[2] for name, _ in manifests}
        linked_blobs = {f"{name.partition('@')[0]}@{blob}" for name, record in manifests for blob in record["blobs"]}
        oldest_push = self._clock() - _PUSH_SECONDS
        for name, link in self._store.list(BLOB):
            if name in linked_blobs or link["linked"] > oldest_push:
                needed_digests.add(name.rpartition("@")[2])
            else:
                self._store.delete(BLOB, name)
        for upload in self.blobs.delete_uploads(older_than=oldest_push):
            self._store.delete(UPLOAD, upload)
        return self.blobs.delete_except(needed_digests)

    def _check_manifest(self, image: ImageName, content: bytes, media_type: str) -> dict[str, Any]:
        try:
            manifest = as_object(parse_strict_json(content))
        except (ValueError, RecursionError) as error:
            raise RegistryError(400, "MANIFEST_INVALID", f"the manifest is not JSON: {error}") from None
        if manifest is None or manifest.get("mediaType", media_type) != media_type:
            message = f"the manifest's media type is not {media_type}, the content type of the request"
            raise RegistryError(400, "MANIFEST_INVALID", message)
        _check_texts(manifest)
        if media_type in INDEX_TYPES:
            missing = [
                entry["digest"]
                for entry in _descriptors(manifest.get("manifests"))
                if self._store.get(MANIFEST, f"{image}@{entry['digest']}") is None
            ]
        elif media_type in IMAGE_TYPES:
            descriptors = _descriptors([manifest.get("config"), *(as_list(manifest.get("layers")) or ())])
            missing = [
                entry["digest"]
                for entry in descriptors
                if not any(word in entry.get("mediaType", "") for word in _FOREIGN)
                and not self.has_blob(image, entry["digest"])
            ]
        else:
            raise RegistryError(400, "MANIFEST_INVALID", f"{media_type} is not an image manifest or index")
        if missing:
            raise RegistryError(404, "MANIFEST_BLOB_UNKNOWN", f"{image} does not have {', '.join(missing)}")
        return manifest


def _descriptors(entries: Any) -> list[dict[str, Any]]:
    return [_descriptor(value) for value in as_list(entries) or ()]


def _optional_descriptor(value: Any) -> dict[str, Any] | None:
    return None if value is None else _descriptor(value)


def _descriptor(value: Any) -> dict[str, Any]:
    """Parse a descriptor (OCI image spec); checks the types of the fields that the registry stores and returns."""
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
    is_valid = annotations is not None and all(isinstance(value, str) for value in annotations.values())
    if not is_valid or not isinstance(manifest.get("artifactType") or "", str):
        raise RegistryError(400, "MANIFEST_INVALID", "artifactType must be a string, annotations a map of strings")


def _prefix(repository: str) -> str:
    _, project, _, location, _, name = repository.split("/")
    return f"{location}/{project}/{name}/"
