"""Calls to the REST APIs, with the real provider's retries, error texts and operation polling.

The client retries after 429, 500, 502, 503 and a broken connection, for up to 90 s (TPG retry_transport.go). It also
retries a refused connection, but only for 15 s: a local cloud that is restarted during an update is back after a second
or two.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx2

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.config import Config

_RETRIED_CODES: Final = frozenset({429, 500, 502, 503})
_RETRY_SECONDS: Final = 90.0
_REFUSED_RETRY_SECONDS: Final = 15.0
_MAX_PAUSE_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 120.0
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
USER_AGENT: Final = "Pulumi/3.0 (GPN:Pulumi; https://www.pulumi.com) pulumi-gcp/10.2.0"


class ApiError(ProviderError):
    """An error response, with the message of googleapi.Error.

    Attributes:
        code: the HTTP status code.
        is_retry: whether an earlier attempt got no response, so that it may have succeeded.
    """

    def __init__(self, code: int, message_text: str, *, message: str = "", is_retry: bool = False) -> None:
        super().__init__(message_text)
        self.code = code
        self.message = message
        self.is_retry = is_retry

    @property
    def is_not_found(self) -> bool:
        """Whether the resource doesn't exist."""
        return self.code == _NOT_FOUND

    @property
    def is_api_disabled(self) -> bool:
        """Whether the project does not use this API (transport_tpg.IsApiNotEnabledError)."""
        return "SERVICE_DISABLED" in str(self) or "accessNotConfigured" in str(self)

    @property
    def is_created_by_earlier_attempt(self) -> bool:
        """Whether the resource exists because an earlier attempt, which got no response, created it."""
        return self.code == _CONFLICT and self.is_retry


class OperationError(ProviderError):
    """A long-running operation ended in an error."""


