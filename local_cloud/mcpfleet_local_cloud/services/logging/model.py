"""Log entries of builds: one readable text file per build."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.state.store import Document

LOG: Final = "cloudbuild"
"""The name of Cloud Build's log, which is the only log here."""
_MAX_BYTES: Final = 8 * 2**20
_MAX_FINAL_CHARACTERS: Final = 4096
"""The largest number of characters in the final line of a build."""
_ID: Final = re.compile(r"[0-9a-f-]{36}")


class LogWriter:
    """Adds lines to a log of at most eight megabytes. A note replaces the lines that do not fit.

    Args:
        path: The log's file.
        project: The id of the build's project.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path, project: str, clock: Callable[[], float]) -> None:
        self._path = path
        self._project = project
        self._clock = clock
        self._remaining_bytes = _MAX_BYTES
        self._is_full = False

    def __call__(self, line: str) -> None:
        """Add output of the build; *line* may have several lines."""
        text = self._format(line)
        if not self._is_full and len(text) <= self._remaining_bytes:
            self._append(text)
        elif not self._is_full:
            self._is_full = True
            self._append(
                self._format(f"(a log has {_MAX_BYTES} bytes here: what the build said from here on is left out)")
            )

    def end(self, line: str) -> None:
        """Add a final line of Cloud Build itself, also if the log is full."""
        self._append(self._format(line[:_MAX_FINAL_CHARACTERS]))

    def _format(self, line: str) -> bytes:
        now = json_api.format_timestamp(self._clock())
        lines = line.splitlines() or [""]
        return "".join(f"{now} {self._project} {part}\n" for part in lines).encode("utf-8", "replace")

    def _append(self, text: bytes) -> None:
        self._remaining_bytes -= len(text)
        with self._path.open("ab") as file:
            file.write(text)


class LogEntries:
    """The logs of all builds.

    Args:
        root: The folder with the log files.
        clock: Seconds since the epoch.
    """

    def __init__(self, root: Path, clock: Callable[[], float]) -> None:
        self._root = root
        self._clock = clock

    def url(self, build: str) -> str:
        """The URL of the log file of *build*, which takes the place of Google's console."""
        return self._file(build).absolute().as_uri()

    def writer(self, project: str, build: str) -> "LogWriter":
        """Create the writer of the log of *build*."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return LogWriter(self._file(build), project, self._clock)

    def list_entries(self, project: str, build: str) -> list[Document]:
        """List the entries of *build*, in order."""
        path = self._file(build)
        if not _ID.fullmatch(build) or not path.is_file():
            return []
        entries: list[Document] = []
        for index, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1]):
            time, owner, text = line.split(" ", 2)
            if owner == project:
                entries.append(
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
        return entries

    def forget(self, build: str) -> None:
        """Delete the log of *build*."""
        self._file(build).unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Delete every log."""
        for path in self._root.glob("*.log"):
            path.unlink()

    def _file(self, build: str) -> Path:
        return self._root / f"{build}.log"
