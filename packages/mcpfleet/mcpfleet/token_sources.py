"""Where ID tokens come from: key files, a person's login, the metadata server, a file, a command.

`default_source` chooses as google-auth does: `GOOGLE_APPLICATION_CREDENTIALS`, then the file that
`gcloud auth application-default login` writes, then the metadata server. Not here: caching and expiry
(`mcpfleet.auth`) and workload identity federation, which needs a service account to impersonate first.

Every `fetch` blocks, and google-auth retries inside it with pauses; call it from a thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from mcpfleet.bounds import json_object
from mcpfleet.errors import (
    AuthError,
    CredentialsFileError,
    CredentialsRefusedError,
    NoCredentialsError,
    UnsupportedCredentialsError,
)
from mcpfleet.google_sources import (
    LOGIN,
    GoogleRequest,
    ImpersonatedAccount,
    MetadataServer,
    ServiceAccountKey,
    UserLogin,
)
from mcpfleet.system import WINDOWS, home_of, roaming_of, run_program, text_of, words_of
from mcpfleet.tokens import IdToken

COMMAND_SECONDS = 60.0


class TokenSource(Protocol):
    """One identity that can get ID tokens."""

    @property
    def name(self) -> str:
        """What it is, for a person: `service account key /keys/deployer.json`."""
        ...

    @property
    def any_audience(self) -> bool:
        """Whether its tokens are for whatever audience is asked for; a person's are not."""
        ...

    @property
    def mints(self) -> bool:
        """Whether it asks Google, who gives no token that has already expired; a file or a command may."""
        ...

    def fetch(self, audience: str) -> IdToken:
        """Get a new token, blocking.

        Raises:
            AuthError: With the next step in its message.
        """
        ...


class TokenFile:
    """A file that something else keeps a fresh token in; read again for each refresh."""

    any_audience = False
    mints = False

    def __init__(self, path: Path) -> None:
        self.name = f"token file {path}"
        self._path = path

    def fetch(self, audience: str) -> IdToken:
        """Read the file."""
        try:
            text = text_of(self._path.read_bytes())
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialsFileError(
                f"Cannot read the {self.name}: {error}. Write an ID token there, for example with "
                f"`gcloud auth print-identity-token > {self._path}`."
            ) from error
        return IdToken.parse(text, self.name)


