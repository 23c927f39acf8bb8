"""What every model of the vocabulary is built on, and the rules that several of them share."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from pulumi_mcpfleet.fleet.cloud_run_terms import advice
from pulumi_mcpfleet.fleet.field_docs import unknown_word

Value = TypeVar("Value")
Items = TypeVar("Items", bound=Sequence[Hashable])


Mistake = tuple[tuple[str | int, ...], str]
"""A sentence for the user, and the path from the checked value to where it belongs; `PARENT` leaves the value."""

PARENT: Final = ".."

INVALID_SERVERS: Final = "left out"
"""In pydantic's context: names that are in the user's file, but have mistakes of their own, by the key above them."""


def left_out(info: ValidationInfo, key: str) -> frozenset[str]:
    """The names below *key* (servers, sidecars, volumes) of which nothing is to be said."""
    context = cast("Mapping[str, Any]", info.context or {})
    return frozenset(map(str, context.get(INVALID_SERVERS, {}).get(key, ())))


class MistakesError(ValueError):
    """Several mistakes in one value; the report has a line for each."""

    def __init__(self, found: Sequence[Mistake]) -> None:
        super().__init__("; ".join(sentence for _, sentence in found))
        self.found: Final = tuple(found)


def raise_if_any(value: Value, found: Iterable[Mistake]) -> Value:
    """*value*, if nothing was found in it.

    Raises:
        MistakesError: Something was.
    """
    mistakes = tuple(found)
    if mistakes:
        raise MistakesError(mistakes)
    return value


class UnknownKindError(ValueError):
    """A tagged union's value has no key that says its kind; the report knows where such keys belong."""

    def __init__(self, what: str, words: Sequence[str], kinds: Sequence[str]) -> None:
        said = {word: None if what == "source" else advice(word) for word in words}
        advised = (f"{word!r}; {said[word]}" if said[word] else unknown_word(word, kinds) for word in words)
        super().__init__(f"unknown kind of {what}: " + "; ".join(advised))
        self.words: Final = tuple(words)


class Model(BaseModel):
    """A part of a fleet: frozen, and with no key that the vocabulary does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _without_repeats(items: Items) -> Items:
    seen: set[Hashable] = set()
    for item in items:
        key = item.casefold() if isinstance(item, str) else item
        if key in seen:
            raise ValueError(f"{item!r} is in the list twice; keep one")
        seen.add(key)
    return items


NO_REPEATS: Final = AfterValidator(_without_repeats)
"""A list without doubles. Letter case does not count: IAM compares members without it."""


def _not_empty(items: Items) -> Items:
    if not items:
        raise ValueError("is empty; add at least one entry")
    return items


NOT_EMPTY: Final = AfterValidator(_not_empty)
"""A list of at least one. pydantic's own bound would also call a list empty whose only entry is wrong."""


def _refuse_yes_no(value: Any) -> Any:
    if isinstance(value, bool):
        # Python (and so pydantic) takes true for the number 1.
        raise ValueError(f"{str(value).lower()} is not a number; write a number")  # noqa: TRY004
    return value


NUMBER: Final = BeforeValidator(_refuse_yes_no)
"""A number that is not one of YAML's words for true and false."""


def one_kind(what: str, kinds: Sequence[str], beside: Sequence[str] = ()) -> BeforeValidator:
    """A rule for a tagged union: exactly one of *kinds* is a key of the mapping.

    Without it a mistyped kind would be reported as several missing and unknown keys, one set for
    each member of the union.

    Args:
        what: What the union is, in a word.
        kinds: The keys that each say one kind.
        beside: Keys that every kind may have besides.
    """
    choice = " | ".join(kinds)

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = [str(key) for key in cast("dict[Any, Any]", value)]
        said = [kind for kind in kinds if kind in keys]
        if len(said) > 1:
            raise ValueError(f"says {' and '.join(said)} at once; keep one")
        if not said:
            unknown = [key for key in keys if key not in beside]
            if not unknown:
                raise ValueError(f"{'is empty' if not keys else 'has no kind'}; say which kind of {what}: {choice}")
            raise UnknownKindError(what, unknown, kinds)
        return cast("Any", value)

    return BeforeValidator(check)


def kind_of(value: Any, kinds: Sequence[str]) -> str | None:
    """Which of *kinds* a mapping or a parsed model is: the discriminator of a tagged union."""
    if isinstance(value, BaseModel):
        return next((kind for kind in kinds if kind in type(value).model_fields), None)
    if isinstance(value, dict):
        return next((kind for kind in kinds if kind in value), None)
    return None
