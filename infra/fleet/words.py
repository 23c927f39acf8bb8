"""What to say to a user who wrote a word that does not exist here."""

import difflib
from collections.abc import Sequence


def unknown_word(word: str, known: Sequence[str]) -> str:
    """Name *word* and the nearest of *known*, or all of them when none is near."""
    near = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.6)
    if near:
        return f"{word[:100]!r}; did you mean {near[0]}?"
    return f"{word[:100]!r}; there is {', '.join(known)}"
