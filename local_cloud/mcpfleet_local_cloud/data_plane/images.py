"""Resolves image references, and pulls images.

A reference to this cloud's own registry is pulled as Cloud Run's service agent, unless Docker has exactly that digest.
Any other reference may also name an image that Docker has and that was never pushed (a base image built on this
machine): its stable name is `<repository>@<image id>`, which looks like a digest reference and is only resolved here.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.images import Image

from mcpfleet_local_cloud.data_plane.contract import RolloutError
from mcpfleet_local_cloud.data_plane.engine import CloudContainers, error_text

PLATFORM: Final = "linux/amd64"
"""The platform of Cloud Run."""
_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """An image reference in its parts."""

    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag or 'latest'}"


def parse_reference(text: str) -> Reference:
    """Split `HOST:PORT/NAME:TAG@DIGEST`; a digest makes the tag meaningless, as in Docker."""
    name, _, digest = text.partition("@")
    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        return Reference(head, tag or None, digest or None)
    return Reference(name, None, digest or None)


class _OtherPlatformError(RolloutError):
    """The registry has no image for the requested platform."""


class Images:
    """Resolves, pulls and removes images.

    Args:
        engine: The Docker engine.
        registry: Returns `host:port` of this cloud's own registry.
        access_token: Mints an access token of Cloud Run's service agent, which reads the registry.
        service_agent: The e-mail of that agent, for the message when it lacks the permission.
        upstream: Maps a repository of a remote repository to its upstream repository; None for others.
    """

    def __init__(
        self,
        engine: CloudContainers,
        *,
        registry: Callable[[], str],
        access_token: Callable[[], str],
        service_agent: str,
        upstream: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._access_token = access_token
        self._service_agent = service_agent
        self._upstream = upstream

    async def fetch(self, image: str) -> tuple[str, str]:
        """Make *image* present in Docker.

        Returns:
            Its digest reference (`…@sha256:…`) and the image's id in Docker.

        Raises:
            RolloutError: The image can't be used; the text is Google's, with the next step.
        """
        reference = parse_reference(image)
        try:
            return await self._engine.call(self._fetch, image, reference, self._access_token())
        except RolloutError:
            raise
        except APIError as error:
            raise RolloutError(self._explain(image, error_text(error), error.status_code)) from error
        except (DockerException, OSError) as reason:
            raise RolloutError(
                f"Image '{image}' could not be fetched: {reason}. Is Docker running? `docker info` must answer."
            ) from reason

    async def remove(self, image: str, in_use: Callable[[], set[str]]) -> None:
        """Remove *image*'s names on this cloud's own registry from Docker, unless a container needs it.

        Args:
            image: A digest reference that `fetch` returned.
            in_use: Returns the digest references that other revisions run; called just before the removal.
        """
        if not self._is_local(image) or image in in_use():
            return
        try:
            await self._engine.call(self._remove, image)
        except (DockerException, OSError) as reason:
            _log.warning("image %s stays in Docker: %s", image, reason)

    def _is_local(self, image: str) -> bool:
        return image.startswith(f"{self._registry()}/")

    def _fetch(self, image: str, reference: Reference, token: str) -> tuple[str, str]:
        upstream_repository = self._upstream(reference.repository)
        if upstream_repository is not None:
            # A remote repository stores no content here: Docker has the image, or pulls it from upstream.
            upstream_reference = replace(reference, repository=upstream_repository)
            name, image_id = self._fetch(str(upstream_reference), upstream_reference, token)
            return f"{reference.repository}@{parse_reference(name).digest}", image_id
        local_image = None if self._is_local(image) and reference.digest is None else self._find_local(reference)
        if local_image is None:
            self._pull(image, reference, token)
            local_image = self._find_local(reference)
        if local_image is None:
            raise RolloutError(self._explain(image, "not found", 404))
        platform = f"{local_image.attrs.get('Os')}/{local_image.attrs.get('Architecture')}"
        if platform not in self._supported_platforms():
            raise RolloutError(_platform_error_text(image, platform))
        return _stable_name(local_image, reference), str(local_image.id)

    def _find_local(self, reference: Reference) -> Image | None:
        images = self._engine.client.images
        try:
            return images.get(str(reference))
        except ImageNotFound:
            pass
        if reference.digest is None:
            return None
        try:  # the name of an image that was never pushed
            image = images.get(reference.digest)
        except ImageNotFound:
            return None
        repositories = {parse_reference(tag).repository for tag in image.tags}
        return image if _short_name(reference.repository) in repositories and image.id == reference.digest else None

    def _supported_platforms(self) -> list[str]:
        """The platforms that can run here: first the engine's own, then Cloud Run's, which may be emulated."""
        return list(dict.fromkeys((self._engine.facts.platform, PLATFORM)))

    def _pull(self, image: str, reference: Reference, token: str) -> None:
        *preferred, last = self._supported_platforms()
        for platform in preferred:
            with contextlib.suppress(_OtherPlatformError):
                self._pull_for(platform, image, reference, token)
                return
        self._pull_for(last, image, reference, token)

    def _pull_for(self, platform: str, image: str, reference: Reference, token: str) -> None:
        auth = {"username": "oauth2accesstoken", "password": token} if self._is_local(image) else None
        try:
            steps = self._engine.client.api.pull(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
                reference.repository,
                tag=reference.digest or reference.tag or "latest",
                stream=True,
                decode=True,
                auth_config=auth,
                platform=platform,
            )
        except APIError as error:
            if _is_platform_error(error_text(error)):
                raise _OtherPlatformError(_platform_error_text(image, error_text(error))) from error
            raise
        for step in cast(
            "Iterator[dict[str, Any]]", steps
        ):  # after the first byte, a failure is an event of the stream, not a status
            if "error" in step and _is_platform_error(str(step["error"])):
                raise _OtherPlatformError(_platform_error_text(image, str(step["error"])))
            if "error" in step:
                raise RolloutError(self._explain(image, str(step["error"]), None))

    def _remove(self, image: str) -> None:
        client = self._engine.client
        try:
            local_image = client.images.get(image)
        except ImageNotFound:
            return
        digests: list[str] = local_image.attrs.get("RepoDigests") or []
        for name in [*local_image.tags, *digests]:
            if self._is_local(name):
                try:
                    client.images.remove(name)
                except ImageNotFound:
                    continue

    def _explain(self, image: str, reason: str, status: int | None) -> str:
        text = reason.lower()
        if status in (401, 403) or "unauthorized" in text or "denied" in text:
            if not self._is_local(image):
                return (
                    f"Image '{image}' not found. (Its registry said: {reason}) Check the name; if the image is "
                    f"private, run `docker login` and `docker pull {image}` once on this machine."
                )
            return (
                f"Google Cloud Run Service Agent {self._service_agent} must have permission to read the image, "
                f"{image}. Ensure that the provided container image URL is correct and that the above account has "
                "permission to access the image: grant it roles/artifactregistry.reader on the repository."
            )
        if status == 404 or "not found" in text or "unknown" in text:
            push = (
                f"docker push {parse_reference(image).repository}" if self._is_local(image) else f"docker pull {image}"
            )
            return f"Image '{image}' not found. Check its name and tag; then `{push}` must succeed on this machine."
        return f"Image '{image}' could not be fetched: {reason}. `docker pull {image}` shows the same failure in full."


def _stable_name(image: Image, reference: Reference) -> str:
    if reference.digest is not None:
        return str(reference)
    digests: list[str] = image.attrs.get("RepoDigests") or []
    for name in digests:
        if parse_reference(name).repository in (reference.repository, _short_name(reference.repository)):
            return f"{reference.repository}@{parse_reference(name).digest}"
    return f"{reference.repository}@{image.id}"


def _short_name(repository: str) -> str:
    """The short form of a Docker Hub name, under which Docker stores it."""
    return repository.removeprefix("docker.io/").removeprefix("library/")


def _is_platform_error(reason: str) -> bool:
    return "platform" in reason.lower() or "no matching manifest" in reason.lower()


def _platform_error_text(image: str, detail: str) -> str:
    return (
        f"Container manifest type '{_MANIFEST}' must support amd64/linux. (Image '{image}': {detail}.) Build it with "
        f"`docker build --platform {PLATFORM} …`."
    )
