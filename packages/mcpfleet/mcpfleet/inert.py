r"""Text of others (servers, repositories, packages, outputs, logs) as a terminal may show it: inert.

A terminal obeys control characters and a reader is misled by invisible ones: an escape sequence moves the cursor and
repaints what we said, a line break begins a line that looks like ours, a bidirectional control turns words around.
Each such character is shown as its escape (`\n`, `\u001b`), which JSON reads back.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Final, cast

MARKED: Final = "  | "
"""What begins each further line of a text of several lines: nothing but a mark of ours stands at a line's begin."""

# Printable ASCII is nearly all there is to show, and is passed over at the speed of a search.
_OTHER: Final = re.compile(r"[^\x20-\x7e]")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
# Shown as nothing at all, though they are letters and marks to Python: fillers, and variation selectors.
_INVISIBLE: Final = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")


@lru_cache(maxsize=4096)
def _visible(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    # Not printable are controls, formats (bidirectional, zero-width), line separators, halves, and what has no meaning.
    if character.isprintable() and not _INVISIBLE.match(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def inert(text: str, at_most: int | None = None) -> str:
    """A text as one line that a terminal shows and does not obey.

    Args:
        text: Anybody's.
        at_most: Characters of the text that are shown; all by default.
    """
    if at_most is not None and len(text) > at_most:
        text = f"{text[:at_most]}…"
    return _OTHER.sub(lambda found: _visible(found[0]), text)


def in_a_line(error: BaseException, at_most: int = 500) -> str:
    """What went wrong, in one inert line: what pydantic says of a malformed answer has many."""
    import pydantic

    if isinstance(error, pydantic.ValidationError):
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        where = ".".join(map(str, wrong[0]["loc"])) or "all of it"
        return inert(f"an answer is not what MCP says: {where}: {wrong[0]['msg']}{more}", at_most)
    first, *more_lines = str(error)[: at_most + 1].strip().splitlines() or [""]
    return inert(f"{first} …" if more_lines else first, at_most)


def innermost(error: BaseException) -> BaseException:
    """What went wrong first, in the task group that it ended."""
    if isinstance(error, BaseExceptionGroup):
        return innermost(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error


def inert_lines(text: str) -> str:
    """A text of several lines, in which each line but the first begins with a mark."""
    return f"\n{MARKED}".join(inert(line) for line in text.split("\n"))


class InertFormatter(logging.Formatter):
    """Log records for a terminal: what was logged is one line, and each line of a traceback is marked."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        return inert_lines(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Render what was logged, without its traceback."""
        return inert(super().formatMessage(record))
