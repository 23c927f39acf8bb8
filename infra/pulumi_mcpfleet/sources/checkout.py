"""A git repository at one commit, in a folder: fetched with the caller's own git and credentials, never stored ours.

Only `git.py` starts a program in `infra`. Whatever git asks for (a helper, an agent, `~/.netrc`) is the user's. What a
repository names besides itself (submodules, large files, filters) is not fetched and not run; its submodules are where
the user says so, and then without his credentials wherever they are another host's.
"""

import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.git import URL, asked, host_of, laid_out, large_files
from pulumi_mcpfleet.sources.inside import is_file_in, read_in, resolved
from pulumi_mcpfleet.sources.layout import MAX_FILE

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_OTHERS: Final = "https://"
"""By what a submodule of another host is fetched."""
_UNASKED: Final = re.compile(r"unadvertised object|not our ref")
"""What a server says that gives no commit by its id."""

_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_LONGEST_POINTER: Final = 1024
_SCRATCH: Final = ".new-"
_LONGEST: Final = 86_400
"""Seconds after which nobody is still fetching."""
_NESTED: Final = 5
_MOST: Final = 100


@dataclass(frozen=True)
class Checkout:
    """A repository on disk.

    Attributes:
        folder: Where its files are, the history left out.
        commit: Which commit they are.
        said: In words, what the ref was.
        notes: What was left out.
    """

    folder: Path
    commit: str
    said: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Part:
    """A submodule: where it goes, from where, and which commit."""

    path: str
    url: str
    commit: str


def checkout(
    url: str, ref: str, place: Path, token: str | None = None, *, submodules: bool = False, lfs: bool = False
) -> Checkout:
    """Fetch a repository, or find it where it was fetched before.

    Args:
        url: The repository's address.
        ref: A commit, a tag or a branch.
        place: The folder that holds such checkouts, one for each commit.
        token: For an https address: what to authenticate with.
        submodules: Whether to fetch the repositories that it names as its submodules.
        lfs: Whether to fetch its files in Git LFS.

    Raises:
        BuildPlanError: git is not there, the address does not answer, or the ref is not there.
    """
    if re.fullmatch(URL, url) is None:
        raise BuildPlanError.of("git.url", f"{url!r} is not the address of a repository; correct it")
    commit, said = (ref, "the commit") if _COMMIT.fullmatch(ref) else _resolved(url, ref, token)
    what = url + ("\nwith its submodules" if submodules else "") + ("\nwith its large files" if lfs else "")
    folder = place / f"{hashlib.sha256(what.encode()).hexdigest()[:12]}-{commit[:20]}"
    _sweep(place)
    if not folder.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=_SCRATCH) as scratch:
            new = Path(scratch) / "repository"
            # Not every server gives a commit by its id alone; the ref that it was found under always works.
            parts = _fetched(url, ref, commit, new, token, lfs=lfs)
            if submodules:
                _take_in(new, parts, url, token, lfs=lfs)
            try:
                new.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another run has just made it
                    raise
    return Checkout(folder, commit, said, _left_out(folder, submodules=submodules, lfs=lfs))


def _sweep(place: Path) -> None:
    """Remove what a run that was killed has left; one that still runs is younger."""
    for left in place.glob(f"{_SCRATCH}*"):
        if left.is_dir() and not left.is_symlink() and left.stat().st_mtime < time.time() - _LONGEST:
            shutil.rmtree(left, ignore_errors=True)


def _fetched(
    url: str, ref: str, commit: str, new: Path, token: str | None, *, lfs: bool, alone: bool = False
) -> list[_Part]:
    """Make *new* the files of *commit*; its submodules, none of which is fetched."""
    new.mkdir(parents=True, exist_ok=True)
    laid_out(new, "init", "--quiet", "--template=")
    fetch = ["-C", str(new), "fetch", "--quiet", "--no-tags", "--no-recurse-submodules"]
    try:
        asked(url, [*fetch, "--depth=1", "--", url, ref], token, alone=alone)
    except BuildPlanError as refused:
        if not (_COMMIT.fullmatch(ref) and _UNASKED.search(str(refused))):
            raise
        # The server gives no commit by its id alone: it is in the history of a branch or a tag, or not there.
        asked(url, [*fetch, "--", url, "+refs/heads/*:refs/b/*", "+refs/tags/*:refs/t/*"], token, alone=alone)
        try:
            laid_out(new, "update-ref", "--no-deref", "FETCH_HEAD", f"{commit}^{{commit}}")
        except BuildPlanError:
            raise BuildPlanError.of("git.ref", f"no branch and no tag of {url} has the commit {commit}") from None
    found = laid_out(new, "rev-parse", "FETCH_HEAD^{commit}").strip()
    if found != commit:
        raise BuildPlanError.of("git.ref", f"{ref} has just moved from {commit[:12]} to {found[:12]}; try again")
    laid_out(new, "checkout", "--quiet", "--detach", commit)
    parts = _parts(new, url)
    if lfs and pointers(new):
        large_files(url, new, token, alone=alone)
    # Neither the image nor its digest is to depend on how it was fetched.
    shutil.rmtree(new / ".git")
    return parts


