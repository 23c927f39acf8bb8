"""Google's own token sources: key file, impersonation, a person's login, metadata server.

The one module that knows google-auth, but for its transport (`mcpfleet.endpoints`). It is annotated in parts only,
so it is met here behind two small types (`GoogleRequest`, `_Refreshable`), and its errors end here: what leaves is an
`AuthError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from mcpfleet.bounds import json_object
from mcpfleet.endpoints import GoogleRequest, request_to
from mcpfleet.errors import (
    AuthError,
    CredentialsFileError,
    CredentialsRefusedError,
    NoCredentialsError,
    TokenEndpointUnavailableError,
)
from mcpfleet.inert import inert
from mcpfleet.net import connection_reason, host_of, is_loopback
from mcpfleet.tokens import IdToken

GOOGLE_UNIVERSE = "googleapis.com"
GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address, not a secret

LOGIN = "`gcloud auth application-default login`"

_SAID_AT_MOST = 300
"""Characters of an endpoint's own words that a message repeats."""


class _Refreshable(Protocol):
    """The little of google-auth's credentials that is used here."""

    token: str | None

    def refresh(self, request: GoogleRequest) -> None: ...


class ServiceAccountKey:
    """A service account's key file; the token is for any audience asked for.

    Args:
        info: The file's JSON.
        path: The file, for messages.
        request: The HTTP transport; `mcpfleet.endpoints` if not given.
    """

    any_audience = True
    mints = True

    def __init__(self, info: Mapping[str, Any], path: Path, request: GoogleRequest | None = None) -> None:
        self.name = f"service account key {path}"
        self._info = dict(info)
        if _has_its_own_token_endpoint(info):
            # google-auth sends keys of another universe to iamcredentials.<universe>, whatever their
            # token_uri says. A token_uri outside of both universes was written there to be used.
            self._info["universe_domain"] = GOOGLE_UNIVERSE
        self._request = request or request_to(str(info.get("token_uri", "")))

    def fetch(self, audience: str) -> IdToken:
        """Exchange a signed assertion for a token at the file's `token_uri`."""
        from google.oauth2 import service_account

        def build() -> _Refreshable:
            made: object = service_account.IDTokenCredentials.from_service_account_info(  # pyright: ignore[reportUnknownMemberType]
                self._info, target_audience=audience
            )
            return cast("_Refreshable", made)

        step = "Is the key still enabled? Make a new one, or set GOOGLE_APPLICATION_CREDENTIALS to another file."
        return IdToken.parse(_refresh(build, self._request, self.name, step).token or "", self.name)


class ImpersonatedAccount:
    """A file made by `gcloud auth application-default login --impersonate-service-account=…`."""

    any_audience = True
    mints = True

    def __init__(self, info: Mapping[str, Any], path: Path, request: GoogleRequest | None = None) -> None:
        self.name = f"impersonated service account of {path}"
        self._info = dict(info)
        self._request = request or request_to("")

    def fetch(self, audience: str) -> IdToken:
        """Ask IAM Credentials for the impersonated account's token."""
        from google.auth import impersonated_credentials

        def build() -> _Refreshable:
            account: Any = impersonated_credentials.Credentials.from_impersonated_service_account_info(  # pyright: ignore[reportUnknownMemberType]
                self._info
            )
            return _OfAccount(account, self._info.get("delegates"), audience)

        step = (
            f"You need roles/iam.serviceAccountTokenCreator on the account; if you have it, run {LOGIN} "
            "with --impersonate-service-account again."
        )
        return IdToken.parse(_refresh(build, self._request, self.name, step).token or "", self.name)


