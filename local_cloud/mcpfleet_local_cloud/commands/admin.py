"""The client of the running local cloud's admin API, below `/_local/`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import SetupError

_TIMEOUT: Final = 60.0


@dataclass(frozen=True)
class AdminClient:
    """Calls the admin API of the local cloud in *folder*. Every method raises SetupError if a call fails.

    Attributes:
        folder: The checkout folder of the local cloud.
        transport: The HTTP transport. Default: the network.
    """

    folder: CloudFolder
    transport: httpx2.BaseTransport | None = None

    def inventory(self) -> dict[str, Any]:
        """List the resources of the local cloud: services, repositories, images, service accounts and others."""
        return self._request("GET", "/_local/inventory").json()

    def forget(self) -> None:
        """Delete the records of finished operations and builds."""
        self._request("POST", "/_local/forget")

    def reset(self) -> None:
        """Remove every resource and record."""
        self._request("POST", "/_local/reset")

    def logs(self, service: str) -> list[str]:
        """Read the last log lines of the containers of a Cloud Run service.

        Args:
            service: Its full name: `projects/…/locations/…/services/…`.
        """
        return self._request("GET", "/_local/logs", {"service": service}).text.removesuffix("\n").split("\n")

    def _request(self, method: str, path: str, query: dict[str, str] | None = None) -> httpx2.Response:
        url = self.folder.url
        try:
            with httpx2.Client(transport=self.transport, timeout=_TIMEOUT, trust_env=False) as client:
                headers = {"authorization": f"Bearer {read_admin_token(self.folder)}"}
                response = client.request(method, f"{url}{path}", params=query, headers=headers)
        except httpx2.HTTPError:
            raise SetupError(f"The local cloud does not answer at {url}.", f"start it with {PROGRAM} up.") from None
        if response.status_code == 401:
            raise SetupError(
                f"The local cloud at {url} does not accept this checkout's token: it serves another state, or the file "
                f"{_token_file(self.folder)} was changed.",
                f"delete that file and run {PROGRAM} up: it starts this checkout's local cloud again.",
            )
        if not response.is_success:
            raise SetupError(
                f"The local cloud answered {response.status_code} to {method} {path}: {_error_text(response)}",
                f"read its log: {self.folder.log('cloud')}, then run {PROGRAM} up.",
            )
        return response


def read_admin_token(folder: CloudFolder) -> str:
    """Read the token of the local cloud's admin API.

    Raises:
        SetupError: It cannot be read.
    """
    file = _token_file(folder)
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a token"
        raise SetupError(
            f"The local cloud's token in {file} cannot be read: {reason}.",
            f"run {PROGRAM} up: it starts the local cloud again.",
        ) from None


def find_new_lines(previous: list[str], lines: list[str]) -> Iterator[str]:
    """Find the lines of *lines* that follow *previous*; both are the last lines of the same growing log.

    If the two do not overlap, all of *lines* are new.
    """
    overlap = next(
        (size for size in range(min(len(previous), len(lines)), 0, -1) if previous[-size:] == lines[:size]), 0
    )
    yield from lines[overlap:]


def _token_file(folder: CloudFolder) -> Path:
    return folder.cloud_state / "admin-token"


def _error_text(response: httpx2.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200] or response.reason_phrase
