"""The console that commands print to, untrusted text for it, and errors of standard output.

It is separate from `mcpfleet.inert`, which services import too, so that their images don't need rich.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import getpass
import io
import os
import sys
import warnings
from typing import Final, TextIO

from rich.console import Console
from rich.markup import escape

from mcpfleet.errors import UsageError
from mcpfleet.inert import inert
from mcpfleet.system import WINDOWS

_REPLACEMENTS: Final = {"✓": "ok", "✗": "X", "…": "..."}
"""Replacements for characters of this package's output, in a console with cp1252 or ASCII."""
_ERROR_HANDLER: Final = "mcpfleet"


def markup_safe(text: str) -> str:
    """A text as one inert line for a rich console, with its markup escaped."""
    return escape(inert(text))


def console(*, stderr: bool = False) -> Console:
    """A console that replaces no emoji codes, colors no numbers, and wraps no lines.

    People copy commands from the output, so a command has to stay on one line.
    """
    return Console(stderr=stderr, soft_wrap=True, highlight=False, emoji=False)


def ask_hidden(question: str) -> str:
    """Ask on the terminal without echo.

    Raises:
        UsageError: The terminal can't hide what is typed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(question)
        except getpass.GetPassWarning:
            raise UsageError("This terminal shows what is typed. Give the value on standard input.") from None


def configure_streams() -> None:
    """Make standard output and error accept any text: characters outside their encoding are replaced or escaped."""
    codecs.register_error(_ERROR_HANDLER, _replace_unencodable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERROR_HANDLER)


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_REPLACEMENTS.get(character) or _escape(character) for character in characters), error.end


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def flush_error(stream: TextIO | None) -> OSError | None:
    """Flush a stream; returns the error if that fails, else None.

    After an error the rest of the output is discarded: Python would try to write it again at exit.
    """
    if stream is None:  # the parent process closed it
        return None
    try:
        stream.flush()
    except ValueError:
        return None  # it has been closed
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def os_error_text(error: OSError) -> str:
    """The message for an unexpected OSError; '' if the reader of the output has closed it."""
    if error.errno == errno.EPIPE or (sys.platform == WINDOWS and error.errno == errno.EINVAL):
        return ""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno is None:  # an HTTP library's error, not one of the system
        return f"{reason}."
    return f"{error.filename}: {reason}." if error.filename else f"Standard output cannot be written: {reason}."
