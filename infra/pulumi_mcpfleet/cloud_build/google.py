"""Google's APIs over HTTP: endpoints, tokens, in whose name, and refusals in the words of the API.

Endpoints come from the variables that the Google provider reads (`GOOGLE_CLOUD_BUILD_CUSTOM_ENDPOINT` and its
sisters), so that both always speak to the same cloud.
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
_KEYS: Final = ("GOOGLE_CREDENTIALS", "GOOGLE_CLOUD_KEYFILE_JSON", "GCLOUD_KEYFILE_JSON")


def find_credentials(environ: Mapping[str, str]) -> Any:
    """google-auth's credentials of whoever deploys.

    The stack's config (`gcp:accessToken`, `gcp:credentials`, `gcp:impersonateServiceAccount`) comes before the
    environment, as in the provider.

    Args:
        environ: The variables of this process; the engine puts the stack's config there.

    Raises:
        BuildError: There are none.
    """
    config = _config(environ)
    token = config.get("gcp:accessToken") or environ.get("GOOGLE_OAUTH_ACCESS_TOKEN")
    key = config.get("gcp:credentials") or next((environ[name] for name in _KEYS if environ.get(name)), "")
    try:
        found = _of(token, key)
        account = config.get("gcp:impersonateServiceAccount") or environ.get("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT")
        if account:
            found = impersonated_credentials.Credentials(found, account, [SCOPE])
    except (GoogleAuthError, OSError, ValueError) as error:
        raise BuildError(
            f"no credentials for Google Cloud: {error}. Log in with gcloud auth application-default login, or set"
            " GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    return found


def _of(token: str | None, key: str) -> Any:
    if token:
        return google.oauth2.credentials.Credentials(token)  # pyright: ignore[reportNoUntypedCall]
    if not key:
        load: Any = google.auth
        return load.default(scopes=[SCOPE])[0]
    text = key if key.lstrip().startswith("{") else Path(key).expanduser().read_text(encoding="utf-8")
    read: Any = json.loads(text)
    info = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    account: Any = service_account.Credentials
    person: Any = google.oauth2.credentials.Credentials
    kinds: dict[str, Any] = {
        "service_account": account.from_service_account_info,
        "authorized_user": person.from_authorized_user_info,
    }
    kind = str(info.get("type"))
    if kind not in kinds:
        raise ValueError(f"a key of the type {kind} is read from GOOGLE_APPLICATION_CREDENTIALS alone")
    return kinds[kind](info, scopes=[SCOPE])


def _config(environ: Mapping[str, str]) -> dict[str, str]:
    try:
        found = json.loads(environ.get("PULUMI_CONFIG") or "{}")
    except ValueError:
        return {}
    return cast("dict[str, str]", found) if isinstance(found, dict) else {}


_APIS: Final[Mapping[str, tuple[str, str]]] = {
    "cloudbuild": ("GOOGLE_CLOUD_BUILD_CUSTOM_ENDPOINT", "v1/"),
    "logging": ("GOOGLE_LOGGING_CUSTOM_ENDPOINT", "v2/"),
    "storage": ("GOOGLE_STORAGE_CUSTOM_ENDPOINT", "storage/v1/"),
}
_SECONDS: Final = 60.0
_TRIES: Final = 4
_PASSING: Final = frozenset({429, 500, 502, 503, 504})
"""Answers that Google's clients repeat a request after."""
_GO_ON: Final = 308  # Cloud Storage: the piece is taken, the next may come
_THERE_ALREADY: Final = 412
_CHUNK: Final = 8 * 2**20  # a multiple of 256 KiB, as Cloud Storage wants