class _OfAccount:
    """The ID token of an impersonated account; google-auth's own class asks for it by a session that has no bounds."""

    def __init__(self, account: Any, delegates: object, audience: str) -> None:
        self.token: str | None = None
        self._account = account
        self._body = {"audience": audience, "delegates": delegates, "includeEmail": True}

    def refresh(self, request: GoogleRequest) -> None:
        from google.auth import exceptions

        account = self._account
        url = (
            f"https://iamcredentials.{account.universe_domain}/v1/projects/-/serviceAccounts/"
            f"{account.signer_email}:generateIdToken"
        )
        headers = {"content-type": "application/json"}
        account._source_credentials.before_request(request, "POST", url, headers)
        answer = request(url=url, method="POST", body=json.dumps(self._body).encode(), headers=headers)
        said = json_object(answer.data)
        if answer.status != 200:
            raise exceptions.RefreshError(said["error"]["message"])
        self.token = said["token"]


class UserLogin:
    """A person's refresh token (`authorized_user`).

    Google puts the OAuth client's id into the audience of a person's token, whatever was asked for, and Cloud
    Run accepts that for people; so the audience asked for is not used.
    """

    any_audience = False
    mints = True

    def __init__(self, info: Mapping[str, Any], path: Path, request: GoogleRequest | None = None) -> None:
        self.name = f"login in {path}"
        self._info = dict(info)
        missing = [key for key in ("client_id", "client_secret", "refresh_token") if not info.get(key)]
        if missing:
            raise CredentialsFileError(f"{path} has no {', '.join(missing)}. Run {LOGIN} to write it anew.")
        # google-auth ignores the file's token_uri for people; honoured here, as it is for service accounts.
        self._token_uri = str(info.get("token_uri") or GOOGLE_TOKEN_URI)
        self._request = request or request_to(self._token_uri)
        google = self._token_uri == GOOGLE_TOKEN_URI
        self._renew = f"run {LOGIN}" if google else f"have {host_of(self._token_uri)}, which gave it, write {path} anew"

    def fetch(self, audience: str) -> IdToken:
        """Exchange the refresh token."""
        from google.oauth2 import credentials

        def build() -> _Refreshable:
            made: object = credentials.Credentials(  # pyright: ignore[reportUnknownMemberType]
                None,
                refresh_token=self._info["refresh_token"],
                token_uri=self._token_uri,
                client_id=self._info["client_id"],
                client_secret=self._info["client_secret"],
            )
            return cast("_Refreshable", made)

        made = _refresh(build, self._request, self.name, f"The login has ended; {self._renew}.")
        id_token = getattr(made, "id_token", None)
        if not id_token:
            raise CredentialsRefusedError(
                f"The {self.name} gave an access token but no ID token: it lacks the scope openid. "
                f"Run {LOGIN} again without --scopes."
            )
        return IdToken.parse(str(id_token), self.name)


class MetadataServer:
    """The service account that a Cloud Run or Compute Engine instance runs as."""

    name = "metadata server"
    any_audience = True
    mints = True

    def __init__(self, request: GoogleRequest | None = None) -> None:
        self._request = request or request_to("http://localhost")  # never through an HTTP proxy

    def fetch(self, audience: str) -> IdToken:
        """Ask the metadata server, which google-auth finds (`GCE_METADATA_HOST`, `GCE_METADATA_IP`)."""
        from google.auth import compute_engine

        def build() -> _Refreshable:
            made: object = compute_engine.IDTokenCredentials(  # pyright: ignore[reportUnknownMemberType]
                self._request, audience, use_metadata_identity_endpoint=True
            )
            return cast("_Refreshable", made)

        step = "Does the service have a service account? `gcloud run services describe SERVICE` shows it."
        return IdToken.parse(_refresh(build, self._request, self.name, step).token or "", self.name)

    def answers(self) -> bool:
        """Whether there is a metadata server; takes some seconds where there is none."""
        # google-auth's own question. Its public way to ask, fetch_id_token_credentials, would first choose
        # by os.environ, past the environment that default_source was given.
        from google.auth.compute_engine import _metadata  # pyright: ignore[reportPrivateUsage]

        ask = cast("Callable[[GoogleRequest], bool]", _metadata.ping)  # pyright: ignore[reportUnknownMemberType]
        return ask(self._request)


