"""Structured logs for Cloud Logging: one JSON object per line on stdout, linked to the request's trace.

Cloud Run turns each line into a log entry and extracts the special fields below from it
(https://cloud.google.com/logging/docs/structured-logging). A traceback is part of `message`, where Error
Reporting looks for it. Call `install` before you create an MCP server: the server's constructor adds its own handler
to the root logger if there is none.

Servers, the bridge and clients all log through this module, so that their entries have one format and share a trace.
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

# The level names that Python and Cloud Logging's LogSeverity share; WARN and NOTSET have no counterpart.
_SEVERITIES = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

TRACE_HEADERS: Final = (b"traceparent", b"x-cloud-trace-context")
"""The headers that name a request's trace; the first takes precedence."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_CLOUD_TRACE = re.compile(r"([0-9a-fA-F]{32})(?:/([0-9]{1,20}))?(?:;o=([0-3]))?", re.ASCII)

to_json = json.JSONEncoder(default=repr, allow_nan=False).encode
"""Encodes an entry as ASCII JSON."""

# These log each request at INFO, with details that matter only to developers of the SDK.
_VERBOSE_LOGGERS = (
    "httpx",
    "httpx2",
    "mcp.client.streamable_http",
    "mcp.server.lowlevel.server",
    "mcp.server.streamable_http",
    "mcp.server.streamable_http_manager",
)


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's position in a distributed trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits, or None if the request names no span.
        sampled: Whether the trace is being recorded.
    """

    trace_id: str
    span_id: str | None
    sampled: bool


_trace: ContextVar[Trace | None] = ContextVar("trace", default=None)


def trace_of(headers: Mapping[str, str]) -> Trace | None:
    """Return a request's trace from `traceparent` (W3C), or from Google's older `X-Cloud-Trace-Context`.

    A malformed header is ignored, as the W3C specification requires.
    """
    if match := _TRACEPARENT.fullmatch(headers.get("traceparent", "")):
        return Trace(match[1], match[2], sampled=bool(int(match[3], 16) & 1))
    if match := _CLOUD_TRACE.fullmatch(headers.get("x-cloud-trace-context", "")):
        # The older header has the span's ID in decimal; log entries have it in hexadecimal.
        span = None if match[2] is None else f"{int(match[2]) & 0xFFFFFFFFFFFFFFFF:016x}"
        return Trace(match[1].lower(), span, sampled=match[3] in ("1", "3"))
    return None


def current_trace() -> Trace | None:
    """Return the trace of the current task's log entries."""
    return _trace.get()


def bind_trace(trace: Trace | None) -> None:
    """Set the trace of this task's log entries, and of the tasks that it starts."""
    _trace.set(trace)


class CloudLoggingFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line.

    Args:
        project: The Google Cloud project of the traces.
        encode: Encodes JSON as ASCII, so that no character in it ends a line; by default the standard library's
            encoder. Values for which it raises ValueError or TypeError are logged as Python writes them.
    """

    def __init__(self, project: str | None = None, encode: Callable[[Any], str] = to_json) -> None:
        super().__init__()
        self._project = project
        self._encode = encode

    def format(self, record: logging.LogRecord) -> str:
        """Format one record. Never raises, whatever the record contains."""
        message = _format_message(record)
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        if record.stack_info:
            message = f"{message}\n{self.formatStack(record.stack_info)}"
        labels = {"logger": record.name}
        if child := getattr(record, "child", None):
            # `extra={"child": …}`: the process of the bridge that the entry is about.
            labels["child"] = str(child)
        if not message.isascii():
            # Lone surrogates, which broken input leaves behind, can't be encoded as UTF-8.
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
            # `extra={"fields": {…}}`: fields for filters and charts in Cloud Logging.
            entry["fields"] = fields
        http_request = getattr(record, "http_request", None)
        if isinstance(http_request, dict):
            # `extra={"http_request": {…}}`: an HTTP request, as Cloud Logging's HttpRequest.
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
            return to_json({name: _replace_unwritable(value) for name, value in entry.items()})


def _replace_unwritable(value: object) -> object:
    """Replace members that JSON can't express (NaN, a key that is not text, a cycle) with their `repr`."""
    if isinstance(value, dict):
        members = cast("dict[object, object]", value).items()
        return {str(name): member if _is_writable(member) else repr(member) for name, member in members}
    return value


def _is_writable(value: object) -> bool:
    try:
        to_json(value)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _format_message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        # The arguments don't match the format. That is the caller's mistake, but the entry is still useful.
        return f"{record.msg} {record.args!r}"


def install(
    level: str = "INFO",
    project: str | None = None,
    stream: TextIO | None = None,
    encode: Callable[[Any], str] = to_json,
) -> None:
    """Send the entries of all loggers, including uvicorn's, to one JSON handler on stdout.

    Args:
        level: The lowest severity that is logged.
        project: The Google Cloud project of the traces.
        stream: The stream to write to instead of stdout.
        encode: Encodes the JSON, see `CloudLoggingFormatter`.
    """
    # No entry shows a thread or process, and finding their names takes a third of the time of an entry.
    for detail in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, detail, False)
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(CloudLoggingFormatter(project, encode))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    root = logging.getLogger().level
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(root if root <= logging.DEBUG else max(logging.WARNING, root))
