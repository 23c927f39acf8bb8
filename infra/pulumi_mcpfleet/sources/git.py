"""Runs the user's git so that neither an address nor a fetched repository controls it.

There are two modes. Requests to a server use the user's configuration and credentials, but only one protocol, one host
and no redirects. Operations on a fetched repository use only a fixed configuration, so that no hook, filter, template
or helper runs because the repository names it. Git reads a token from a file that exists only while the command runs,
so that the token is in no command line and no URL.
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

# RFC 3986's characters, except ? and #: no repository's address needs them, and tokens can be in these parts. No part
# begins with -, which would be an option of git or of ssh.
_HOST: Final = r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])"
_USER: Final = r"[A-Za-z0-9_][A-Za-z0-9._~%!$&'()*+,;=:-]*@"
_PATH: Final = r"[A-Za-z0-9._~:/@!$&'()*+,;=%-]+"
_AT: Final = rf"(?:{_USER})?{_HOST}(?::[0-9]{{1,5}})?/{_PATH}"
_SSH: Final = rf"{_USER}{_HOST}:(?!//|:|/?-){_PATH}"  # scp's form
URL: Final = rf"(?:https|ssh|git|http)://{_AT}|file:///{_PATH}|{_SSH}"
"""The pattern of a repository's address."""

_LOOPBACK: Final = r"(?:localhost|127\.[0-9.]+|\[::1\])(?::[0-9]{1,5})?/"


def refusal_reason(url: str) -> str | None:
    """Return the reason why *url* is not accepted as a source; None if it is."""
    if url.startswith("file://"):
        return "reads a folder of this machine; write folder: … instead of git"
    if re.fullmatch(URL, url) is None:
        return "is not the address of a repository; write https://HOST/PATH.git or git@HOST:PATH.git"
    if re.match(rf"(?:http|git)://(?!{_LOOPBACK})", url):
        return "is not encrypted, so others can change what is fetched; write https:// or ssh://"
    return None


_SECONDS: Final = 300
_SECONDS_OF_LARGE_FILES: Final = 1800
_NO_GIT: Final = 127  # of env(1): no such program

# The caller's variables that change which repository is used (set within git hooks), traces and templates.
_UNSET_VARIABLES: Final = (
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
_FIXED_CONFIG: Final = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null", "core.askPass=true"),
    *("core.protectHFS=true", "core.protectNTFS=true", "protocol.ext.allow=never", "submodule.recurse=false"),
    *("fetch.recurseSubmodules=false", "http.followRedirects=false", "transfer.bundleURI=false"),
)
_ANONYMOUS: Final = (
    *("GIT_ASKPASS=true", "HOME=/dev/null", "XDG_CONFIG_HOME=/dev/null"),  # ~/.netrc is found by HOME
    *("GIT_SSL_CERT=", "GIT_SSL_KEY="),
)
_ISOLATED: Final = ("GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_COUNT=0", "GIT_ATTR_NOSYSTEM=1")


def scheme_of(url: str) -> str:
    """Return git's name of the protocol of an address."""
    return url.partition("://")[0] if "://" in url else "ssh"


def host_of(url: str) -> tuple[str, str]:
    """Return the protocol, and the host with its port: the scope of credentials."""
    if "://" in url:
        return scheme_of(url), urlsplit(url).netloc.rpartition("@")[2].lower()
    return "ssh", url.partition(":")[0].rpartition("@")[2].lower()


def run_local(folder: Path, *arguments: str) -> str:
    """Run git on a fetched repository, without network access. Return its output.

    Raises:
        BuildPlanError: git fails.
    """
    # No protocol is allowed, so git can't fetch missing objects or submodules.
    return _run(["-C", str(folder), *arguments], "", [*_ISOLATED, "GIT_ALLOW_PROTOCOL="], [], None)


def describe(folder: Path) -> str:
    """Return `TAG-COMMITS-gCOMMIT` of a folder: the newest tag with a digit, the commits since, and the commit.

    Returns the commit alone if there is no such tag. Returns an empty text if the folder is in no repository, if git is
    not installed, or if git does not trust the repository's owner.
    """
    try:
        return run_local(folder, "describe", "--tags", "--long", "--always", "--abbrev=9", "--match=*[0-9]*").strip()
    except BuildPlanError:
        return ""