class TokenCommand:
    """A command that prints a fresh token, such as `gcloud auth print-identity-token`; no shell."""

    any_audience = False
    mints = False

    def __init__(self, command: str) -> None:
        self.name = f"command `{command}`"
        try:
            self._argv = words_of(command)
        except ValueError as error:
            raise CredentialsFileError(f"The {self.name} cannot be read: {error}. Check its quotes.") from error
        if not self._argv:
            raise CredentialsFileError(
                "The token command is empty; give one such as `gcloud auth print-identity-token`."
            )

    def fetch(self, audience: str) -> IdToken:
        """Run the command, at most a minute."""
        try:
            done = run_program(self._argv, COMMAND_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CredentialsFileError(f"The {self.name} did not run: {error}. Try it in a terminal.") from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CredentialsRefusedError(f"The {self.name} failed ({done.returncode}): {last}. Try it in a terminal.")
        return IdToken.parse(done.stdout, f"The {self.name}")


class Unusable:
    """No identity, and the reason: for a program that has to start all the same, and to say it when it is asked."""

    name = "no identity"
    any_audience = False
    mints = False

    def __init__(self, reason: AuthError) -> None:
        self._reason = reason

    def fetch(self, audience: str) -> IdToken:
        """Raise the reason."""
        raise self._reason


class DefaultSource:
    """`default_source`, chosen at the first fetch: choosing may ask the network, so it waits for a thread."""

    def __init__(self, choose: Callable[[], TokenSource] | None = None) -> None:
        self._choose = choose or default_source
        self._chosen: TokenSource | None = None

    @property
    def name(self) -> str:
        """The chosen source's name, once there is one."""
        return self._chosen.name if self._chosen else "default Google credentials"

    @property
    def any_audience(self) -> bool:
        """That of the chosen source."""
        return self._chosen is not None and self._chosen.any_audience

    @property
    def mints(self) -> bool:
        """That of the chosen source."""
        return self._chosen is not None and self._chosen.mints

    def fetch(self, audience: str) -> IdToken:
        """Choose, if that is still to be done, and fetch."""
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen.fetch(audience)


class Impersonation:
    """A service account, called as by whoever a credentials file names; no key of the account is needed.

    Args:
        account: Its email.
        file: The credentials of who impersonates; by default the file that `default_source` would take.
        environ: The environment that names that file.
        request: The HTTP transport.
    """

    any_audience = True
    mints = True

    def __init__(
        self,
        account: str,
        file: Path | None = None,
        environ: Mapping[str, str] | None = None,
        request: GoogleRequest | None = None,
    ) -> None:
        self.name = f"impersonated service account {account}"
        self._account = account
        self._file = file
        self._environ = os.environ if environ is None else environ
        self._request = request

    def fetch(self, audience: str) -> IdToken:
        """Ask IAM Credentials for the account's token."""
        named = self._environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        file = self._file or (Path(named) if named else _application_default_file(self._environ))
        url = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{self._account}:generateAccessToken"
        info = {"service_account_impersonation_url": url, "source_credentials": _read_json(file)}
        return ImpersonatedAccount(info, file, self._request).fetch(audience)


def source_from_file(path: Path, request: GoogleRequest | None = None) -> TokenSource:
    """The identity in a Google credentials file.

    Raises:
        CredentialsFileError: It cannot be read.
        UnsupportedCredentialsError: Its kind has no ID tokens.
    """
    info = _read_json(path)
    kind = str(info.get("type", ""))
    match kind:
        case "service_account":
            return ServiceAccountKey(info, path, request)
        case "authorized_user":
            return UserLogin(info, path, request)
        case "impersonated_service_account":
            return ImpersonatedAccount(info, path, request)
        case _:
            raise UnsupportedCredentialsError(
                f"{path} holds credentials of type {kind or 'unknown'!r}: not a service account, so it has "
                f"no ID tokens. Use a service account: {LOGIN} with --impersonate-service-account=ACCOUNT."
            )


def default_source(environ: Mapping[str, str] | None = None, request: GoogleRequest | None = None) -> TokenSource:
    """The identity of this machine, found where google-auth looks.

    Blocks for some seconds where there are no files and no metadata server (google-auth's own time limits).

    Raises:
        AuthError: There is none, or the file named is of no use.
    """
    environ = os.environ if environ is None else environ
    named = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        try:
            return source_from_file(Path(named), request)
        except CredentialsFileError as error:
            raise CredentialsFileError(f"GOOGLE_APPLICATION_CREDENTIALS: {error}") from error
    login = _application_default_file(environ)
    if login.is_file():
        return source_from_file(login, request)
    metadata = MetadataServer(request)
    if environ.get("NO_GCE_CHECK", "").lower() != "true" and metadata.answers():
        return metadata
    raise NoCredentialsError(
        "No Google credentials on this machine. "
        f"Run {LOGIN}, or set GOOGLE_APPLICATION_CREDENTIALS to a credentials file."
    )


def _application_default_file(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    folder: str | Path | None = environ.get("CLOUDSDK_CONFIG")
    if not folder and platform == WINDOWS:
        folder = f"{roaming_of(environ, platform)}\\gcloud"
    if not folder:
        folder = home_of(environ, platform) / ".config" / "gcloud"
    return Path(folder) / "application_default_credentials.json"


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        return json_object(text_of(path.read_bytes()))
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise CredentialsFileError(f"Cannot read {path}: {reason}. Check the path, or run {LOGIN}.") from error
    except ValueError as error:
        raise CredentialsFileError(f"{path} is not a JSON object. Give a credentials file, or run {LOGIN}.") from error
