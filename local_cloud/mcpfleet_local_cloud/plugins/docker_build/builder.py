"""Running a build with the docker command.

BuildKit where a docker command can drive it: 23 and later with the buildx plugin, 20.10 by DOCKER_BUILDKIT=1 alone.
The classic builder where none can. Registry passwords are no part of a build; they never reach a command line.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.docker_build.context import plain
from mcpfleet_local_cloud.plugins.docker_build.dockerfile import line_of

_OLDEST_BUILDKIT: Final = (20, 10)
_NEEDS_BUILDX: Final = (23, 0)
_KEPT_LINES: Final = 400
_SHOWN_LINES: Final = 20
_FAILED_STEP: Final = re.compile(r"^ > (\[[^\]]*\] (.+)):$")
_NUMBER_AND_SECONDS: Final = re.compile(r"^(?:#\d+ )?(?:\d+\.\d+(?: |$))?")
_CLASSIC_STEP: Final = re.compile(r"^Step \d+/\d+ : (.+)$")
_NO_DOCKER: Final = "no docker command was found: install Docker Engine 20.10 or later, or Docker Desktop"


@dataclass(frozen=True, kw_only=True)
class Build:
    """What is to be built."""

    context: str
    dockerfile: str = ""
    inline: str = ""
    tags: Sequence[str] = ()
    build_args: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    hosts: Sequence[str] = ()
    platform: str = ""
    target: str = ""
    network: str = "default"
    no_cache: bool = False
    pull: bool = False


@dataclass(frozen=True)
class Builder:
    """A docker command and the builder that it drives."""

    command: str
    buildkit: bool


@cache
def find_builder(path: str) -> Builder:
    """The best builder among the docker commands on *path*, a PATH.

    Raises:
        ProviderError: there is none.
    """
    classic: str | None = None
    for folder in path.split(os.pathsep):
        command = shutil.which("docker", path=folder)
        if command is None:
            continue
        version = _version(command)
        if version is None:
            continue
        if _OLDEST_BUILDKIT <= version < _NEEDS_BUILDX or _has_buildx(command):
            return Builder(command, buildkit=True)
        classic = classic or command
    if classic is None:
        raise ProviderError(_NO_DOCKER)
    return Builder(classic, buildkit=False)


def _version(command: str) -> tuple[int, int] | None:
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found and "Docker" in said.stdout else None


def _has_buildx(command: str) -> bool:
    return subprocess.run([command, "buildx", "version"], capture_output=True, check=False).returncode == 0


def build(call: Call, wanted: Build) -> str:
    """Build an image into Docker's local store.

    Returns:
        The image's id (`sha256:…`).

    Raises:
        CancelledError: the user stopped the update; the build was stopped too.
        ProviderError: the build failed; the text has the failing step's last lines and its place in the Dockerfile.
    """
    builder = find_builder(os.environ.get("PATH", os.defpath))
    if wanted.secrets and not builder.buildkit:
        raise ProviderError("secrets: building with secrets needs BuildKit: install the docker buildx plugin")
    with tempfile.TemporaryDirectory(prefix="mcpfleet-build-") as scratch:
        command = _command(builder, wanted, Path(scratch))
        environment = {
            **docker_environment(),
            "DOCKER_BUILDKIT": "1" if builder.buildkit else "0",
            "BUILDKIT_PROGRESS": "plain",
        }
        lines, code = run_command(call, command, environment)
        if code != 0:
            raise ProviderError(_explain(wanted, lines, Path(scratch)))
        return (Path(scratch) / "image-id").read_text().strip()


def docker_environment() -> dict[str, str]:
    """The environment in which a docker command uses the engine that everything here uses.

    Raises:
        ProviderError: there is none.
    """
    from mcpfleet_local_cloud import docker_engine  # heavy, and not needed before the first build

    try:
        return docker_engine.environment()
    except docker_engine.NoEngineError as error:
        raise ProviderError(f"{error} Next: {error.next_step}") from error


def _command(builder: Builder, wanted: Build, scratch: Path) -> list[str]:
    dockerfile = wanted.dockerfile
    if wanted.inline:
        dockerfile = str(scratch / "Dockerfile")
        Path(dockerfile).write_text(wanted.inline)
    options = ["--iidfile", str(scratch / "image-id"), "--network", wanted.network]
    if builder.buildkit:
        options += ["--progress", "plain"]
    if dockerfile:
        options += ["--file", dockerfile]
    for flag, value in (("--platform", wanted.platform), ("--target", wanted.target)):
        options += [flag, value] if value else []
    for flag, on in (("--no-cache", wanted.no_cache), ("--pull", wanted.pull)):
        options += [flag] if on else []
    for flag, values in (("--tag", wanted.tags), ("--add-host", wanted.hosts)):
        options += [part for value in values for part in (flag, value)]
    for flag, pairs in (("--build-arg", wanted.build_args), ("--label", wanted.labels)):
        options += [part for key, value in pairs.items() for part in (flag, f"{key}={value}")]
    for number, (key, value) in enumerate(wanted.secrets.items()):
        file = scratch / f"secret-{number}"  # the folder is ours alone (0700)
        file.write_text(value)
        options += ["--secret", f"id={key},src={file}"]
    return [builder.command, "build", *options, "--", wanted.context]


def run_command(
    call: Call, command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
) -> tuple[list[str], int]:
    """The last lines of the output and the exit code; cancelled within a fraction of a second."""
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        cwd=folder,
        start_new_session=True,
    )

    def read() -> None:
        for line in process.stdout or ():
            said = _inert(line.rstrip())
            lines.append(said)
            call.log("status", said)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with _ended(process):
        while process.poll() is None:
            reader.join(0.1)
            call.wait(0.05 if not reader.is_alive() else 0)
    reader.join(5)
    return list(lines), process.returncode


def _inert(line: str) -> str:
    """A line as it may be shown: what runs in a build writes what its source wants, escape sequences too."""
    shown = "".join(sign if sign.isprintable() or sign == "\t" else ascii(sign)[1:-1] for sign in line)
    return shown.replace("<{%", "< {%")


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Generator[None]:
    """Whatever happens, the build does not outlive us."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _explain(wanted: Build, lines: list[str], scratch: Path) -> str:
    """One message: what was built, the failing instruction and its line, and its last output."""
    what = wanted.tags[0] if wanted.tags else wanted.context
    step, output = failed_step(lines)
    shown = "\n".join(f"  {line}" for line in output[-_SHOWN_LINES:])
    message = f"the build of {what} failed"
    if step:
        message += f" at {_place(wanted, step)}: {step}"
    return f"{message}\n{shown}".replace(str(scratch / "Dockerfile"), "the inline Dockerfile")


