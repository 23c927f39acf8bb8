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

CONDITION: Final = 4096
"""Characters of a condition."""
EXPRESSION: Final = 2048
"""Characters of what an attribute is mapped from."""
_SUBJECT: Final = 127
_GROUPS: Final = 400
_VALUES: Final = 8 * 1024
_CUSTOM: Final = re.compile(r"attribute\.([a-z0-9_]{1,100})")
_MACRO: Final = re.compile(r"\.(?:all|exists|exists_one|map|filter)\(\s*(\w+)\s*,")
_TOKEN: Final = re.compile(rf"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|({_MACRO.pattern})|[()]""")
_STEPS: Final = 200_000
"""So many steps of a loop an evaluation may take; a step takes about a microsecond, and nothing else runs meanwhile."""
_WORK: Final = 10_000
"""So many characters are as much work as a step."""
_STANDARD: Final = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches", "has", "all", "exists", "exists_one", "filter", "map"}
    | {"int", "uint", "double", "string", "bytes", "bool", "min", "max"}
)


def _extract(value: str, template: str) -> str:
    """What stands in the place of `{name}` in *template*; empty where *value* is not of its form (CEL of IAM)."""
    match = re.fullmatch(r"(?P<before>[^{}]*)\{\w+\}(?P<after>[^{}]*)", template)
    if match is None:
        raise ValueError(f"{template} is no template with one {{name}}")
    start = value.find(match["before"])
    if start < 0:
        return ""
    rest = value[start + len(match["before"]) :]
    if not match["after"]:
        return rest
    end = rest.find(match["after"])
    return rest[:end] if end >= 0 else ""


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
    """An expression that this cloud does not take; the text says why."""


class MappingError(Exception):
    """A credential that a mapping has no principal for; the text is Google's."""


class ConditionError(Exception):
    """A credential that a condition does not let in."""


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """What a credential says of its holder."""

    subject: str
    groups: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


def check(expression: str, variables: frozenset[str]) -> None:
    """Refuse an *expression* that is not CEL, or that names something else than *variables*.

    Raises:
        ExpressionError: says what is wrong with it.
    """
    program = _compiled(expression)
    bound = set(_MACRO.findall(expression))
    if unknown := set(program.variables()) - variables - bound:
        raise ExpressionError(f"undeclared reference to '{min(unknown)}'")
    called = {name for name in program.functions() if re.fullmatch(r"[A-Za-z]\w*", name)}
    if unknown := called - _STANDARD - _FUNCTIONS.keys():
        raise ExpressionError(f"the local cloud does not know the function '{min(unknown)}'")


def check_key(key: str) -> str:
    """What is wrong with an attribute's name; empty where nothing is."""
    if key in ("google.subject", "google.groups") or _CUSTOM.fullmatch(key):
        return ""
    return "use google.subject, google.groups or attribute.NAME with lower-case letters, digits and underscores"


def mapped(mapping: Mapping[str, str], assertion: Mapping[str, Any]) -> Mapped:
    """What *mapping* makes of the claims *assertion*.

    A custom attribute whose claim is missing is left out.

    Raises:
        MappingError: no subject, or a value of another type or size.
    """
    values: dict[str, Any] = {}
    for key, expression in mapping.items():
        try:
            values[key] = _evaluated(expression, {"assertion": dict(assertion)})
        except ExpressionError:
            continue
    subject = values.pop("google.subject", None)
    if not isinstance(subject, str) or not subject:
        raise MappingError("Could not obtain a value for google.subject from the given credential.")
    if len(subject.encode()) > _SUBJECT:
        raise MappingError(
            f"The size of mapped attribute google.subject exceeds the {_SUBJECT} bytes limit. Either modify your "
            "attribute mapping or the incoming assertion to produce a mapped attribute that is less than "
            f"{_SUBJECT} bytes."
        )
    groups: Any = values.pop("google.groups", [])
    if not isinstance(groups, list) or not all(isinstance(one, str) for one in groups):  # pyright: ignore[reportUnknownVariableType]
        raise MappingError("The mapped attribute google.groups must be a list of strings.")
    for key, value in values.items():
        if not isinstance(value, str):
            raise MappingError(f"The mapped attribute {key} must be of type STRING.")
    attributes = {key.removeprefix("attribute."): value for key, value in values.items()}
    everything = [subject, *groups, *attributes.values()]  # pyright: ignore[reportUnknownVariableType]
    if len(groups) > _GROUPS or sum(map(len, everything)) > _VALUES:  # pyright: ignore[reportUnknownArgumentType]
        raise MappingError(f"The mapped attributes exceed {_VALUES} bytes, or the groups {_GROUPS}.")
    return Mapped(subject=subject, groups=tuple(groups), attributes=attributes)  # pyright: ignore[reportUnknownArgumentType]


def require(condition: str, assertion: Mapping[str, Any], found: Mapped) -> None:
    """Return where the *condition* is true; an empty one always is.

    Raises:
        ConditionError: it is false, or cannot be evaluated, for example because a claim is missing.
    """
    if not condition:
        return
    google = {"subject": found.subject, "groups": list(found.groups)}
    values = {"assertion": dict(assertion), "google": google, "attribute": dict(found.attributes)}
    try:
        verdict = _evaluated(condition, values)
    except ExpressionError as refusal:
        raise ConditionError from refusal
    if verdict is not True:
        raise ConditionError


def _evaluated(expression: str, values: dict[str, Any]) -> Any:
    import cel

    if (steps := _steps(expression, values)) > _STEPS:
        raise ExpressionError(f"it could take {steps:.0e} steps, and {_STEPS} are the most")
    try:
        return _compiled(expression).execute(cel.Context(values, dict(_FUNCTIONS)))
    except ExpressionError:
        raise
    except Exception as refusal:  # the library raises whatever fits: KeyError, TypeError, RuntimeError, ...
        raise ExpressionError(str(refusal)) from refusal


def _steps(expression: str, values: Mapping[str, Any]) -> float:
    """The most steps that *expression* can take with *values*.

    An evaluation cannot be stopped, so that a bound has to be known before it begins: no loop goes over more than the
    longest list, or the one that the expression spells out, splits off or adds together.
    """
    deepest = _deepest(expression)
    if not deepest:
        return 1
    items, text, left = expression.count(",") + 1, len(expression), [values]
    while left:
        one: Any = left.pop()
        if isinstance(one, str):
            text = max(text, len(one))
        elif isinstance(one, dict | list):
            items = max(items, len(one))  # pyright: ignore[reportUnknownArgumentType]
            left += one.values() if isinstance(one, dict) else one  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    longest = max(items, text if "split" in expression else 0) * (1 + expression.count("+"))
    return float(longest) ** deepest * (1 + len(expression) * text / _WORK)


def _deepest(expression: str) -> int:
    """How many loops of *expression* are in one another."""
    deepest, inside = 0, list[bool]()
    for found in _TOKEN.finditer(expression):
        if found[1] or found[0] == "(":
            inside.append(bool(found[1]))
            deepest = max(deepest, sum(inside))
        elif found[0] == ")" and inside:
            inside.pop()
    return deepest


@lru_cache(maxsize=256)
def _compiled(expression: str) -> "cel.Program":
    # Imports its command line as well, for a second or two: only a cloud with pools has to wait for that.
    import cel

    try:
        return cel.compile(expression)
    except Exception as refusal:
        raise ExpressionError(str(refusal).partition("\n")[0]) from refusal
