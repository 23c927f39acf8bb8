"""From the raw config to a `Fleet`, or to one report of every mistake in it.

pydantic finds the mistakes; this module says them in the user's words: the path as it stands in the
config file, what is wrong, what to write.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from infra.fleet.base import UP, MistakesError
from infra.fleet.model import Fleet
from infra.fleet.words import in_yaml, unknown_word

_ROOT: Final = "fleet"
_KEY_MARK: Final = "[key]"  # pydantic's last step in the place of a mapping's key


class FleetError(Exception):
    """The fleet cannot be deployed as written.

    The text is for the person who wrote it: one line for each mistake, each beginning with its path.
    """


def parse_fleet(raw: Mapping[str, Any] | None, *, root: Path | None = None) -> Fleet:
    """Check *raw*, the value of `mcpfleet:fleet`.

    Args:
        raw: What the config file says, as parsed from YAML or JSON; None where it has no such key.
        root: The folder of Pulumi.yaml. When given, a folder to build must be there with its Dockerfile.

    Raises:
        FleetError: the fleet has mistakes; all of them are in the text.
    """
    if raw is None:
        raise FleetError(f"{_ROOT}: missing; add mcpfleet:{_ROOT} under config, as docs/fleet.md shows")
    try:
        return Fleet.model_validate(raw, context={"root": root})
    except ValidationError as invalid:
        mistakes = invalid.errors(include_url=False)
        raise FleetError("\n".join(line for mistake in mistakes for line in _lines(mistake))) from None


def _lines(mistake: ErrorDetails) -> Iterator[str]:
    path, model = _follow(mistake["loc"])
    error = mistake.get("ctx", {}).get("error")
    if isinstance(error, MistakesError):
        for further, sentence in error.found:
            yield f"{_spelled(_walk(path, further))}: {sentence}"
    else:
        yield f"{_spelled(path)}: {_sentence(mistake, model)}"


def _walk(path: Sequence[int | str], further: Sequence[int | str]) -> list[int | str]:
    there = list(path)
    for step in further:
        if step == UP:
            there.pop()
        else:
            there.append(step)
    return there


def _spelled(path: Sequence[int | str]) -> str:
    """The path as a person would write it; a key with odd characters is quoted so that a line stays a line."""
    text = _ROOT
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[\w-]+", step):
            text += f".{step}"
        else:
            text += f"[{json.dumps(step)}]"
    return text


def _sentence(mistake: ErrorDetails, model: type[BaseModel] | None) -> str:
    """What is wrong and what to do, for one mistake in (or at a field of) *model*."""
    context, given = mistake.get("ctx", {}), mistake["input"]
    shown = _shown(given)
    match mistake["type"]:
        case "extra_forbidden" if model:
            word = str(mistake["loc"][-1])
            advice = unknown_word(word, list(model.model_fields)).removeprefix(repr(word[:100]))
            return f"unknown key{advice}"
        case "missing" if model:
            name = str(mistake["loc"][-1])
            return f"missing; add {name}: {in_yaml((model.model_fields[name].examples or ['…'])[0])}"
        case "value_error":
            return str(context["error"])
        case "greater_than_equal":
            return f"{shown} is too small; write {context['ge']} or more"
        case "less_than_equal":
            return f"{shown} is too large; write {context['le']} or less"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"{shown} is not a whole number; write one, without quotes"
        case "bool_type" | "bool_parsing":
            return f"{shown} is neither true nor false; write one of them"
        case "string_type":
            return f"{shown} is not text; put the text in quotes"
        case "string_unicode":
            return "has characters that are not Unicode text; remove them"
        case "string_too_long":
            return f"is longer than {context['max_length']} characters; shorten it"
        case "too_long":
            return f"has more than {context['max_length']} entries; remove some"
        case "too_short":
            return "is empty; add at least one entry"
        case "literal_error":
            return f"{shown} is not known; write one of {context['expected']}"
        case "tuple_type":
            return f"{shown} is not a list; write [first, second]"
        case "model_type" | "dict_type" | "mapping_type" | "union_tag_not_found" | "model_attributes_type":
            return f"{shown} is not a mapping; write {{key: value}}"
        case _:
            return mistake["msg"]


def _shown(value: Any) -> str:
    """*value* as it may stand in one line of a report: short, and as the config file would show it."""
    if value is None:
        return "nothing (null)"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def _follow(loc: tuple[int | str, ...]) -> tuple[list[int | str], type[BaseModel] | None]:
    """Walk pydantic's location through the model.

    Returns:
        The path in the user's own file, which knows nothing of the tags that pydantic adds for the
        members of a union, and the innermost model on the way to the last step.
    """
    path: list[int | str] = []
    here: Any = Fleet
    model: type[BaseModel] | None = None
    for step in loc:
        members = _tagged(here)
        if isinstance(step, str) and step in members:
            here = members[step]
            continue
        if step == _KEY_MARK:
            continue
        path.append(step)
        here = _plain(here)
        if isinstance(here, type) and issubclass(here, BaseModel):
            model = here
            field = here.model_fields.get(str(step))
            # `metadata` is what pydantic has taken off an Annotated type.
            here = (
                Annotated[field.annotation, *field.metadata] if field and field.metadata else field and field.annotation
            )
        else:
            inner = get_args(here)
            here = inner[-1 if len(inner) != 2 or inner[1] is not Ellipsis else 0] if inner else None
    return path, model


def _plain(annotation: Any) -> Any:
    """*annotation* without Annotated, and X for `X | None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        (annotation, *_) = (member for member in get_args(annotation) if member is not type(None))
        return _plain(annotation)
    return annotation


def _tagged(annotation: Any) -> dict[str, Any]:
    """The members of a tagged union by their tags; empty when *annotation* is none."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, UnionType):
        return {}
    return {
        mark.tag: member
        for member in get_args(annotation)
        if get_origin(member) is Annotated
        for mark in get_args(member)[1:]
        if isinstance(mark, Tag)
    }
