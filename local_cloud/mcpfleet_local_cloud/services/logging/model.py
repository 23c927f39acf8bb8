"""Log entries of builds: one file for each, which a person can read as well."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.state.store import Document

LOG: Final = "cloudbuild"
"""The log that Cloud Build writes to, and the only one here."""
_BYTES: Final = 8 * 2**20
_LAST: Final = 4096
"""Characters of how a build ended."""
_ID: Final = re.compile(r"[0-9a-f-]{36}")


class Writer:
    """Adds lines to a log, eight megabytes at most; what is beyond them is left out, and that is said.

    Args:
        path: The log's file.
        project: Whose it is.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path, project: str, clock: Callable[[], float]) -> None:
        self._path = path
        self._project = project
        self._clock = clock
        self._left = _BYTES
        self._full = False

    def __call__(self, line: str) -> None:
        """Add what a build says, whatever that is."""
        text = self._entries(line)
        if not self._full and len(text) <= self._left:
            self._add(text)
        elif not self._full:
            self._full = True
            self._add(self._entries(f"(a log has {_BYTES} bytes here: what the build said from here on is left out)"))

    def end(self, line: str) -> None:
        """Add Cloud Build's own word of how it ended, which has its place in any log."""
        self._add(self._entries(line[:_LAST]))

    def _entries(self, line: str) -> bytes:
        now = json_api.format_timestamp(self._clock())
        lines = line.splitlines() or [""]
        return "".join(f"{now} {self._project} {one}\n" for one in lines).encode("utf-8", "replace")

    def _add(self, text: bytes) -> None:
        self._left -= len(text)
        with self._path.open("ab") as file:
            file.write(text)


class Entries:
    """The entries below *root*.

    Args:
        root: The folder of the files.
        clock: Seconds since the epoch.
    """

    def __init__(self, root: Path, clock: Callable[[], float]) -> None:
        self._root = root
        self._clock = clock

    def url(self, build: str) -> str:
        """Where a person reads the log of *build*: there is no console here, but a file."""
        return self._file(build).absolute().as_uri()

    def writer(self, project: str, build: str) -> "Writer":
        """What adds lines to the log of *build*."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Writer(self._file(build), project, self._clock)

    def of(self, project: str, build: str) -> list[Document]:
        """The entries of *build*, in their order."""
        path = self._file(build)
        if not _ID.fullmatch(build) or not path.is_file():
            return []
        found: list[Document] = []
        for index, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1]):
            time, owner, text = line.split(" ", 2)
            if owner == project:
                found.append(
                    {
                        "insertId": f"{build[:8]}-{index:07}",
                        "logName": f"projects/{project}/logs/{LOG}",
                        "resource": {"type": "build", "labels": {"build_id": build, "project_id": project}},
                        "timestamp": time,
                        "receiveTimestamp": time,
                        "severity": "INFO",
                        "textPayload": text,
                    }
                )
        return found

    def forget(self, build: str) -> None:
        """Remove the log of *build*."""
        self._file(build).unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Remove every log."""
        for path in self._root.glob("*.log"):
            path.unlink()

    def _file(self, build: str) -> Path:
        return self._root / f"{build}.log"
