"""Images in Docker's local store, and who pushes them to which registry."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.values import items, table

_REFERENCE: Final = re.compile(
    r"(?P<name>(?:(?P<host>[\w.-]+\.[\w.-]+(?::\d+)?|localhost(?::\d+)?|[\w.-]+:\d+|\[[0-9a-f:]+\](?::\d+)?)/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Reference:
    """An image's name taken apart; *name* includes the registry's host."""

    name: str
    host: str
    tag: str
    digest: str = ""


def parse(text: str) -> Reference | None:
    """The parts of an image reference, None when it is none."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return None
    return Reference(found["name"], found["host"] or "", found["tag"] or "latest", found["digest"] or "")


@dataclass(frozen=True)
class Login:
    """A registry's credentials."""

    address: str
    username: str
    password: str

    def matches(self, host: str) -> bool:
        """Whether they are for the registry *host*; an address may be a URL and have a path."""
        return re.sub(r"^https?://", "", self.address).partition("/")[0] == (host or "docker.io")


def login_for(logins: Iterable[Login], host: str) -> Login | None:
    """The credentials for *host*, if any."""
    return next((login for login in logins if login.matches(host)), None)


class LocalImages:
    """Docker's local image store."""

    def __init__(self) -> None:
        from mcpfleet_local_cloud import docker_engine  # heavy, and not needed before the first build

        try:
            self._api = cast("Any", docker_engine.client(timeout=600).api)
        except docker_engine.NoEngineError as error:
            raise ProviderError(f"{error} Next: {error.next_step}") from error

    def close(self) -> None:
        """Let go of the connection."""
        self._api.close()

    def push(self, call: Call, tag: str, logins: Sequence[Login]) -> str:
        """Push one tag.

        Returns:
            The digest under which the registry took the manifest.

        Raises:
            ProviderError: the registry refused; the text says which repository and why.
        """
        reference = parse(tag)
        if reference is None:
            raise ProviderError(f"tags: invalid reference format: {tag}")
        login = login_for(logins, reference.host)
        auth = {"username": login.username, "password": login.password} if login else {}
        digest = ""
        for event in self._api.push(reference.name, tag=reference.tag, auth_config=auth, stream=True, decode=True):
            call.check()
            fact = cast("Mapping[str, Any]", event)
            if "error" in fact:
                raise ProviderError(f"the push to {reference.name} was refused: {fact['error']}")
            digest = str(table(fact.get("aux")).get("Digest", digest))
            if fact.get("status") and not fact.get("progressDetail"):
                call.log("status", f"{fact.get('id', reference.name)}: {fact['status']}")
        if not digest:
            raise ProviderError(f"the push to {reference.name} ended without a digest from the registry")
        return digest

    def tagged(self, tags: Iterable[str]) -> list[str]:
        """The ids of the images that have these tags now."""
        from docker.errors import APIError

        found: list[str] = []
        for tag in tags:
            try:
                found.append(str(self._api.inspect_image(tag)["Id"]))
            except APIError:
                continue
        return found

    def untag(self, tags: Iterable[str], image_id: str) -> None:
        """Take *tags* from the image *image_id*, and remove it where nothing else names it."""
        from docker.errors import APIError

        for tag in tags:
            try:
                self._api.remove_image(tag, noprune=False)
            except APIError:
                continue
        self.remove_unnamed(image_id)

    def remove_unnamed(self, image_id: str) -> None:
        """Remove an image that no tag and no digest names."""
        from docker.errors import APIError

        try:
            facts = self._api.inspect_image(image_id)
            if not facts.get("RepoTags") and not facts.get("RepoDigests"):
                self._api.remove_image(image_id)
        except APIError:
            return  # gone already, or a container uses it

    def forget(self, names: Iterable[str], keep: str = "") -> None:
        """Remove the local copies of the repositories *names*, but for the image with the id *keep*.

        An image that a container still uses stays; the next change of the resource tries again.
        """
        from docker.errors import APIError

        for name in set(names):
            for image in self._api.images(filters={"reference": name}):
                if image["Id"] == keep:
                    continue
                for one in [*items(image.get("RepoTags")), *items(image.get("RepoDigests"))]:
                    reference = parse(one)
                    if reference is None or reference.name != name:
                        continue
                    try:
                        self._api.remove_image(one)
                    except APIError:
                        continue
