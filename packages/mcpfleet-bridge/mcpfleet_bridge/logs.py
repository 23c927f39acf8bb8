"""Logs in Cloud Logging's JSON shape: one object per line on stdout.

Cloud Run turns each line into a log entry and lifts the fields named below out of it
(https://cloud.google.com/logging/docs/structured-logging). What the server writes to its stderr comes through
here too, under the logger `mcpfleet_bridge.server`, with the process it came from.
"""

import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from mcpfleet_bridge.lines import one_line

# What Python calls WARN and NOTSET have no name in LogSeverity; the rest are the same words.
_SEVERITIES = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_CLOUD_TRACE = re.compile(r"([0-9a-fA-F]{32})(?:/[0-9]{1,20})?(?:;o=[0-3])?", re.ASCII)

# A word at the beginning of a line of stderr that says how grave it is; after a date or a bracket at most.
_WORD = re.compile(
    r"[\s\d:.,TZ\[\]+-]{0,40}(?P<word>TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL)\b", re.IGNORECASE
)
_LEVELS = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
    "FATAL": logging.CRITICAL,
}

_trace: ContextVar[str | None] = ContextVar("trace", default=None)


def bind_trace(headers: Mapping[bytes, bytes]) -> None:
    """Tie what is logged from here on in this task to the trace that a request belongs to, if it names one."""
    if value := headers.get(b"traceparent"):
        match = _TRACEPARENT.fullmatch(value.decode("latin-1"))
    elif value := headers.get(b"x-cloud-trace-context"):
        match = _CLOUD_TRACE.fullmatch(value.decode("latin-1"))
    else:
        return
    if match:
        _trace.set(match[1].lower())


def level_of(line: str) -> int:
    """How grave a line of stderr is, by the word that it begins with; INFO if it says nothing."""
    match = _WORD.match(line)
    return _LEVELS.get(match["word"].upper(), logging.INFO) if match else logging.INFO


class CloudLoggingFormatter(logging.Formatter):
    """Renders a record as one line that holds one JSON object."""

    def __init__(self, project: str | None = None) -> None:
        super().__init__()
        self._project = project

    def format(self, record: logging.LogRecord) -> str:
        """Render one record; never raises for what the record holds."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            # Arguments that don't fit their format: someone else's mistake, still worth its line.
            message = f"{record.msg} {record.args!r}"
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        labels = {"logger": record.name}
        if process := getattr(record, "child", None):
            labels["child"] = str(process)
        entry: dict[str, object] = {
            "severity": record.levelname if record.levelname in _SEVERITIES else "DEFAULT",
            # Lone surrogates are no text that JSON in UTF-8 could hold.
            "message": message.encode("utf-8", "replace").decode(),
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z"),
            "logging.googleapis.com/labels": labels,
        }
        if trace := _trace.get():
            entry["logging.googleapis.com/trace"] = (
                f"projects/{self._project}/traces/{trace}" if self._project else trace
            )
        return one_line(msgspec.json.encode(entry)).decode()


def install(level: str = "INFO", project: str | None = None, stream: TextIO | None = None) -> None:
    """Send every logger of the process, uvicorn's among them, to one JSON handler on stdout.

    Args:
        level: The least severity that is written.
        project: The Google Cloud project that traces belong to.
        stream: Where to write instead of stdout.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(CloudLoggingFormatter(project))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