def _has_its_own_token_endpoint(info: Mapping[str, Any]) -> bool:
    host = host_of(str(info.get("token_uri", "")))
    universe = str(info.get("universe_domain") or GOOGLE_UNIVERSE)
    return bool(host) and not any(f".{host}".endswith(f".{domain}") for domain in (GOOGLE_UNIVERSE, universe))


def _refresh(build: Callable[[], _Refreshable], request: GoogleRequest, name: str, step: str) -> _Refreshable:
    """Build google-auth's credentials and refresh them, its errors turned into ours."""
    from google.auth import exceptions

    try:
        made = build()
    except AuthError:
        raise
    except Exception as error:  # whatever google-auth stumbles over is in the file
        raise CredentialsFileError(f"The {name} is not usable: {_first(error)}. {step}") from error
    try:
        made.refresh(request)
    except exceptions.TransportError as error:
        raise _unavailable(name, error) from error
    except exceptions.RefreshError as error:
        if bool(cast("Any", error).retryable) or _caused_by(error, exceptions.TransportError):
            raise _unavailable(name, error) from error
        raise CredentialsRefusedError(f"The {name} was refused: {_first(error)}. {step}") from error
    except Exception as error:  # the endpoint's answer may be anything, and google-auth takes it for what it should be
        said = f"{type(error).__name__}: {_first(error)}"
        raise CredentialsRefusedError(f"The {name} got an answer that holds no token ({said}). {step}") from error
    return made


def _unavailable(name: str, error: Exception) -> TokenEndpointUnavailableError:
    return TokenEndpointUnavailableError(
        f"No token from the {name}: its token endpoint gave no answer that can be used "
        f"({_brief(connection_reason(error))}). Check the network (or that the local cloud is up), then try again."
    )


def _caused_by(error: Exception, kind: type[Exception]) -> bool:
    return isinstance(error.__cause__, kind) or any(isinstance(part, kind) for part in error.args)


def _first(error: Exception) -> str:
    """The first line of an error, without the JSON that google-auth puts behind it."""
    return _brief(str(error.args[0] if error.args else error)) or type(error).__name__


def _brief(text: str) -> str:
    lines = text[: 10 * _SAID_AT_MOST].strip().splitlines()
    return inert(lines[0].rstrip("."), _SAID_AT_MOST) if lines else ""


def google_api(environ: Mapping[str, str]) -> Callable[..., tuple[int, Mapping[str, Any]]]:
    """Asks Google's APIs as this machine's default identity; see `mcpfleet.prerequisites.Api`.

    Raises:
        NoCredentialsError: There are no credentials.
    """
    import google.auth
    from google.auth import exceptions

    endpoints = [value for name, value in environ.items() if name.endswith("_CUSTOM_ENDPOINT")]
    request = request_to(next((one for one in endpoints if is_loopback(host_of(one))), ""))
    try:
        look: Any = google.auth.default  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        credentials: Any = look(scopes=["https://www.googleapis.com/auth/cloud-platform"], request=request)[0]
    except exceptions.DefaultCredentialsError as error:
        raise NoCredentialsError(f"No Google credentials on this machine. Run {LOGIN}.") from error
    if hasattr(credentials, "with_always_use_jwt_access"):
        credentials = credentials.with_always_use_jwt_access(True)  # no token endpoint is asked, on any cloud

    def ask(method: str, url: str, body: Mapping[str, Any] | None = None) -> tuple[int, Mapping[str, Any]]:
        headers: dict[str, str] = {"content-type": "application/json"} if body is not None else {}
        sent = None if body is None else json.dumps(body).encode()
        try:
            credentials.before_request(request, method, url, headers)
            answer = request(url=url, method=method, body=sent, headers=headers)
        except exceptions.TransportError as error:
            raise ConnectionError(_brief(connection_reason(error))) from error
        except Exception as error:  # the token endpoint's answer may be anything
            return 401, {"error": {"message": _first(error)}}
        try:
            found = json_object(answer.data)
        except ValueError:
            found = {}
        return int(answer.status), found

    return ask
