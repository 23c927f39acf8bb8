"""The docker arguments that a build step may use here: those that Google's guides and our provider need.

On Google each build has a machine of its own. Here a step uses this machine's docker: an option that is not listed
could access this machine's files, network and environment variables, or other users' images.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, NoReturn

from mcpfleet_local_cloud.rest.errors import unimplemented

_VALUE_OPTIONS: Final = {
    **{name: name for name in ("--tag", "--file", "--platform", "--build-arg", "--label", "--target", "--network")},
    "--progress": "--progress",
    "-t": "--tag",
    "-f": "--file",
}
"""Options of `docker build` with a value, and their long names."""
_SWITCHES: Final = frozenset({"--no-cache", "--pull", "--quiet", "-q", "--rm", "--force-rm"})
_NETWORKS: Final = ("default", "none")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_NAME: Final = re.compile(r"[a-z0-9][a-zA-Z0-9._/:@-]{0,500}")


@dataclass(frozen=True, kw_only=True)
class DockerCommand:
    """The docker command of one step.

    Attributes:
        image_names: The names of the images that it creates.
        paths_read: The paths that docker itself opens, relative to the step's folder.
    """

    image_names: Sequence[str] = ()
    paths_read: Sequence[str] = ()


def parse_command(arguments: Sequence[str], path: str) -> DockerCommand:
    """Parse the docker arguments of a step.

    Args:
        arguments: The arguments of the step.
        path: The path of the step in the build, for errors.

    Raises:
        GoogleError: UNIMPLEMENTED: an argument could access this machine.
    """
    verb, *operands = arguments or [""]
    if verb == "build":
        return _parse_build(operands, path)
    if verb not in ("tag", "pull"):
        _refuse(path, "docker can only build, tag and pull here; list images to push in build.images.")
    if len(operands) != (2 if verb == "tag" else 1) or not all(map(_NAME.fullmatch, operands)):
        _refuse(path, "docker tag and docker pull take only image names here, no options.")
    return DockerCommand(image_names=operands if verb == "tag" else ())


def _parse_build(arguments: Sequence[str], path: str) -> DockerCommand:
    options: dict[str, list[str]] = {}
    contexts: list[str] = []
    remaining = [*arguments]
    while remaining:
        argument = remaining.pop(0)
        if argument == "-" or not argument.startswith("-"):
            contexts.append(argument)
            continue
        name, equals_sign, value = argument.partition("=")
        if name in _SWITCHES and value in ("", "true", "false"):
            continue
        if name not in _VALUE_OPTIONS or (equals_sign and not name.startswith("--")):
            _refuse(path, f"{name} would access this machine, or is not supported here.")
        if not equals_sign:
            if not remaining:
                _refuse(path, f"{name} needs a value.")
            value = remaining.pop(0)
        options.setdefault(_VALUE_OPTIONS[name], []).append(value)
    if len(contexts) != 1:
        _refuse(path, "docker build takes one folder of the workspace.")
    _check_options(options, path)
    (context,) = contexts
    files = options.get("--file", [])[-1:] or [f"{context}/Dockerfile"]
    for relative_path in (context, *files):
        _check_within_workspace(relative_path, path)
    reads = [relative_path for file in files for relative_path in (file, f"{file}.dockerignore")]
    return DockerCommand(image_names=options.get("--tag", []), paths_read=[context, f"{context}/.dockerignore", *reads])


def _check_options(options: dict[str, list[str]], path: str) -> None:
    for network in options.get("--network", ()):
        if network not in _NETWORKS:
            _refuse(path, f"--network={network} would access this machine; use {' or '.join(_NETWORKS)}.")
    for value in options.get("--build-arg", ()):
        if not _VARIABLE.fullmatch(value):
            _refuse(path, f"--build-arg {value} would read a variable of this machine; write NAME=VALUE.")
    for value in options.get("--tag", ()):
        if not _NAME.fullmatch(value):
            _refuse(path, f"--tag {value} is no image name.")


def _check_within_workspace(text: str, path: str) -> None:
    parts = PurePosixPath(text)
    if text == "-" or "://" in text or text.startswith(("git@", "github.com/")):
        _refuse(path, f"{text} is no folder of the workspace.")
    if parts.is_absolute() or ".." in parts.parts:
        _refuse(path, f"{text} is outside of the workspace; write a path relative to the workspace.")


def _refuse(path: str, reason: str) -> NoReturn:
    raise unimplemented(f"{path}.args", reason)
