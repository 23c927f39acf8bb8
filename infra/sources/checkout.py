"""A git repository at one commit, in a folder: fetched with the caller's own git and credentials, never stored ours.

The only module of `infra` that starts a program. Whatever git asks for (a helper, an agent, `~/.netrc`) is the user's.
A token goes to git by a file that lives as long as the command, so that it stands in no command line and no URL.
"""

import base64
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.sources.recipe import Mistake, RecipeError

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SECONDS: Final = 300


@dataclass(frozen=True)
class Checkout:
    """A repository on disk.

    Attributes:
        folder: Where its files are, the history left out.
        commit: Which commit they are.
        said: In words, what the ref was.
    """

    folder: Path
    commit: str
    said: str


def checkout(url: str, ref: str, place: Path, token: str | None = None) -> Checkout:
    """Fetch a repository, or find it where it was fetched before.

    Args:
        url: The repository's address.
        ref: A commit, a tag or a branch.
        place: The folder that holds such checkouts, one for each commit.
        token: For an https address: what to authenticate with.

    Raises:
        RecipeError: git is not there, the address does not answer, or the ref is not there.
    """
    commit, said = (ref, "the commit") if _COMMIT.fullmatch(ref) else _resolved(url, ref, token)
    folder = place / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{commit[:20]}"
    if not folder.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=".new-") as scratch:
            new = Path(scratch) / "repository"
            _git(["init", "--quiet", str(new)], url, token)
            fetch = ["-C", str(new), "fetch", "--quiet", "--depth=1", "--no-tags", url]
            # Not every server gives a commit by its id alone; the ref that it was found under always works.
            _git([*fetch, commit if _COMMIT.fullmatch(ref) else ref], url, token)
            found = _git(["-C", str(new), "rev-parse", "FETCH_HEAD^{commit}"], url, token).strip()
            if found != commit:
                raise RecipeError(
                    [Mistake("git.ref", f"{ref} has just moved from {commit[:12]} to {found[:12]}; try again")]
                )
            _git(["-C", str(new), "checkout", "--quiet", "--detach", commit], url, token)
            if (new / ".gitmodules").is_file():
                _git(
                    ["-C", str(new), "submodule", "update", "--quiet", "--init", "--recursive", "--depth=1"], url, token
                )
            # Neither the image nor its digest is to depend on how it was fetched.
            shutil.rmtree(new / ".git")
            for left in new.rglob(".git"):
                left.unlink()
            try:
                new.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another run has just made it
                    raise
    return Checkout(folder, commit, said)


def _resolved(url: str, ref: str, token: str | None) -> tuple[str, str]:
    """The commit that a tag or a branch is now, and which of the two it is."""
    lines = _git(["ls-remote", url, f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}", f"refs/heads/{ref}"], url, token)
    there = {name: commit for commit, _, name in (line.partition("\t") for line in lines.splitlines())}
    # An annotated tag is an object of its own; ^{} is the commit that it names.
    for name, said in (
        (f"refs/tags/{ref}^{{}}", "the tag"),
        (f"refs/tags/{ref}", "the tag"),
        (f"refs/heads/{ref}", "the branch"),
    ):
        if name in there:
            return there[name], f"{said} {ref} is"
    raise RecipeError([Mistake("git.ref", f"{url} has no tag and no branch {ref}; write one of git ls-remote {url}")])


def _git(arguments: Sequence[str], url: str, token: str | None) -> str:
    with tempfile.TemporaryDirectory(prefix="mcpfleet-git-") as private:  # 0700
        options = ["-c", "core.askPass=true"]
        if token is not None:
            config = Path(private) / "config"
            config.write_text(_header(url, token))
            options += ["-c", f"include.path={config}"]
        try:
            done = subprocess.run(
                ["git", *options, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # without a terminal git asks nobody, who would not be there
            )
        except FileNotFoundError:
            sentence = "git is not installed; install it (Debian, Ubuntu: apt-get install git)"
            raise RecipeError([Mistake("git", sentence)]) from None
        except subprocess.TimeoutExpired:
            sentence = f"{url} did not answer within {_SECONDS} s; check the address"
            raise RecipeError([Mistake("git.url", sentence)]) from None
    if done.returncode:
        (*_, reason) = ["git said nothing", *done.stderr.strip().splitlines()]
        shown = reason if token is None else reason.replace(token, "***")
        raise RecipeError([Mistake("git.url", f"git can't fetch {url}: {shown}; check the address and your access")])
    return done.stdout


def _header(url: str, token: str) -> str:
    """Git's configuration that sends a token to the host of *url*, and to no other that it may be sent on to."""
    credentials = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    host = re.match(r"https?://[^/]+/", url)
    return f'[http "{host[0] if host else url}"]\n\textraHeader = Authorization: Basic {credentials}\n'
