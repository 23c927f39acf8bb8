"""The machine on which Cloud Build's steps run: this one, and its docker command.

Each build has a folder of its own and nothing else; what it makes in Docker goes when it ends, as the machine does on
Google. BuildKit's cache stays.
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
    """A step or a push failed; the text is Docker's, in one line."""

    def __init__(self, message: str, code: int = 1, *, denied: bool = False) -> None:
        super().__init__(message)
        self.code = code
        """The exit status of the step."""
        self.denied = denied
        """Whether the registry did not let the account in."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that can be run."""

    arguments: Sequence[str]
    """Of docker."""
    environment: tuple[tuple[str, str], ...] = ()
    folder: Path
    """Where it runs."""


class Worker(Protocol):
    """A machine that runs steps; cancelling what is awaited ends them."""

    async def run(self, step: Step, log: Log) -> None:
        """Run a step to its end.

        Raises:
            StepError: It failed.
        """
        ...

    async def push(self, image: str, token: str, log: Log) -> str:
        """Push *image* with an access token; the digest under which the registry took it.

        Raises:
            StepError: There is no such image, or the registry refuses it.
        """
        ...

    async def forget(self, images: Sequence[str]) -> None:
        """Remove what a build has made from the machine."""
        ...


_FIRST_TIME: Final = 315_619_200  # zip files know none before 1980
_DAY: Final = 86_400.0
_USER: Final = "oauth2accesstoken"
_DENIED: Final = ("denied", "unauthorized", "forbidden", "permission")


T = TypeVar("T")


class DockerWorker:
    """Runs steps with the docker command of this machine; see `cloudbuild.Worker`."""

    async def run(self, step: Step, log: Log) -> None:
        """See `Worker.run`."""
        await _threaded(log, lambda call: _run(step, call))

    async def push(self, image: str, token: str, log: Log) -> str:
        """See `Worker.push`."""
        return await _threaded(log, lambda call: _push(image, token, call))

    async def forget(self, images: Sequence[str]) -> None:
        """See `Worker.forget`."""
        if images:
            await asyncio.to_thread(_forget, images)


async def _threaded(log: Log, work: Callable[[Call], T]) -> T:
    """Do *work* in a thread; cancelled, wait until it has ended: it holds the folder of the build."""
    cancelled = threading.Event()
    loop = asyncio.get_running_loop()

    def told(_severity: str, line: str) -> None:
        loop.call_soon_threadsafe(log, line)

    task = asyncio.ensure_future(asyncio.to_thread(work, Call(cancelled=cancelled, timeout=_DAY, log=told)))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([task])
        task.exception()  # it was cancelled, which is no news
        raise
    except ProviderError as failed:
        raise StepError(str(failed)) from failed


def _run(step: Step, call: Call) -> None:
    builder = find_builder(os.environ.get("PATH", os.defpath))
    given = {"DOCKER_BUILDKIT": "0", **dict(step.environment), "BUILDKIT_PROGRESS": "plain"}
    if step.arguments[0] == "build":
        _tell_apart(step.folder)
    if not builder.buildkit:
        given["DOCKER_BUILDKIT"] = "0"  # the docker here cannot; a Dockerfile that needs it says so itself
    _, code = run_command(call, [builder.command, *step.arguments], {**docker_environment(), **given}, step.folder)
    if code:
        raise StepError(f"docker {step.arguments[0]} ended with status {code}", code)


def _tell_apart(folder: Path) -> None:
    """Give each file below *folder* a time that follows from its content.

    BuildKit takes over from the last build what has the same name, size and time, and knows builds of different sources
    for the same by the name of their folder. On Google each build has a machine of its own, without a last build.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place) / name
            if file.is_file() and not file.is_symlink():
                with file.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").digest()
                time = _FIRST_TIME + int.from_bytes(digest[:4], "big") % 2**29
                os.utime(file, (time, time))


def _push(image: str, token: str, call: Call) -> str:
    reference = parse_reference(image)
    if reference is None:
        raise StepError(f"{image} is no reference")
    images = LocalImages()
    try:
        if not images.find_tagged([image]):
            raise StepError(f"An image does not exist locally with the tag: {reference.name}")
        return images.push(call, image, [Login(reference.host, _USER, token)])
    except ProviderError as refusal:
        denied = any(word in str(refusal).lower() for word in _DENIED)
        raise StepError(str(refusal), denied=denied) from refusal
    finally:
        images.close()


def _forget(names: Sequence[str]) -> None:
    try:
        images = LocalImages()
    except ProviderError:
        return
    try:
        held = images.find_tagged(names)
        images.remove_copies([reference.name for one in names if (reference := parse_reference(one)) is not None])
        for image in held:
            images.remove_unnamed(image)
    finally:
        images.close()
