"""Connects to the Docker engine, and explains why none can be used."""

import errno
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

import docker
import requests
from docker.errors import DockerException
from docker.utils import kwargs_from_env

from mcpfleet_local_cloud.docker_engine.address import AddressError, EngineAddress, is_podman_socket, list_addresses
from mcpfleet_local_cloud.docker_engine.facts import EngineFacts

INSTALL: Final = "install Docker Engine (https://docs.docker.com/engine/install), then run the command again."
_TIMEOUT: Final = 60
_PROBE_SECONDS: Final = 10

T = TypeVar("T")


class NoEngineError(DockerException):
    """No Docker engine can be used; the text has the cause, *next_step* what to do."""

    def __init__(self, message: str, next_step: str = INSTALL) -> None:
        super().__init__(message)
        self.next_step = next_step


def create_client(environ: Mapping[str, str] | None = None, *, timeout: int = _TIMEOUT) -> docker.DockerClient:
    """Create a client of the engine that the environment configures.

    Raises:
        NoEngineError: No engine can be used.
    """
    return _require_engine(environ, lambda address: connect(address, timeout=timeout))


def list_image_names(client: docker.DockerClient) -> list[str]:
    """List the tags and digests of all images.

    The client's `images.list` inspects each image, and fails if another program removes one in the meantime.
    """
    api: Any = client.api
    summaries: list[dict[str, Any]] = api.images()
    names = [name for image in summaries for key in ("RepoTags", "RepoDigests") for name in image.get(key) or ()]
    return [name for name in names if not name.startswith("<none>")]


def engine_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment for a program that must use the same engine, such as the docker command.

    Raises:
        NoEngineError: No engine can be used.
    """
    environ = os.environ if environ is None else environ
    if environ.get("DOCKER_HOST"):
        return {**environ, "DOCKER_CONTEXT": ""}

    def probe(address: EngineAddress) -> EngineAddress:
        connect(address).close()
        return address

    return {**environ, **_require_engine(environ, probe).environment}


def _require_engine(environ: Mapping[str, str] | None, connect: Callable[[EngineAddress], T]) -> T:
    engine = find_engine(os.environ if environ is None else environ, connect)
    if engine is None:
        raise NoEngineError("Docker does not run on this machine.")
    return engine


def find_engine(environ: Mapping[str, str], connect: Callable[[EngineAddress], T], *, podman: bool = True) -> T | None:
    """Find the first address at which an engine answers, and return the result of *connect*; None if none listens.

    Args:
        environ: The environment variables.
        connect: Connects to an address, and raises the errors of `connect`.
        podman: Whether to try Podman's sockets, for a message about it.

    Raises:
        NoEngineError: The program that listens cannot be used, or none listens at the configured address.
    """
    try:
        candidates = list_addresses(environ)
    except AddressError as error:
        raise NoEngineError(str(error), error.next_step) from error
    errors: list[NoEngineError] = []
    for address in candidates:
        if is_podman_socket(address) and not podman:
            continue
        try:
            return connect(address)
        except PermissionError:
            errors += [] if is_podman_socket(address) else [_permission_error(address)]
        except OSError as error:
            if address.chosen_by:
                raise NoEngineError(
                    f"No Docker Engine answers at {address}: {error.strerror or error}",
                    f"start it, or use this machine's own: {address.alternative}",
                ) from error
        except NoEngineError as error:
            if address.chosen_by:
                raise
            errors.append(error)
    if errors:
        raise errors[0]
    return None


def connect(address: EngineAddress, *, timeout: int = _TIMEOUT) -> docker.DockerClient:
    """Connect to the engine at *address*, and check its version.

    Raises:
        OSError: The operating system's error: no program listens, or this user has no permission.
        NoEngineError: The program that answers is not a Docker engine, or an unsupported one.
    """
    _probe_socket(address)
    try:
        options = cast("dict[str, Any]", kwargs_from_env(environment=address.environment))
        client = docker.DockerClient(version="auto", timeout=timeout, **options)
        version: Any = client.version()
    except (DockerException, requests.RequestException, ValueError) as error:
        cause = find_os_error(error)
        if cause is not None:
            raise cause from error
        raise NoEngineError(f"The program at {address} is not a usable Docker engine: {error}") from error
    facts = EngineFacts.from_api(version, {})
    if facts.kind == "Podman":
        client.close()
        raise NoEngineError(
            f"{facts} answers at {address}, and the local cloud needs Docker: Podman's networks differ.",
            f"install Docker Engine beside it (https://docs.docker.com/engine/install), then: {address.alternative}",
        )
    return client


def read_facts(client: docker.DockerClient) -> EngineFacts:
    """Read the engine's own description of itself."""
    version: Any = client.version()
    info: Any = client.info()
    return EngineFacts.from_api(version, info)


def _permission_error(address: EngineAddress) -> NoEngineError:
    return NoEngineError(
        f"Docker Engine runs ({address}), but this user has no access to it.",
        'type: sudo usermod -aG docker "$USER"   then log in again (or: newgrp docker) and run the command again.',
    )


def _probe_socket(address: EngineAddress) -> None:
    # If no program listens, the SDK leaves its socket open, and Python warns about that.
    path = address.socket
    if path is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PROBE_SECONDS)
        try:
            sock.connect(str(path))
        except ValueError as error:  # longer than a socket's name may be, or with a zero byte
            raise OSError(errno.EINVAL, str(error)) from error


def find_os_error(error: BaseException) -> OSError | None:
    """Find the operating system's error (Errno 2, 13, 111 …) that caused an HTTP error; None if there is none."""
    queue: list[object] = [error]
    visited: set[int] = set()
    while queue:
        current = queue.pop(0)
        if id(current) in visited or not isinstance(current, BaseException):
            continue
        visited.add(id(current))
        # requests' errors are OSErrors too, without a number; urllib3 keeps the cause in `args` or `reason`.
        if isinstance(current, OSError) and current.errno is not None:
            return OSError(current.errno, os.strerror(current.errno))
        queue += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
    return None
