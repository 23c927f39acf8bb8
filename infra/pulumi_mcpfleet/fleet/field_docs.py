"""Documentation of value types, and parts of messages: the nearest known word, and values as YAML.

A `FieldDoc` is metadata of an `Annotated` type, for the reference page and for editors. It does not validate; the rule
next to it does.
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
    """The documentation of a type of value.

    Attributes:
        singular: The name of one such value, as Markdown.
        plural: The name of several.
        accepted: Which values are accepted, as Markdown.
        schema: The part of the rule that an editor can check, as keywords of JSON Schema.
    """

    singular: str
    plural: str
    accepted: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the keywords of `schema` to the JSON Schema of the type."""
        return {**handler(core), **cast("dict[str, Any]", self.schema)}


def pattern(text: str) -> dict[str, str]:
    """The JSON Schema keyword for texts that match the regular expression *text* from start to end."""
    return {"pattern": f"^(?:{text})$"}


# Fillers and variation selectors: Python calls them letters and marks, but nothing of them is visible.
_INVISIBLE: Final = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def is_visible(text: str) -> bool:
    """Check that every character of *text* is visible; the `mcpfleet` command refuses outputs with others."""
    return text.isprintable() and not _INVISIBLE.search(text)


def check_reason(value: str, subject: str) -> str:
    """Return *value* without spaces around it, if it is one line of a reasonable length.

    Args:
        value: A reason that a user wrote.
        subject: What the reason must explain, for the message.

    Raises:
        ValueError: The value is too short, too long, or not one visible line.
    """
    text = value.strip()
    if len(text) < 10 or len(text) > 256 or not is_visible(text):
        raise ValueError(f"must explain, in one line of 10 to 256 visible characters, {subject}")
    return text


def find_nearest(word: str, choices: Sequence[str]) -> str | None:
    """The choice with the most similar spelling; None if none is similar."""
    return next(iter(difflib.get_close_matches(word[:100], choices, n=1, cutoff=0.6)), None)


def describe_unknown(word: str, choices: Sequence[str]) -> str:
    """Describe an unknown word: quote it, with the most similar of *choices*, or with all if none is similar."""
    nearest = find_nearest(word, choices)
    if nearest:
        return f"{word[:100]!r}; did you mean {nearest}?"
    return f"{word[:100]!r}; available: {', '.join(choices)}"


def to_yaml(value: Any) -> str:
    """Format *value* in YAML's flow style, on one line, with quotes only where YAML needs them."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return "{" + ", ".join(f"{to_yaml(key)}: {to_yaml(item)}" for key, item in entries.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(to_yaml(item) for item in cast("tuple[Any, ...]", value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    # Text that looks like a number needs quotes, a plain word does not; a colon or a comma has a meaning in YAML.
    needs_no_quotes = (
        value.isprintable()
        and value
        and value[0] not in "0123456789-*&!%@`\"'[]{}#|>"
        and not any(item in value for item in ",:#{}[]")
    )
    return value if needs_no_quotes and value not in {"true", "false", "null", "yes", "no"} else json.dumps(value)
