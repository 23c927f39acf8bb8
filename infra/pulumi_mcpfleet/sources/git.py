"""The user's git, run so that neither the address nor what is fetched decides what it does.

Two ways to run it. To speak with a server: with the user's own configuration and credentials, but by one protocol, to
one host, without redirects. To lay out what was fetched: without any configuration but ours, so that no hook, filter,
template or helper runs because a repository names it. A token goes to git by a file that lives as long as the command,
so that it stands in no command line and no URL.
"""

import base64
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pulumi_mcpfleet.sources.build_plan import BuildPlanError

# RFC 3986's signs, but for ? and #: no repository's address needs them, and tokens are written there. No part begins
# with -, which would be an option of git or of ssh.
_HOST: Final = r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])"
_USER: Final = r"[A-Za-z0-9_][A-Za-z0-9._~%!$&'()*+,;=:-]*@"
_PATH: Final = r"[A-Za-z0-9._~:/@!$&'()*+,;=%-]+"
_AT: Final = rf"(?:{_USER})?{_HOST}(?::[0-9]{{1,5}})?/{_PATH}"
_SSH: Final = rf"{_USER}{_HOST}:(?!//|:|/?-){_PATH}"  # scp's form
URL: Final = rf"(?:https|ssh|git|http)://{_AT}|file:///{_PATH}|{_SSH}"
"""An address of a repository."""

_LOOPBACK: Final = r"(?:localhost|127\.[0-9.]+|\[::1\])(?::[0-9]{1,5})?/"


def refused(url: str) -> str | None:
    """Why nobody may write *url* as a source; None for what is fetched."""
    if url.startswith("file://"):
        return "reads a folder of this machine; write folder: … instead of git"
    if re.fullmatch(URL, url) is None:
        return "is not the address of a repository; write https://HOST/PATH.git or git@HOST:PATH.git"
    if re.match(rf"(?:http|git)://(?!{_LOOPBACK})", url):
        return "lets everybody on the way change what is fetched; write https:// or ssh:// in its place"
    return None


_SECONDS: Final = 300
_SECONDS_OF_LARGE_FILES: Final = 1800
_NO_GIT: Final = 127  # of env(1): no such program

# Of whoever called us: where a repository is (set within a hook of his), what is traced, what is a template.
_FORGOTTEN: Final = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"),
    *(
        "GIT_CONFIG_PARAMETERS",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_TEMPLATE_DIR",
        "GIT_PREFIX",
        "GIT_EXTERNAL_DIFF",
        "GIT_TRACE",
    ),
    *("GIT_TRACE_CURL", "GIT_TRACE_PACKET", "GIT_TRACE_CURL_NO_DATA", "GIT_CURL_VERBOSE", "GIT_TRACE_REDACT"),
)
_OURS: Final = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null", "core.askPass=true"),
    *("core.protectHFS=true", "core.protectNTFS=true", "protocol.ext.allow=never", "submodule.recurse=false"),
    *("fetch.recurseSubmodules=false", "http.followRedirects=false", "transfer.bundleURI=false"),
)
_STRANGER: Final = (
    *("GIT_ASKPASS=true", "HOME=/dev/null", "XDG_CONFIG_HOME=/dev/null"),  # ~/.netrc is found by HOME
    *("GIT_SSL_CERT=", "GIT_SSL_KEY="),
)
_ALONE: Final = ("GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_COUNT=0", "GIT_ATTR_NOSYSTEM=1")


def scheme_of(url: str) -> str:
    """The protocol of an address, in git's own words."""
    return url.partition("://")[0] if "://" in url else "ssh"


def host_of(url: str) -> tuple[str, str]:
    """Protocol and host with its port: what credentials are for."""
    if "://" in url:
        return scheme_of(url), urlsplit(url).netloc.rpartition("@")[2].lower()
    return "ssh", url.partition(":")[0].rpartition("@")[2].lower()


def laid_out(folder: Path, *arguments: str) -> str:
    """Have git work on a repository that was fetched; what it says.

    Raises:
        BuildPlanError: It fails.
    """
    # No address is spoken with: a promised object, a filter or a submodule that wants one is refused.
    return _run(["-C", str(folder), *arguments], "", [*_ALONE, "GIT_ALLOW_PROTOCOL="], [], None)


def described(folder: Path) -> str:
    """The commit of a folder and the newest tag below it that has a number: TAG-COMMITS-gCOMMIT, or the commit alone.

    Empty where it is in no repository, where there is no git, or where git does not trust the repository's owner.
    """
    try:
        return laid_out(folder, "describe", "--tags", "--long", "--always", "--abbrev=9", "--match=*[0-9]*").strip()
    except BuildPlanError:
        return ""


