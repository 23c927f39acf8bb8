"""Calls to the REST APIs, with the real provider's retries, error texts and operation polling.

429, 502, 503 and a broken connection are tried again for a while (TPG retry_transport.go: up to 90 s). 500 is tried
again too, as there. A local cloud may be killed and started again while an update runs, which takes a second or two, so
that a refused connection is tried again as well, but not for so long: after that nobody is starting it.
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
_REFUSED_SECONDS: Final = 15.0
_LONGEST_PAUSE: Final = 2.0
_REQUEST_SECONDS: Final = 120.0
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
USER_AGENT: Final = "Pulumi/3.0 (GPN:Pulumi; https://www.pulumi.com) pulumi-gcp/10.2.0"


class ApiError(ProviderError):
    """An error answer, in the words of googleapi.Error.

    Attributes:
        code: the HTTP status code.
        repeated: whether the request was sent before without an answer, so that it may have worked.
    """

    def __init__(self, code: int, text: str, *, message: str = "", repeated: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.message = message
        self.repeated = repeated

    @property
    def missing(self) -> bool:
        """Whether there is no such resource."""
        return self.code == _NOT_FOUND

    @property
    def api_disabled(self) -> bool:
        """Whether the project does not use this API (transport_tpg.IsApiNotEnabledError)."""
        return "SERVICE_DISABLED" in str(self) or "accessNotConfigured" in str(self)

    @property
    def exists_by_our_doing(self) -> bool:
        """Whether it exists because an earlier try of the same request worked before the connection broke."""
        return self.code == _CONFLICT and self.repeated


class OperationError(ProviderError):
    """A long-running operation ended in an error."""


class Api:
    """The APIs as one configured provider sees them.

    Args:
        config: endpoints and credentials.
        transport: what carries the requests; the network when None.
    """

    def __init__(self, config: Config, transport: httpx2.BaseTransport | None = None) -> None:
        self.config = config
        # No proxy and no redirect: these calls stay on this machine.
        self._client = httpx2.Client(transport=transport, timeout=_REQUEST_SECONDS, trust_env=False)
        # Of all calls together: a cloud that is gone is waited for once, not once for each resource.
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
        """One request, retried while the API is busy or away.

        Args:
            call: the operation's bounds.
            method: GET, POST, PATCH or DELETE.
            endpoint: the config key of the API's base URL (`cloudRunV2CustomEndpoint`).
            path: below the base URL.
            body: the JSON body, None for none.
            query: parameters besides `alt`.
            version: takes the place of the base URL's last segment, as Google's Go clients do (RemoveBasePathVersion).

        Raises:
            ApiError: the API refused.
            ProviderError: it did not answer for 90 seconds, nothing listened there for 15, or no endpoint is set.
        """
        base = self.config.endpoint(endpoint)
        url = (f"{base.rstrip('/').rpartition('/')[0]}/{version}/" if version else base) + path
        started, pause, repeated = call.clock(), 0.1, False
        while True:
            call.check()
            problem, answer = self._try(method, url, body, query)
            if answer is not None and answer.status_code not in _RETRIED_CODES and not _busy(answer):
                self._refused_since = None
                return _result(answer, repeated=repeated)
            if isinstance(problem, httpx2.ConnectError):
                since, patience = self._refused(call.clock()), _REFUSED_SECONDS
            else:
                since, patience = started, _RETRY_SECONDS
                self._refused_since = None
                repeated = repeated or answer is None
            if call.clock() - since > patience:
                if answer is not None:
                    return _result(answer, repeated=repeated)
                raise ProviderError(
                    f"{method} {url}: no answer for {patience:.0f} s: {problem}. Is the local cloud running?"
                )
            call.wait(pause)
            pause = min(pause * 1.6, _LONGEST_PAUSE)

    def _refused(self, now: float) -> float:
        """Since when nothing listens there."""
        if self._refused_since is None:
            self._refused_since = now
        return self._refused_since

    def upload(
        self, call: Call, endpoint: str, path: str, content: bytes, kind: str, query: Mapping[str, str]
    ) -> dict[str, Any]:
        """Send *content* of the type *kind* to *path* of the API's host: Google's clients upload to its root.

        Raises:
            ApiError: the API refused.
            ProviderError: it did not answer, or no endpoint is set.
        """
        call.check()
        parts = urlsplit(self.config.endpoint(endpoint))
        url = f"{parts.scheme}://{parts.netloc}{path}"
        headers = {"Authorization": f"Bearer {self.bearer()}", "User-Agent": USER_AGENT, "Content-Type": kind}
        try:
            answer = self._client.post(url, params={"alt": "json", **query}, content=content, headers=headers)
        except httpx2.TransportError as error:
            raise ProviderError(f"POST {url}: no answer: {error}. Is the local cloud running?") from error
        return _result(answer, repeated=False)

    def _try(
        self, method: str, url: str, body: Any, query: Mapping[str, str] | None
    ) -> tuple[Exception | None, httpx2.Response | None]:
        headers = {
            "Authorization": f"Bearer {self.bearer()}",
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

    def bearer(self) -> str:
        """The token that calls are made with."""
        return self.config.credentials.bearer(self._exchange)

    def _exchange(self, token_uri: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            answer = self._client.post(token_uri, data=dict(form))
        except httpx2.TransportError as error:
            raise ProviderError(f"oauth2: cannot fetch token from {token_uri}: {error}") from error
        if answer.is_error:
            raise ProviderError(f"oauth2: cannot fetch token: {answer.status_code}\nResponse: {answer.text}")
        return answer.json()

    def finish(self, call: Call, endpoint: str, operation: Mapping[str, Any], activity: str) -> dict[str, Any]:
        """Wait until a long-running operation is done.

        Args:
            call: the operation's bounds.
            endpoint: the config key of the API's base URL; operations are polled there.
            operation: the answer that named it.
            activity: for the error text, as in `Creating Service`.

        Returns:
            The operation's response.

        Raises:
            OperationError: it ended in an error.
            CancelledError: the user stopped the update; the operation goes on.
        """
        pause, lost_since = 0.05, None
        while not operation.get("done"):
            try:
                operation = self.send(call, "GET", endpoint, str(operation["name"]))
                lost_since = None
            except ApiError as error:
                # A cloud that was just started again may not know the operation yet.
                lost_since = lost_since or time.monotonic()
                if not error.missing or time.monotonic() - lost_since > _RETRY_SECONDS:
                    raise
            if not operation.get("done"):
                call.wait(pause)
                pause = min(pause * 1.5, self.config.poll_interval, 1.0)
        failed = cast("Mapping[str, Any] | None", operation.get("error"))
        if failed:
            code, message = failed.get("code"), failed.get("message")
            raise OperationError(f"Error waiting for {activity}: Error code {code}, message: {message}")
        return operation.get("response") or {}

    def finish_compute(self, call: Call, endpoint: str, operation: Mapping[str, Any], activity: str) -> None:
        """Wait until an operation of Compute Engine's is done (TPG compute_operation.go).

        Raises:
            OperationError: it ended in an error.
        """
        pause = 0.05
        while operation.get("status") != "DONE":
            call.wait(pause)
            pause = min(pause * 1.5, self.config.poll_interval, 1.0)
            operation = self.send(call, "GET", endpoint, str(operation["selfLink"]).partition("/compute/v1/")[2])
        failed = cast("Mapping[str, Any]", operation.get("error") or {})
        errors = cast("list[Mapping[str, Any]]", failed.get("errors") or [])
        if errors:
            said = "\n\t".join(str(one.get("message")) for one in errors)
            raise OperationError(f"Error waiting for {activity}: {said}")


def _busy(answer: httpx2.Response) -> bool:
    """Refusals that mean `later` (TPG error_retry_predicates.go)."""
    text = answer.text if answer.is_error else ""
    return (answer.status_code == _CONFLICT and "operationInProgress" in text) or (
        "Another activation or deactivation is in progress" in text or ("CONCURRENT_OPERATIONS_QUOTA_EXCEEDED" in text)
    )


def _result(answer: httpx2.Response, *, repeated: bool) -> dict[str, Any]:
    if not answer.is_error and not answer.is_redirect:
        return cast("dict[str, Any]", answer.json()) if answer.content else {}
    try:
        error = cast("dict[str, Any]", answer.json()["error"])
        raise ApiError(answer.status_code, _words(error), message=str(error.get("message", "")), repeated=repeated)
    except (ValueError, KeyError, TypeError):
        text = f"googleapi: got HTTP response code {answer.status_code} with body: {answer.text}"
        raise ApiError(answer.status_code, text, repeated=repeated) from None


def _words(error: Mapping[str, Any]) -> str:
    """The text of googleapi.Error (google-api-go-client googleapi.go)."""
    message = str(error.get("message", ""))
    text = f"googleapi: Error {error.get('code')}: {message}"
    if error.get("details"):
        text += "\nDetails:\n" + json.dumps(error["details"], indent=2)
    reasons = cast("list[dict[str, Any]]", error.get("errors") or [])
    if len(reasons) == 1 and reasons[0].get("message") == message:
        text += f", {reasons[0].get('reason')}"
    elif reasons:
        lines = [f"Reason: {one.get('reason')}, Message: {one.get('message')}" for one in reasons]
        text += "\nMore details:\n" + "\n".join(lines)
    return text


def retry_conflicts(call: Call, change: Callable[[], None]) -> None:
    """Read, modify and write again while someone else writes the same policy, for up to 30 seconds."""
    started, pause = time.monotonic(), 0.1
    while True:
        try:
            return change()
        except ApiError as error:
            if error.code not in (_CONFLICT, 412) or time.monotonic() - started > 30:
                raise
        call.wait(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
