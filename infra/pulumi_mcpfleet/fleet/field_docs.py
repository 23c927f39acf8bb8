"""Words for users: what kinds of values are called, what to write instead of an unknown word, values in YAML.

A `FieldDoc` is metadata of an `Annotated` type: the reference page and editors read it. It checks nothing; the rule
beside it does.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


@dataclass(frozen=True)
class FieldDoc:
    """A kind of value, in words and in JSON Schema.

    Attributes:
        one: What one of them is called.
        many: What several are called.
        accepted: Which ones there are, as Markdown.
        schema: What an editor can check by itself, as keywords of JSON Schema.
    """

    one: str
    many: str
    accepted: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add what this kind knows to the schema of its type."""
        return {**handler(core), **cast("dict[str, Any]", self.schema)}


def pattern(text: str) -> dict[str, str]:
    """The JSON Schema of a text that matches *text* as a whole."""
    return {"pattern": f"^(?:{text})$"}


# Shown as nothing at all, though they are letters and marks to Python: fillers, and variation selectors.
_INVISIBLE: Final = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def is_visible(text: str) -> bool:
    """Whether each sign of *text* is shown as itself; what reads the outputs, `mcpfleet`, takes no others."""
    return text.isprintable() and not _INVISIBLE.search(text)


def checked_reason(value: str, what: str) -> str:
    """*value* as one line that says *what*.

    Raises:
        ValueError: It is none.
    """
    text = value.strip()
    if len(text) < 10 or len(text) > 256 or not is_visible(text):
        raise ValueError(f"has to say, in one line of 10 to 256 characters, all of which are seen, {what}")
    return text


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
