"""Repositories, access to them, and their cleanup. Has no HTTP."""

import re
import secrets
import time
from collections.abc import Callable
from typing import Final

from mcpfleet_local_cloud.registry.catalog import Catalog, ImageName
from mcpfleet_local_cloud.rest.errors import GoogleError, already_exists, invalid, unimplemented
from mcpfleet_local_cloud.rest.json_api import format_timestamp
from mcpfleet_local_cloud.services.artifactregistry.cleanup import Version, find_deletable, parse_duration
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.run.locations import REGIONS
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "artifactregistry.repository"
PUBLIC_PROJECT: Final = "mcpfleet-public"
"""A project in the place of the public registries that a real build pulls from: everybody can pull, only the operator
of this cloud can push. Its images belong to no stack, so that the layers of a base image are compressed and sent only
once."""

_PULL: Final = "artifactregistry.repositories.downloadArtifacts"
_PUSH: Final = "artifactregistry.repositories.uploadArtifacts"
_ID: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LOCATIONS: Final = frozenset({*REGIONS, "us", "europe", "asia"})
"""The locations of Artifact Registry: every region of Cloud Run, and three multi-regions."""

_UPDATABLE_FIELDS: Final = ("description", "labels", "cleanupPolicies", "cleanupPolicyDryRun", "dockerConfig")


class ArtifactRegistry:
    """The Docker repositories of all locations and the access to them; *registry* returns their `host:port`."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        authorizer: ApiAuthorizer,
        registry: Callable[[], str],
        clock: Callable[[], float] = time.time,
        *,
        publisher_token: str | None = None,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._authorizer = authorizer
        self._registry = registry
        self._clock = clock
        self._publisher_token = publisher_token

    def create(self, project: str, location: str, repository_id: str, body: Document) -> Document:
        """Create a repository.

        Raises:
            GoogleError: INVALID_ARGUMENT, UNIMPLEMENTED, ALREADY_EXISTS.
        """
        if location not in _LOCATIONS:
            raise invalid(f'Location "{location}" is not valid: name a region such as europe-west1.')
        if _ID.fullmatch(repository_id) is None:
            raise invalid(
                f'repository_id "{repository_id}" is not valid: 1 to 63 lower-case letters, digits and hyphens, '
                "beginning with a letter."
            )
        _check_repository(body)
        name = f"projects/{project}/locations/{location}/repositories/{repository_id}"
        now = self._now()
        record: Document = {
            **body,
            "name": name,
            "mode": body.get("mode", "STANDARD_REPOSITORY"),
            "createTime": now,
            "updateTime": now,
        }
        if not self._store.insert(KIND, name, record):
            raise already_exists(name)
        return self._render(record)

    def get(self, name: str) -> Document:
        """Return the repository with the full name *name*.

        Raises:
            GoogleError: NOT_FOUND.
        """
        return self._render(self._find_record(name))

    def repositories(self, project: str, location: str) -> list[Document]:
        """List the repositories of a location."""
        prefix = f"projects/{project}/locations/{location}/repositories/"
        return [self._render(record) for _, record in self._store.list(KIND, prefix)]

    def update(self, name: str, body: Document, mask: list[str]) -> Document:
        """Update the fields that *mask* names.

        Raises:
            GoogleError: NOT_FOUND, INVALID_ARGUMENT, UNIMPLEMENTED.
        """
        record = self._find_record(name)
        _check_repository({"format": record["format"], **body, "mode": record["mode"]})
        for field in mask:
            if field not in _UPDATABLE_FIELDS:
                raise invalid(f"update_mask: {field} cannot be changed in a repository.")
            record.pop(field, None)
            if field in body:
                record[field] = body[field]
        record["updateTime"] = self._now()
        self._store.put(KIND, name, record)
        self.clean(name)
        return self._render(record)

    def delete(self, name: str) -> None:
        """Delete the repository with every image in it.

        Raises:
            GoogleError: NOT_FOUND.
        """
        self._find_record(name)
        # Images first: after a kill in between, a repository without images remains, and can be deleted again.
        self._catalog.delete_repository(name)
        self._store.delete(KIND, name)

    def docker_images(self, name: str) -> list[Document]:
        """List the repository's images as `projects.locations.repositories.dockerImages.list` returns them."""
        repository = self.get(name)
        return [
            {
                "name": f"{name}/dockerImages/{image.image}@{digest}",
                "uri": f"{repository['registryUri']}/{image.image}@{digest}",
                "tags": self._catalog.tags_of(image, digest),
                "imageSizeBytes": str(record["imageSize"]),
                "mediaType": record["mediaType"],
                "uploadTime": format_timestamp(record["uploaded"]),
            }
            for image, digest, record in self._catalog.list_manifests(name)
        ]

    def check(self, token: str | None, permission: str, image: ImageName) -> None:
        """Check for the registry that the caller has *permission* (see `registry.routes.RegistryAuthorizer`).

        Raises:
            GoogleError: UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND.
        """
        if image.project == PUBLIC_PROJECT:
            self._check_public(token, permission, image)
            return
        if token is None:
            message = f'Unauthenticated request. Unauthenticated requests do not have permission "{permission}"'
            raise GoogleError("UNAUTHENTICATED", f'{message} on resource "{image.resource}" (or it may not exist)')
        self._authorizer.require(self._authorizer.authenticate_token(token), permission, image.resource)
        record = self._store.get(KIND, image.resource)
        if record is None:
            raise GoogleError("NOT_FOUND", f'Repository "{image.repository}" not found')
        if record["mode"] == "REMOTE_REPOSITORY" and permission == _PUSH:
            raise GoogleError("PERMISSION_DENIED", "Cannot push to a remote repository: its images come from upstream.")

    def upstream(self, image: str) -> str | None:
        """The upstream image for *image* of a remote repository; None for any other image.

        *image* is a reference without tag and digest, `HOST:PORT/LOCATION/PROJECT/REPOSITORY/NAME`.
        """
        parts = image.split("/", 4)
        if len(parts) < 5 or parts[0] != self._registry():
            return None
        _, location, project, repository, name = parts
        record = self._store.get(KIND, f"projects/{project}/locations/{location}/repositories/{repository}")
        upstream = upstream_of(record) if record and record["mode"] == "REMOTE_REPOSITORY" else ""
        return f"{upstream}/{name}" if upstream else None

    def authenticate(self, token: str) -> None:
        """Check for the registry that *token* is valid.

        Raises:
            GoogleError: UNAUTHENTICATED, PERMISSION_DENIED.
        """
        if not self._is_publisher_token(token):
            self._authorizer.authenticate_token(token)

    def pushed(self, image: ImageName) -> None:
        """Apply the cleanup policies after a push (Google does so within a day)."""
        if image.project != PUBLIC_PROJECT:
            self.clean(image.resource)

    def clean(self, name: str) -> list[Version]:
        """Apply the cleanup policies; return the deleted versions. With `cleanupPolicyDryRun`, nothing is deleted."""
        record = self._find_record(name)
        images = {f"{image.image}@{digest}": image for image, digest, _ in self._catalog.list_manifests(name)}
        versions = [
            Version(image.image, digest, tuple(self._catalog.tags_of(image, digest)), manifest["uploaded"])
            for image, digest, manifest in self._catalog.list_manifests(name)
        ]
        deletable = find_deletable(versions, record.get("cleanupPolicies", {}), self._clock())
        if not record.get("cleanupPolicyDryRun"):
            for version in deletable:
                self._catalog.delete_manifest(images[f"{version.package}@{version.digest}"], version.digest)
        return deletable

    def _check_public(self, token: str | None, permission: str, image: ImageName) -> None:
        if permission == _PULL or (token is not None and self._is_publisher_token(token)):
            return
        raise GoogleError("PERMISSION_DENIED", f'Permission "{permission}" denied on resource "{image.resource}"')

    def _is_publisher_token(self, token: str) -> bool:
        publisher_token = self._publisher_token
        return publisher_token is not None and secrets.compare_digest(token.encode(), publisher_token.encode())

    def _find_record(self, name: str) -> Document:
        record = self._store.get(KIND, name)
        if record is None:
            raise GoogleError("NOT_FOUND", f'Repository "{name.rpartition("/")[2]}" not found')
        return record

    def _render(self, record: Document) -> Document:
        _, project, _, location, _, repository = record["name"].split("/")
        size = sum(image["imageSize"] for _, _, image in self._catalog.list_manifests(record["name"]))
        return {
            **record,
            "sizeBytes": str(size),
            "registryUri": f"{self._registry()}/{location}/{project}/{repository}",
        }

    def _now(self) -> str:
        return format_timestamp(self._clock())


