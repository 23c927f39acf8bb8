"""Which files of a folder go to Cloud Build: what neither `.dockerignore` nor `.gcloudignore` leaves out.

`.dockerignore` as Docker reads it: what the builder would not see need not be sent. `.gcloudignore` as
`gcloud builds submit` reads it (`gcloud topic gcloudignore`): gitignore's patterns, and lines `#!include:FILE`; where
there is none, `.git`, `.gitignore` and what a `.gitignore` beside it names are left out.
"""

import re
import warnings
from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

from pulumi_mcpfleet.cloud_build.dockerignore import DockerIgnore, walk
from pulumi_mcpfleet.cloud_build.errors import BuildError
from pulumi_mcpfleet.cloud_build.reading import is_there, lines

_DEPTH: Final = 8
_INCLUDE: Final = "#!include:"
_REMOVED: Final = frozenset({".git", ".venv", "venv", "node_modules", ".env"})
"""What a Dockerfile that was made (docs/adr/0017) removes from the source itself: environments, history, and a file of
secrets, none of which need be in a bucket."""

_DEFAULT: Final = (".gcloudignore", ".git", ".gitignore", "#!include:.gitignore")


def included(root: Path, dockerfile: str | None = None) -> list[str]:
    """The files and links below *root* that are sent, sorted, with `/` between their parts.

    Args:
        root: The folder.
        dockerfile: The Dockerfile's path in it, which is always sent, with its ignore file; None: it was made.

    Raises:
        BuildError: An ignore file holds what is no pattern, or includes one that is not there.
        OSError: Something can't be read.
    """
    own = [f"{dockerfile}.dockerignore"] if dockerfile else []
    named = next((name for name in (*own, ".dockerignore") if is_there(root, name)), None)
    docker = DockerIgnore(lines(root, named) if named else ())
    gcloud = _gcloud(root)
    always = {name for name in (dockerfile, named) if name}
    left_out = _REMOVED if dockerfile is None else frozenset[str]()

    def skips(folder: str) -> bool:
        # As git: nothing below a folder that is left out can be taken in again.
        return folder in left_out or docker.skips(folder) or gcloud.match_file(f"{folder}/")

    def leaves_out(name: str) -> bool:
        return name in left_out or docker.leaves_out(name) or gcloud.match_file(name) or not _is_sent(root / name)

    return sorted({*walk(root, skips, leaves_out), *always})


def _is_sent(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _gcloud(root: Path) -> GitIgnoreSpec:
    if is_there(root, ".gcloudignore"):
        named = ".gcloudignore"
        patterns = _with_includes(root, lines(root, named), named, 0)
    else:
        named = ".gitignore"
        patterns = [line for line in _DEFAULT if not line.startswith(_INCLUDE)]
        if is_there(root, named):
            patterns += lines(root, named)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of signs that some later Python may read otherwise
            return GitIgnoreSpec.from_lines(patterns)
    except (ValueError, re.error) as error:
        raise BuildError(f"{named} in {root.name}: {error}; correct the pattern") from None


def _with_includes(root: Path, patterns: list[str], name: str, depth: int) -> list[str]:
    if depth > _DEPTH:
        raise BuildError(f"{name}: its {_INCLUDE} lines include each other; remove one")
    made: list[str] = []
    for line in patterns:
        if not line.startswith(_INCLUDE):
            made.append(line)
            continue
        other = line.removeprefix(_INCLUDE).strip()
        # gcloud: the file must be in the same folder.
        if "/" in other or not is_there(root, other):
            raise BuildError(f"{name}: {line.strip()} names no file beside it; correct it")
        made += _with_includes(root, lines(root, other), other, depth + 1)
    return made
