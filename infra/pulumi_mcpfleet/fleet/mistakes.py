"""Lines of the error report from pydantic's errors: the path in the config file, the cause, and what to write."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic_core import ErrorDetails

from pulumi_mcpfleet.fleet.base import ConfigPath, MistakesError, RelativePath, Step, UnknownKindError
from pulumi_mcpfleet.fleet.cloud_run_terms import advice, snake
from pulumi_mcpfleet.fleet.field_docs import describe_unknown, find_nearest, to_yaml
from pulumi_mcpfleet.fleet.model import Fleet
from pulumi_mcpfleet.fleet.server import Server

_ROOT: Final = "fleet"
_KEY_MARK: Final = "[key]"  # pydantic's last step if the key of a mapping is wrong, and not its value


@dataclass(frozen=True)
class ReportLine:
    """One line of the report.

    Attributes:
        path: The path of the mistake in the user's file.
        message: The cause, and what to write.
        entry: The path of the entry of a mapping or list with the mistake, if there is one; the parser can drop the
            entry to validate the rest.
    """

    path: ConfigPath
    message: str
    entry: ConfigPath | None


def report_lines(mistake: ErrorDetails) -> Iterator[ReportLine]:
    """The lines of the report for one error of pydantic: several if a rule found several mistakes."""
    location = _locate(mistake["loc"])
    error = mistake.get("ctx", {}).get("error")
    if not isinstance(error, MistakesError):
        yield ReportLine(location.path, _describe(mistake, location), location.entry)
        return
    for further, message in error.mistakes:
        inner = _locate(_join_path(mistake["loc"], further))
        yield ReportLine(_join_path(location.path, further), message, inner.entry)


def _join_path(path: ConfigPath, relative: RelativePath) -> ConfigPath:
    joined = list(path)
    for step in relative:
        if isinstance(step, Step):
            joined.pop()
        else:
            joined.append(step)
    return tuple(joined)


def format_path(path: Sequence[int | str]) -> str:
    """Format *path* with dots and indexes; a key with special characters is quoted, so that it is always one line."""
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
class _Location:
    """The place of a mistake: its path in the config, and what the fleet's models have there.

    Attributes:
        path: The path in the user's file, without the tags that pydantic adds for the members of a union.
        models: The models on the path, outermost first, each with its own path.
        example: An example of a value for this place.
        kinds: The members of the tagged union at this place, by their tags.
        entry: The path of the innermost entry of a mapping or list that contains this place.
    """

    path: ConfigPath
    models: Sequence[tuple[ConfigPath, type[BaseModel]]]
    example: Any = None
    kinds: Mapping[str, Any] = field(default_factory=dict[str, Any])
    entry: ConfigPath | None = None


def _describe(mistake: ErrorDetails, location: _Location) -> str:
    """The message for one mistake: the cause, and what to write."""
    context, value = mistake.get("ctx", {}), mistake["input"]
    formatted = _format_value(value)
    model = location.models[-1][1] if location.models else None
    match mistake["type"]:
        case "extra_forbidden" if model:
            return f"unknown key{_suggest_key(str(mistake['loc'][-1]), model, location)}"
        case "missing" if model:
            name = str(mistake["loc"][-1])
            return f"missing; add {name}: {to_yaml((model.model_fields[name].examples or ['…'])[0])}"
        case "value_error":
            return _describe_value_error(context["error"], location)
        case "greater_than_equal":
            return f"{formatted} is too small; write {context['ge']} or more"
        case "less_than_equal":
            return f"{formatted} is too large; write {context['le']} or less"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"{formatted} is not a whole number; write one, without quotes"
        case "bool_type" | "bool_parsing":
            return f"{formatted} is neither true nor false; write one of them"
        case "string_type":
            return f"{formatted} is not text; put the text in quotes"
        case "string_unicode":
            return "has characters that are not Unicode text; remove them"
        case "string_too_long":
            return f"is longer than {context['max_length']} characters; shorten it"
        case "too_long":
            return f"has more than {context['max_length']} entries; remove some"
        case "too_short":
            return "is empty; add at least one entry"
        case "literal_error":
            return f"{formatted} is not known; write one of {context['expected']}"
        case "tuple_type":
            return f"{formatted} is not a list; write {_suggest_list(value, location)}"
        case "model_type" | "dict_type" | "mapping_type" | "union_tag_not_found" | "model_attributes_type":
            return f"{formatted} is not a mapping; write {_suggest_mapping(value, location)}"
        case _:
            return mistake["msg"]


def _format_value(value: Any) -> str:
    """Format *value* for a message: at most 60 characters, in the syntax of the config file."""
    if value is None:
        return "nothing (null)"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggest_key(key: str, model: type[BaseModel], location: _Location) -> str:
    """The end of the message for a key that *model* does not have: what to write instead."""
    keys, snaked = list(model.model_fields), snake(key)
    if snaked in keys:
        return f"; did you mean {snaked}?"
    for path, outer in reversed(location.models[:-1]):
        if key in outer.model_fields:
            return f"; write it as {format_path([*path, key])}"
    if model is Fleet and key in Server.model_fields:
        return f"; write it as {format_path(['servers', 'NAME', key])}"
    nested = _find_nested_key(model, key)
    if nested:
        return f"; write it as {format_path([*location.path[:-1], *nested])}"
    term_advice = advice(key) if "source" not in location.path else None  # `revision` in a source is a term of Git
    return f"; {term_advice}" if term_advice else describe_unknown(key, keys).removeprefix(repr(key[:100]))


def _describe_value_error(error: ValueError, location: _Location) -> str:
    if isinstance(error, UnknownKindError):
        nested_keys = {
            key: _find_in_union(location.kinds, key)
            for key in error.keys
            if find_nearest(key, list(location.kinds)) is None
        }
        if nested_keys and all(nested_keys.values()):
            suggestions = [f"{key} as {format_path([*location.path, *nested])}" for key, nested in nested_keys.items()]
            return f"write {' and '.join(suggestions)}"
    return str(error)


def _find_nested_key(model: type[BaseModel], key: str) -> list[str]:
    """Find *key* one level deeper: in a member of a union, such as `source`, or in a nested model, such as `vpc`."""
    for name, field_info in model.model_fields.items():
        path = _find_in_union(_union_members(field_info.annotation), key)
        if path:
            return [name, *path]
        part = _unwrap(field_info.annotation)
        if isinstance(part, type) and issubclass(part, BaseModel) and key in part.model_fields:
            return [name, key]
    return []


def _find_in_union(kinds: Mapping[str, Any], key: str) -> list[str]:
    """Find the path to *key* in the members of a union; an empty path if no member has it."""
    members = [_unwrap(kind) for kind in kinds.values()]
    for member in members:
        if key in member.model_fields:
            return [key]
    for member in members:
        for name, field_info in member.model_fields.items():
            inner = _unwrap(field_info.annotation)
            if isinstance(inner, type) and issubclass(inner, BaseModel) and key in inner.model_fields:
                return [name, key]
    return []


def _suggest_mapping(value: Any, location: _Location) -> str:
    example = location.example
    if isinstance(value, str) and value in location.kinds:  # access: public
        (field_info, *_) = _unwrap(location.kinds[value]).model_fields.values()
        example = {value: field_info.examples[0]}
    if not isinstance(example, Mapping):
        return "{key: value}"
    example = cast("Mapping[str, Any]", example)
    name = location.path[-1] if location.path else 0
    others = [kind for kind in location.kinds if kind not in example]
    written = to_yaml({name: example})[1:-1] if isinstance(name, str) else to_yaml(example)
    return written + (f", or one of {', '.join(others)}" if others else "")


def _suggest_list(value: Any, location: _Location) -> str:
    is_short = isinstance(value, str) and len(value) < 100
    items = [item for item in re.split(r"[\s,]+", value) if item] if is_short else location.example
    name = location.path[-1] if location.path else 0
    if not isinstance(items, list) or not items or not isinstance(name, str):
        return "[first, second]"
    return f"{name}: {to_yaml(items)}"


def _locate(loc: ConfigPath) -> _Location:
    """Follow the location of a pydantic error through the fleet's models."""
    path: list[int | str] = []
    annotation: Any = Fleet
    entry: ConfigPath | None = None
    example: Any = None
    models: list[tuple[ConfigPath, type[BaseModel]]] = []
    for step in loc:
        members = _union_members(annotation)
        if isinstance(step, str) and step in members:
            annotation = members[step]
            continue
        if step == _KEY_MARK:
            continue
        annotation = _unwrap(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            models.append((tuple(path), annotation))
            field_info = annotation.model_fields.get(str(step))
            example = (field_info.examples or [None])[0] if field_info else None
            # pydantic splits an Annotated type into `annotation` and `metadata`.
            annotation = (
                Annotated[field_info.annotation, *field_info.metadata]
                if field_info and field_info.metadata
                else field_info and field_info.annotation
            )
        else:
            inner = get_args(annotation)
            annotation = inner[-1 if len(inner) != 2 or inner[1] is not Ellipsis else 0] if inner else None
            example = next(iter(cast("Mapping[Any, Any]", example).values())) if isinstance(example, Mapping) else None
            entry = (*path, step) if inner else entry
        path.append(step)
    return _Location(tuple(path), models, example, _union_members(annotation), entry)


def _unwrap(annotation: Any) -> Any:
    """Remove Annotated and None from a type: `Annotated[X, …]` and `X | None` become X."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        (annotation, *_) = (member for member in get_args(annotation) if member is not type(None))
        return _unwrap(annotation)
    return annotation


def _union_members(annotation: Any) -> dict[str, Any]:
    """The members of a tagged union by their tags; empty if *annotation* is no tagged union."""
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
