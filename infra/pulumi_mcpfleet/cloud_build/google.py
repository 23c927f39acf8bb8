"""Google's APIs over HTTP: endpoints, credentials, retries and errors.

Endpoints come from the variables that the Google provider reads (`GOOGLE_CLOUD_BUILD_CUSTOM_ENDPOINT` and similar), so
that both always use the same cloud.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit, urlunsplit

import google.auth
import google.oauth2.credentials
import httpx2
from google.auth import impersonated_credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from pulumi_mcpfleet.cloud_build.errors import BuildError

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_KEY_VARIABLES: Final = ("GOOGLE_CREDENTIALS", "GOOGLE_CLOUD_KEYFILE_JSON", "GCLOUD_KEYFILE_JSON")


def find_credentials(environ: Mapping[str, str]) -> Any:
    """Return google-auth's credentials of the deployer.

    The stack's config (`gcp:accessToken`, `gcp:credentials`, `gcp:impersonateServiceAccount`) takes precedence over the
    environment, as in the Google provider.

    Args:
        environ: The environment of this process. The engine puts the stack's config there.

    Raises:
        BuildError: There are no credentials, or they can't be read.
    """
    config = _stack_config(environ)
    token = config.get("gcp:accessToken") or environ.get("GOOGLE_OAUTH_ACCESS_TOKEN")
    key = config.get("gcp:credentials") or next((environ[name] for name in _KEY_VARIABLES if environ.get(name)), "")
    try:
        credentials = _load_credentials(token, key)
        account = config.get("gcp:impersonateServiceAccount") or environ.get("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT")
        if account:
            credentials = impersonated_credentials.Credentials(credentials, account, [SCOPE])
    except (GoogleAuthError, OSError, ValueError) as error:
        raise BuildError(
            f"no credentials for Google Cloud: {error}. Log in with gcloud auth application-default login, or set"
            " GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    return credentials


def _load_credentials(token: str | None, key: str) -> Any:
    if token:
        return google.oauth2.credentials.Credentials(token)  # pyright: ignore[reportNoUntypedCall]
    if not key:
        load: Any = google.auth
        return load.default(scopes=[SCOPE])[0]
    text = key if key.lstrip().startswith("{") else Path(key).expanduser().read_text(encoding="utf-8")
    parsed: Any = json.loads(text)
    info = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
    account: Any = service_account.Credentials
    person: Any = google.oauth2.credentials.Credentials
    loaders: dict[str, Any] = {
        "service_account": account.from_service_account_info,
        "authorized_user": person.from_authorized_user_info,
    }
    key_type = str(info.get("type"))
    if key_type not in loaders:
        raise ValueError(f"a key of the type {key_type} is supported only in GOOGLE_APPLICATION_CREDENTIALS")
    return loaders[key_type](info, scopes=[SCOPE])


def _stack_config(environ: Mapping[str, str]) -> dict[str, str]:
    try:
        config = json.loads(environ.get("PULUMI_CONFIG") or "{}")
    except ValueError:
        return {}
    return cast("dict[str, str]", config) if isinstance(config, dict) else {}


_APIS: Final[Mapping[str, tuple[str, str]]] = {
    "cloudbuild": ("GOOGLE_CLOUD_BUILD_CUSTOM_ENDPOINT", "v1/"),
    "logging": ("GOOGLE_LOGGING_CUSTOM_ENDPOINT", "v2/"),
    "storage": ("GOOGLE_STORAGE_CUSTOM_ENDPOINT", "storage/v1/"),
}
_SECONDS: Final = 60.0
_ATTEMPTS: Final = 4
_RETRIED_STATUSES: Final = frozenset({429, 500, 502, 503, 504})
"""HTTP statuses after which Google's own clients repeat a request."""
_RESUME_INCOMPLETE: Final = 308  # Cloud Storage: the chunk is stored, send the next one
_PRECONDITION_FAILED: Final = 412
_CHUNK: Final = 8 * 2**20  # a multiple of 256 KiB, as Cloud Storage requires


