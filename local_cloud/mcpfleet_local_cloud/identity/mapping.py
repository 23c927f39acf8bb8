"""Attribute mappings and conditions of workload identity pools, in the Common Expression Language.

docs.cloud.google.com/iam/docs/workload-identity-federation, "Attribute mappings" and "Attribute conditions".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import cel

MAX_CONDITION_LENGTH: Final = 4096
"""The maximum number of characters of a condition."""
MAX_EXPRESSION_LENGTH: Final = 2048
"""The maximum number of characters of the expression that an attribute is mapped from."""
_MAX_SUBJECT_BYTES: Final = 127
_MAX_GROUPS: Final = 400
_MAX_TOTAL_LENGTH: Final = 8 * 1024
_CUSTOM: Final = re.compile(r"attribute\.([a-z0-9_]{1,100})")
_MACRO: Final = re.compile(r"\.(?:all|exists|exists_one|map|filter)\(\s*(\w+)\s*,")
_TOKEN: Final = re.compile(rf"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|({_MACRO.pattern})|[()]""")
_MAX_STEPS: Final = 200_000
"""The maximum number of loop steps of an evaluation; a step takes about a microsecond and blocks the event loop."""
_CHARACTERS_PER_STEP: Final = 10_000
"""The number of characters that take as long as one step."""
_STANDARD: Final = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches", "has", "all", "exists", "exists_one", "filter", "map"}
    | {"int", "uint", "double", "string", "bytes", "bool", "min", "max"}
)


def _extract(value: str, template: str) -> str:
    """The part of *value* at `{name}` in *template*; empty if *value* doesn't match (IAM's CEL function `extract`)."""
    match = re.fullmatch(r"(?P<before>[^{}]*)\{\w+\}(?P<after>[^{}]*)", template)
    if match is None:
        raise ValueError(f"{template} is no template with one {{name}}")
    start = value.find(match["before"])
    if start < 0:
        return ""
    remainder = value[start + len(match["before"]) :]
    if not match["after"]:
        return remainder
    end = remainder.find(match["after"])
    return remainder[:end] if end >= 0 else ""


def _join(values: Sequence[str], separator: str = "") -> str:
    return separator.join(values)


_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "extract": _extract,
    "join": _join,
    "lowerAscii": str.lower,
    "replace": str.replace,
    "split": str.split,
    "upperAscii": str.upper,
}


class ExpressionError(Exception):
    """An expression that the local cloud can't evaluate; the message has the reason."""


class MappingError(Exception):
    """A credential that can't be mapped to a principal; the message is Google's."""


class ConditionError(Exception):
    """A credential that doesn't satisfy a condition."""


@dataclass(frozen=True, kw_only=True)
class MappedAttributes:
    """The Google attributes of a credential, from an attribute mapping."""

    subject: str
    groups: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


def check_expression(expression: str, variables: frozenset[str]) -> None:
    """Check that *expression* is CEL, and uses only *variables* and known functions.

    Raises:
        ExpressionError: the expression is invalid; the message has the reason.
    """
    program = _compile(expression)
    bound = set(_MACRO.findall(expression))
    if unknown := set(program.variables()) - variables - bound:
        raise ExpressionError(f"undeclared reference to '{min(unknown)}'")
    function_names = {name for name in program.functions() if re.fullmatch(r"[A-Za-z]\w*", name)}
    if unknown := function_names - _STANDARD - _FUNCTIONS.keys():
        raise ExpressionError(f"the local cloud does not support the function '{min(unknown)}'")


def find_key_mistake(key: str) -> str:
    """The mistake in an attribute's name; empty if it is valid."""
    if key in ("google.subject", "google.groups") or _CUSTOM.fullmatch(key):
        return ""
    return "use google.subject, google.groups or attribute.NAME with lower-case letters, digits and underscores"