class Api:
    """A client of the REST APIs for one configured provider.

    Args:
        config: endpoints and credentials.
        transport: sends the requests; None for the network.
    """

    def __init__(self, config: Config, transport: httpx2.BaseTransport | None = None) -> None:
        self.config = config
        # No proxy and no redirect: these calls stay on this machine.
        self._client = httpx2.Client(transport=transport, timeout=_REQUEST_SECONDS, trust_env=False)
        # Shared by all calls, to wait for a stopped local cloud once, not once per resource.
        self._refused_since: float | None = None

    def send(
        self,
        call: Call,
        method: str,
        endpoint: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        version: str = "",
    ) -> dict[str, Any]:
        """Send one request, and retry while the API is busy or unreachable.

        Args:
            call: the operation's context.
            method: GET, POST, PATCH or DELETE.
            endpoint: the config key of the API's base URL (`cloudRunV2CustomEndpoint`).
            path: the path below the base URL.
            body: the JSON body, or None.
            query: parameters other than `alt`.
            version: replaces the base URL's last segment, as Google's Go clients do (RemoveBasePathVersion).

        Raises:
            ApiError: the API returned an error.
            ProviderError: no response for 90 s, connections refused for 15 s, or no endpoint is set.
        """
        base = self.config.endpoint(endpoint)
        url = (f"{base.rstrip('/').rpartition('/')[0]}/{version}/" if version else base) + path
        started, pause, is_retry = call.clock(), 0.1, False
        while True:
            call.raise_if_stopped()
            error, response = self._try_once(method, url, body, query)
            if response is not None and response.status_code not in _RETRIED_CODES and not _is_busy(response):
                self._refused_since = None
                return _read_response(response, is_retry=is_retry)
            if isinstance(error, httpx2.ConnectError):
                failing_since, retry_seconds = self._note_refusal(call.clock()), _REFUSED_RETRY_SECONDS
            else:
                failing_since, retry_seconds = started, _RETRY_SECONDS
                self._refused_since = None
                is_retry = is_retry or response is None
            if call.clock() - failing_since > retry_seconds:
                if response is not None:
                    return _read_response(response, is_retry=is_retry)
                raise ProviderError(
                    f"{method} {url}: no answer for {retry_seconds:.0f} s: {error}. Is the local cloud running?"
                )
            call.wait(pause)
            pause = min(pause * 1.6, _MAX_PAUSE_SECONDS)

    def _note_refusal(self, now: float) -> float:
        """Record that a connection was refused; returns the time of the first refusal in a row."""
        if self._refused_since is None:
            self._refused_since = now
        return self._refused_since

    def upload(
        self, call: Call, endpoint: str, path: str, content: bytes, content_type: str, query: Mapping[str, str]
    ) -> dict[str, Any]:
        """POST *content* to *path* on the API's host; Google's clients upload to the host's root, not to the base URL.

        Raises:
            ApiError: the API returned an error.
            ProviderError: no response, or no endpoint is set.
        """
        call.raise_if_stopped()
        parts = urlsplit(self.config.endpoint(endpoint))
        url = f"{parts.scheme}://{parts.netloc}{path}"
        headers = {
            "Authorization": f"Bearer {self.bearer_token()}",
            "User-Agent": USER_AGENT,
            "Content-Type": content_type,
        }
        try:
            response = self._client.post(url, params={"alt": "json", **query}, content=content, headers=headers)
        except httpx2.TransportError as error:
            raise ProviderError(f"POST {url}: no answer: {error}. Is the local cloud running?") from error
        return _read_response(response, is_retry=False)

    def _try_once(
        self, method: str, url: str, body: Any, query: Mapping[str, str] | None
    ) -> tuple[Exception | None, httpx2.Response | None]:
        headers = {
            "Authorization": f"Bearer {self.bearer_token()}",
            "User-Agent": USER_AGENT,
            "Content-Type": "application/json",
        }
        if self.config.user_project:
            headers["X-Goog-User-Project"] = self.config.user_project
        content = None if body is None else json.dumps(body, sort_keys=True).encode()
        try:
            return None, self._client.request(
                method, url, params={"alt": "json", **(query or {})}, content=content, headers=headers
            )
        except httpx2.TransportError as error:
            return error, None

    def bearer_token(self) -> str:
        """The access token for calls."""
        return self.config.credentials.bearer_token(self._exchange)

    def _exchange(self, token_uri: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            response = self._client.post(token_uri, data=dict(form))
        except httpx2.TransportError as error:
            raise ProviderError(f"oauth2: cannot fetch token from {token_uri}: {error}") from error
        if response.is_error:
            raise ProviderError(f"oauth2: cannot fetch token: {response.status_code}\nResponse: {response.text}")
        return response.json()

    def wait_for_operation(
        self, call: Call, endpoint: str, operation: Mapping[str, Any], activity: str
    ) -> dict[str, Any]:
        """Wait until a long-running operation is done.

        Args:
            call: the operation's context.
            endpoint: the config key of the API's base URL, which has the operations too.
            operation: the response with the operation.
            activity: for the error text, as in `Creating Service`.

        Returns:
            The operation's response.

        Raises:
            OperationError: the operation ended in an error.
            CancelledError: the user stopped the update; the operation continues.
        """
        pause, not_found_since = 0.05, None
        while not operation.get("done"):
            try:
                operation = self.send(call, "GET", endpoint, str(operation["name"]))
                not_found_since = None
            except ApiError as error:
                # A local cloud that was just restarted may not have loaded the operation yet.
                not_found_since = not_found_since or time.monotonic()
                if not error.is_not_found or time.monotonic() - not_found_since > _RETRY_SECONDS:
                    raise
            if not operation.get("done"):
                call.wait(pause)
                pause = min(pause * 1.5, self.config.poll_interval, 1.0)
        failed = cast("Mapping[str, Any] | None", operation.get("error"))
        if failed:
            code, message = failed.get("code"), failed.get("message")
            raise OperationError(f"Error waiting for {activity}: Error code {code}, message: {message}")
        return operation.get("response") or {}

    def wait_for_compute_operation(
        self, call: Call, endpoint: str, operation: Mapping[str, Any], activity: str
    ) -> None:
        """Wait until an operation of Compute Engine is done (TPG compute_operation.go).

        Raises:
            OperationError: the operation ended in an error.
        """
        pause = 0.05
        while operation.get("status") != "DONE":
            call.wait(pause)
            pause = min(pause * 1.5, self.config.poll_interval, 1.0)
            operation = self.send(call, "GET", endpoint, str(operation["selfLink"]).partition("/compute/v1/")[2])
        failed = cast("Mapping[str, Any]", operation.get("error") or {})
        errors = cast("list[Mapping[str, Any]]", failed.get("errors") or [])
        if errors:
            messages = "\n\t".join(str(error.get("message")) for error in errors)
            raise OperationError(f"Error waiting for {activity}: {messages}")


def _is_busy(response: httpx2.Response) -> bool:
    """Whether an error response asks for a retry (TPG error_retry_predicates.go)."""
    text = response.text if response.is_error else ""
    return (response.status_code == _CONFLICT and "operationInProgress" in text) or (
        "Another activation or deactivation is in progress" in text or ("CONCURRENT_OPERATIONS_QUOTA_EXCEEDED" in text)
    )


def _read_response(response: httpx2.Response, *, is_retry: bool) -> dict[str, Any]:
    if not response.is_error and not response.is_redirect:
        return cast("dict[str, Any]", response.json()) if response.content else {}
    try:
        error = cast("dict[str, Any]", response.json()["error"])
        raise ApiError(
            response.status_code, _format_error(error), message=str(error.get("message", "")), is_retry=is_retry
        )
    except (ValueError, KeyError, TypeError):
        text = f"googleapi: got HTTP response code {response.status_code} with body: {response.text}"
        raise ApiError(response.status_code, text, is_retry=is_retry) from None


def _format_error(error: Mapping[str, Any]) -> str:
    """The message of googleapi.Error (google-api-go-client googleapi.go)."""
    message = str(error.get("message", ""))
    text = f"googleapi: Error {error.get('code')}: {message}"
    if error.get("details"):
        text += "\nDetails:\n" + json.dumps(error["details"], indent=2)
    reasons = cast("list[dict[str, Any]]", error.get("errors") or [])
    if len(reasons) == 1 and reasons[0].get("message") == message:
        text += f", {reasons[0].get('reason')}"
    elif reasons:
        lines = [f"Reason: {reason.get('reason')}, Message: {reason.get('message')}" for reason in reasons]
        text += "\nMore details:\n" + "\n".join(lines)
    return text


def retry_conflicts(call: Call, change: Callable[[], None]) -> None:
    """Call *change*, which reads, modifies and writes a policy, again after write conflicts, for up to 30 seconds."""
    started, pause = time.monotonic(), 0.1
    while True:
        try:
            return change()
        except ApiError as error:
            if error.code not in (_CONFLICT, 412) or time.monotonic() - started > 30:
                raise
        call.wait(pause)
        pause = min(pause * 2, _MAX_PAUSE_SECONDS)
