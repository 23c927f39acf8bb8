"""Selects the files of a folder that are sent to Cloud Build: those that no ignore file excludes.

`.dockerignore` is read as Docker reads it: files that the builder would not see are not sent. `.gcloudignore` is read
as `gcloud builds submit` reads it (`gcloud topic gcloudignore`): gitignore's patterns, and lines `#!include:FILE`.
Without one, `.git`, `.gitignore` and the patterns of a `.gitignore` beside it are excluded.

The Docker SDK for Python has a matcher, too, but it differs from BuildKit if a pattern without a fixed depth is
combined with an exception (`**/data` with `!**/keep.txt`). The rules here are those of moby's patternmatcher: the last
pattern that matches a path, or a folder above it, decides.
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
from pulumi_mcpfleet.cloud_build.source_files import is_own_file, read_lines


@dataclass(frozen=True)
class _Pattern:
    matches: re.Pattern[str]
    is_exception: bool
    text: str

    def may_match_below(self, folder: str) -> bool:
        """Whether the pattern can match a path below *folder* without matching *folder* or a folder above it."""
        parts, pattern_parts = folder.split("/"), self.text.split("/")
        try:
            for part, pattern in zip(parts, pattern_parts, strict=False):
                if "**" in pattern:
                    return True
                if not re.fullmatch(_to_regex(pattern), part, re.DOTALL):
                    return False
        except re.error:  # the / is escaped or in brackets
            return True
        return len(pattern_parts) > len(parts)


class DockerIgnore:
    """The patterns of one `.dockerignore`.

    Args:
        lines: The file's lines.

    Raises:
        BuildError: A line is not a valid pattern.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._patterns = [found for line in lines if (found := _parse_pattern(line)) is not None]
        self._exceptions = [pattern for pattern in self._patterns if pattern.is_exception]

    def excludes(self, path: str) -> bool:
        """Whether the patterns exclude the file or folder at *path* (with `/` between the parts)."""
        excluded = False
        parts = path.split("/")
        candidates = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
        for pattern in self._patterns:
            if pattern.is_exception == excluded and any(
                pattern.matches.fullmatch(candidate) for candidate in candidates
            ):
                excluded = not pattern.is_exception
        return excluded

    def excludes_all_below(self, folder: str) -> bool:
        """Whether the patterns exclude everything below *folder*."""
        return self.excludes(folder) and not any(pattern.may_match_below(folder) for pattern in self._exceptions)


def walk(root: Path, skips: Callable[[str], bool], leaves_out: Callable[[str], bool]) -> Iterator[str]:
    """List the path of every file and link below *root*, with `/` between the parts.

    Args:
        root: The folder to walk.
        skips: Whether to leave out everything below a folder.
        leaves_out: Whether to leave out a file or link.

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


def _parse_pattern(line: str) -> _Pattern | None:
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
        return None  # "." excludes nothing, for historical reasons
    try:
        cleaned = "/".join(parts)
        return _Pattern(re.compile(_to_regex(cleaned), re.DOTALL), exception, cleaned)
    except re.error:
        raise BuildError(f".dockerignore: {line.strip()!r} is not a valid pattern; correct it") from None


def _to_regex(pattern: str) -> str:
    regex, position = "", 0
    while position < len(pattern):
        character = pattern[position]
        if pattern.startswith("**", position):
            position += 2
            if pattern.startswith("/", position):
                position += 1
            regex += ".*" if position == len(pattern) else "(?:.*/)?"
            continue
        if character == "\\":
            position += 1
            if position == len(pattern):
                raise re.error("nothing follows the backslash")
            regex += re.escape(pattern[position])
        elif character == "[":
            position, group = _parse_set(pattern, position)
            regex += group
        else:
            regex += {"*": "[^/]*", "?": "[^/]"}.get(character) or re.escape(character)
        position += 1
    return regex


def _is_range(pattern: str, position: int, set_start: int) -> bool:
    """Whether the `-` at *position* separates the ends of a range, in a set that begins at *set_start*."""
    return (
        pattern[position] == "-"
        and position > set_start
        and pattern[position - 1] != "-"
        and pattern[position + 1 : position + 2] not in ("", "]", "-")
    )


def _parse_set(pattern: str, start: int) -> tuple[int, str]:
    """Parse the set of characters that begins at *start*, as Go's filepath.Match does. Return its end and its regex."""
    end = start + 1
    members = ""
    if pattern.startswith("^", end):
        members, end = "^", end + 1
    first = end
    while end < len(pattern) and (pattern[end] != "]" or end == first):
        if pattern[end] == "\\":
            end += 1
            if end == len(pattern):
                break
            members += re.escape(pattern[end])
        else:
            members += "-" if _is_range(pattern, end, first) else re.escape(pattern[end])
        end += 1
    if end >= len(pattern):
        raise re.error("the bracket is not closed")
    return end, f"(?!/)[{members}]"


