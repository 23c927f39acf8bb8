"""Google's own token sources: key file, impersonation, a person's login, metadata server.

Only this module and its transport (`mcpfleet.google_transport`) use google-auth. That package has few annotations, so
two small types stand for its own (`GoogleRequest`, `_Refreshable`). Its errors become an `AuthError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from mcpfleet.bounds import parse_json_object
from mcpfleet.errors import (
    AuthError,
    CredentialsFileError,
    CredentialsRefusedError,
    NoCredentialsError,
    TokenEndpointUnavailableError,
    UsageError,
)
from mcpfleet.google_transport import GoogleRequest, request_for
from mcpfleet.inert import inert
from mcpfleet.net import connection_reason, is_loopback, parse_host
from mcpfleet.tokens import IdToken

GOOGLE_UNIVERSE = "googleapis.com"
GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address, not a secret

LOGIN = "`gcloud auth application-default login`"

_QUOTED_CHARACTERS = 300
"""The most characters of an endpoint's error that a message quotes."""


class _Refreshable(Protocol):
    """The part of google-auth's credentials that this module uses."""

    token: str | None

    def refresh(self, request: GoogleRequest) -> None: ...


class ServiceAccountKey:
    """A service account's key file. It has tokens for any audience.

    Args:
        info: The file's JSON.
        path: The file, for messages.
        request: The HTTP transport; `mcpfleet.google_transport` if not given.
    """

    any_audience = True
    issues_fresh_tokens = True

    def __init__(self, info: Mapping[str, Any], path: Path, request: GoogleRequest | None = None) -> None:
        self.name = f"service account key {path}"
        self._info = dict(info)
        if _has_its_own_token_endpoint(info):
            # google-auth uses iamcredentials.<universe> for keys of another universe, and ignores their
            # token_uri. A token_uri outside of both universes was set on purpose, so it is used.
            self._info["universe_domain"] = GOOGLE_UNIVERSE
        self._request = request or request_for(str(info.get("token_uri", "")))

    def fetch(self, audience: str) -> IdToken:
        """Exchange a signed assertion for a token at the file's `token_uri`."""
        from google.oauth2 import service_account

        def build() -> _Refreshable:
            credentials: object = service_account.IDTokenCredentials.from_service_account_info(  # pyright: ignore[reportUnknownMemberType]
                self._info, target_audience=audience
            )
            return cast("_Refreshable", credentials)

        step = "Check that the key is enabled; create a new one, or set GOOGLE_APPLICATION_CREDENTIALS to another file."
        return IdToken.parse(_refresh(build, self._request, self.name, step).token or "", self.name)


class ImpersonatedAccount:
    """A file that `gcloud auth application-default login --impersonate-service-account=…` writes."""

    any_audience = True
    issues_fresh_tokens = True

    def __init__(self, info: Mapping[str, Any], path: Path, request: GoogleRequest | None = None) -> None:
        self.name = f"impersonated service account of {path}"
        self._info = dict(info)
        self._request = request or request_for("")

    def fetch(self, audience: str) -> IdToken:
        """Get the impersonated account's token from IAM Credentials."""
        from google.auth import impersonated_credentials

        def build() -> _Refreshable:
            account: Any = impersonated_credentials.Credentials.from_impersonated_service_account_info(  # pyright: ignore[reportUnknownMemberType]
                self._info
            )
            return _ImpersonatedCredentials(account, self._info.get("delegates"), audience)

        step = (
            f"You need roles/iam.serviceAccountTokenCreator on the account; if you have it, run {LOGIN} "
            "with --impersonate-service-account again."
        )
        return IdToken.parse(_refresh(build, self._request, self.name, step).token or "", self.name)


class _ImpersonatedCredentials:
    """The ID token of an impersonated account. google-auth's own class uses an HTTP session without limits."""

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
        response = request(url=url, method="POST", body=json.dumps(self._body).encode(), headers=headers)
        body = parse_json_object(response.data)
        if response.status != 200:
            raise exceptions.RefreshError(body["error"]["message"])
        self.token = body["token"]


