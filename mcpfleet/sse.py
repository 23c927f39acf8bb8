"""Server-sent events, read as they arrive: the standard's grammar, over bytes, without a limit on an event's size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        data: Its data lines, joined by line feeds.
        id: The last id that the stream has named; '' where it has named none.
        retry: Milliseconds to wait before connecting again; None where the event does not say.
    """

    data: bytes
    id: str = ""
    retry: int | None = None


class Parser:
    """Takes bytes in any pieces, gives events. One that the stream's end cuts off is dropped, as the standard says."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._id = ""
        self._retry: int | None = None
        self._pending = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that end within this piece."""
        text = self._rest + chunk
        if b"\r" in text:
            # A carriage return at the end may be the first half of a line's end.
            held = b"\r" if text.endswith(b"\r") else b""
            text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            if line:
                self._field(line)
            elif self._pending:
                yield Event(b"\n".join(self._data), self._id, self._retry)
                self._data, self._retry, self._pending = [], None, False

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            self._data.append(value)
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            self._retry = int(value)
        else:
            return
        self._pending = True
