"""Parses server-sent events from bytes as they arrive, by the HTML standard, with a limit for an event's size.

Not httpx2.EventSource: it has no limit, and returns an incomplete event at the end of the stream as if it were whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mcpfleet.bounds import MAX_BRACKETS, count_brackets, max_answer_bytes, too_large_error, too_many_brackets_error

_VALID_ID: Final = re.compile(rb"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")
_MAX_RETRY_DIGITS: Final = 9
"""A retry time with this many digits, at least eleven days in milliseconds, is ignored."""


@dataclass(frozen=True)
class Event:
    """An event.

    Attributes:
        data: Its data lines, joined by line feeds.
        id: The last event id of the stream; '' if it had none, or one that is not a valid header value.
        retry: Milliseconds to wait before the next connection; None if the event has no such field.
    """

    data: bytes
    id: str = ""
    retry: int | None = None


class EventParser:
    """Parses a stream in chunks of any size. An incomplete event at its end is ignored, as the standard requires."""

    def __init__(self) -> None:
        self._limit = max_answer_bytes()
        self._size = 0  # bytes since the last event
        self._pieces: list[bytes] = []  # of an incomplete line
        self._data: list[bytes] = []
        self._id = ""
        self._retry: int | None = None
        self._has_fields = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that end in this chunk.

        Raises:
            TooLargeError: An event is larger than the limit for a message.
        """
        self._size += len(chunk)
        self._pieces.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk and self._pieces[0][-1:] != b"\r":
            if self._size > self._limit:
                raise too_large_error(self._limit)
            return
        text = b"".join(self._pieces)
        if b"\r" in text:
            # A carriage return at the end may be the first half of a line end.
            line_end = b"\r" if text.endswith(b"\r") else b""
            text = text[: len(text) - len(line_end)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + line_end
        *lines, rest = text.split(b"\n")
        self._pieces = [rest] if rest else []
        for line in lines:
            if line:
                self._read_field(line)
            elif self._has_fields:
                data = b"\n".join(self._data)
                if count_brackets(data) > MAX_BRACKETS:
                    raise too_many_brackets_error(MAX_BRACKETS)
                yield Event(data, self._id, self._retry)
                self._data, self._retry, self._has_fields = [], None, False
                self._size = len(rest)
        if self._size > self._limit + len(chunk):
            raise too_large_error(self._limit)

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            self._data.append(value)
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode() if _VALID_ID.fullmatch(value) else ""
        elif name == b"retry" and value.isdigit() and len(value) < _MAX_RETRY_DIGITS:
            self._retry = int(value)
        else:
            return
        self._has_fields = True