def fetch_large_files(url: str, folder: Path, token: str | None, *, anonymous: bool = False) -> None:
    """Replace the Git LFS pointers of a repository's HEAD with the files that git-lfs fetches.

    The files come from the server of *url*, whatever server the repository names (`.lfsconfig`).

    Args:
        url: The repository's address.
        folder: The repository, with HEAD checked out.
        token: The token to authenticate with at the address's host.
        anonymous: Whether to use neither the user's credentials nor configuration.

    Raises:
        BuildPlanError: git-lfs is not installed, or a file can't be fetched.
    """
    server_url = url.rstrip("/")
    if scheme_of(url) != "ssh":  # over ssh, git-lfs asks the server for the URL
        server_url = f"{server_url.removesuffix('.git')}.git/info/lfs"
    settings = [f"lfs.url={server_url}", f"remote.origin.url={url}", "lfs.transfer.maxretries=2"]
    options = [part for setting in settings for part in ("-c", setting)]
    fetch = ["-C", str(folder), *options, "lfs", "fetch", "origin", "HEAD"]
    try:
        run_remote(url, fetch, token, anonymous=anonymous, seconds=_SECONDS_OF_LARGE_FILES)
        # git-lfs checks out nothing unless its filter is configured, as `git lfs install` does for the user.
        run_local(folder, "-c", "filter.lfs.clean=git-lfs clean -- %f", "lfs", "checkout")
    except BuildPlanError as error:
        (mistake,) = error.mistakes
        message = mistake.message
        if "'lfs' is not a git command" in message:
            message = "git-lfs is not installed; install it (Debian, Ubuntu: apt-get install git-lfs)"
        raise BuildPlanError.of("git.lfs", f"{message}; or write lfs: pointers, to build without these files") from None


def run_remote(
    url: str, arguments: Sequence[str], token: str | None, *, anonymous: bool = False, seconds: int = _SECONDS
) -> str:
    """Run git with access to the server of *url*. Return its output.

    Args:
        url: The address.
        arguments: Arguments of git.
        token: The token to authenticate with at the address's host.
        anonymous: Whether to use neither the user's credentials nor configuration.
        seconds: The time limit.

    Raises:
        BuildPlanError: git fails, or the server does not answer in time.
    """
    scheme = scheme_of(url)
    if anonymous:
        variables = [*_ISOLATED, *_ANONYMOUS, f"GIT_ALLOW_PROTOCOL={scheme}"]
        options = ["-c", "credential.helper=", "-c", "http.emptyAuth=false"]
        return _run(arguments, url, variables, options, None, seconds)
    # Many users configure ssh for https addresses, or the other way round (url.….insteadOf).
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
        config_options = [part for setting in _FIXED_CONFIG for part in ("-c", setting)]
        if token is not None:
            config = Path(private) / "config"
            config.write_text(_token_config(url, token))
            config_options += ["-c", f"include.path={config}"]
        unset = [part for name in _UNSET_VARIABLES for part in ("-u", name)]
        # GIT_LFS_SKIP_SMUDGE: otherwise git-lfs would send the user's credentials to any server that it is told.
        environment = ["GIT_TERMINAL_PROMPT=0", "SSH_ASKPASS_REQUIRE=never", "GIT_LFS_SKIP_SMUDGE=1", *variables]
        try:
            process = subprocess.run(
                ["env", *unset, *environment, "git", *config_options, *options, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # without a terminal git and ssh don't prompt
            )
        except subprocess.TimeoutExpired:
            message = f"{url} did not answer within {seconds} s; check the address"
            raise BuildPlanError.of("git.url", message) from None
    if process.returncode == _NO_GIT:
        message = "git is not installed; install it (Debian, Ubuntu: apt-get install git)"
        raise BuildPlanError.of("git", message)
    if process.returncode:
        raise BuildPlanError.of("git.url", _failure_message(url, process.stderr, token))
    return process.stdout


_NOISE: Final = re.compile(
    r"Please make sure you have the correct access rights|and the repository exists\.|^\s*$"
    r"|^Warning: Permanently added|^Cloning into|^hint: "
)
"""Lines of git's output that don't explain a failure."""

_MAX_LINES: Final = 6


def _failure_message(url: str, stderr: str, token: str | None) -> str:
    lines = [line.strip() for line in stderr.splitlines() if not _NOISE.search(line)]
    # ssh's message has the cause. git's, which follows, says only that it could not read.
    reason = "; ".join(line[:300] for line in lines[-_MAX_LINES:]) or "git said nothing"
    redacted = reason if token is None else reason.replace(token, "***")
    if "Host key verification failed" in reason:
        advice = "ssh does not know the host: connect to it once by hand (ssh -T), and compare its key"
    elif "Permission denied (publickey" in reason:
        advice = "the host takes none of your keys: add one there (ssh-add -l lists those of the agent)"
    elif re.search(r"returned error: 30[12378]", reason):
        advice = (
            "it redirects to another address, which is not followed; write that address (many hosts need"
            " .git at the end)"
        )
    else:
        advice = "check the address and your access"
    return f"git can't fetch {url}: {redacted}; {advice}"


def _token_config(url: str, token: str) -> str:
    """Return git configuration that sends a token to the host of *url*, and to no other."""
    credentials = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    host = re.match(r"https?://[^/]+/", url)
    return f'[http "{host[0] if host else url}"]\n\textraHeader = Authorization: Basic {credentials}\n'
