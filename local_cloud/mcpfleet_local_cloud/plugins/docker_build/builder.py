"""Builds images with the docker command.

Uses BuildKit if a docker command supports it (23 and later with the buildx plugin, 20.10 with DOCKER_BUILDKIT=1), and
otherwise the classic builder. A build has no registry passwords, so that they are never on a command line.
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
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.docker_build.context import is_remote, list_files, read_plain_file
from mcpfleet_local_cloud.plugins.docker_build.dockerfile import find_line
from pulumi_mcpfleet.cloud_build.errors import BuildError

_OLDEST_BUILDKIT: Final = (20, 10)
_NEEDS_BUILDX: Final = (23, 0)
_MAX_LINES: Final = 400
_SHOWN_LINES: Final = 20
_FAILED_STEP: Final = re.compile(r"^ > (\[[^\]]*\] (.+)):$")
_NUMBER_AND_SECONDS: Final = re.compile(r"^(?:#\d+ )?(?:\d+\.\d+(?: |$))?")
_CLASSIC_STEP: Final = re.compile(r"^Step \d+/\d+ : (.+)$")
_NO_DOCKER: Final = "no docker command was found: install Docker Engine 20.10 or later, or Docker Desktop"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The options of one image build."""

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
    """A docker command, and whether it uses BuildKit."""

    command: str
    buildkit: bool


@cache
def find_builder(path: str) -> Builder:
    """Find the best builder among the docker commands in *path*, a value of PATH.

    Raises:
        ProviderError: there is no docker command.
    """
    classic: str | None = None
    for folder in path.split(os.pathsep):
        command = shutil.which("docker", path=folder)
        if command is None:
            continue
        version = _read_version(command)
        if version is None:
            continue
        if _OLDEST_BUILDKIT <= version < _NEEDS_BUILDX or _has_buildx(command):
            return Builder(command, buildkit=True)
        classic = classic or command
    if classic is None:
        raise ProviderError(_NO_DOCKER)
    return Builder(classic, buildkit=False)


def _read_version(command: str) -> tuple[int, int] | None:
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"(\d+)\.(\d+)", result.stdout)
    return (int(match[1]), int(match[2])) if match and "Docker" in result.stdout else None


def _has_buildx(command: str) -> bool:
    return subprocess.run([command, "buildx", "version"], capture_output=True, check=False).returncode == 0


def build(call: Call, options: BuildOptions) -> str:
    """Build an image into Docker's local store.

    Returns:
        The image's id (`sha256:…`).

    Raises:
        CancelledError: the user stopped the update; the build was stopped too.
        ProviderError: the build failed; the message has the failing step's last lines and its line in the Dockerfile.
    """
    builder = find_builder(os.environ.get("PATH", os.defpath))
    if options.secrets and not builder.buildkit:
        raise ProviderError("secrets: building with secrets needs BuildKit: install the docker buildx plugin")
    with tempfile.TemporaryDirectory(prefix="mcpfleet-build-") as scratch:
        if not builder.buildkit:
            options = _with_ignore_file(options, Path(scratch))
        command = _command(builder, options, Path(scratch))
        environment = {
            **docker_environment(),
            "DOCKER_BUILDKIT": "1" if builder.buildkit else "0",
            "BUILDKIT_PROGRESS": "plain",
        }
        lines, code = run_command(call, command, environment)
        if code != 0:
            raise ProviderError(_failure_message(options, lines, Path(scratch)))
        return (Path(scratch) / "image-id").read_text().strip()


def _with_ignore_file(options: BuildOptions, scratch: Path) -> BuildOptions:
    """Replace the context by a copy without what the ignore file of the Dockerfile excludes.

    The classic builder reads only the context's own `.dockerignore`, and no `<Dockerfile>.dockerignore`.

    Raises:
        ProviderError: A file can't be copied.
    """
    has_ignore_file = bool(options.dockerfile) and os.path.lexists(f"{options.dockerfile}.dockerignore")
    if not has_ignore_file or is_remote(options.context):
        return options
    context, copy = Path(options.context), scratch / "context"
    copy.mkdir()
    try:
        for name in list_files(context, options.dockerfile):
            if name != ".dockerignore":  # the classic builder would apply it, too
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(context / name, copy / name, follow_symlinks=False)
    except (BuildError, OSError, ValueError) as error:
        raise ProviderError(f"copying the build context: {error}") from error
    return replace(options, context=str(copy))


def docker_environment() -> dict[str, str]:
    """The environment variables for a docker command to use the same Docker engine as the rest of the local cloud.

    Raises:
        ProviderError: there is no docker command.
    """
    from mcpfleet_local_cloud import docker_engine  # heavy, and not needed before the first build

    try:
        return docker_engine.engine_environment()
    except docker_engine.NoEngineError as error:
        raise ProviderError(f"{error} Next: {error.next_step}") from error