def map_attributes(mapping: Mapping[str, str], assertion: Mapping[str, Any]) -> MappedAttributes:
    """Map the claims *assertion* to Google attributes.

    A custom attribute whose claim is missing is omitted.

    Raises:
        MappingError: there is no subject, or a value has the wrong type or size.
    """
    values: dict[str, Any] = {}
    for key, expression in mapping.items():
        try:
            values[key] = _evaluate(expression, {"assertion": dict(assertion)})
        except ExpressionError:
            continue
    subject = values.pop("google.subject", None)
    if not isinstance(subject, str) or not subject:
        raise MappingError("Could not obtain a value for google.subject from the given credential.")
    if len(subject.encode()) > _MAX_SUBJECT_BYTES:
        raise MappingError(
            f"The size of mapped attribute google.subject exceeds the {_MAX_SUBJECT_BYTES} bytes limit. Either modify "
            "your attribute mapping or the incoming assertion to produce a mapped attribute that is less than "
            f"{_MAX_SUBJECT_BYTES} bytes."
        )
    groups: Any = values.pop("google.groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):  # pyright: ignore[reportUnknownVariableType]
        raise MappingError("The mapped attribute google.groups must be a list of strings.")
    for key, value in values.items():
        if not isinstance(value, str):
            raise MappingError(f"The mapped attribute {key} must be of type STRING.")
    attributes = {key.removeprefix("attribute."): value for key, value in values.items()}
    everything = [subject, *groups, *attributes.values()]  # pyright: ignore[reportUnknownVariableType]
    if len(groups) > _MAX_GROUPS or sum(map(len, everything)) > _MAX_TOTAL_LENGTH:  # pyright: ignore[reportUnknownArgumentType]
        raise MappingError(f"The mapped attributes exceed {_MAX_TOTAL_LENGTH} bytes, or the groups {_MAX_GROUPS}.")
    return MappedAttributes(subject=subject, groups=tuple(groups), attributes=attributes)  # pyright: ignore[reportUnknownArgumentType]


def check_condition(condition: str, assertion: Mapping[str, Any], attributes: MappedAttributes) -> None:
    """Check that the *condition* is true; an empty condition is always true.

    Raises:
        ConditionError: the condition is false, or can't be evaluated, for example because a claim is missing.
    """
    if not condition:
        return
    google = {"subject": attributes.subject, "groups": list(attributes.groups)}
    values = {"assertion": dict(assertion), "google": google, "attribute": dict(attributes.attributes)}
    try:
        verdict = _evaluate(condition, values)
    except ExpressionError as error:
        raise ConditionError from error
    if verdict is not True:
        raise ConditionError


def _evaluate(expression: str, values: dict[str, Any]) -> Any:
    import cel

    if (steps := _estimate_steps(expression, values)) > _MAX_STEPS:
        raise ExpressionError(f"the expression could take {steps:.0e} steps, more than {_MAX_STEPS}")
    try:
        return _compile(expression).execute(cel.Context(values, dict(_FUNCTIONS)))
    except ExpressionError:
        raise
    except Exception as error:  # the library raises many types: KeyError, TypeError, RuntimeError, ...
        raise ExpressionError(str(error)) from error


def _estimate_steps(expression: str, values: Mapping[str, Any]) -> float:
    """The maximum number of steps that *expression* can take with *values*.

    An evaluation can't be stopped, so the bound must be known before it starts: no loop has more steps than the longest
    list in *values*, or than a list that the expression has, splits from a string or concatenates.
    """
    depth = _loop_depth(expression)
    if not depth:
        return 1
    items, text, pending = expression.count(",") + 1, len(expression), [values]
    while pending:
        value: Any = pending.pop()
        if isinstance(value, str):
            text = max(text, len(value))
        elif isinstance(value, dict | list):
            items = max(items, len(value))  # pyright: ignore[reportUnknownArgumentType]
            pending += value.values() if isinstance(value, dict) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    longest = max(items, text if "split" in expression else 0) * (1 + expression.count("+"))
    return float(longest) ** depth * (1 + len(expression) * text / _CHARACTERS_PER_STEP)


def _loop_depth(expression: str) -> int:
    """The depth of nested loops in *expression*."""
    depth, open_parentheses = 0, list[bool]()
    for match in _TOKEN.finditer(expression):
        if match[1] or match[0] == "(":
            open_parentheses.append(bool(match[1]))
            depth = max(depth, sum(open_parentheses))
        elif match[0] == ")" and open_parentheses:
            open_parentheses.pop()
    return depth


@lru_cache(maxsize=256)
def _compile(expression: str) -> "cel.Program":
    # The import takes a second or two, because it includes a command line; only a cloud with pools needs it.
    import cel

    try:
        return cel.compile(expression)
    except Exception as error:
        raise ExpressionError(str(error).partition("\n")[0]) from error
