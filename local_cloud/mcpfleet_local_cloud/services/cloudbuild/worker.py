"""Runs the steps of builds with the docker command of this machine.

Each build has only a folder of its own. Its images are removed when it ends, as its machine is on Google. BuildKit's
cache stays.
"""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.docker_build.builder import docker_environment, find_builder, run_command
from mcpfleet_local_cloud.plugins.docker_build.registry import LocalImages, Login, parse_reference

Log = Callable[[str], None]


class StepError(Exception):
    """A step or a push failed; the message is Docker's, in one line."""

    def __init__(self, message: str, code: int = 1, *, denied: bool = False) -> None:
        super().__init__(message)
        self.code = code
        """The exit status of the step."""
        self.denied = denied
        """Whether the registry denied access to the account."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step to run."""

    arguments: Sequence[str]
    """The arguments of docker."""
    environment: tuple[tuple[str, str], ...] = ()
    folder: Path
    """The working folder."""


class Worker(Protocol):
    """Runs steps; cancelling a call ends the step."""

    async def run(self, step: Step, log: Log) -> None:
        """Run a step and wait for its end.

        Raises:
            StepError: The step failed.
        """
        ...

    async def push(self, image: str, token: str, log: Log) -> str:
        """Push *image* with an access token; return its digest in the registry.

        Raises:
            StepError: The image does not exist, or the registry refuses it.
        """
        ...

    async def remove(self, images: Sequence[str]) -> None:
        """Remove the images of a build from the machine."""
        ...


_MIN_FILE_TIME: Final = 315_619_200  # zip files cannot have times before 1980
_DAY_SECONDS: Final = 86_400.0
_USER: Final = "oauth2accesstoken"
_DENIED_WORDS: Final = ("denied", "unauthorized", "forbidden", "permission")


T = TypeVar("T")


class DockerWorker:
    """Runs steps with the docker command of this machine; see `cloudbuild.Worker`."""

    async def run(self, step: Step, log: Log) -> None:
        """See `Worker.run`."""
        await _run_in_thread(log, lambda call: _run_docker(step, call))

    async def push(self, image: str, token: str, log: Log) -> str:
        """See `Worker.push`."""
        return await _run_in_thread(log, lambda call: _push_image(image, token, call))

    async def remove(self, images: Sequence[str]) -> None:
        """See `Worker.remove`."""
        if images:
            await asyncio.to_thread(_remove_images, images)


async def _run_in_thread(log: Log, work: Callable[[Call], T]) -> T:
    """Run *work* in a thread; if cancelled, wait until it has ended, because it uses the folder of the build."""
    cancelled = threading.Event()
    loop = asyncio.get_running_loop()

    def log_line(_severity: str, line: str) -> None:
        loop.call_soon_threadsafe(log, line)

    task = asyncio.ensure_future(asyncio.to_thread(work, Call(cancelled=cancelled, timeout=_DAY_SECONDS, log=log_line)))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([task])
        task.exception()  # consume the exception of the cancelled work
        raise
    except ProviderError as failed:
        raise StepError(str(failed)) from failed


def _run_docker(step: Step, call: Call) -> None:
    builder = find_builder(os.environ.get("PATH", os.defpath))
    environment = {"DOCKER_BUILDKIT": "0", **dict(step.environment), "BUILDKIT_PROGRESS": "plain"}
    if step.arguments[0] == "build":
        _set_content_times(step.folder)
    if not builder.buildkit:
        environment["DOCKER_BUILDKIT"] = "0"  # this docker has no BuildKit; docker reports Dockerfiles that need it
    _, code = run_command(
        call, [builder.command, *step.arguments], {**docker_environment(), **environment}, step.folder
    )
    if code:
        raise StepError(f"docker {step.arguments[0]} ended with status {code}", code)


def _set_content_times(folder: Path) -> None:
    """Set the time of each file below *folder* to a value computed from its content.

    BuildKit reuses files of the previous build with the same name, size and time, and identifies builds of different
    sources by the name of their folder. On Google each build has a new machine without a previous build.
    """
    for folder_path, _, names in os.walk(folder):
        for name in names:
            file = Path(folder_path) / name
            if file.is_file() and not file.is_symlink():
                with file.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").digest()
                time = _MIN_FILE_TIME + int.from_bytes(digest[:4], "big") % 2**29
                os.utime(file, (time, time))


def _push_image(image: str, token: str, call: Call) -> str:
    reference = parse_reference(image)
    if reference is None:
        raise StepError(f"{image} is no reference")
    images = LocalImages()
    try:
        if not images.find_tagged([image]):
            raise StepError(f"An image does not exist locally with the tag: {reference.name}")
        return images.push(call, image, [Login(reference.host, _USER, token)])
    except ProviderError as refusal:
        denied = any(word in str(refusal).lower() for word in _DENIED_WORDS)
        raise StepError(str(refusal), denied=denied) from refusal
    finally:
        images.close()


def _remove_images(names: Sequence[str]) -> None:
    try:
        images = LocalImages()
    except ProviderError:
        return
    try:
        image_ids = images.find_tagged(names)
        images.remove_copies([reference.name for name in names if (reference := parse_reference(name)) is not None])
        for image in image_ids:
            images.remove_unnamed(image)
    finally:
        images.close()