_MAX_INCLUDE_DEPTH: Final = 8
_INCLUDE: Final = "#!include:"
_NEVER_SENT: Final = frozenset({".git", ".venv", "venv", "node_modules", ".env"})
"""What a generated Dockerfile (docs/adr/0017) removes from the source: environments, history, and a file of secrets.
None of these is uploaded."""

_STATE_FOLDER: Final = ".mcpfleet"
"""A project's folder with the private keys of its local cloud. It is not uploaded, wherever it is in the source."""

_DEFAULT_GCLOUDIGNORE: Final = (".gcloudignore", ".git", ".gitignore", "#!include:.gitignore")


def included_files(root: Path, dockerfile: str | None = None) -> list[str]:
    """Return the paths of the files and links below *root* that are sent, sorted, with `/` between the parts.

    Args:
        root: The folder.
        dockerfile: The path of the Dockerfile, which is always sent with its ignore file; None if it is generated.

    Raises:
        BuildError: An ignore file has an invalid pattern, or includes a file that is not there.
        OSError: A file or folder can't be read.
    """
    own_ignore_file = [f"{dockerfile}.dockerignore"] if dockerfile else []
    docker_ignore_file = next((name for name in (*own_ignore_file, ".dockerignore") if is_own_file(root, name)), None)
    docker = DockerIgnore(read_lines(root, docker_ignore_file) if docker_ignore_file else ())
    gcloud = _read_gcloudignore(root)
    always_sent = {name for name in (dockerfile, docker_ignore_file) if name}
    never_sent = _NEVER_SENT if dockerfile is None else frozenset[str]()

    def skips(folder: str) -> bool:
        # As in git: a pattern can't include anything below an excluded folder again.
        is_never_sent = folder in never_sent or PurePosixPath(folder).name == _STATE_FOLDER
        return is_never_sent or docker.excludes_all_below(folder) or gcloud.match_file(f"{folder}/")

    def leaves_out(name: str) -> bool:
        return name in never_sent or docker.excludes(name) or gcloud.match_file(name) or not _is_sent(root / name)

    return sorted({*walk(root, skips, leaves_out), *always_sent})


def _is_sent(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _read_gcloudignore(root: Path) -> GitIgnoreSpec:
    if is_own_file(root, ".gcloudignore"):
        ignore_file = ".gcloudignore"
        patterns = _expand_includes(root, read_lines(root, ignore_file), ignore_file, 0)
    else:
        ignore_file = ".gitignore"
        patterns = [line for line in _DEFAULT_GCLOUDIGNORE if not line.startswith(_INCLUDE)]
        if is_own_file(root, ignore_file):
            patterns += read_lines(root, ignore_file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about characters that a later Python may treat differently
            return GitIgnoreSpec.from_lines(patterns)
    except (ValueError, re.error) as error:
        raise BuildError(f"{ignore_file} in {root.name}: {error}; correct the pattern") from None


def _expand_includes(root: Path, patterns: list[str], name: str, depth: int) -> list[str]:
    if depth > _MAX_INCLUDE_DEPTH:
        raise BuildError(f"{name}: its {_INCLUDE} lines include each other; remove one")
    expanded: list[str] = []
    for line in patterns:
        if not line.startswith(_INCLUDE):
            expanded.append(line)
            continue
        included = line.removeprefix(_INCLUDE).strip()
        # gcloud: the file must be in the same folder.
        if "/" in included or not is_own_file(root, included):
            raise BuildError(f"{name}: {line.strip()} names no file in its own folder; correct it")
        expanded += _expand_includes(root, read_lines(root, included), included, depth + 1)
    return expanded
