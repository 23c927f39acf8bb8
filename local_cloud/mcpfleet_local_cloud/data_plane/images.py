"""Which image a reference stands for, and getting it.

A reference on this cloud's own registry is pulled from it, as Cloud Run's service agent, unless Docker has that very
digest. Any other reference may also name an image that Docker has and that was never pushed anywhere (a base image made
on this machine): its stable name is `<repository>@<image id>`, which looks like a digest reference and is only ever
resolved here.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.images import Image

from mcpfleet_local_cloud.data_plane.contract import RolloutError
from mcpfleet_local_cloud.data_plane.engine import CloudContainers, one_line

PLATFORM: Final = "linux/amd64"
"""What Cloud Run runs."""
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
    """The registry has no image for the platform that was asked for."""


class Images:
    """Resolves, fetches and forgets images.

    Args:
        engine: Docker.
        registry: gives `host:port` of this cloud's own registry.
        access_token: mints an access token of Cloud Run's service agent, which reads the registry.
        service_agent: that agent's e-mail, for the message when it has no right.
        upstream: the repository behind one of a remote repository, where Docker finds the image; None for others.
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
            RolloutError: in Google's words, with what to do next.
        """
        reference = parse_reference(image)
        try:
            return await self._engine.call(self._fetch, image, reference, self._access_token())
        except RolloutError:
            raise
        except APIError as refusal:
            raise RolloutError(self._explain(image, one_line(refusal), refusal.status_code)) from refusal
        except (DockerException, OSError) as reason:
            raise RolloutError(
                f"Image '{image}' could not be fetched: {reason}. Is Docker running? `docker info` must answer."
            ) from reason

    async def forget(self, image: str, in_use: Callable[[], set[str]]) -> None:
        """Remove what Docker holds under names of our own registry for *image*, unless a container needs it.

        Args:
            image: a digest reference, as `fetch` gave it.
            in_use: the digest references that other revisions run, asked at the last moment.
        """
        if not self._own(image) or image in in_use():
            return
        try:
            await self._engine.call(self._forget, image)
        except (DockerException, OSError) as reason:
            _log.warning("image %s stays in Docker: %s", image, reason)

    def _own(self, image: str) -> bool:
        return image.startswith(f"{self._registry()}/")

    def _fetch(self, image: str, reference: Reference, token: str) -> tuple[str, str]:
        behind = self._upstream(reference.repository)
        if behind is not None:
            # A remote repository has no content of its own here: Docker has the image, or pulls it from upstream.
            asked = replace(reference, repository=behind)
            name, image_id = self._fetch(str(asked), asked, token)
            return f"{reference.repository}@{parse_reference(name).digest}", image_id
        found = None if self._own(image) and reference.digest is None else self._present(reference)
        if found is None:
            self._pull(image, reference, token)
            found = self._present(reference)
        if found is None:
            raise RolloutError(self._explain(image, "not found", 404))
        platform = f"{found.attrs.get('Os')}/{found.attrs.get('Architecture')}"
        if platform not in self._platforms():
            raise RolloutError(_wrong_platform(image, platform))
        return _stable_name(found, reference), str(found.id)

    def _present(self, reference: Reference) -> Image | None:
        images = self._engine.client.images
        try:
            return images.get(str(reference))
        except ImageNotFound:
            pass
        if reference.digest is None:
            return None
        try:  # the name of an image that was never pushed
            found = images.get(reference.digest)
        except ImageNotFound:
            return None
        known = {parse_reference(tag).repository for tag in found.tags}
        return found if _familiar(reference.repository) in known and found.id == reference.digest else None

    def _platforms(self) -> list[str]:
        """What may run here, the best first: the engine's own, and Cloud Run's, which another machine emulates."""
        return list(dict.fromkeys((self._engine.facts.platform, PLATFORM)))

    def _pull(self, image: str, reference: Reference, token: str) -> None:
        *better, last = self._platforms()
        for platform in better:
            with contextlib.suppress(_OtherPlatformError):
                self._pull_for(platform, image, reference, token)
                return
        self._pull_for(last, image, reference, token)

    def _pull_for(self, platform: str, image: str, reference: Reference, token: str) -> None:
        auth = {"username": "oauth2accesstoken", "password": token} if self._own(image) else None
        try:
            steps = self._engine.client.api.pull(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
                reference.repository,
                tag=reference.digest or reference.tag or "latest",
                stream=True,
                decode=True,
                auth_config=auth,
                platform=platform,
            )
        except APIError as refusal:
            if _says_platform(one_line(refusal)):
                raise _OtherPlatformError(_wrong_platform(image, one_line(refusal))) from refusal
            raise
        for step in cast(
            "Iterator[dict[str, Any]]", steps
        ):  # a failure after the first byte is a step of the stream, not a status
            if "error" in step and _says_platform(str(step["error"])):
                raise _OtherPlatformError(_wrong_platform(image, str(step["error"])))
            if "error" in step:
                raise RolloutError(self._explain(image, str(step["error"]), None))

    def _forget(self, image: str) -> None:
        client = self._engine.client
        try:
            found = client.images.get(image)
        except ImageNotFound:
            return
        digests: list[str] = found.attrs.get("RepoDigests") or []
        for name in [*found.tags, *digests]:
            if self._own(name):
                try:
                    client.images.remove(name)
                except ImageNotFound:
                    continue

    def _explain(self, image: str, reason: str, status: int | None) -> str:
        said = reason.lower()
        if status in (401, 403) or "unauthorized" in said or "denied" in said:
            if not self._own(image):
                return (
                    f"Image '{image}' not found. (Its registry said: {reason}) Check the name; if the image is "
                    f"private, run `docker login` and `docker pull {image}` once on this machine."
                )
            return (
                f"Google Cloud Run Service Agent {self._service_agent} must have permission to read the image, "
                f"{image}. Ensure that the provided container image URL is correct and that the above account has "
                "permission to access the image: grant it roles/artifactregistry.reader on the repository."
            )
        if status == 404 or "not found" in said or "unknown" in said:
            push = f"docker push {parse_reference(image).repository}" if self._own(image) else f"docker pull {image}"
            return f"Image '{image}' not found. Check its name and tag; then `{push}` must succeed on this machine."
        return f"Image '{image}' could not be fetched: {reason}. `docker pull {image}` shows the same failure in full."


def _stable_name(found: Image, reference: Reference) -> str:
    if reference.digest is not None:
        return str(reference)
    digests: list[str] = found.attrs.get("RepoDigests") or []
    for name in digests:
        if parse_reference(name).repository in (reference.repository, _familiar(reference.repository)):
            return f"{reference.repository}@{parse_reference(name).digest}"
    return f"{reference.repository}@{found.id}"


def _familiar(repository: str) -> str:
    """The short form that Docker stores names of Docker Hub under."""
    return repository.removeprefix("docker.io/").removeprefix("library/")


def _says_platform(reason: str) -> bool:
    return "platform" in reason.lower() or "no matching manifest" in reason.lower()


def _wrong_platform(image: str, seen: str) -> str:
    return (
        f"Container manifest type '{_MANIFEST}' must support amd64/linux. (Image '{image}': {seen}.) Build it with "
        f"`docker build --platform {PLATFORM} …`."
    )
