"""What the commands print with, in a terminal: the console, texts of others for it, and streams that take less.

Apart from `mcpfleet.inert`, which services import too: an image needs no rich.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from typing import Final, TextIO

from rich.console import Console
from rich.markup import escape

from mcpfleet.inert import inert
from mcpfleet.system import WINDOWS

_SPELLED: Final = {"✓": "ok", "✗": "X", "…": "..."}
"""Our own characters, for a console of cp1252 or ASCII."""
_ERRORS: Final = "mcpfleet"


def marked_up(text: str) -> str:
    """One line for a rich console that reads markup: inert, and without a style of its own."""
    return escape(inert(text))


def console(*, stderr: bool = False) -> Console:
    """A console for texts of others: nothing in them is an emoji, a number to colour, or a place to fold.

    A command that is copied must stay one line, so nothing is wrapped.
    """
    return Console(stderr=stderr, soft_wrap=True, highlight=False, emoji=False)


def settle() -> None:
    """Have standard output and error take any text: what their encoding lacks is spelled, or is its escape."""
    codecs.register_error(_ERRORS, _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_SPELLED.get(one) or _escape(one) for one in found), error.end


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def lost(stream: TextIO | None) -> OSError | None:
    """Why what was printed to a stream did not arrive; None if all is well.

    What is left in a stream that is lost is dropped: Python would try to write it once more at its end.
    """
    if stream is None:  # it was closed from the beginning, as whoever did that wanted
        return None
    try:
        stream.flush()
    except ValueError:
        return None  # closed meanwhile
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def words_of(error: OSError) -> str:
    """What is said of an error of the system that nobody took: nothing, if the reader of our output has gone."""
    if error.errno == errno.EPIPE or (sys.platform == WINDOWS and error.errno == errno.EINVAL):
        return ""
    why = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {why}." if error.filename else f"Standard output cannot be written: {why}."