class UserLogin:
    """A person's refresh token (`authorized_user`).

    Google always sets the audience of a person's token to the OAuth client's id, and Cloud Run accepts that for
    people. So the requested audience is not used.
    """

    any_audience = False
    issues_fresh_tokens = True

    def __init__(self, info: Mapping[str, Any], path: Path, request: GoogleRequest | None = None) -> None:
        self.name = f"login in {path}"
        self._info = dict(info)
        missing = [key for key in ("client_id", "client_secret", "refresh_token") if not info.get(key)]
        if missing:
            raise CredentialsFileError(f"{path} has no {', '.join(missing)}. Run {LOGIN} to write it again.")
        # google-auth ignores the file's token_uri for people. It is used here, as for service accounts.
        self._token_uri = str(info.get("token_uri") or GOOGLE_TOKEN_URI)
        self._request = request or request_for(self._token_uri)
        is_google = self._token_uri == GOOGLE_TOKEN_URI
        self._renew_step = (
            f"run {LOGIN}" if is_google else f"have {parse_host(self._token_uri)}, which gave it, write {path} anew"
        )

    def fetch(self, audience: str) -> IdToken:
        """Exchange the refresh token."""
        from google.oauth2 import credentials

        def build() -> _Refreshable:
            user_credentials: object = credentials.Credentials(  # pyright: ignore[reportUnknownMemberType]
                None,
                refresh_token=self._info["refresh_token"],
                token_uri=self._token_uri,
                client_id=self._info["client_id"],
                client_secret=self._info["client_secret"],
            )
            return cast("_Refreshable", user_credentials)

        refreshed = _refresh(build, self._request, self.name, f"The login has expired; {self._renew_step}.")
        id_token = getattr(refreshed, "id_token", None)
        if not id_token:
            raise CredentialsRefusedError(
                f"The {self.name} gives an access token but no ID token: it lacks the scope openid. "
                f"Run {LOGIN} again without --scopes."
            )
        return IdToken.parse(str(id_token), self.name)


class MetadataServer:
    """The service account that a Cloud Run or Compute Engine instance runs as."""

    name = "metadata server"
    any_audience = True
    issues_fresh_tokens = True

    def __init__(self, request: GoogleRequest | None = None) -> None:
        self._request = request or request_for("http://localhost")  # never through an HTTP proxy

    def fetch(self, audience: str) -> IdToken:
        """Get a token from the metadata server, which google-auth finds (`GCE_METADATA_HOST`, `GCE_METADATA_IP`)."""
        from google.auth import compute_engine

        def build() -> _Refreshable:
            credentials: object = compute_engine.IDTokenCredentials(  # pyright: ignore[reportUnknownMemberType]
                self._request, audience, use_metadata_identity_endpoint=True
            )
            return cast("_Refreshable", credentials)

        step = "Check that the service has a service account: `gcloud run services describe SERVICE`."
        return IdToken.parse(_refresh(build, self._request, self.name, step).token or "", self.name)

    def is_available(self) -> bool:
        """Return whether there is a metadata server. Takes some seconds if there is none."""
        # google-auth's own check. Its public function fetch_id_token_credentials would read os.environ first, and
        # not the environment that default_source got.
        from google.auth.compute_engine import _metadata  # pyright: ignore[reportPrivateUsage]

        ask = cast("Callable[[GoogleRequest], bool]", _metadata.ping)  # pyright: ignore[reportUnknownMemberType]
        return ask(self._request)


def _has_its_own_token_endpoint(info: Mapping[str, Any]) -> bool:
    host = parse_host(str(info.get("token_uri", "")))
    universe = str(info.get("universe_domain") or GOOGLE_UNIVERSE)
    return bool(host) and not any(f".{host}".endswith(f".{domain}") for domain in (GOOGLE_UNIVERSE, universe))


def _refresh(build: Callable[[], _Refreshable], request: GoogleRequest, name: str, step: str) -> _Refreshable:
    """Create google-auth's credentials and refresh them; its errors become an AuthError."""
    from google.auth import exceptions

    try:
        credentials = build()
    except AuthError:
        raise
    except Exception as error:  # any error of google-auth here has its cause in the file
        raise CredentialsFileError(f"The {name} is not valid: {_first_line(error)}. {step}") from error
    try:
        credentials.refresh(request)
    except exceptions.TransportError as error:
        raise _unavailable(name, error) from error
    except exceptions.RefreshError as error:
        if bool(cast("Any", error).retryable) or _caused_by(error, exceptions.TransportError):
            raise _unavailable(name, error) from error
        raise CredentialsRefusedError(f"The {name} was refused: {_first_line(error)}. {step}") from error
    except Exception as error:  # the response may be anything, and google-auth does not check it
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise CredentialsRefusedError(f"The {name} got a response without a token ({reason}). {step}") from error
    return credentials


