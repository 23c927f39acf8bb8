"""Logs in Cloud Logging's JSON shape: one object per line on stdout, tied to the request's trace.

Cloud Run turns each line into a log entry and lifts the fields named below out of it
(https://cloud.google.com/logging/docs/structured-logging). A traceback is part of `message`, where Error
Reporting looks for it. Install this before an MCP server object exists: its constructor gives the root
logger a handler of its own if there is none.

Servers, the bridge and clients log by this alone, so that their entries are of one form and join by their trace.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO, cast

# What Python calls WARN and NOTSET have no name in LogSeverity; the rest are the same words.
_SEVERITIES = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

TRACE_HEADERS: Final = (b"traceparent", b"x-cloud-trace-context")
"""Where a request says which trace it belongs to; of two that do, the first counts."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_CLOUD_TRACE = re.compile(r"([0-9a-fA-F]{32})(?:/([0-9]{1,20}))?(?:;o=([0-3]))?", re.ASCII)

to_json = json.JSONEncoder(default=repr, allow_nan=False).encode
"""Writes an entry in ASCII."""

# These say at INFO, once per request, what only someone who works on the SDK wants to know.
_CHATTY = (
    "httpx",
    "httpx2",
    "mcp.client.streamable_http",
    "mcp.server.lowlevel.server",
    "mcp.server.streamable_http",
    "mcp.server.streamable_http_manager",
)


@dataclass(frozen=True, slots=True)
class Trace:
    """The place of a request in a distributed trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits, or None if the caller named no span.
        sampled: Whether the trace is being recorded.
    """

    trace_id: str
    span_id: str | None
    sampled: bool


_trace: ContextVar[Trace | None] = ContextVar("trace", default=None)


def trace_of(headers: Mapping[str, str]) -> Trace | None:
    """The trace that a request belongs to: `traceparent` (W3C), else Google's older `X-Cloud-Trace-Context`.

    A header that is not of its form is ignored, as the W3C specification asks.
    """
    if match := _TRACEPARENT.fullmatch(headers.get("traceparent", "")):
        return Trace(match[1], match[2], sampled=bool(int(match[3], 16) & 1))
    if match := _CLOUD_TRACE.fullmatch(headers.get("x-cloud-trace-context", "")):
        # The older header has the span's id in decimal, the log entry wants it in hexadecimal.
        span = None if match[2] is None else f"{int(match[2]) & 0xFFFFFFFFFFFFFFFF:016x}"
        return Trace(match[1].lower(), span, sampled=match[3] in ("1", "3"))
    return None


def current_trace() -> Trace | None:
    """The trace that what is logged here is tied to."""
    return _trace.get()


def bind_trace(trace: Trace | None) -> None:
    """Tie what is logged from here on in this task, and in the tasks that it starts, to a trace."""
    _trace.set(trace)


class CloudLoggingFormatter(logging.Formatter):
    """Renders a record as one line that holds one JSON object.

    Args:
        project: The Google Cloud project that traces belong to.
        encode: Writes JSON in ASCII, so that nothing in it ends a line; the standard library's by default. What it
            raises a ValueError or TypeError for is told in words.
    """

    def __init__(self, project: str | None = None, encode: Callable[[Any], str] = to_json) -> None:
        super().__init__()
        self._project = project
        self._encode = encode

    def format(self, record: logging.LogRecord) -> str:
        """Render one record; never raises for what the record holds."""
        message = _message(record)
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        if record.stack_info:
            message = f"{message}\n{self.formatStack(record.stack_info)}"
        labels = {"logger": record.name}
        if child := getattr(record, "child", None):
            # `extra={"child": …}`: which of the bridge's processes it was.
            labels["child"] = str(child)
        if not message.isascii():
            # Half a character, as broken input leaves them: no UTF-8 can hold it.
            message = message.encode("utf-8", "replace").decode()
        entry: dict[str, object] = {
            "severity": record.levelname if record.levelname in _SEVERITIES else "DEFAULT",
            "message": message,
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z"),
            "logging.googleapis.com/labels": labels,
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            # `extra={"fields": {…}}`: what filters and charts in Cloud Logging work with.
            entry["fields"] = fields
        http_request = getattr(record, "http_request", None)
        if isinstance(http_request, dict):
            # `extra={"http_request": {…}}`: an HTTP request, in the words of Cloud Logging's HttpRequest.
            entry["httpRequest"] = http_request
        if trace := _trace.get():
            entry |= {
                "logging.googleapis.com/trace": f"projects/{self._project}/traces/{trace.trace_id}"
                if self._project
                else trace.trace_id,
                "logging.googleapis.com/trace_sampled": trace.sampled,
            }
            if trace.span_id:
                entry["logging.googleapis.com/spanId"] = trace.span_id
        try:
            return self._encode(entry)
        except (ValueError, TypeError):
            return to_json({name: _in_words(value) for name, value in entry.items()})


def _in_words(value: object) -> object:
    """The same for JSON, in Python's words where JSON has none: NaN, a key that is no text, what holds itself."""
    if isinstance(value, dict):
        members = cast("dict[object, object]", value).items()
        return {str(name): one if _can_be_written(one) else repr(one) for name, one in members}
    return value


def _can_be_written(value: object) -> bool:
    try:
        to_json(value)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        # Arguments that don't fit their format: someone else's mistake, still worth its line.
        return f"{record.msg} {record.args!r}"


def install(
    level: str = "INFO",
    project: str | None = None,
    stream: TextIO | None = None,
    encode: Callable[[Any], str] = to_json,
) -> None:
    """Send every logger of the process, uvicorn's among them, to one JSON handler on stdout.

    Args:
        level: The least severity that is written.
        project: The Google Cloud project that traces belong to.
        stream: Where to write instead of stdout.
        encode: Writes the JSON, see `CloudLoggingFormatter`.
    """
    # Nothing of ours shows a thread or a process, and to find their names takes a third of the time of a line.
    for detail in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, detail, False)
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(CloudLoggingFormatter(project, encode))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    root = logging.getLogger().level
    for name in _CHATTY:
        logging.getLogger(name).setLevel(root if root <= logging.DEBUG else max(logging.WARNING, root))
