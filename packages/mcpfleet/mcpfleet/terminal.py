"""What the commands print with, in a terminal: the console, and texts of others for it.

Apart from `mcpfleet.shown`, which services import too: an image needs no rich.
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from mcpfleet.shown import inert


def marked_up(text: str) -> str:
    """One line for a rich console that reads markup: inert, and without a style of its own."""
    return escape(inert(text))


def console(*, stderr: bool = False) -> Console:
    """A console for texts of others: nothing in them is an emoji, a number to colour, or a place to fold.

    A command that is copied must stay one line, so nothing is wrapped.
    """
    return Console(stderr=stderr, soft_wrap=True, highlight=False, emoji=False)