def _check_repository(body: Document) -> None:
    if body.get("format") != "DOCKER":
        if not body.get("format"):
            raise invalid("repository.format: must be set, for example to DOCKER.")
        raise unimplemented("repository.format", "only DOCKER is served here")
    _check_mode(body)
    policies: dict[str, Document] = body.get("cleanupPolicies", {})
    for key, policy in policies.items():
        _check_policy(f"repository.cleanupPolicies[{key}]", policy)


def _check_mode(body: Document) -> None:
    mode = body.get("mode", "STANDARD_REPOSITORY")
    remote = body.get("remoteRepositoryConfig")
    if mode not in {"STANDARD_REPOSITORY", "REMOTE_REPOSITORY"}:
        raise unimplemented("repository.mode", "only standard and remote repositories are served here")
    if mode == "STANDARD_REPOSITORY":
        if remote:
            raise invalid("repository.remoteRepositoryConfig: only a repository of the mode REMOTE_REPOSITORY has it.")
        return
    if not upstream_of(body):
        raise invalid(
            "repository.remoteRepositoryConfig.dockerRepository: publicRepository (DOCKER_HUB) or customRepository.uri "
            "must be set."
        )


def upstream_of(record: Document) -> str:
    """The upstream registry of a remote repository: `host`, or `host/path`; empty if it has none."""
    docker: Document = record.get("remoteRepositoryConfig", {}).get("dockerRepository", {})
    if docker.get("publicRepository") == "DOCKER_HUB":
        return "docker.io"
    return str(docker.get("customRepository", {}).get("uri", "")).partition("://")[2].rstrip("/")


def _check_policy(path: str, policy: Document) -> None:
    if policy.get("action") not in {"KEEP", "DELETE"}:
        raise invalid(f"{path}.action: must be KEEP or DELETE.")
    condition, recent = policy.get("condition"), policy.get("mostRecentVersions")
    if condition is not None and recent is not None:
        raise invalid(f"{path}: condition and mostRecentVersions exclude each other.")
    if recent is not None and (policy["action"] != "KEEP" or not recent.get("keepCount")):
        raise invalid(f"{path}.mostRecentVersions: needs the action KEEP and a keepCount.")
    for key in ("olderThan", "newerThan"):
        if condition and key in condition:
            try:
                parse_duration(condition[key])
            except ValueError as wrong:
                raise invalid(f"{path}.condition.{key}: {wrong}") from None