def _command(builder: Builder, options: BuildOptions, scratch: Path) -> list[str]:
    dockerfile = options.dockerfile
    if options.inline:
        dockerfile = str(scratch / "Dockerfile")
        Path(dockerfile).write_text(options.inline)
    arguments = ["--iidfile", str(scratch / "image-id"), "--network", options.network]
    if builder.buildkit:
        arguments += ["--progress", "plain"]
    if dockerfile:
        arguments += ["--file", dockerfile]
    for flag, value in (("--platform", options.platform), ("--target", options.target)):
        arguments += [flag, value] if value else []
    for flag, on in (("--no-cache", options.no_cache), ("--pull", options.pull)):
        arguments += [flag] if on else []
    for flag, values in (("--tag", options.tags), ("--add-host", options.hosts)):
        arguments += [part for value in values for part in (flag, value)]
    for flag, pairs in (("--build-arg", options.build_args), ("--label", options.labels)):
        arguments += [part for key, value in pairs.items() for part in (flag, f"{key}={value}")]
    for number, (key, value) in enumerate(options.secrets.items()):
        file = scratch / f"secret-{number}"  # the folder has mode 0700
        file.write_text(value)
        arguments += ["--secret", f"id={key},src={file}"]
    return [builder.command, "build", *arguments, "--", options.context]


def run_command(
    call: Call, command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
) -> tuple[list[str], int]:
    """Run *command*; returns the last lines of its output and its exit code.

    Stops the command within a fraction of a second if the user cancels.

    Raises:
        CancelledError: the user stopped the update.
        ProviderError: the timeout is over.
    """
    lines: deque[str] = deque(maxlen=_MAX_LINES)
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
            text = _escape_control_characters(line.rstrip())
            lines.append(text)
            call.log("status", text)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with _stop_on_exit(process):
        while process.poll() is None:
            reader.join(0.1)
            call.wait(0.05 if not reader.is_alive() else 0)
    reader.join(5)
    return list(lines), process.returncode


def _escape_control_characters(line: str) -> str:
    """A line that is safe to print: the output of a build may have escape sequences."""
    escaped = "".join(
        character if character.isprintable() or character == "\t" else ascii(character)[1:-1] for character in line
    )
    return escaped.replace("<{%", "< {%")


@contextlib.contextmanager
def _stop_on_exit(process: subprocess.Popen[str]) -> Generator[None]:
    """Stop the process when the context ends."""
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


def _failure_message(options: BuildOptions, lines: list[str], scratch: Path) -> str:
    """The error message for a failed build: the image, the failing instruction and its line, and its last output."""
    image = options.tags[0] if options.tags else options.context
    step, output = find_failed_step(lines)
    excerpt = "\n".join(f"  {line}" for line in output[-_SHOWN_LINES:])
    message = f"the build of {image} failed"
    if step:
        message += f" at {_locate_step(options, step)}: {step}"
    return f"{message}\n{excerpt}".replace(str(scratch / "Dockerfile"), "the inline Dockerfile")


def _locate_step(options: BuildOptions, step: str) -> str:
    name = "the inline Dockerfile" if options.inline else (options.dockerfile or f"{options.context}/Dockerfile")
    try:
        text = options.inline or read_plain_file(Path(name), Path(options.context)).decode("utf-8", "replace")
    except (OSError, RuntimeError):
        return name
    number = find_line(text, step)
    return f"{name}:{number}" if number else name


def find_failed_step(lines: Sequence[str]) -> tuple[str, list[str]]:
    """Find the instruction that failed and its output in a builder's plain output.

    Returns:
        The instruction, empty if the output names none, and the lines that explain the failure.
    """
    for index, line in enumerate(lines):
        match = _FAILED_STEP.match(line)
        if match:
            step_output = _find_step_output(lines[:index], match[1])
            following = [_NUMBER_AND_SECONDS.sub("", text) for text in lines[index + 1 :] if text.strip("-")]
            return match[2], step_output + [text for text in following if text not in step_output]
    for index in range(len(lines) - 1, -1, -1):
        match = _CLASSIC_STEP.match(lines[index])
        if match:
            return match[1], [text for text in lines[index + 1 :] if text]
    return "", [text for text in lines if text]


def _find_step_output(lines: Sequence[str], step: str) -> list[str]:
    """The output of a step. Docker 20.10 doesn't repeat it below the failure; newer versions repeat its end."""
    numbers = [line.partition(" ")[0] for line in lines if line.partition(" ")[2] == step]
    if not numbers:
        return []
    output = re.compile(rf"{re.escape(numbers[-1])} \d+\.\d+ (.+)")
    return [match[1] for line in lines if (match := output.fullmatch(line))]