def _place(wanted: Build, step: str) -> str:
    name = "the inline Dockerfile" if wanted.inline else (wanted.dockerfile or f"{wanted.context}/Dockerfile")
    try:
        text = wanted.inline or plain(Path(name), Path(wanted.context)).decode("utf-8", "replace")
    except (OSError, RuntimeError):
        return name
    number = line_of(text, step)
    return f"{name}:{number}" if number else name


def failed_step(lines: Sequence[str]) -> tuple[str, list[str]]:
    """The instruction that failed and what it wrote, from a builder's plain output.

    Returns:
        The instruction, empty when the output names none, and the lines that explain.
    """
    for index, line in enumerate(lines):
        found = _FAILED_STEP.match(line)
        if found:
            written = _written(lines[:index], found[1])
            below = [_NUMBER_AND_SECONDS.sub("", one) for one in lines[index + 1 :] if one.strip("-")]
            return found[2], written + [one for one in below if one not in written]
    for index in range(len(lines) - 1, -1, -1):
        found = _CLASSIC_STEP.match(lines[index])
        if found:
            return found[1], [one for one in lines[index + 1 :] if one]
    return "", [one for one in lines if one]


def _written(lines: Sequence[str], step: str) -> list[str]:
    """What a step wrote. Docker 20.10 does not repeat it below the failure, newer ones repeat its end."""
    numbers = [line.partition(" ")[0] for line in lines if line.partition(" ")[2] == step]
    if not numbers:
        return []
    output = re.compile(rf"{re.escape(numbers[-1])} \d+\.\d+ (.+)")
    return [found[1] for line in lines if (found := output.fullmatch(line))]
