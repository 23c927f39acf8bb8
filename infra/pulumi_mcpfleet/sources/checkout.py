"""Fetches a git repository at one commit into a folder, with the user's own git and credentials.

Only `git.py` starts a program in `infra`. Credentials come from the user's configuration (a helper, an agent,
`~/.netrc`), and are not stored. Submodules, large files and filters that a repository names are neither fetched nor
run. Submodules are fetched if the user asks for them, without the user's credentials if they are on another host.
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
from pulumi_mcpfleet.sources.git import URL, fetch_large_files, host_of, run_local, run_remote
from pulumi_mcpfleet.sources.layout import MAX_FILE
from pulumi_mcpfleet.sources.safe_paths import is_file_in, read_file_in, resolve_inside

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_OTHER_HOST_SCHEME: Final = "https://"
"""The only scheme by which a submodule on another host is fetched."""
_COMMIT_REFUSED: Final = re.compile(r"unadvertised object|not our ref")
"""The error of a server that doesn't serve a commit by its id."""

_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER_BYTES: Final = 1024
_SCRATCH: Final = ".new-"
_STALE_SECONDS: Final = 86_400
"""Seconds after which a scratch folder is left over from a run that was killed."""
_MAX_DEPTH: Final = 5
_MAX_SUBMODULES: Final = 100


@dataclass(frozen=True)
class Checkout:
    """A repository in a folder.

    Attributes:
        folder: The folder with its files, without the history.
        commit: The commit.
        ref_description: The kind and name of the ref, for a message.
        notes: What was not fetched.
    """

    folder: Path
    commit: str
    ref_description: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Submodule:
    """A submodule: its path, its address and its commit."""

    path: str
    url: str
    commit: str


def checkout(
    url: str, ref: str, cache: Path, token: str | None = None, *, submodules: bool = False, lfs: bool = False
) -> Checkout:
    """Fetch a repository, unless this commit has been fetched before.

    Args:
        url: The repository's address.
        ref: A commit, a tag or a branch.
        cache: The folder of all checkouts, which has one folder for each commit.
        token: For an https address: the token to authenticate with.
        submodules: Whether to fetch its submodules.
        lfs: Whether to fetch its files in Git LFS.

    Raises:
        BuildPlanError: git is not installed, the server does not answer, or there is no such ref.
    """
    if re.fullmatch(URL, url) is None:
        raise BuildPlanError.of("git.url", f"{url!r} is not the address of a repository; correct it")
    commit, ref_description = (ref, "the commit") if _COMMIT.fullmatch(ref) else _resolve_ref(url, ref, token)
    content_key = url + ("\nwith its submodules" if submodules else "") + ("\nwith its large files" if lfs else "")
    folder = cache / f"{hashlib.sha256(content_key.encode()).hexdigest()[:12]}-{commit[:20]}"
    _remove_stale(cache)
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=_SCRATCH) as scratch:
            staging = Path(scratch) / "repository"
            # Not every server serves a commit by its id. Its ref always works.
            submodule_list = _fetch(url, ref, commit, staging, token, lfs=lfs)
            if submodules:
                _fetch_submodules(staging, submodule_list, url, token, lfs=lfs)
            try:
                staging.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another run has just created it
                    raise
    return Checkout(folder, commit, ref_description, _find_omissions(folder, submodules=submodules, lfs=lfs))