def large_files(url: str, folder: Path, token: str | None, *, alone: bool = False) -> None:
    """Have git-lfs fetch what the pointers of a repository's HEAD stand for, and put it in their places.

    They are asked for at the server of *url*, wherever the repository says that they are (`.lfsconfig`).

    Args:
        url: The repository's address.
        folder: The repository, with HEAD checked out.
        token: What to authenticate with at its host.
        alone: Without the user's credentials and configuration.

    Raises:
        BuildPlanError: git-lfs is not installed, or a file can't be had.
    """
    place = url.rstrip("/")
    if scheme_of(url) != "ssh":  # where ssh is spoken, the server is asked for the place
        place = f"{place.removesuffix('.git')}.git/info/lfs"
    settings = [f"lfs.url={place}", f"remote.origin.url={url}", "lfs.transfer.maxretries=2"]
    given = [part for one in settings for part in ("-c", one)]
    fetch = ["-C", str(folder), *given, "lfs", "fetch", "origin", "HEAD"]
    try:
        asked(url, fetch, token, alone=alone, seconds=_SECONDS_OF_LARGE_FILES)
        # It lays out nothing unless it is told to be in use, as `git lfs install` would for the user.
        laid_out(folder, "-c", "filter.lfs.clean=git-lfs clean -- %f", "lfs", "checkout")
    except BuildPlanError as error:
        (mistake,) = error.mistakes
        sentence = mistake.sentence
        if "'lfs' is not a git command" in sentence:
            sentence = "git-lfs is not installed; install it (Debian, Ubuntu: apt-get install git-lfs)"
        raise BuildPlanError.of(
            "git.lfs", f"{sentence}; or write lfs: pointers, to build without these files"
        ) from None


def asked(
    url: str, arguments: Sequence[str], token: str | None, *, alone: bool = False, seconds: int = _SECONDS
) -> str:
    """Have git speak with the server of *url*; what it says.

    Args:
        url: The address.
        arguments: What git is to do.
        token: What to authenticate with at its host.
        alone: Without the user's credentials and configuration, as a stranger.
        seconds: How long it may take.

    Raises:
        BuildPlanError: The server does not answer, or refuses.
    """
    scheme = scheme_of(url)
    if alone:
        variables = [*_ALONE, *_STRANGER, f"GIT_ALLOW_PROTOCOL={scheme}"]
        options = ["-c", "credential.helper=", "-c", "http.emptyAuth=false"]
        return _run(arguments, url, variables, options, None, seconds)
    # Many have git speak ssh where https is written, or the other way round (url.….insteadOf).
    allowed = "https:ssh" if scheme in ("https", "ssh") else scheme
    return _run(arguments, url, [f"GIT_ALLOW_PROTOCOL={allowed}"], [], token, seconds)


def _run(
    arguments: Sequence[str],
    url: str,
    variables: Sequence[str],
    options: Sequence[str],
    token: str | None,
    seconds: int = _SECONDS,
) -> str:
    with tempfile.TemporaryDirectory(prefix="mcpfleet-git-") as private:  # 0700
        given = [part for one in _OURS for part in ("-c", one)]
        if token is not None:
            config = Path(private) / "config"
            config.write_text(_header(url, token))
            given += ["-c", f"include.path={config}"]
        forgotten = [part for name in _FORGOTTEN for part in ("-u", name)]
        # Large files' own server would be asked with the user's credentials, wherever the repository says that it is.
        ours = ["GIT_TERMINAL_PROMPT=0", "SSH_ASKPASS_REQUIRE=never", "GIT_LFS_SKIP_SMUDGE=1", *variables]
        try:
            done = subprocess.run(
                ["env", *forgotten, *ours, "git", *given, *options, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # without a terminal git asks nobody, who would not be there
            )
        except subprocess.TimeoutExpired:
            sentence = f"{url} did not answer within {seconds} s; check the address"
            raise BuildPlanError.of("git.url", sentence) from None
    if done.returncode == _NO_GIT:
        sentence = "git is not installed; install it (Debian, Ubuntu: apt-get install git)"
        raise BuildPlanError.of("git", sentence)
    if done.returncode:
        raise BuildPlanError.of("git.url", _refusal(url, done.stderr, token))
    return done.stdout


_GITS_ADVICE: Final = re.compile(
    r"Please make sure you have the correct access rights|and the repository exists\.|^\s*$"
    r"|^Warning: Permanently added|^Cloning into|^hint: "
)
"""Lines of git's that say nothing about this failure."""

_LINES: Final = 6


def _refusal(url: str, said: str, token: str | None) -> str:
    lines = [line.strip() for line in said.splitlines() if not _GITS_ADVICE.search(line)]
    # The cause comes first: ssh says why, and git behind it only that nothing could be read.
    reason = "; ".join(line[:300] for line in lines[-_LINES:]) or "git said nothing"
    shown = reason if token is None else reason.replace(token, "***")
    if "Host key verification failed" in reason:
        advice = "ssh does not know the host: connect to it once by hand (ssh -T), and compare its key"
    elif "Permission denied (publickey" in reason:
        advice = "the host takes none of your keys: add one there (ssh-add -l lists those of the agent)"
    elif re.search(r"returned error: 30[12378]", reason):
        advice = "it leads to another address, which is not followed; write that one (many hosts want .git at the end)"
    else:
        advice = "check the address and your access"
    return f"git can't fetch {url}: {shown}; {advice}"


def _header(url: str, token: str) -> str:
    """Git's configuration that sends a token to the host of *url*, and to no other."""
    credentials = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    host = re.match(r"https?://[^/]+/", url)
    return f'[http "{host[0] if host else url}"]\n\textraHeader = Authorization: Basic {credentials}\n'
