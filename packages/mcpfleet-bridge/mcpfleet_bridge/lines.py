"""What a line is, going out and coming in.

Out: a message is one line whoever reads it. Most split at a line feed, Python's text streams at a carriage return too,
`str.splitlines` at the other separators of ASCII and at U+0085, Java's `Scanner` at U+0085, U+2028 and U+2029, Node's
`readline` at the latter two. In: lines out of the pieces in which a pipe delivers them, with a bound on one line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

HEAD: Final = 256
"""How many bytes of a line that is too long are kept, to tell whose answer it was."""

_LF, _CR, _VT, _FF, _FS, _GS, _RS = b"\n\r\v\f\x1c\x1d\x1e"  # numbers, for which bytes are searched fastest
_NEL, _LS, _PS = "\x85".encode(), "\u2028".encode(), "\u2029".encode()


class NotOneLine(ValueError):  # noqa: N818  # a state of what was to be written
    """What was to be written is not one line for every reader, and was not written."""


def is_line(line: bytes) -> bool:
    """Whether bytes are one line with its line feed, whoever splits them."""
    if not line or line.find(b"\n") != len(line) - 1:
        return False
    if _CR in line or _VT in line or _FF in line or _FS in line or _GS in line or _RS in line:
        return False
    return line.isascii() or not (_NEL in line or _LS in line or _PS in line)


def one_line(json: bytes) -> bytes:
    """The same JSON on one line: blanks for line ends, escapes for what may stand in a text and yet ends lines.

    Args:
        json: A valid text, so that line ends stand between tokens only, where each blank means the same.
    """
    if _LF in json or _CR in json:
        json = json.replace(b"\n", b" ").replace(b"\r", b" ")
    if not json.isascii():
        json = json.replace(_NEL, rb"\u0085").replace(_LS, rb"\u2028").replace(_PS, rb"\u2029")
    return json


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
