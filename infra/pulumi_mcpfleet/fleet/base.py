"""What every model of the vocabulary is built on, and the rules that several of them share."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from pulumi_mcpfleet.fleet.cloud_run_terms import advice
from pulumi_mcpfleet.fleet.field_docs import describe_unknown

Value = TypeVar("Value")
Items = TypeVar("Items", bound=Sequence[Hashable])


Mistake = tuple[tuple[str | int, ...], str]
"""A sentence for the user, and the path from the checked value to where it belongs; `PARENT` leaves the value."""

PARENT: Final = ".."

INVALID_NAMES: Final = "left out"
"""In pydantic's context: names that are in the user's file, but have mistakes of their own, by the key above them."""


def invalid_names(info: ValidationInfo, key: str) -> frozenset[str]:
    """The names below *key* (servers, sidecars, volumes) of which nothing is to be said."""
    context = cast("Mapping[str, Any]", info.context or {})
    return frozenset(map(str, context.get(INVALID_NAMES, {}).get(key, ())))


class MistakesError(ValueError):
    """Several mistakes in one value; the report has a line for each."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(message for _, message in mistakes))
        self.mistakes: Final = tuple(mistakes)


def raise_if_any(value: Value, mistakes: Iterable[Mistake]) -> Value:
    """*value*, if nothing was found in it.

    Raises:
        MistakesError: Something was.
    """
    collected = tuple(mistakes)
    if collected:
        raise MistakesError(collected)
    return value


class UnknownKindError(ValueError):
    """A tagged union's value has no key that says its kind; the report knows where such keys belong."""

    def __init__(self, union: str, keys: Sequence[str], kinds: Sequence[str]) -> None:
        advices = {key: None if union == "source" else advice(key) for key in keys}
        messages = (f"{key!r}; {advices[key]}" if advices[key] else describe_unknown(key, kinds) for key in keys)
        super().__init__(f"unknown kind of {union}: " + "; ".join(messages))
        self.keys: Final = tuple(keys)


class Model(BaseModel):
    """A part of a fleet: frozen, and with no key that the vocabulary does not have."""

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
"""A list without doubles. Letter case does not count: IAM compares members without it."""


def _refuse_empty(items: Items) -> Items:
    if not items:
        raise ValueError("is empty; add at least one entry")
    return items


NOT_EMPTY: Final = AfterValidator(_refuse_empty)
"""A list of at least one. pydantic's own bound would also call a list empty whose only entry is wrong."""


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        # Python (and so pydantic) takes true for the number 1.
        raise ValueError(f"{str(value).lower()} is not a number; write a number")  # noqa: TRY004
    return value


NUMBER: Final = BeforeValidator(_refuse_boolean)
"""A number that is not one of YAML's words for true and false."""


def exactly_one_kind(union: str, kinds: Sequence[str], common_keys: Sequence[str] = ()) -> BeforeValidator:
    """A rule for a tagged union: exactly one of *kinds* is a key of the mapping.

    Without it a mistyped kind would be reported as several missing and unknown keys, one set for
    each member of the union.

    Args:
        union: What the union is, in a word.
        kinds: The keys that each say one kind.
        common_keys: Keys that every kind may have besides.
    """
    choice = " | ".join(kinds)

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = [str(key) for key in cast("dict[Any, Any]", value)]
        kinds_given = [kind for kind in kinds if kind in keys]
        if len(kinds_given) > 1:
            raise ValueError(f"says {' and '.join(kinds_given)} at once; keep one")
        if not kinds_given:
            unknown = [key for key in keys if key not in common_keys]
            if not unknown:
                raise ValueError(f"{'is empty' if not keys else 'has no kind'}; say which kind of {union}: {choice}")
            raise UnknownKindError(union, unknown, kinds)
        return cast("Any", value)

    return BeforeValidator(check)


def kind_of(value: Any, kinds: Sequence[str]) -> str | None:
    """Which of *kinds* a mapping or a parsed model is: the discriminator of a tagged union."""
    if isinstance(value, BaseModel):
        return next((kind for kind in kinds if kind in type(value).model_fields), None)
    if isinstance(value, dict):
        return next((kind for kind in kinds if kind in value), None)
    return None