class GoogleError(BuildError):
    """An API's refusal.

    Attributes:
        code: The HTTP status.
        reason: The reason in its `ErrorInfo`; empty where there is none.
    """

    def __init__(self, message: str, code: int, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Google:
    """The APIs that a build needs.

    Args:
        environ: Where endpoints may stand.
        credentials: google-auth's credentials.
        wait: Pauses for so many seconds, or raises because the user stops the update.
        transport: What carries the requests; the network where it is None.
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
        """An access token that is valid now.

        Raises:
            BuildError: None can be had.
        """
        if not self._credentials.valid:
            try:
                self._credentials.refresh(Request())
            except GoogleAuthError as error:
                raise BuildError(
                    f"Google gives no token: {error}. Log in again: gcloud auth application-default login"
                ) from None
        return str(self._credentials.token)

    def call(
        self, api: str, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The answer of *api* at *path* below its endpoint.

        Raises:
            GoogleError: It refuses.
            BuildError: It can't be reached.
        """
        return _json(self._send(method, self._bases[api] + path, json=body, params=query))

    def upload(self, bucket: str, name: str, file: Path) -> tuple[str, bool]:
        """Put *file* into *bucket* under *name*, in pieces; its generation, and whether it was not there before.

        Raises:
            GoogleError: Cloud Storage refuses.
            BuildError: It can't be reached.
        """
        # Uploads are below the host's root, whatever the endpoint's path is (Cloud Storage, JSON API).
        root = urlunsplit((*urlsplit(self._bases["storage"])[:2], "", "", ""))
        address = f"{root}/upload/storage/v1/b/{quote(bucket, safe='')}/o"
        query = {"uploadType": "resumable", "name": name, "ifGenerationMatch": "0"}
        kind = {"x-upload-content-type": "application/gzip"}
        try:
            place = self._send("POST", address, json={}, params=query, headers=kind).headers["location"]
        except GoogleError as refusal:
            if refusal.code != _THERE_ALREADY:
                raise
            found = self.call("storage", "GET", _object(bucket, name))
            return str(found["generation"]), False
        try:
            return str(self._pieces(place, file)["generation"]), True
        except BuildError:
            self._once("DELETE", place)  # or what has arrived would stay for a week
            raise

    def delete(self, bucket: str, name: str, generation: str) -> None:
        """Delete an object, without complaint where that is refused: the bucket forgets it by itself."""
        self._once("DELETE", f"{self._bases['storage']}{_object(bucket, name)}?generation={quote(generation, safe='')}")

    def _once(self, method: str, url: str) -> None:
        try:
            self._client.request(method, url, headers=self._authorization(url))
        except (httpx2.TransportError, BuildError):
            return

    def _pieces(self, address: str, file: Path) -> dict[str, Any]:
        size, sent = file.stat().st_size, 0
        with file.open("rb") as content:
            while True:
                piece = content.read(_CHUNK)
                span = f"bytes {sent}-{sent + len(piece) - 1}/{size}"
                answer = self._send("PUT", address, content=piece, headers={"content-range": span})
                sent += len(piece)
                if answer.status_code != _GO_ON or sent >= size:
                    return _json(answer)

    def _authorization(self, url: str) -> dict[str, str]:
        """The token, for the hosts that it is for: an answer says where an upload goes on, and that may be elsewhere.

        The address of an upload is its own credential (Cloud Storage, "Resumable uploads").
        """
        known = {urlsplit(base)[:2] for base in self._bases.values()}
        return {"authorization": f"Bearer {self.token()}"} if urlsplit(url)[:2] in known else {}

    def _send(self, method: str, url: str, **more: Any) -> httpx2.Response:
        headers = {**more.pop("headers", {}), **self._authorization(url)}
        for left in range(_TRIES - 1, -1, -1):
            try:
                answer = self._client.request(method, url, headers=headers, **more)
            except httpx2.TransportError as error:
                if not left:
                    host = urlsplit(url).netloc
                    raise BuildError(f"{host} does not answer: {error}; check the network and try again") from None
            else:
                if answer.is_success or answer.status_code == _GO_ON:
                    return answer
                if answer.status_code not in _PASSING or not left:
                    raise _refusal(answer)
            self._wait(2.0 ** (_TRIES - 1 - left))
        raise AssertionError  # the last try returns or raises


def _object(bucket: str, name: str) -> str:
    return f"b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"


def _json(answer: httpx2.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _refusal(answer: httpx2.Response) -> GoogleError:
    error: Any = _json(answer).get("error")
    if not isinstance(error, dict):
        return GoogleError(f"HTTP {answer.status_code}: {answer.text[:300]}", answer.status_code)
    said = cast("dict[str, Any]", error)
    details: list[dict[str, Any]] = said.get("details") or said.get("errors") or []
    reason = next((str(one["reason"]) for one in details if one.get("reason")), "")
    return GoogleError(str(said.get("message") or answer.status_code), answer.status_code, reason)
