"""Asks the running local cloud what it holds, through its own API below `/_local/`."""

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
class Admin:
    """The local cloud in *place*, asked in its admin's name. Every call raises SetupError where it can't be asked.

    Attributes:
        place: Where it lives.
        transport: What carries the requests; the network where it is not given.
    """

    place: CloudFolder
    transport: httpx2.BaseTransport | None = None

    def inventory(self) -> dict[str, Any]:
        """What exists: services, repositories, images, service accounts."""
        return self._ask("GET", "/_local/inventory").json()

    def forget(self) -> None:
        """Have it forget what is over: finished operations, builds that ended."""
        self._ask("POST", "/_local/forget")

    def reset(self) -> None:
        """Have it remove and forget everything."""
        self._ask("POST", "/_local/reset")

    def logs(self, service: str) -> list[str]:
        """The last lines that the containers of a Cloud Run service wrote.

        Args:
            service: Its full name: `projects/…/locations/…/services/…`.
        """
        return self._ask("GET", "/_local/logs", {"service": service}).text.removesuffix("\n").split("\n")

    def _ask(self, method: str, path: str, query: dict[str, str] | None = None) -> httpx2.Response:
        url = self.place.url
        try:
            with httpx2.Client(transport=self.transport, timeout=_TIMEOUT, trust_env=False) as client:
                headers = {"authorization": f"Bearer {admin_token(self.place)}"}
                answer = client.request(method, f"{url}{path}", params=query, headers=headers)
        except httpx2.HTTPError:
            raise SetupError(f"The local cloud does not answer at {url}.", f"start it with {PROGRAM} up.") from None
        if answer.status_code == 401:
            raise SetupError(
                f"The local cloud at {url} does not accept this checkout's token: it serves another state, or the file "
                f"{_token_file(self.place)} was changed.",
                f"delete that file and run {PROGRAM} up: it starts this checkout's local cloud anew.",
            )
        if not answer.is_success:
            raise SetupError(
                f"The local cloud answered {answer.status_code} to {method} {path}: {_words(answer)}",
                f"read its log: {self.place.log('cloud')}, then run {PROGRAM} up.",
            )
        return answer


def admin_token(place: CloudFolder) -> str:
    """The secret that the local cloud's admin shows it.

    Raises:
        SetupError: There is none that can be read.
    """
    file = _token_file(place)
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no token"
        raise SetupError(
            f"The local cloud's token in {file} cannot be read: {why}.",
            f"run {PROGRAM} up: it starts the local cloud anew.",
        ) from None


def fresh_lines(seen: list[str], lines: list[str]) -> Iterator[str]:
    """Those of *lines* that follow *seen*, where both are the last lines of one growing text.

    The text may have grown by more than is shown, and then all of *lines* is new.
    """
    overlap = next((size for size in range(min(len(seen), len(lines)), 0, -1) if seen[-size:] == lines[:size]), 0)
    yield from lines[overlap:]


def _token_file(place: CloudFolder) -> Path:
    return place.cloud_state / "admin-token"


def _words(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200] or answer.reason_phrase
