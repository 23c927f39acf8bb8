"""Which files of a folder go to Cloud Build: what neither `.dockerignore` nor `.gcloudignore` leaves out.

`.dockerignore` as Docker reads it: what the builder would not see need not be sent. `.gcloudignore` as
`gcloud builds submit` reads it (`gcloud topic gcloudignore`): gitignore's patterns, and lines `#!include:FILE`; where
there is none, `.git`, `.gitignore` and what a `.gitignore` beside it names are left out.

The Docker SDK for Python has a matcher, too, but it decides otherwise than BuildKit where a pattern without a fixed
depth meets an exception (`**/data` with `!**/keep.txt`). The rules are those of moby's patternmatcher: the last pattern
that says something of a path, or of a folder above it, counts.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from pathspec import GitIgnoreSpec

from pulumi_mcpfleet.cloud_build.errors import BuildError
from pulumi_mcpfleet.cloud_build.reading import is_there, lines


@dataclass(frozen=True)
class _Pattern:
    matches: re.Pattern[str]
    exception: bool
    text: str

    def may_match_below(self, folder: str) -> bool:
        """Whether it can say something of a path below *folder* that it says neither of that nor of one above."""
        parts, ahead = folder.split("/"), self.text.split("/")
        try:
            for part, pattern in zip(parts, ahead, strict=False):
                if "**" in pattern:
                    return True
                if not re.fullmatch(_expression(pattern), part, re.DOTALL):
                    return False
        except re.error:  # a / that is escaped, or in brackets
            return True
        return len(ahead) > len(parts)


class DockerIgnore:
    """The patterns of one `.dockerignore`.

    Args:
        lines: Its lines.

    Raises:
        BuildError: One of them is no pattern.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._patterns = [found for line in lines if (found := _parsed(line)) is not None]
        self._exceptions = [pattern for pattern in self._patterns if pattern.exception]

    def leaves_out(self, path: str) -> bool:
        """Whether the file or folder at *path* (parts between `/`) is left out."""
        out = False
        parts = path.split("/")
        places = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
        for pattern in self._patterns:
            if pattern.exception == out and any(pattern.matches.fullmatch(place) for place in places):
                out = not pattern.exception
        return out

    def skips(self, folder: str) -> bool:
        """Whether nothing below *folder* can be wanted."""
        return self.leaves_out(folder) and not any(one.may_match_below(folder) for one in self._exceptions)


def walk(root: Path, skips: Callable[[str], bool], leaves_out: Callable[[str], bool]) -> Iterator[str]:
    """All below *root* that is no folder, by its path with `/` between the parts.

    Args:
        root: Where to look.
        skips: Whether nothing below a folder is wanted.
        leaves_out: Whether a path is not wanted.

    Raises:
        OSError: A folder can't be read.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if not skips(name):
                        folders.append(f"{name}/")
                elif not leaves_out(name):
                    yield name


def _parsed(line: str) -> _Pattern | None:
    if line.startswith("#"):
        return None
    text = line.strip()
    exception = text.startswith("!")
    text = text.removeprefix("!").strip()
    if not text:
        if exception:
            raise BuildError('.dockerignore: illegal exclusion pattern: "!"; remove the line')
        return None
    parts: list[str] = []
    for part in PurePosixPath(text.lstrip("/")).parts:  # as Go's filepath.Clean
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    if not parts:
        return None  # "." leaves nothing out, for historical reasons
    try:
        cleaned = "/".join(parts)
        return _Pattern(re.compile(_expression(cleaned), re.DOTALL), exception, cleaned)
    except re.error:
        raise BuildError(f".dockerignore: {line.strip()!r} is no pattern; correct it") from None


def _expression(pattern: str) -> str:
    made, at = "", 0
    while at < len(pattern):
        sign = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
            made += ".*" if at == len(pattern) else "(?:.*/)?"
            continue
        if sign == "\\":
            at += 1
            if at == len(pattern):
                raise re.error("nothing follows the backslash")
            made += re.escape(pattern[at])
        elif sign == "[":
            at, group = _group(pattern, at)
            made += group
        else:
            made += {"*": "[^/]*", "?": "[^/]"}.get(sign) or re.escape(sign)
        at += 1
    return made


def _is_range(pattern: str, at: int, first: int) -> bool:
    """Whether the sign at *at* stands between the two ends of a range, in a set that begins at *first*."""
    return (
        pattern[at] == "-" and at > first and pattern[at - 1] != "-" and pattern[at + 1 : at + 2] not in ("", "]", "-")
    )


def _group(pattern: str, at: int) -> tuple[int, str]:
    """The set of signs that begins at *at*, as Go's filepath.Match has it; and where it ends."""
    end = at + 1
    inside = ""
    if pattern.startswith("^", end):
        inside, end = "^", end + 1
    first = end
    while end < len(pattern) and (pattern[end] != "]" or end == first):
        if pattern[end] == "\\":
            end += 1
            if end == len(pattern):
                break
            inside += re.escape(pattern[end])
        else:
            inside += "-" if _is_range(pattern, end, first) else re.escape(pattern[end])
        end += 1
    if end >= len(pattern):
        raise re.error("the bracket is not closed")
    return end, f"(?!/)[{inside}]"


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
