"""Lines out of the pieces in which a pipe delivers them, with a bound on how much one line may hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

HEAD: Final = 256
"""How many bytes of a line that is too long are kept, to tell whose answer it was."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A line beyond the bound, thrown away but for its beginning."""

    head: bytes
    size: int


class Lines:
    """Splits a stream of bytes at line feeds. Never holds more than the bound and one piece."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0
        self._lost = 0  # bytes of the present line that were thrown away; 0: none

    def feed(self, piece: bytes) -> Iterator[bytes | TooLong]:
        """Take the next piece; yields each line that it completes, without its end, empty ones left out."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            line = self._complete(piece[start:end])
            start = end + 1
            if line:
                yield line
        if start < len(piece):
            self._hold(piece[start:])

    def rest(self) -> bytes:
        """What has come of a line that never ended."""
        line = b"".join(self._parts)
        self._parts, self._held, self._lost = [], 0, 0
        return line

    def _complete(self, piece: bytes) -> bytes | TooLong:
        if self._held or self._lost:
            self._hold(piece)
            if self._lost:
                cut = TooLong(b"".join(self._parts)[:HEAD], self._lost)
                self.rest()
                return cut
            return self.rest().rstrip(b"\r")
        if len(piece) > self._limit:
            return TooLong(piece[:HEAD], len(piece))
        return piece.rstrip(b"\r")

    def _hold(self, piece: bytes) -> None:
        if self._lost:
            self._lost += len(piece)
            return
        self._parts.append(piece)
        self._held += len(piece)
        if self._held > self._limit:
            head = b"".join(self._parts)[:HEAD]
            self._parts, self._lost, self._held = [head], self._held, len(head)