def _unavailable(name: str, error: Exception) -> TokenEndpointUnavailableError:
    return TokenEndpointUnavailableError(
        f"No token from the {name}: its token endpoint gave no usable response "
        f"({_shorten(connection_reason(error))}). Check the network (or that the local cloud is up), then try again."
    )


def _caused_by(error: Exception, kind: type[Exception]) -> bool:
    return isinstance(error.__cause__, kind) or any(isinstance(part, kind) for part in error.args)


def _first_line(error: Exception) -> str:
    """The first line of an error, without the JSON that google-auth appends."""
    return _shorten(str(error.args[0] if error.args else error)) or type(error).__name__


def _shorten(text: str) -> str:
    lines = text[: 10 * _QUOTED_CHARACTERS].strip().splitlines()
    return inert(lines[0].rstrip("."), _QUOTED_CHARACTERS) if lines else ""


def google_api(
    environ: Mapping[str, str], key_file: Path | None = None, universe: str = GOOGLE_UNIVERSE
) -> Callable[..., tuple[int, Mapping[str, Any]]]:
    """Create a function that calls Google's APIs (`mcpfleet.prerequisites.Api`).

    Args:
        environ: The environment, which may name other endpoints.
        key_file: The key of a service account to call as; None: this machine's default identity.
        universe: The universe domain of the APIs. The default identity of this machine must belong to it.

    Raises:
        UsageError: The default identity belongs to another universe, whose APIs must not get its tokens.
        NoCredentialsError: There are no credentials.
        CredentialsFileError: The key file is not valid.
    """
    import google.auth
    from google.auth import exceptions
    from google.oauth2 import service_account

    endpoints = [value for name, value in environ.items() if name.endswith("_CUSTOM_ENDPOINT")]
    request = request_for(next((endpoint for endpoint in endpoints if is_loopback(parse_host(endpoint))), ""))
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials: Any
    try:
        if key_file is not None:
            from_key_file: Any = service_account.Credentials.from_service_account_file  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            credentials = from_key_file(str(key_file), scopes=scopes)
        else:
            find_default: Any = google.auth.default  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            credentials = find_default(scopes=scopes, request=request)[0]
    except (OSError, ValueError) as error:
        raise CredentialsFileError(f"{key_file} is not the key of a service account: {_first_line(error)}.") from error
    except exceptions.DefaultCredentialsError as error:
        raise NoCredentialsError(f"No Google credentials on this machine. Run {LOGIN}.") from error
    # For Google's own universe nothing is asked: the property may need a request to the metadata server.
    if key_file is None and universe != GOOGLE_UNIVERSE and (own := str(credentials.universe_domain)) != universe:
        raise UsageError(
            f"The APIs are in the universe {inert(universe, 100)}, and the login of this machine is for"
            f" {inert(own, 100)}. Nothing was sent. If that universe is yours, log in to it; otherwise, correct"
            " gcp:universeDomain in the stack's file."
        )
    if hasattr(credentials, "with_always_use_jwt_access"):
        credentials = credentials.with_always_use_jwt_access(True)  # no token endpoint is needed, on any cloud

    def send(method: str, url: str, body: Mapping[str, Any] | None = None) -> tuple[int, Mapping[str, Any]]:
        headers: dict[str, str] = {"content-type": "application/json"} if body is not None else {}
        content = None if body is None else json.dumps(body).encode()
        try:
            credentials.before_request(request, method, url, headers)
            response = request(url=url, method=method, body=content, headers=headers)
        except exceptions.TransportError as error:
            raise ConnectionError(_shorten(connection_reason(error))) from error
        except Exception as error:  # the token endpoint's response may be anything
            return 401, {"error": {"message": _first_line(error)}}
        try:
            result = parse_json_object(response.data)
        except ValueError:
            result = {}
        return int(response.status), result

    return send
