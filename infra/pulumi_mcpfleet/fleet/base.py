"""The base class of all models of the fleet, mistakes with their config paths, and rules that several models share."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from pulumi_mcpfleet.fleet.cloud_run_terms import advice
from pulumi_mcpfleet.fleet.field_docs import describe_unknown

Value = TypeVar("Value")
Items = TypeVar("Items", bound=Sequence[Hashable])


ConfigPath = tuple[str | int, ...]
"""A path in the user's config: keys of mappings and indexes of lists, outermost first."""


class Step(Enum):
    """A step of a relative path that is no key and no index."""

    PARENT = "parent"
    """To the mapping or list around the value."""


PARENT: Final = Step.PARENT

RelativePath = tuple[str | int | Step, ...]
"""A path that begins at the value that is validated, and can leave it by `PARENT`."""

Mistake = tuple[RelativePath, str]
"""The path of a mistake, relative to the value that is validated, and its message."""

INVALID_NAMES: Final = "invalid_names"
"""The key of pydantic's context with names that have mistakes of their own, by the key above them."""


def invalid_names(info: ValidationInfo, key: str) -> frozenset[str]:
    """The names below *key* (servers, sidecars, volumes) that have mistakes of their own.

    They are in the user's file, but not in the fleet that is validated: other rules must not report them as missing.
    """
    context = cast("Mapping[str, Any]", info.context or {})
    return frozenset(map(str, context.get(INVALID_NAMES, {}).get(key, ())))


class MistakesError(ValueError):
    """Several mistakes in one value. The report has one line for each."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(message for _, message in mistakes))
        self.mistakes: Final = tuple(mistakes)


def raise_if_any(value: Value, mistakes: Iterable[Mistake]) -> Value:
    """Return *value* if there are no *mistakes*.

    Raises:
        MistakesError: There are some.
    """
    collected = tuple(mistakes)
    if collected:
        raise MistakesError(collected)
    return value


class UnknownKindError(ValueError):
    """The value of a tagged union has no key that names its kind. The report looks up where its keys belong."""

    def __init__(self, union: str, keys: Sequence[str], kinds: Sequence[str]) -> None:
        advices = {key: None if union == "source" else advice(key) for key in keys}
        messages = (f"{key!r}; {advices[key]}" if advices[key] else describe_unknown(key, kinds) for key in keys)
        super().__init__(f"unknown kind of {union}: " + "; ".join(messages))
        self.keys: Final = tuple(keys)


class Model(BaseModel):
    """A part of a fleet. It is frozen and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _refuse_repeats(items: Items) -> Items:
    seen: set[Hashable] = set()
    for item in items:
        key = item.casefold() if isinstance(item, str) else item
        if key in seen:
            raise ValueError(f"{item!r} is in the list twice; keep one")
        seen.add(key)
    return items


NO_REPEATS: Final = AfterValidator(_refuse_repeats)
"""A list without duplicates. Upper and lower case are the same, as IAM compares members."""


def _refuse_empty(items: Items) -> Items:
    if not items:
        raise ValueError("is empty; add at least one entry")
    return items


NOT_EMPTY: Final = AfterValidator(_refuse_empty)
"""A list with at least one entry. pydantic's own bound would also report a list as empty whose only entry is wrong."""


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        # Python (and so pydantic) takes true for the number 1.
        raise ValueError(f"{str(value).lower()} is not a number; write a number")  # noqa: TRY004
    return value


NUMBER: Final = BeforeValidator(_refuse_boolean)
"""A number; YAML's words for true and false are refused."""


def exactly_one_kind(union: str, kinds: Sequence[str], common_keys: Sequence[str] = ()) -> BeforeValidator:
    """Return a rule for a tagged union: exactly one of *kinds* is a key of the mapping.

    Without this rule, pydantic would report a mistyped kind as several missing and unknown keys, for each member of
    the union.

    Args:
        union: The name of the union in messages, such as "source".
        kinds: The keys that each name one kind.
        common_keys: Keys that every kind may also have.
    """
    choice = " | ".join(kinds)

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = [str(key) for key in cast("dict[Any, Any]", value)]
        kinds_given = [kind for kind in kinds if kind in keys]
        if len(kinds_given) > 1:
            raise ValueError(f"has {' and '.join(kinds_given)} together; keep only one")
        if not kinds_given:
            unknown = [key for key in keys if key not in common_keys]
            if not unknown:
                raise ValueError(f"{'is empty' if not keys else 'has no kind'}; say which kind of {union}: {choice}")
            raise UnknownKindError(union, unknown, kinds)
        return cast("Any", value)

    return BeforeValidator(check)


def kind_of(value: Any, kinds: Sequence[str]) -> str | None:
    """Find which of *kinds* a mapping or a parsed model is: the discriminator of a tagged union."""
    if isinstance(value, BaseModel):
        return next((kind for kind in kinds if kind in type(value).model_fields), None)
    if isinstance(value, dict):
        return next((kind for kind in kinds if kind in value), None)
    return None
