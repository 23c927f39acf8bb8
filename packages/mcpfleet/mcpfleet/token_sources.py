"""Sources of ID tokens: key files, a person's login, the metadata server, a file, a command.

`default_source` chooses as google-auth does: `GOOGLE_APPLICATION_CREDENTIALS`, then the file that
`gcloud auth application-default login` writes, then the metadata server. Not here: caching and expiry
(`mcpfleet.auth`), and workload identity federation, which has ID tokens only through an impersonated service account.

Every `fetch` blocks, and google-auth retries in it with pauses: call it in a thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from mcpfleet.bounds import parse_json_object
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
from mcpfleet.system import WINDOWS, decode_text, home_folder, roaming_folder, run_program, split_command
from mcpfleet.tokens import IdToken

COMMAND_SECONDS = 60.0


class TokenSource(Protocol):
    """One identity that can get ID tokens."""

    @property
    def name(self) -> str:
        """A description for messages: `service account key /keys/deployer.json`."""
        ...

    @property
    def any_audience(self) -> bool:
        """Whether it has tokens for any audience; a person's login does not."""
        ...

    @property
    def issues_fresh_tokens(self) -> bool:
        """Whether each token is new from Google; one from a file or a command may have expired."""
        ...

    def fetch(self, audience: str) -> IdToken:
        """Get a new token, blocking.

        Raises:
            AuthError: There is no token; the message has the next step.
        """
        ...


class TokenFile:
    """A file in which another program keeps a valid token; it is read again for each refresh."""

    any_audience = False
    issues_fresh_tokens = False

    def __init__(self, path: Path) -> None:
        self.name = f"token file {path}"
        self._path = path

    def fetch(self, audience: str) -> IdToken:
        """Read the file."""
        try:
            text = decode_text(self._path.read_bytes())
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialsFileError(
                f"Cannot read the {self.name}: {error}. Write an ID token there, for example with "
                f"`gcloud auth print-identity-token > {self._path}`."
            ) from error
        return IdToken.parse(text, self.name)


class TokenCommand:
    """A command that prints a new token, such as `gcloud auth print-identity-token`; it runs without a shell."""

    any_audience = False
    issues_fresh_tokens = False

    def __init__(self, command: str) -> None:
        self.name = f"command `{command}`"
        try:
            self._argv = split_command(command)
        except ValueError as error:
            raise CredentialsFileError(f"The {self.name} is not valid: {error}. Check its quotes.") from error
        if not self._argv:
            raise CredentialsFileError(
                "The token command is empty; set one such as `gcloud auth print-identity-token`."
            )

    def fetch(self, audience: str) -> IdToken:
        """Run the command, for at most a minute."""
        try:
            process = run_program(self._argv, COMMAND_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CredentialsFileError(f"The {self.name} did not run: {error}. Try it in a terminal.") from error
        if process.returncode != 0:
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise CredentialsRefusedError(
                f"The {self.name} failed ({process.returncode}): {last}. Try it in a terminal."
            )
        return IdToken.parse(process.stdout, f"The {self.name}")


class UnusableSource:
    """Stands for a missing identity, in a program that has to start without one. `fetch` raises the reason."""

    name = "no identity"
    any_audience = False
    issues_fresh_tokens = False

    def __init__(self, reason: AuthError) -> None:
        self._reason = reason

    def fetch(self, audience: str) -> IdToken:
        """Raise the reason."""
        raise self._reason


class DefaultSource:
    """`default_source`, called at the first fetch: it may use the network, so it has to run in a thread."""

    def __init__(self, choose: Callable[[], TokenSource] | None = None) -> None:
        self._choose = choose or default_source
        self._chosen: TokenSource | None = None

    @property
    def name(self) -> str:
        """The name of the chosen source, after the first fetch."""
        return self._chosen.name if self._chosen else "default Google credentials"

    @property
    def any_audience(self) -> bool:
        """Whether the chosen source has tokens for any audience; False before the first fetch."""
        return self._chosen is not None and self._chosen.any_audience

    @property
    def issues_fresh_tokens(self) -> bool:
        """Whether each token of the chosen source is new; False before the first fetch."""
        return self._chosen is not None and self._chosen.issues_fresh_tokens

    def fetch(self, audience: str) -> IdToken:
        """Choose the source at the first call, and get a token from it."""
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen.fetch(audience)


class Impersonation:
    """A service account that the identity of a credentials file impersonates. It needs no key of the account.

    Args:
        account: The account's email address.
        file: The credentials file; by default the one that `default_source` uses.
        environ: The environment that names the default file.
        request: The HTTP transport.
    """

    any_audience = True
    issues_fresh_tokens = True

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
        """Get the account's token from IAM Credentials."""
        configured = self._environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        file = self._file or (Path(configured) if configured else _application_default_file(self._environ))
        url = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{self._account}:generateAccessToken"
        info = {"service_account_impersonation_url": url, "source_credentials": _read_json(file)}
        return ImpersonatedAccount(info, file, self._request).fetch(audience)


def source_from_file(path: Path, request: GoogleRequest | None = None) -> TokenSource:
    """Read the identity of a Google credentials file.

    Raises:
        CredentialsFileError: The file cannot be read.
        UnsupportedCredentialsError: Credentials of its type have no ID tokens.
    """
    info = _read_json(path)
    credentials_type = str(info.get("type", ""))
    match credentials_type:
        case "service_account":
            return ServiceAccountKey(info, path, request)
        case "authorized_user":
            return UserLogin(info, path, request)
        case "impersonated_service_account":
            return ImpersonatedAccount(info, path, request)
        case _:
            raise UnsupportedCredentialsError(
                f"{path} has credentials of type {credentials_type or 'unknown'!r}, which have no ID tokens. "
                f"Use a service account: {LOGIN} with --impersonate-service-account=ACCOUNT."
            )


def default_source(environ: Mapping[str, str] | None = None, request: GoogleRequest | None = None) -> TokenSource:
    """Find the identity of this machine as google-auth does.

    Blocks for some seconds if there is no file and no metadata server (google-auth's own time limits).

    Raises:
        AuthError: There is no identity, or its file is not valid.
    """
    environ = os.environ if environ is None else environ
    configured = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if configured:
        try:
            return source_from_file(Path(configured), request)
        except CredentialsFileError as error:
            raise CredentialsFileError(f"GOOGLE_APPLICATION_CREDENTIALS: {error}") from error
    login = _application_default_file(environ)
    if login.is_file():
        return source_from_file(login, request)
    metadata = MetadataServer(request)
    if environ.get("NO_GCE_CHECK", "").lower() != "true" and metadata.is_available():
        return metadata
    raise NoCredentialsError(
        "No Google credentials on this machine. "
        f"Run {LOGIN}, or set GOOGLE_APPLICATION_CREDENTIALS to a credentials file."
    )


def _application_default_file(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    folder: str | Path | None = environ.get("CLOUDSDK_CONFIG")
    if not folder and platform == WINDOWS:
        folder = f"{roaming_folder(environ, platform)}\\gcloud"
    if not folder:
        folder = home_folder(environ, platform) / ".config" / "gcloud"
    return Path(folder) / "application_default_credentials.json"


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        return parse_json_object(decode_text(path.read_bytes()))
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise CredentialsFileError(f"Cannot read {path}: {reason}. Check the path, or run {LOGIN}.") from error
    except ValueError as error:
        raise CredentialsFileError(f"{path} is not a JSON object. Use a credentials file, or run {LOGIN}.") from error
