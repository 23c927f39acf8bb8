"""Log entries of builds: one file for each, which a person can read as well."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from local_cloud import wire
from local_cloud.store import Document

LOG: Final = "cloudbuild"
"""The log that Cloud Build writes to, and the only one here."""
_BYTES: Final = 8 * 2**20
_ID: Final = re.compile(r"[0-9a-f-]{36}")


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

    def writer(self, project: str, build: str) -> Callable[[str], None]:
        """What adds a line to the log of *build*; beyond eight megabytes lines are left out."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._file(build)
        size = 0

        def write(line: str) -> None:
            nonlocal size
            now = wire.stamp(self._clock())
            text = "".join(f"{now} {project} {one}\n" for one in line.splitlines() or [""])
            size += len(text)
            if size < _BYTES or line.startswith(("ERROR", "DONE", "TIMEOUT", "CANCELLED")):
                with path.open("a", encoding="utf-8", errors="replace") as file:
                    file.write(text)

        return write

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
