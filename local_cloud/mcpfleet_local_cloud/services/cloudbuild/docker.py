"""The arguments that a step may give to docker here: what Google's guides and our provider need, and nothing else.

On Google a step's docker is on a machine of the build's own. Here it is this machine's: an option that is not on the
list could reach its files, its network, its variables or the images of somebody else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, NoReturn

from mcpfleet_local_cloud.rest.errors import unimplemented

_VALUES: Final = {
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
class Command:
    """What one step has docker do.

    Attributes:
        makes: The images that it names.
        reads: The paths that docker itself opens, as seen from the step's folder.
    """

    makes: Sequence[str] = ()
    reads: Sequence[str] = ()


def command_of(arguments: Sequence[str], path: str) -> Command:
    """What *arguments* ask for.

    Args:
        arguments: A step's.
        path: Where it stands in the build.

    Raises:
        GoogleError: UNIMPLEMENTED: they could reach this machine.
    """
    verb, *rest = arguments or [""]
    if verb == "build":
        return _build(rest, path)
    if verb not in ("tag", "pull"):
        _refuse(path, "docker builds, tags and pulls here; images are pushed by build.images.")
    if len(rest) != (2 if verb == "tag" else 1) or not all(map(_NAME.fullmatch, rest)):
        _refuse(path, "docker tag and docker pull take names of images and no options here.")
    return Command(makes=rest if verb == "tag" else ())


def _build(arguments: Sequence[str], path: str) -> Command:
    given: dict[str, list[str]] = {}
    contexts: list[str] = []
    left = [*arguments]
    while left:
        word = left.pop(0)
        if word == "-" or not word.startswith("-"):
            contexts.append(word)
            continue
        name, sign, value = word.partition("=")
        if name in _SWITCHES and value in ("", "true", "false"):
            continue
        if name not in _VALUES or (sign and not name.startswith("--")):
            _refuse(path, f"{name} reaches this machine itself, or is not taken here.")
        if not sign:
            if not left:
                _refuse(path, f"{name} needs a value.")
            value = left.pop(0)
        given.setdefault(_VALUES[name], []).append(value)
    if len(contexts) != 1:
        _refuse(path, "docker build takes one folder of the workspace.")
    _check(given, path)
    (context,) = contexts
    files = given.get("--file", [])[-1:] or [f"{context}/Dockerfile"]
    for place in (context, *files):
        _within(place, path)
    reads = [place for one in files for place in (one, f"{one}.dockerignore")]
    return Command(makes=given.get("--tag", []), reads=[context, f"{context}/.dockerignore", *reads])


def _check(given: dict[str, list[str]], path: str) -> None:
    for network in given.get("--network", ()):
        if network not in _NETWORKS:
            _refuse(path, f"--network={network} reaches this machine itself; there is {' and '.join(_NETWORKS)}.")
    for one in given.get("--build-arg", ()):
        if not _VARIABLE.fullmatch(one):
            _refuse(path, f"--build-arg {one} would take a variable of this machine; write NAME=VALUE.")
    for one in given.get("--tag", ()):
        if not _NAME.fullmatch(one):
            _refuse(path, f"--tag {one} is no name of an image.")


def _within(text: str, path: str) -> None:
    parts = PurePosixPath(text)
    if text == "-" or "://" in text or text.startswith(("git@", "github.com/")):
        _refuse(path, f"{text} is no folder of the workspace.")
    if parts.is_absolute() or ".." in parts.parts:
        _refuse(path, f"{text} is outside of the workspace; write it as seen from there.")


def _refuse(path: str, why: str) -> NoReturn:
    raise unimplemented(f"{path}.args", why)
