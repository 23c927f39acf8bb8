"""Docker's local image store, image references, and registry logins."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.values import as_dict, as_list

_REFERENCE: Final = re.compile(
    r"(?P<name>(?:(?P<host>[\w.-]+\.[\w.-]+(?::\d+)?|localhost(?::\d+)?|[\w.-]+:\d+|\[[0-9a-f:]+\](?::\d+)?)/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Reference:
    """The parts of an image reference; *name* includes the registry's host."""

    name: str
    host: str
    tag: str
    digest: str = ""


def parse_reference(text: str) -> Reference | None:
    """Parse an image reference; None if it is invalid."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return None
    return Reference(match["name"], match["host"] or "", match["tag"] or "latest", match["digest"] or "")


@dataclass(frozen=True)
class Login:
    """The credentials for a registry."""

    address: str
    username: str
    password: str

    def matches(self, host: str) -> bool:
        """Whether the credentials are for the registry *host*; the address may be a URL with a path."""
        return re.sub(r"^https?://", "", self.address).partition("/")[0] == (host or "docker.io")


def find_login(logins: Iterable[Login], host: str) -> Login | None:
    """Find the credentials for the registry *host*."""
    return next((login for login in logins if login.matches(host)), None)


class LocalImages:
    """Docker's local image store."""

    def __init__(self) -> None:
        from mcpfleet_local_cloud import docker_engine  # slow to import, and not needed before the first build

        try:
            self._api = cast("Any", docker_engine.create_client(timeout=600).api)
        except docker_engine.NoEngineError as error:
            raise ProviderError(f"{error} Next: {error.next_step}") from error

    def close(self) -> None:
        """Close the connection."""
        self._api.close()

    def push(self, call: Call, tag: str, logins: Sequence[Login]) -> str:
        """Push one tag.

        Returns:
            The digest of the manifest in the registry.

        Raises:
            ProviderError: the registry rejected the push; the message has the repository and the reason.
        """
        reference = parse_reference(tag)
        if reference is None:
            raise ProviderError(f"tags: invalid reference format: {tag}")
        login = find_login(logins, reference.host)
        auth = {"username": login.username, "password": login.password} if login else {}
        digest = ""
        for raw_event in self._api.push(reference.name, tag=reference.tag, auth_config=auth, stream=True, decode=True):
            call.raise_if_stopped()
            event = cast("Mapping[str, Any]", raw_event)
            if "error" in event:
                raise ProviderError(f"the push to {reference.name} was refused: {event['error']}")
            digest = str(as_dict(event.get("aux")).get("Digest", digest))
            if event.get("status") and not event.get("progressDetail"):
                call.log("status", f"{event.get('id', reference.name)}: {event['status']}")
        if not digest:
            raise ProviderError(f"the push to {reference.name} ended without a digest from the registry")
        return digest

    def find_tagged(self, tags: Iterable[str]) -> list[str]:
        """Find the ids of the images that have these tags now."""
        from docker.errors import APIError

        ids: list[str] = []
        for tag in tags:
            try:
                ids.append(str(self._api.inspect_image(tag)["Id"]))
            except APIError:
                continue
        return ids

    def untag(self, tags: Iterable[str], image_id: str) -> None:
        """Remove *tags* from the image *image_id*, and the image itself if it has no other name."""
        from docker.errors import APIError

        for tag in tags:
            try:
                self._api.remove_image(tag, noprune=False)
            except APIError:
                continue
        self.remove_unnamed(image_id)

    def remove_unnamed(self, image_id: str) -> None:
        """Remove an image if it has no tag and no digest."""
        from docker.errors import APIError

        try:
            image = self._api.inspect_image(image_id)
            if not image.get("RepoTags") and not image.get("RepoDigests"):
                self._api.remove_image(image_id)
        except APIError:
            return  # removed already, or in use by a container

    def remove_copies(self, names: Iterable[str], keep: str = "") -> None:
        """Remove the local images of the repositories *names*, except the image with the id *keep*.

        An image that a container still uses stays; the next change of the resource removes it.
        """
        from docker.errors import APIError

        for name in set(names):
            for image in self._api.images(filters={"reference": name}):
                if image["Id"] == keep:
                    continue
                for local_name in [*as_list(image.get("RepoTags")), *as_list(image.get("RepoDigests"))]:
                    reference = parse_reference(local_name)
                    if reference is None or reference.name != name:
                        continue
                    try:
                        self._api.remove_image(local_name)
                    except APIError:
                        continue
