"""Lines of the stdio transport: one line for each message that is written, and splitting of the output that is read.

A written message must be one line for every reader. Most readers split at a line feed, Python's text streams also at a
carriage return, `str.splitlines` at the other ASCII separators and at U+0085, Java's `Scanner` at U+0085, U+2028 and
U+2029, and Node's `readline` at the latter two. Output is split into lines as the pipe delivers it, with a limit on
the length of a line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_HEAD_BYTES: Final = 256
"""Bytes that are kept of a line that is too long, to find the call that it answers."""

_LF, _CR, _VT, _FF, _FS, _GS, _RS = b"\n\r\v\f\x1c\x1d\x1e"  # integers: searching bytes for them is fastest
_NEL, _LS, _PS = "\x85".encode(), "\u2028".encode(), "\u2029".encode()


class NotOneLineError(ValueError):
    """The message is not one line for every reader, and was not written."""


def is_line(line: bytes) -> bool:
    """Return whether bytes are exactly one line, with its line feed, for every reader."""
    if not line or line.find(b"\n") != len(line) - 1:
        return False
    if _CR in line or _VT in line or _FF in line or _FS in line or _GS in line or _RS in line:
        return False
    return line.isascii() or not (_NEL in line or _LS in line or _PS in line)


def to_one_line(text: bytes) -> bytes:
    """Return JSON on one line: line ends become spaces, and other separators inside strings become escapes.

    Args:
        text: Valid JSON, in which line ends can occur only between tokens, where a space is equivalent.
    """
    if _LF in text or _CR in text:
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    if not text.isascii():
        text = text.replace(_NEL, rb"\u0085").replace(_LS, rb"\u2028").replace(_PS, rb"\u2029")
    return text


@dataclass(frozen=True, slots=True)
class TruncatedLine:
    """A line above the limit, of which only the beginning is kept."""

    head: bytes
    size: int


class LineSplitter:
    """Splits a stream of bytes at line feeds. Buffers at most the limit and one piece."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._dropped_bytes = 0  # size of the current line if it is above the limit, otherwise 0

    def feed(self, piece: bytes) -> Iterator[bytes | TruncatedLine]:
        """Add the next piece, and yield each line that it completes, without its line end. Empty lines are skipped."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            line = self._complete_line(piece[start:end])
            start = end + 1
            if line:
                yield line
        if start < len(piece):
            self._append(piece[start:])

    def take_remainder(self) -> bytes:
        """Return an unfinished last line, and start anew."""
        line = b"".join(self._parts)
        self._parts, self._size, self._dropped_bytes = [], 0, 0
        return line

    def _complete_line(self, piece: bytes) -> bytes | TruncatedLine:
        if self._size or self._dropped_bytes:
            self._append(piece)
            if self._dropped_bytes:
                truncated = TruncatedLine(b"".join(self._parts)[:MAX_HEAD_BYTES], self._dropped_bytes)
                self.take_remainder()
                return truncated
            return self.take_remainder().rstrip(b"\r")
        if len(piece) > self._limit:
            return TruncatedLine(piece[:MAX_HEAD_BYTES], len(piece))
        return piece.rstrip(b"\r")

    def _append(self, piece: bytes) -> None:
        if self._dropped_bytes:
            self._dropped_bytes += len(piece)
            return
        self._parts.append(piece)
        self._size += len(piece)
        if self._size > self._limit:
            head = b"".join(self._parts)[:MAX_HEAD_BYTES]
            self._parts, self._dropped_bytes, self._size = [head], self._size, len(head)
