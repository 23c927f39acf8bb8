"""What changes between a resource's state and new inputs, property by property, as Terraform plans it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from mcpfleet_local_cloud.plugins.properties import SCALARS, Field, inner, is_zero, same
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, table

ChangeKind = Literal["add", "delete", "update"]


@dataclass(frozen=True)
class Change:
    """One property that differs; *replace* when the resource must be made anew for it."""

    kind: ChangeKind
    replace: bool = False


Changes = dict[str, Change]


def diff(fields: Sequence[Field], olds: Mapping[str, Any], news: Mapping[str, Any], path: str = "") -> Changes:
    """The changes from the state *olds* to the inputs *news*, by property path."""
    changes: Changes = {}
    for field in fields:
        if field.input:
            _field(field, olds.get(field.name), news.get(field.name), inner(path, field.name), changes)
    return changes


def _field(field: Field, old: Any, new: Any, path: str, changes: Changes) -> None:
    given, new = new, _meant(field, new)
    if new is None:
        if not field.computed and not _unset(field, old) and not (field.alike and field.alike(old, "")):
            changes[path] = Change("delete", field.force_new)
        return
    if new is UNKNOWN:
        changes[path] = Change("add" if old is None else "update", field.force_new)
        return
    if old is None:
        if given is None or (field.alike is not None and field.alike("", new)):
            return  # an absent value of the state stands for the default
        # A block of nothing but empty values leaves no trace in the API, unless it is one that is always sent.
        if field.send_empty or not _blank(new):
            changes[path] = Change("add", field.force_new)
        return
    if field.kind in SCALARS:
        if not same(field, old, new):
            changes[path] = Change("update", field.force_new)
    elif field.kind == "map":
        _map(field, old, new, path, changes)
    elif field.kind == "block":
        changes.update(_below(field, diff(field.children, old, new, path)))
    elif field.kind in ("set", "block set"):
        _set(field, old, new, path, changes)
    else:
        _list(field, old, new, path, changes)


def _meant(field: Field, given: Any) -> Any:
    """What an input stands for: its default, or nothing where an empty one leaves the choice to the server.

    An empty string takes back nothing that the server may choose (terraform-plugin-sdk v2, schema.finalizeDiff).
    """
    empty = given == "" if field.kind == "string" else field.kind not in SCALARS and given in ([], {})
    if given is None or (field.computed and empty):
        return field.default
    return given


def _unset(field: Field, value: Any) -> bool:
    return value is None if field.kind == "block" else is_zero(value)


def _blank(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_blank(item) for item in cast("Mapping[str, Any]", value).values())
    return is_zero(value)


def _below(field: Field, changes: Changes) -> Changes:
    """A block that forces replacement does so for everything in it."""
    if not field.force_new:
        return changes
    return {path: Change(change.kind, replace=True) for path, change in changes.items()}


def _map(field: Field, old: Mapping[str, Any], new: Mapping[str, Any], path: str, changes: Changes) -> None:
    for key in sorted({*old, *new}):
        place = inner(path, key)
        if key not in new:
            if key not in field.kept:
                changes[place] = Change("delete", field.force_new)
        elif key not in old:
            changes[place] = Change("add", field.force_new)
        elif old[key] != new[key] or new[key] is UNKNOWN:
            changes[place] = Change("update", field.force_new)


def _list(field: Field, old: list[Any], new: list[Any], path: str, changes: Changes) -> None:
    for index in range(max(len(old), len(new))):
        place = f"{path}[{index}]"
        if index >= len(new):
            changes[place] = Change("delete", field.force_new)
        elif index >= len(old):
            changes[place] = Change("add", field.force_new)
        elif new[index] is UNKNOWN:
            changes[place] = Change("update", field.force_new)
        elif field.children:
            changes.update(_below(field, diff(field.children, old[index], new[index], place)))
        elif not same(field, old[index], new[index]):
            changes[place] = Change("update", field.force_new)


def _set(field: Field, old: list[Any], new: list[Any], path: str, changes: Changes) -> None:
    """Order means nothing: each new item takes an equal old one away; what is left over has changed."""
    left = list(old)
    unmatched: list[int] = []
    for index, item in enumerate(new):
        twin = next((one for one in left if _equal(field, one, item)), None)
        if twin is None:
            unmatched.append(index)
        else:
            left.remove(twin)
    for index in unmatched:
        kind: ChangeKind = "update" if left else "add"
        if left:
            left.pop(0)
        changes[f"{path}[{index}]"] = Change(kind, field.force_new)
    for offset in range(len(left)):
        changes[f"{path}[{len(new) + offset}]"] = Change("delete", field.force_new)


def _equal(field: Field, old: Any, new: Any) -> bool:
    if old is UNKNOWN or new is UNKNOWN:
        return False
    return not diff(field.children, old, new) if field.children else same(field, old, new)


def plan(
    fields: Sequence[Field], olds: Mapping[str, Any], news: Mapping[str, Any], *, unknown: bool = False
) -> Properties:
    """The state that *news* asks for: inputs as given, and what the server chose before where nothing is given.

    Args:
        fields: the property table.
        olds: the state before, empty for a new resource.
        news: the checked inputs.
        unknown: a preview: what only the server can tell about something new is unknown; what it told before stays.
    """
    planned: Properties = {}
    for field in fields:
        old, new = olds.get(field.name), news.get(field.name)
        value = _planned(field, old, new, unknown=unknown, made=not olds)
        if value is not None:
            planned[field.name] = value
    return planned


def _planned(field: Field, old: Any, new: Any, *, unknown: bool, made: bool) -> Any:
    new = _meant(field, new)
    if new is None:
        if not (field.computed or field.output):
            return None
        return UNKNOWN if old is None and unknown and made else old
    if new is UNKNOWN or not field.children:
        if field.kind == "map" and field.computed and new is not UNKNOWN:
            return {**{key: one for key, one in table(old).items() if key in field.kept}, **table(new)}
        return new
    if field.kind == "block":
        return plan(field.children, old or {}, new, unknown=unknown)
    before = cast("list[Any]", old or []) if field.kind == "blocks" else []
    planned: list[Any] = []
    for index, item in enumerate(cast("list[Any]", new)):
        was = table(before[index]) if index < len(before) else {}
        planned.append(item if item is UNKNOWN else plan(field.children, was, item, unknown=unknown))
    return planned
