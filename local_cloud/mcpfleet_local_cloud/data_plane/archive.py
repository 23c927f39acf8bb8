"""Keeps the logs of removed containers: one bounded file per revision, for the newest few revisions of each service."""

from pathlib import Path
from typing import Final

BYTES: Final = 256 * 1024
REVISIONS: Final = 5


class LogArchive:
    """The log files below *root*, by service and revision."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, service: str, revision: str, text: str) -> None:
        """Append *text* to the log of *revision*; *service* is the full name."""
        if not text:
            return
        folder = self._folder(service)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{revision}.log"
        before = path.read_bytes() if path.exists() else b""
        path.write_bytes((before + text.encode())[-BYTES:])
        for old in self._files(folder)[:-REVISIONS]:
            old.unlink(missing_ok=True)

    def read(self, service: str) -> str:
        """Read the logs of *service*, oldest revision first."""
        folder = self._folder(service)
        return "".join(path.read_text(errors="replace") for path in self._files(folder))

    def _folder(self, service: str) -> Path:
        return self._root / service.replace("/", "_")

    def _files(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime_ns)