class GoogleError(BuildError):
    """An error that one of Google's APIs returned.

    Attributes:
        code: The HTTP status.
        reason: The reason in its `ErrorInfo`; empty if there is none.
    """

    def __init__(self, message: str, code: int, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class GoogleApis:
    """The Google APIs that a build needs.

    Args:
        environ: The environment, which may name endpoints.
        credentials: google-auth's credentials.
        wait: Waits for a number of seconds, or raises `CancelledError` if the user stops the update.
        transport: The HTTP transport; None for the network.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        credentials: Any,
        wait: Callable[[float], None],
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._credentials = credentials
        self._wait = wait
        universe = getattr(credentials, "universe_domain", "") or "googleapis.com"
        self._bases = {
            api: environ.get(variable) or f"https://{api}.{universe}/{path}" for api, (variable, path) in _APIS.items()
        }
        loopback = (urlsplit(self._bases["cloudbuild"]).hostname or "").startswith("127.")
        self._client = httpx2.Client(transport=transport, timeout=_SECONDS, trust_env=not loopback)

    def token(self) -> str:
        """Return a valid access token.

        Raises:
            BuildError: Google issues no token.
        """
        if not self._credentials.valid:
            try:
                self._credentials.refresh(Request())
            except GoogleAuthError as error:
                raise BuildError(
                    f"Google issues no token: {error}. Log in again: gcloud auth application-default login"
                ) from None
        return str(self._credentials.token)

    def call(
        self, api: str, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Call *api* at *path* below its endpoint, and return the body of the response.

        Raises:
            GoogleError: The API returned an error.
            BuildError: The API can't be reached.
        """
        return _read_json(self._send(method, self._bases[api] + path, json=body, params=query))

    def upload(self, bucket: str, name: str, file: Path) -> tuple[str, bool]:
        """Upload *file* to *bucket* as the object *name*. Return the object's generation, and whether it is new.

        Raises:
            GoogleError: Cloud Storage returned an error.
            BuildError: The API can't be reached.
        """
        # The path of uploads begins at the host's root, whatever the endpoint's path is (Cloud Storage, JSON API).
        root = urlunsplit((*urlsplit(self._bases["storage"])[:2], "", "", ""))
        address = f"{root}/upload/storage/v1/b/{quote(bucket, safe='')}/o"
        query = {"uploadType": "resumable", "name": name, "ifGenerationMatch": "0"}
        headers = {"x-upload-content-type": "application/gzip"}
        try:
            upload_url = self._send("POST", address, json={}, params=query, headers=headers).headers["location"]
        except GoogleError as refusal:
            if refusal.code != _PRECONDITION_FAILED:
                raise
            existing = self.call("storage", "GET", _object_path(bucket, name))
            return str(existing["generation"]), False
        try:
            return str(self._upload_chunks(upload_url, file)["generation"]), True
        except BuildError:
            self._send_once("DELETE", upload_url)  # otherwise the partial upload would stay for a week
            raise

    def delete(self, bucket: str, name: str, generation: str) -> None:
        """Delete an object. Errors are ignored: the bucket's lifecycle rule deletes the object later."""
        self._send_once(
            "DELETE", f"{self._bases['storage']}{_object_path(bucket, name)}?generation={quote(generation, safe='')}"
        )

    def _send_once(self, method: str, url: str) -> None:
        try:
            self._client.request(method, url, headers=self._authorization(url))
        except (httpx2.TransportError, BuildError):
            return

    def _upload_chunks(self, address: str, file: Path) -> dict[str, Any]:
        size, sent = file.stat().st_size, 0
        with file.open("rb") as content:
            while True:
                chunk = content.read(_CHUNK)
                span = f"bytes {sent}-{sent + len(chunk) - 1}/{size}"
                response = self._send("PUT", address, content=chunk, headers={"content-range": span})
                sent += len(chunk)
                if response.status_code != _RESUME_INCOMPLETE or sent >= size:
                    return _read_json(response)

    def _authorization(self, url: str) -> dict[str, str]:
        """Return the token's header for *url* if it is an endpoint's host, else no header.

        A response names the URL of an upload, which can be on another host. That URL is a credential by itself (Cloud
        Storage, "Resumable uploads").
        """
        hosts = {urlsplit(base)[:2] for base in self._bases.values()}
        return {"authorization": f"Bearer {self.token()}"} if urlsplit(url)[:2] in hosts else {}

    def _send(self, method: str, url: str, **options: Any) -> httpx2.Response:
        headers = {**options.pop("headers", {}), **self._authorization(url)}
        for attempts_left in range(_ATTEMPTS - 1, -1, -1):
            try:
                response = self._client.request(method, url, headers=headers, **options)
            except httpx2.TransportError as error:
                if not attempts_left:
                    host = urlsplit(url).netloc
                    raise BuildError(f"can't reach {host}: {error}; check the network and try again") from None
            else:
                if response.is_success or response.status_code == _RESUME_INCOMPLETE:
                    return response
                if response.status_code not in _RETRIED_STATUSES or not attempts_left:
                    raise _to_error(response)
            self._wait(2.0 ** (_ATTEMPTS - 1 - attempts_left))
        raise AssertionError  # the last attempt returns or raises


def _object_path(bucket: str, name: str) -> str:
    return f"b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"


def _read_json(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


def _to_error(response: httpx2.Response) -> GoogleError:
    error: Any = _read_json(response).get("error")
    if not isinstance(error, dict):
        return GoogleError(f"HTTP {response.status_code}: {response.text[:300]}", response.status_code)
    fields = cast("dict[str, Any]", error)
    details: list[dict[str, Any]] = fields.get("details") or fields.get("errors") or []
    reason = next((str(detail["reason"]) for detail in details if detail.get("reason")), "")
    return GoogleError(str(fields.get("message") or response.status_code), response.status_code, reason)
