"""Words for users: what to write instead of a word that does not exist here, and values as the file shows them."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast


def near(word: str, known: Sequence[str]) -> str | None:
    """The nearest of *known*, None when none is near."""
    return next(iter(difflib.get_close_matches(word[:100], known, n=1, cutoff=0.6)), None)


def unknown_word(word: str, known: Sequence[str]) -> str:
    """Name *word* and the nearest of *known*, or all of them when none is near."""
    meant = near(word, known)
    if meant:
        return f"{word[:100]!r}; did you mean {meant}?"
    return f"{word[:100]!r}; there is {', '.join(known)}"


def in_yaml(value: Any) -> str:
    """*value* in YAML's short form, as a person would write it."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return "{" + ", ".join(f"{in_yaml(key)}: {in_yaml(one)}" for key, one in entries.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(in_yaml(one) for one in cast("tuple[Any, ...]", value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    # A number in quotes is a text, a word without them is one as well; a colon or a comma would begin something.
    plain = (
        value.isprintable()
        and value
        and value[0] not in "0123456789-*&!%@`\"'[]{}#|>"
        and not any(one in value for one in ",:#{}[]")
    )
    return value if plain and value not in {"true", "false", "null", "yes", "no"} else json.dumps(value)
