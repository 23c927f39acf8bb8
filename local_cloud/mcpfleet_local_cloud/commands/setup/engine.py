"""Docker Engine, as setup and the rest of the workbench reach it: through the API, never the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import docker
import docker.errors
import requests

from mcpfleet_local_cloud.docker_engine import Address, Facts, connect, facts_of

# A registry that can't be reached must be noticed soon; a slow one that still sends is waited for.
PULL_SILENCE_SECONDS = 20


class EngineError(Exception):
    """Docker Engine, or a registry behind it, refused something; the text is Docker's own."""


@dataclass(frozen=True)
class ImageFacts:
    """What setup asks of an image.

    Attributes:
        labels: Its labels.
        digests: The registry references under which it was pulled: `python@sha256:…`.
    """

    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    digests: Sequence[str] = ()


class ReachableEngine(Protocol):
    """A Docker Engine that answers."""

    @property
    def address(self) -> Address:
        """Where it answers."""
        ...

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client, for those who do more than setup does."""
        ...

    def facts(self) -> Facts:
        """Return what it says of itself."""
        ...

    def image(self, name: str) -> ImageFacts | None:
        """Return what an image says about itself, or None where there is none."""
        ...

    def pull(self, reference: str) -> None:
        """Pull an image. Raises EngineError when refused, or when the registry is silent for 20 s."""
        ...

    def tag(self, reference: str, name: str) -> None:
        """Give an image one more name."""
        ...

    def import_tar(self, tar: Path, name: str, changes: Sequence[str]) -> None:
        """Make an image of a root file system; `changes` are Dockerfile lines. Raises EngineError."""
        ...

    def build(self, folder: Path, name: str, *, args: Mapping[str, str], labels: Mapping[str, str]) -> None:
        """Build a folder that has a Dockerfile. Raises EngineError with the last lines of the build."""
        ...


class DockerEngine:
    """Docker Engine through its Python SDK."""

    def __init__(self, address: Address, client: docker.DockerClient) -> None:
        self.address = address
        self.client = client
        # The SDK's stubs leave the low-level client's answers untyped.
        self._api: Any = client.api

    @classmethod
    def connect(cls, address: Address) -> "DockerEngine":
        """Connect to an address; raises as `docker_engine.connect`."""
        return cls(address, connect(address))

    def facts(self) -> Facts:  # noqa: D102 - see Engine
        return facts_of(self.client)

    def image(self, name: str) -> ImageFacts | None:  # noqa: D102
        try:
            raw: dict[str, Any] = self._api.inspect_image(name)
        except docker.errors.ImageNotFound:
            return None
        config: dict[str, Any] = raw.get("Config") or {}
        labels: dict[str, str] = config.get("Labels") or {}
        digests: list[str] = raw.get("RepoDigests") or []
        return ImageFacts(labels=labels, digests=tuple(digests))

    def pull(self, reference: str) -> None:  # noqa: D102
        # Its own client: the timeout is that of each read, so it ends silence and not a long download.
        client = connect(self.address, timeout=PULL_SILENCE_SECONDS)
        api: Any = client.api
        try:
            for event in api.pull(reference, stream=True, decode=True):
                if "error" in event:
                    raise EngineError(str(event["error"]))
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise EngineError(str(error)) from error
        finally:
            client.close()

    def tag(self, reference: str, name: str) -> None:  # noqa: D102
        repository, _, tag = name.rpartition(":")
        self._api.tag(reference, repository, tag)

    def import_tar(self, tar: Path, name: str, changes: Sequence[str]) -> None:  # noqa: D102
        repository, _, tag = name.rpartition(":")
        try:
            answer = self._api.import_image_from_file(str(tar), repository, tag, changes=list(changes))
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise EngineError(str(error)) from error
        if '"error"' in str(answer):
            raise EngineError(str(answer))

    def build(self, folder: Path, name: str, *, args: Mapping[str, str], labels: Mapping[str, str]) -> None:  # noqa: D102
        output: list[str] = []
        try:
            events = self._api.build(
                path=str(folder), tag=name, buildargs=dict(args), labels=dict(labels), rm=True, decode=True
            )
            for event in events:
                output.append(str(event.get("stream", "")))
                if "error" in event:
                    lines = "".join(output).strip().splitlines()[-12:]
                    raise EngineError("\n".join([*lines, str(event["error"])]))
        except (docker.errors.DockerException, requests.RequestException, TypeError) as error:
            raise EngineError(str(error)) from error
