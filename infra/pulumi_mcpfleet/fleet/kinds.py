"""What a scalar of the vocabulary is called, and what it accepts: for the reference page and for editors.

A `Kind` stands among the metadata of an `Annotated` type. Checking is not its business: the rule beside it does that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Kind:
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