def _parts(new: Path, url: str) -> list[_Part]:
    """The submodules of a repository, as its own list and its tree name them."""
    if not is_file_in(new, ".gitmodules"):
        return []
    named: dict[str, dict[str, str]] = {}
    for line in laid_out(new, "config", "-z", "--file", ".gitmodules", "--no-includes", "--list").split("\0"):
        key, _, value = line.partition("\n")
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "submodule" and variable in ("path", "url"):
            named.setdefault(name, {})[variable] = value
    commits: dict[str, str] = {}
    for line in laid_out(new, "ls-tree", "-r", "-z", "HEAD").split("\0"):
        mode, _, rest = line.partition(" ")
        if mode == "160000":
            words, _, path = rest.partition("\t")
            commits[path] = words.rpartition(" ")[2]
    parts = {
        one["path"]: _Part(one["path"], _absolute(one["url"], url), commits[one["path"]])
        for one in named.values()
        if one.get("url") and one.get("path") in commits
    }
    return [*parts.values()]


def _take_in(new: Path, parts: list[_Part], url: str, token: str | None, *, lfs: bool) -> None:
    """Fetch submodules to where they belong, and theirs.

    One of the same host as *url* is asked for with the user's credentials; one of another host as a stranger would, and
    so is everything that it names in turn.
    """
    waiting = [(new, part, True, 1) for part in parts]
    for number, (place, part, trusted, depth) in enumerate(waiting):
        ours = trusted and host_of(part.url) == host_of(url)
        target = resolved(place, part.path)
        sentence = ""
        if number == _MOST or depth > _NESTED:
            sentence = f"is one too many: {_MOST} are fetched, {_NESTED} deep"
        elif not re.fullmatch(URL, part.url) or not (ours or part.url.startswith(_OTHERS)):
            sentence = f"is at {part.url[:200]!r}; one of another host is fetched by https:// alone"
        elif target is None or not target.is_dir():
            sentence = "leads out of the repository"
        if sentence or target is None:
            advice = "remove it there, or git.submodules here"
            raise BuildPlanError.of("git.submodules", f"the submodule {part.path[:200]!r} {sentence}; {advice}")
        found = _fetched(part.url, part.commit, part.commit, target, token if ours else None, lfs=lfs, alone=not ours)
        waiting += [(target, inner, ours, depth + 1) for inner in found]


def _absolute(address: str, base: str) -> str:
    """A submodule's address; one that begins with ./ or ../ is as seen from that of its repository."""
    if not address.startswith(("./", "../")):
        return address
    found, sign = base.rstrip("/"), "/"
    while address.startswith(("./", "../")):
        step, _, address = address.partition("/")
        if step == "..":
            at = max(found.rfind("/"), found.rfind(":"))
            # Behind the host of git@HOST:PATH comes a colon, whatever is taken away of the path.
            found, sign = (found[:at], found[at]) if at >= 0 else ("", "/")
    return f"{found}{sign}{address}"


def pointers(folder: Path, left_out: Set[str] = frozenset()) -> list[str]:
    """Files below *folder* of which Git LFS has the content, and which are the text that points to it.

    Args:
        folder: A source.
        left_out: Names of folders that are not looked into.
    """
    found: list[str] = []
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name not in left_out]
        for name in names:
            file = Path(place, name)
            with suppress(OSError):  # the builder says what can't be read
                if _points(file):
                    found.append(file.relative_to(folder).as_posix())
    return sorted(found)


def _points(file: Path) -> bool:
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode) or not len(_POINTER) < status.st_size <= _LONGEST_POINTER:
        return False
    with file.open("rb") as opened:
        return opened.read(len(_POINTER)) == _POINTER


def refuse_pointers(folder: Path, key: str, advice: str, left_out: Set[str] = frozenset()) -> None:
    """Refuse a source whose files Git LFS has.

    Args:
        folder: The source.
        key: The key that lets them be.
        advice: How they are fetched.
        left_out: Names of folders that are not looked into.

    Raises:
        BuildPlanError: There are such files.
    """
    if files := pointers(folder, left_out):
        sentence = f"{', '.join(files[:3])}{' and others' if files[3:] else ''} in Git LFS are not fetched: only the"
        sentence += f" text that points to each is there; {advice}, or write lfs: pointers, to build without"
        raise BuildPlanError.of(key, sentence)


def _left_out(folder: Path, *, submodules: bool, lfs: bool) -> tuple[str, ...]:
    notes: list[str] = []
    if not submodules and is_file_in(folder, ".gitmodules"):
        notes.append("its submodules are not fetched (`git.submodules`)")
    if (
        not lfs
        and is_file_in(folder, ".gitattributes")
        and b"filter=lfs" in read_in(folder, ".gitattributes", MAX_FILE)
    ):
        notes.append("its files in Git LFS are not fetched: each is the text that points to it")
    return tuple(notes)


def _resolved(url: str, ref: str, token: str | None) -> tuple[str, str]:
    """The commit that a tag or a branch is now, and which of the two it is."""
    wanted = [f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}", f"refs/heads/{ref}"]
    lines = asked(url, ["ls-remote", "--", url, *wanted], token)
    there = {name: commit for commit, _, name in (line.partition("\t") for line in lines.splitlines())}
    # An annotated tag is an object of its own; ^{} is the commit that it names.
    for name, said in (
        (f"refs/tags/{ref}^{{}}", "the tag"),
        (f"refs/tags/{ref}", "the tag"),
        (f"refs/heads/{ref}", "the branch"),
    ):
        if name in there:
            return there[name], f"{said} {ref} is"
    raise BuildPlanError.of("git.ref", f"{url} has no tag and no branch {ref}; write one of git ls-remote {url}")
