"""Docker Engine, as setup and the rest of the workbench reach it: through the API, never the command line."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import docker
import docker.errors
import requests

from mcpfleet_local_cloud.commands.setup.host import Host

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


class Engine(Protocol):
    """A Docker Engine that answers."""

    @property
    def host(self) -> str:
        """Its address, as DOCKER_HOST has it."""
        ...

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client, for those who do more than setup does."""
        ...

    def version(self) -> str:
        """Return its version."""
        ...

    def root_folder(self) -> Path:
        """Return where it keeps images; on another machine if it runs there."""
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

    def __init__(self, host: str, client: docker.DockerClient) -> None:
        self.host = host
        self.client = client
        # The SDK's stubs leave the low-level client's answers untyped.
        self._api: Any = client.api

    @classmethod
    def connect(cls, host: str) -> "DockerEngine":
        """Connect to an address and ask its version.

        Raises:
            OSError: The first operating system error below: nobody there, or no permission.
            EngineError: Something answers that is not a Docker Engine we can talk to.
        """
        _knock(host)
        try:
            client = docker.DockerClient(base_url=host, timeout=60, version="auto")
        except (docker.errors.DockerException, requests.RequestException) as error:
            cause = os_error_below(error)
            if cause is not None:
                raise cause from error
            raise EngineError(str(error)) from error
        return cls(host, client)

    def version(self) -> str:  # noqa: D102 - see Engine
        return str(self._api.version()["Version"])

    def root_folder(self) -> Path:  # noqa: D102
        info: dict[str, Any] = self._api.info()
        return Path(str(info.get("DockerRootDir", "/var/lib/docker")))

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
        api: Any = docker.APIClient(base_url=self.host, timeout=PULL_SILENCE_SECONDS, version="auto")
        try:
            for event in api.pull(reference, stream=True, decode=True):
                if "error" in event:
                    raise EngineError(str(event["error"]))
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise EngineError(str(error)) from error
        finally:
            api.close()

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


def _knock(host: str) -> None:
    # The SDK leaves its socket open where nobody listens, which Python warns about.
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(10)
            client.connect(host.removeprefix("unix://"))


def candidates(host: Host) -> list[str]:
    """Return the addresses at which Docker Engine may answer, the user's own choice first.

    DOCKER_HOST, if set, is the only one. Then the current `docker context`, and the sockets of Docker Engine,
    rootless Docker and Docker Desktop.
    """
    chosen = host.environ.get("DOCKER_HOST")
    if chosen:
        return [chosen]
    found: list[str] = []
    if context := _context_host():
        found.append(context)
    found.append("unix:///var/run/docker.sock")
    if runtime := host.environ.get("XDG_RUNTIME_DIR"):
        found.append(f"unix://{runtime}/docker.sock")
    if home := host.environ.get("HOME"):
        found.append(f"unix://{home}/.docker/run/docker.sock")
    return list(dict.fromkeys(found))


def _context_host() -> str | None:
    from docker.context import ContextAPI

    try:
        context: Any = ContextAPI.get_current_context()
        return str(context.Host) if context is not None and context.Host else None
    except Exception:  # a broken ~/.docker is no reason to stop: the default sockets remain
        return None


def os_error_below(error: BaseException) -> OSError | None:
    """Return the operating system's error that an HTTP error was made from (Errno 2, 13, 111 …), or None."""
    todo: list[object] = [error]
    seen: set[int] = set()
    while todo:
        current = todo.pop(0)
        if id(current) in seen or not isinstance(current, BaseException):
            continue
        seen.add(id(current))
        # requests' errors are OSErrors too, without a number; urllib3 keeps the cause in `args` or `reason`.
        if isinstance(current, OSError) and current.errno is not None:
            return OSError(current.errno, os.strerror(current.errno))
        todo += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
    return None
