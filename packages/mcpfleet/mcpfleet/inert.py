r"""Makes untrusted text (of servers, repositories, packages, outputs, logs) inert, so that a terminal can show it.

A terminal obeys control characters, and invisible ones mislead a reader. An escape sequence can move the cursor and
overwrite earlier output, a line break can start a line that looks like ours, a bidirectional control reverses words.
Each such character is shown as its escape (`\n`, `\u001b`), which JSON can read.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Final, cast

CONTINUATION: Final = "  | "
"""The start of each line of a message but the first: untrusted text must not start a line."""

# Nearly all text is printable ASCII, which a regular expression skips fast.
_NOT_PRINTABLE_ASCII: Final = re.compile(r"[^\x20-\x7e]")
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
# Invisible, although Python counts them as letters and marks: fillers, and variation selectors.
_INVISIBLE: Final = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")


@lru_cache(maxsize=4096)
def _escape(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    # Not printable: controls, formats (bidirectional, zero-width), line separators, surrogates, unassigned characters.
    if character.isprintable() and not _INVISIBLE.match(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2))


def inert(text: str, limit: int | None = None) -> str:
    """A text as one line without characters that a terminal obeys.

    Args:
        text: Any text.
        limit: The most characters of the text that are shown; all by default.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}…"
    return _NOT_PRINTABLE_ASCII.sub(lambda match: _escape(match[0]), text)


def error_line(error: BaseException, limit: int = 500) -> str:
    """The message of an error as one inert line; pydantic's have many lines."""
    import pydantic

    if isinstance(error, pydantic.ValidationError):
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        suffix = f", and {len(mistakes) - 1} more" if len(mistakes) > 1 else ""
        location = ".".join(map(str, mistakes[0]["loc"])) or "all of it"
        return inert(f"a response is not valid MCP: {location}: {mistakes[0]['msg']}{suffix}", limit)
    first, *more_lines = str(error)[: limit + 1].strip().splitlines() or [""]
    return inert(f"{first} …" if more_lines else first, limit)


def innermost_error(error: BaseException) -> BaseException:
    """The first error in nested exception groups, as task groups raise them."""
    if isinstance(error, BaseExceptionGroup):
        return innermost_error(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error


def inert_lines(text: str) -> str:
    """A text of several inert lines; each line but the first begins with `CONTINUATION`."""
    return f"\n{CONTINUATION}".join(inert(line) for line in text.split("\n"))


class InertFormatter(logging.Formatter):
    """Formats log records for a terminal: the message is one line, and each line of a traceback is marked."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        return inert_lines(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Render the message of a record, without its traceback."""
        return inert(super().formatMessage(record))
