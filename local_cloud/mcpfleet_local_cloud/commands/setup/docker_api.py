"""The Docker engine, for setup and the developer tools: through its API, never through the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import docker
import docker.errors
import requests

from mcpfleet_local_cloud.docker_engine import EngineAddress, EngineFacts, connect, read_facts

# An unreachable registry must fail soon; a slow one that still sends may take longer.
PULL_SILENCE_SECONDS = 20


class EngineError(Exception):
    """Docker, or the registry that it called, reported an error; the text is Docker's own."""


@dataclass(frozen=True)
class ImageFacts:
    """The facts about an image that setup needs.

    Attributes:
        labels: Its labels.
        digests: The registry references under which it was pulled: `python@sha256:…`.
    """

    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    digests: Sequence[str] = ()


class ReachableEngine(Protocol):
    """A Docker engine that answers."""

    @property
    def address(self) -> EngineAddress:
        """The engine's address."""
        ...

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client, for operations that this class lacks."""
        ...

    def facts(self) -> EngineFacts:
        """Return the engine's own description of itself."""
        ...

    def image(self, name: str) -> ImageFacts | None:
        """Return the facts about an image; None if Docker does not have it."""
        ...

    def pull(self, reference: str) -> None:
        """Pull an image. Raises EngineError if that fails, or if the registry sends nothing for 20 s."""
        ...

    def tag(self, reference: str, name: str) -> None:
        """Add a name to an image."""
        ...

    def import_tar(self, tar: Path, name: str, changes: Sequence[str]) -> None:
        """Import a root file system as an image; `changes` are Dockerfile lines. Raises EngineError."""
        ...

    def build(self, folder: Path, name: str, *, args: Mapping[str, str], labels: Mapping[str, str]) -> None:
        """Build a folder that has a Dockerfile. Raises EngineError with the last lines of the build."""
        ...


class DockerEngine:
    """A Docker engine, through Docker's Python SDK."""

    def __init__(self, address: EngineAddress, client: docker.DockerClient) -> None:
        self.address = address
        self.client = client
        # The SDK's stubs leave the low-level client's answers untyped.
        self._api: Any = client.api

    @classmethod
    def connect(cls, address: EngineAddress) -> "DockerEngine":
        """Connect to an address; raises the errors of `docker_engine.connect`."""
        return cls(address, connect(address))

    def facts(self) -> EngineFacts:  # noqa: D102 - see ReachableEngine
        return read_facts(self.client)

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
        # A separate client: its timeout is for each read, so it ends a silent connection but not a long download.
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
