"""A client of the Docker Engine that is used here, and the reasons why there may be none."""

import errno
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

import docker
import requests
from docker.errors import DockerException
from docker.utils import kwargs_from_env

from mcpfleet_local_cloud.docker_engine.address import Address, AddressError, addresses, is_podmans
from mcpfleet_local_cloud.docker_engine.facts import Facts

INSTALL: Final = "install Docker Engine (https://docs.docker.com/engine/install), then run the command again."
_TIMEOUT: Final = 60
_KNOCK_SECONDS: Final = 10

T = TypeVar("T")


class NoEngineError(DockerException):
    """There is no Docker Engine that can be used; the text says why, *next_step* what to do."""

    def __init__(self, message: str, next_step: str = INSTALL) -> None:
        super().__init__(message)
        self.next_step = next_step


def client(environ: Mapping[str, str] | None = None, *, timeout: int = _TIMEOUT) -> docker.DockerClient:
    """A client of the engine that the environment means.

    Raises:
        NoEngineError: None can be used.
    """
    return _reached(environ, lambda address: connect(address, timeout=timeout))


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment for a program that is to use the same engine, such as the docker command.

    Raises:
        NoEngineError: None can be used.
    """
    environ = os.environ if environ is None else environ
    if environ.get("DOCKER_HOST"):
        return {**environ, "DOCKER_CONTEXT": ""}

    def answers(address: Address) -> Address:
        connect(address).close()
        return address

    return {**environ, **_reached(environ, answers).environment}


def _reached(environ: Mapping[str, str] | None, connect: Callable[[Address], T]) -> T:
    found = reach(os.environ if environ is None else environ, connect)
    if found is None:
        raise NoEngineError("Docker does not run on this machine.")
    return found


def reach(environ: Mapping[str, str], connect: Callable[[Address], T], *, podman: bool = True) -> T | None:
    """What *connect* makes of the first address at which an engine answers; None where nobody listens at any.

    Args:
        environ: The environment variables.
        connect: As `connect`, with its errors.
        podman: Whether to look at Podman's own sockets, to say that it is there.

    Raises:
        NoEngineError: Somebody listens who cannot be used, or nobody does at the address that was chosen.
    """
    try:
        candidates = addresses(environ)
    except AddressError as error:
        raise NoEngineError(str(error), error.next_step) from error
    refusals: list[NoEngineError] = []
    for address in candidates:
        if is_podmans(address) and not podman:
            continue
        try:
            return connect(address)
        except PermissionError:
            refusals += [] if is_podmans(address) else [_no_right(address)]
        except OSError as error:
            if address.chosen_by:
                raise NoEngineError(
                    f"No Docker Engine answers at {address}: {error.strerror or error}",
                    f"start it, or take this machine's own: {address.instead}",
                ) from error
        except NoEngineError as error:
            if address.chosen_by:
                raise
            refusals.append(error)
    if refusals:
        raise refusals[0]
    return None


def connect(address: Address, *, timeout: int = _TIMEOUT) -> docker.DockerClient:
    """A client of the engine at *address*, which has said its version.

    Raises:
        OSError: The operating system's error: nobody there, or no permission.
        NoEngineError: Something answers that is not a Docker Engine, or none that we can talk to.
    """
    _knock(address)
    try:
        options = cast("dict[str, Any]", kwargs_from_env(environment=address.environment))
        made = docker.DockerClient(version="auto", timeout=timeout, **options)
        told: Any = made.version()
    except (DockerException, requests.RequestException, ValueError) as error:
        cause = os_error_below(error)
        if cause is not None:
            raise cause from error
        raise NoEngineError(f"What answers at {address} is no Docker Engine that can be used: {error}") from error
    facts = Facts.of(told, {})
    if facts.kind == "Podman":
        made.close()
        raise NoEngineError(
            f"{facts} answers at {address}, and the local cloud needs Docker: Podman's networks differ.",
            f"install Docker Engine beside it (https://docs.docker.com/engine/install), then: {address.instead}",
        )
    return made


def facts_of(client: docker.DockerClient) -> Facts:
    """What the engine says of itself."""
    told: Any = client.version()
    said: Any = client.info()
    return Facts.of(told, said)


def _no_right(address: Address) -> NoEngineError:
    return NoEngineError(
        f"Docker Engine is there ({address}), but this user may not talk to it.",
        'type: sudo usermod -aG docker "$USER"   then log in again (or: newgrp docker) and run the command again.',
    )


def _knock(address: Address) -> None:
    # The SDK leaves its socket open where nobody listens, which Python warns about.
    path = address.socket
    if path is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_KNOCK_SECONDS)
        try:
            caller.connect(str(path))
        except ValueError as error:  # longer than a socket's name may be, or with a zero byte
            raise OSError(errno.EINVAL, str(error)) from error


def os_error_below(error: BaseException) -> OSError | None:
    """The operating system's error that an HTTP error was made from (Errno 2, 13, 111 …), or None."""
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
