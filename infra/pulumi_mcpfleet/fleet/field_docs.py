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

    singular: str
    plural: str
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


def check_reason(value: str, subject: str) -> str:
    """*value* as one line that says *subject*.

    Raises:
        ValueError: It is none.
    """
    text = value.strip()
    if len(text) < 10 or len(text) > 256 or not is_visible(text):
        raise ValueError(f"has to say, in one line of 10 to 256 characters, all of which are seen, {subject}")
    return text


def find_nearest(word: str, choices: Sequence[str]) -> str | None:
    """The nearest of *choices*, None when none is near."""
    return next(iter(difflib.get_close_matches(word[:100], choices, n=1, cutoff=0.6)), None)


def describe_unknown(word: str, choices: Sequence[str]) -> str:
    """Name *word* and the nearest of *choices*, or all of them when none is near."""
    nearest = find_nearest(word, choices)
    if nearest:
        return f"{word[:100]!r}; did you mean {nearest}?"
    return f"{word[:100]!r}; there is {', '.join(choices)}"


def to_yaml(value: Any) -> str:
    """*value* in YAML's short form, as a person would write it."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return "{" + ", ".join(f"{to_yaml(key)}: {to_yaml(item)}" for key, item in entries.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(to_yaml(item) for item in cast("tuple[Any, ...]", value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    # A number in quotes is a text, a word without them is one as well; a colon or a comma would begin something.
    needs_no_quotes = (
        value.isprintable()
        and value
        and value[0] not in "0123456789-*&!%@`\"'[]{}#|>"
        and not any(item in value for item in ",:#{}[]")
    )
    return value if needs_no_quotes and value not in {"true", "false", "null", "yes", "no"} else json.dumps(value)
