"""One mistake of pydantic's in the user's words: the path as in the config file, what is wrong, what to write."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic_core import ErrorDetails

from pulumi_mcpfleet.fleet.base import PARENT, MistakesError, UnknownKindError
from pulumi_mcpfleet.fleet.cloud_run_terms import advice, snake
from pulumi_mcpfleet.fleet.field_docs import in_yaml, near, unknown_word
from pulumi_mcpfleet.fleet.model import Fleet
from pulumi_mcpfleet.fleet.server import Server

_ROOT: Final = "fleet"
_KEY_MARK: Final = "[key]"  # pydantic's last step in the place of a mapping's key


@dataclass(frozen=True)
class Line:
    """One line of the report.

    Attributes:
        path: Where the mistake is, in the user's own file.
        sentence: What is wrong, and what to write.
        entry: The entry of a mapping or list that it is in, without which the rest can be looked at, if it is in one.
    """

    path: Sequence[int | str]
    sentence: str
    entry: Sequence[int | str] | None


def lines(mistake: ErrorDetails) -> Iterator[Line]:
    """What *mistake* is in the report."""
    place = _follow(mistake["loc"])
    error = mistake.get("ctx", {}).get("error")
    if not isinstance(error, MistakesError):
        yield Line(place.path, _sentence(mistake, place), place.entry)
        return
    for further, sentence in error.found:
        inside = _follow(_walk(mistake["loc"], further))
        yield Line(_walk(place.path, further), sentence, inside.entry)


def _walk(path: Sequence[int | str], further: Sequence[int | str]) -> tuple[int | str, ...]:
    there = list(path)
    for step in further:
        if step == PARENT:
            there.pop()
        else:
            there.append(step)
    return tuple(there)


def spelled(path: Sequence[int | str]) -> str:
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


@dataclass(frozen=True)
class _Place:
    """Where a mistake is.

    Attributes:
        path: In the user's own file, which knows nothing of the tags that pydantic adds for the members of a union.
        above: The models on the way, outermost first, each with the path to it.
        example: What could stand there.
        kinds: The members of the tagged union that stands there, by their tags.
        entry: The innermost entry of a mapping or list that it is in.
    """

    path: Sequence[int | str]
    above: Sequence[tuple[Sequence[int | str], type[BaseModel]]]
    example: Any = None
    kinds: Mapping[str, Any] = field(default_factory=dict[str, Any])
    entry: Sequence[int | str] | None = None


def _sentence(mistake: ErrorDetails, place: _Place) -> str:
    """What is wrong and what to do, for one mistake."""
    context, given = mistake.get("ctx", {}), mistake["input"]
    shown = _shown(given)
    model = place.above[-1][1] if place.above else None
    match mistake["type"]:
        case "extra_forbidden" if model:
            return f"unknown key{_other_word(str(mistake['loc'][-1]), model, place)}"
        case "missing" if model:
            name = str(mistake["loc"][-1])
            return f"missing; add {name}: {in_yaml((model.model_fields[name].examples or ['…'])[0])}"
        case "value_error":
            return _kindless(context["error"], place)
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
            return f"{shown} is not a list; write {_as_list(given, place)}"
        case "model_type" | "dict_type" | "mapping_type" | "union_tag_not_found" | "model_attributes_type":
            return f"{shown} is not a mapping; write {_as_mapping(given, place)}"
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


def _other_word(word: str, model: type[BaseModel], place: _Place) -> str:
    """What to write in place of a key that is unknown in *model*."""
    known, snaked = list(model.model_fields), snake(word)
    if snaked in known:
        return f"; did you mean {snaked}?"
    for path, above in reversed(place.above[:-1]):
        if word in above.model_fields:
            return f"; write it as {spelled([*path, word])}"
    if model is Fleet and word in Server.model_fields:
        return f"; write it as {spelled(['servers', 'NAME', word])}"
    inside = _inside(model, word)
    if inside:
        return f"; write it as {spelled([*place.path[:-1], *inside])}"
    said = advice(word) if "source" not in place.path else None  # a revision there would be git's
    return f"; {said}" if said else unknown_word(word, known).removeprefix(repr(word[:100]))


def _kindless(error: ValueError, place: _Place) -> str:
    if isinstance(error, UnknownKindError):
        found = {word: _within(place.kinds, word) for word in error.words if near(word, list(place.kinds)) is None}
        if found and all(found.values()):
            ways = [f"{word} as {spelled([*place.path, *inside])}" for word, inside in found.items()]
            return f"write {' and '.join(ways)}"
    return str(error)


def _inside(model: type[BaseModel], word: str) -> list[str]:
    """The way to the key *word* one step further in: in a union, as a source's, or in a part, as `vpc`."""
    for name, known in model.model_fields.items():
        way = _within(_tagged(known.annotation), word)
        if way:
            return [name, *way]
        part = _plain(known.annotation)
        if isinstance(part, type) and issubclass(part, BaseModel) and word in part.model_fields:
            return [name, word]
    return []


def _within(kinds: Mapping[str, Any], word: str) -> list[str]:
    """The way to the key *word* in one of the members of a union."""
    members = [_plain(one) for one in kinds.values()]
    for member in members:
        if word in member.model_fields:
            return [word]
    for member in members:
        for name, known in member.model_fields.items():
            inner = _plain(known.annotation)
            if isinstance(inner, type) and issubclass(inner, BaseModel) and word in inner.model_fields:
                return [name, word]
    return []


def _as_mapping(given: Any, place: _Place) -> str:
    example = place.example
    if isinstance(given, str) and given in place.kinds:  # access: public
        (known, *_) = _plain(place.kinds[given]).model_fields.values()
        example = {given: known.examples[0]}
    if not isinstance(example, Mapping):
        return "{key: value}"
    example = cast("Mapping[str, Any]", example)
    name = place.path[-1] if place.path else 0
    others = [kind for kind in place.kinds if kind not in example]
    written = in_yaml({name: example})[1:-1] if isinstance(name, str) else in_yaml(example)
    return written + (f", or one of {', '.join(others)}" if others else "")


def _as_list(given: Any, place: _Place) -> str:
    short = isinstance(given, str) and len(given) < 100
    words = [word for word in re.split(r"[\s,]+", given) if word] if short else place.example
    name = place.path[-1] if place.path else 0
    if not isinstance(words, list) or not words or not isinstance(name, str):
        return "[first, second]"
    return f"{name}: {in_yaml(words)}"


def _follow(loc: tuple[int | str, ...]) -> _Place:
    """Walk pydantic's location through the model."""
    path: list[int | str] = []
    here: Any = Fleet
    entry: Sequence[int | str] | None = None
    example: Any = None
    above: list[tuple[Sequence[int | str], type[BaseModel]]] = []
    for step in loc:
        members = _tagged(here)
        if isinstance(step, str) and step in members:
            here = members[step]
            continue
        if step == _KEY_MARK:
            continue
        here = _plain(here)
        if isinstance(here, type) and issubclass(here, BaseModel):
            above.append((list(path), here))
            known = here.model_fields.get(str(step))
            example = (known.examples or [None])[0] if known else None
            # `metadata` is what pydantic has taken off an Annotated type.
            here = (
                Annotated[known.annotation, *known.metadata] if known and known.metadata else known and known.annotation
            )
        else:
            inner = get_args(here)
            here = inner[-1 if len(inner) != 2 or inner[1] is not Ellipsis else 0] if inner else None
            example = next(iter(cast("Mapping[Any, Any]", example).values())) if isinstance(example, Mapping) else None
            entry = (*path, step) if inner else entry
        path.append(step)
    return _Place(path, above, example, _tagged(here), entry)


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
