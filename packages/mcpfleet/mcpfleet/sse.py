"""Server-sent events, read as they arrive: the standard's grammar, over bytes, with a limit on an event's size.

Not httpx2.EventSource: that knows no limit, and gives an event that the stream's end cut off for a whole one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mcpfleet.bounds import BRACKETS, brackets_of, max_answer, too_large, too_many

_SENDABLE: Final = re.compile(rb"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")
_DIGITS: Final = 9
"""A time of as many digits, eleven days and more of milliseconds, is none that a server could mean."""


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        data: Its data lines, joined by line feeds.
        id: The last id that the stream has named; '' where it has named none, or one that no header can carry back.
        retry: Milliseconds to wait before connecting again; None where the event does not say.
    """

    data: bytes
    id: str = ""
    retry: int | None = None


class Parser:
    """Takes bytes in any pieces, gives events. One that the stream's end cuts off is dropped, as the standard says."""

    def __init__(self) -> None:
        self._limit = max_answer()
        self._size = 0  # bytes since the last event
        self._pieces: list[bytes] = []  # of a line that has no end yet
        self._data: list[bytes] = []
        self._id = ""
        self._retry: int | None = None
        self._pending = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that end within this piece.

        Raises:
            TooLargeError: One is longer than a message may be.
        """
        self._size += len(chunk)
        self._pieces.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk and self._pieces[0][-1:] != b"\r":
            if self._size > self._limit:
                raise too_large(self._limit)
            return
        text = b"".join(self._pieces)
        if b"\r" in text:
            # A carriage return at the end may be the first half of a line's end.
            held = b"\r" if text.endswith(b"\r") else b""
            text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *lines, rest = text.split(b"\n")
        self._pieces = [rest] if rest else []
        for line in lines:
            if line:
                self._field(line)
            elif self._pending:
                data = b"\n".join(self._data)
                if brackets_of(data) > BRACKETS:
                    raise too_many(BRACKETS)
                yield Event(data, self._id, self._retry)
                self._data, self._retry, self._pending = [], None, False
                self._size = len(rest)
        if self._size > self._limit + len(chunk):
            raise too_large(self._limit)

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            self._data.append(value)
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode() if _SENDABLE.fullmatch(value) else ""
        elif name == b"retry" and value.isdigit() and len(value) < _DIGITS:
            self._retry = int(value)
        else:
            return
        self._pending = True