def _remove_stale(cache: Path) -> None:
    """Remove scratch folders that are older than any run that can still be active."""
    for leftover in cache.glob(f"{_SCRATCH}*"):
        if leftover.is_dir() and not leftover.is_symlink() and leftover.stat().st_mtime < time.time() - _STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _fetch(
    url: str, ref: str, commit: str, target: Path, token: str | None, *, lfs: bool, anonymous: bool = False
) -> list[_Submodule]:
    """Fetch the files of *commit* into *target*. Return its submodules, which are not fetched."""
    target.mkdir(parents=True, exist_ok=True)
    run_local(target, "init", "--quiet", "--template=")
    fetch = ["-C", str(target), "fetch", "--quiet", "--no-tags", "--no-recurse-submodules"]
    try:
        run_remote(url, [*fetch, "--depth=1", "--", url, ref], token, anonymous=anonymous)
    except BuildPlanError as error:
        if not (_COMMIT.fullmatch(ref) and _COMMIT_REFUSED.search(str(error))):
            raise
        # The server doesn't serve commits by their id, so look for it in the history of all branches and tags.
        run_remote(
            url, [*fetch, "--", url, "+refs/heads/*:refs/b/*", "+refs/tags/*:refs/t/*"], token, anonymous=anonymous
        )
        try:
            run_local(target, "update-ref", "--no-deref", "FETCH_HEAD", f"{commit}^{{commit}}")
        except BuildPlanError:
            raise BuildPlanError.of("git.ref", f"no branch and no tag of {url} has the commit {commit}") from None
    fetched_commit = run_local(target, "rev-parse", "FETCH_HEAD^{commit}").strip()
    if fetched_commit != commit:
        raise BuildPlanError.of(
            "git.ref", f"{ref} has just moved from {commit[:12]} to {fetched_commit[:12]}; try again"
        )
    run_local(target, "checkout", "--quiet", "--detach", commit)
    submodules = _find_submodules(target, url)
    if lfs and find_pointers(target):
        fetch_large_files(url, target, token, anonymous=anonymous)
    # The image and its digest must not depend on how the commit was fetched.
    shutil.rmtree(target / ".git")
    return submodules


def _find_submodules(repository: Path, url: str) -> list[_Submodule]:
    """Return the submodules that are in both a repository's .gitmodules and its tree."""
    if not is_file_in(repository, ".gitmodules"):
        return []
    settings: dict[str, dict[str, str]] = {}
    for line in run_local(repository, "config", "-z", "--file", ".gitmodules", "--no-includes", "--list").split("\0"):
        key, _, value = line.partition("\n")
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "submodule" and variable in ("path", "url"):
            settings.setdefault(name, {})[variable] = value
    commits: dict[str, str] = {}
    for line in run_local(repository, "ls-tree", "-r", "-z", "HEAD").split("\0"):
        mode, _, rest = line.partition(" ")
        if mode == "160000":
            fields, _, path = rest.partition("\t")
            commits[path] = fields.rpartition(" ")[2]
    submodules = {
        setting["path"]: _Submodule(setting["path"], _resolve_url(setting["url"], url), commits[setting["path"]])
        for setting in settings.values()
        if setting.get("url") and setting.get("path") in commits
    }
    return [*submodules.values()]


def _fetch_submodules(
    repository: Path, submodules: list[_Submodule], url: str, token: str | None, *, lfs: bool
) -> None:
    """Fetch submodules into their folders, recursively.

    A submodule on the same host as *url* is fetched with the user's credentials. One on another host is fetched
    anonymously, and so are all its own submodules.
    """
    queue = [(repository, submodule, True, 1) for submodule in submodules]
    for number, (parent, submodule, parent_trusted, depth) in enumerate(queue):
        is_trusted = parent_trusted and host_of(submodule.url) == host_of(url)
        target = resolve_inside(parent, submodule.path)
        problem = ""
        if number == _MAX_SUBMODULES or depth > _MAX_DEPTH:
            problem = f"is one too many: {_MAX_SUBMODULES} are fetched, {_MAX_DEPTH} deep"
        elif not re.fullmatch(URL, submodule.url) or not (is_trusted or submodule.url.startswith(_OTHER_HOST_SCHEME)):
            problem = f"is at {submodule.url[:200]!r}; one of another host is fetched by https:// alone"
        elif target is None or not target.is_dir():
            problem = "leads out of the repository"
        if problem or target is None:
            advice = "remove it there, or git.submodules here"
            raise BuildPlanError.of("git.submodules", f"the submodule {submodule.path[:200]!r} {problem}; {advice}")
        nested = _fetch(
            submodule.url,
            submodule.commit,
            submodule.commit,
            target,
            token if is_trusted else None,
            lfs=lfs,
            anonymous=not is_trusted,
        )
        queue += [(target, inner, is_trusted, depth + 1) for inner in nested]


def _resolve_url(address: str, base: str) -> str:
    """Return a submodule's address. One that begins with ./ or ../ is relative to *base*, the repository's address."""
    if not address.startswith(("./", "../")):
        return address
    resolved, separator = base.rstrip("/"), "/"
    while address.startswith(("./", "../")):
        step, _, address = address.partition("/")
        if step == "..":
            end = max(resolved.rfind("/"), resolved.rfind(":"))
            # In git@HOST:PATH a colon follows the host, however much of the path is removed.
            resolved, separator = (resolved[:end], resolved[end]) if end >= 0 else ("", "/")
    return f"{resolved}{separator}{address}"


def find_pointers(folder: Path, skipped: Set[str] = frozenset()) -> list[str]:
    """Return the files below *folder* that are Git LFS pointers: their content has not been fetched.

    Args:
        folder: The source.
        skipped: Names of folders to skip.
    """
    pointers: list[str] = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if name not in skipped]
        for name in names:
            file = Path(parent, name)
            with suppress(OSError):  # the builder reports files that can't be read
                if _is_pointer(file):
                    pointers.append(file.relative_to(folder).as_posix())
    return sorted(pointers)


def _is_pointer(file: Path) -> bool:
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode) or not len(_POINTER) < status.st_size <= _MAX_POINTER_BYTES:
        return False
    with file.open("rb") as content:
        return content.read(len(_POINTER)) == _POINTER


def refuse_pointers(folder: Path, key: str, advice: str, skipped: Set[str] = frozenset()) -> None:
    """Refuse a source with Git LFS pointers.

    Args:
        folder: The source.
        key: The key of the source that allows pointers.
        advice: What the user can do to fetch the files.
        skipped: Names of folders to skip.

    Raises:
        BuildPlanError: The source has pointers.
    """
    if files := find_pointers(folder, skipped):
        message = f"{', '.join(files[:3])}{' and others' if files[3:] else ''} in Git LFS are not fetched: only the"
        message += f" text that points to each is there; {advice}, or write lfs: pointers, to build without"
        raise BuildPlanError.of(key, message)


def _find_omissions(folder: Path, *, submodules: bool, lfs: bool) -> tuple[str, ...]:
    notes: list[str] = []
    if not submodules and is_file_in(folder, ".gitmodules"):
        notes.append("its submodules are not fetched (`git.submodules`)")
    if (
        not lfs
        and is_file_in(folder, ".gitattributes")
        and b"filter=lfs" in read_file_in(folder, ".gitattributes", MAX_FILE)
    ):
        notes.append("its files in Git LFS are not fetched: each is the text that points to it")
    return tuple(notes)


def _resolve_ref(url: str, ref: str, token: str | None) -> tuple[str, str]:
    """Return the current commit of a tag or a branch, and a description of the ref."""
    candidates = [f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}", f"refs/heads/{ref}"]
    lines = run_remote(url, ["ls-remote", "--", url, *candidates], token)
    commits = {name: commit for commit, _, name in (line.partition("\t") for line in lines.splitlines())}
    # An annotated tag is an object of its own; ^{} is the commit that it names.
    for name, kind in (
        (f"refs/tags/{ref}^{{}}", "the tag"),
        (f"refs/tags/{ref}", "the tag"),
        (f"refs/heads/{ref}", "the branch"),
    ):
        if name in commits:
            return commits[name], f"{kind} {ref} is"
    raise BuildPlanError.of("git.ref", f"{url} has no tag and no branch {ref}; write one of git ls-remote {url}")
