"""The differences between a resource's state and its new inputs, property by property, as Terraform plans them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from mcpfleet_local_cloud.plugins.properties import SCALARS, Field, is_same_value, is_zero, join_path
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, as_dict

ChangeKind = Literal["add", "delete", "update"]


@dataclass(frozen=True)
class Change:
    """One property that differs; *replace* if the change needs a new resource."""

    kind: ChangeKind
    replace: bool = False


Changes = dict[str, Change]


def diff(fields: Sequence[Field], olds: Mapping[str, Any], news: Mapping[str, Any], path: str = "") -> Changes:
    """The changes from the state *olds* to the inputs *news*, by property path."""
    changes: Changes = {}
    for field in fields:
        if field.is_input:
            _diff_field(field, olds.get(field.name), news.get(field.name), join_path(path, field.name), changes)
    return changes


def _diff_field(field: Field, old: Any, new: Any, path: str, changes: Changes) -> None:
    configured, new = new, _effective_value(field, new)
    if new is None:
        if not field.computed and not _is_unset(field, old) and not (field.equivalent and field.equivalent(old, "")):
            changes[path] = Change("delete", field.force_new)
        return
    if new is UNKNOWN:
        changes[path] = Change("add" if old is None else "update", field.force_new)
        return
    if old is None:
        if configured is None or (field.equivalent is not None and field.equivalent("", new)):
            return  # a value that is absent from the state means the default
        # The API doesn't store a block that has only empty values, unless the block is always sent.
        if field.send_empty or not _is_blank(new):
            changes[path] = Change("add", field.force_new)
        return
    if field.kind in SCALARS:
        if not is_same_value(field, old, new):
            changes[path] = Change("update", field.force_new)
    elif field.kind == "map":
        _diff_map(field, old, new, path, changes)
    elif field.kind == "block":
        changes.update(_apply_block_replacement(field, diff(field.children, old, new, path)))
    elif field.kind in ("set", "block set"):
        _diff_set(field, old, new, path, changes)
    else:
        _diff_list(field, old, new, path, changes)


def _effective_value(field: Field, configured: Any) -> Any:
    """The configured value or the default; an empty value of a computed property leaves the choice to the server.

    An empty string doesn't reset a value that the server may choose (terraform-plugin-sdk v2, schema.finalizeDiff).
    """
    empty = configured == "" if field.kind == "string" else field.kind not in SCALARS and configured in ([], {})
    if configured is None or (field.computed and empty):
        return field.default
    return configured


def _is_unset(field: Field, value: Any) -> bool:
    return value is None if field.kind == "block" else is_zero(value)


def _is_blank(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_blank(item) for item in cast("Mapping[str, Any]", value).values())
    return is_zero(value)


def _apply_block_replacement(field: Field, changes: Changes) -> Changes:
    """The changes in a block, each of which replaces the resource if the block does."""
    if not field.force_new:
        return changes
    return {path: Change(change.kind, replace=True) for path, change in changes.items()}


def _diff_map(field: Field, old: Mapping[str, Any], new: Mapping[str, Any], path: str, changes: Changes) -> None:
    for key in sorted({*old, *new}):
        key_path = join_path(path, key)
        if key not in new:
            if key not in field.preserved_keys:
                changes[key_path] = Change("delete", field.force_new)
        elif key not in old:
            changes[key_path] = Change("add", field.force_new)
        elif old[key] != new[key] or new[key] is UNKNOWN:
            changes[key_path] = Change("update", field.force_new)


def _diff_list(field: Field, old: list[Any], new: list[Any], path: str, changes: Changes) -> None:
    for index in range(max(len(old), len(new))):
        item_path = f"{path}[{index}]"
        if index >= len(new):
            changes[item_path] = Change("delete", field.force_new)
        elif index >= len(old):
            changes[item_path] = Change("add", field.force_new)
        elif new[index] is UNKNOWN:
            changes[item_path] = Change("update", field.force_new)
        elif field.children:
            changes.update(_apply_block_replacement(field, diff(field.children, old[index], new[index], item_path)))
        elif not is_same_value(field, old[index], new[index]):
            changes[item_path] = Change("update", field.force_new)


def _diff_set(field: Field, old: list[Any], new: list[Any], path: str, changes: Changes) -> None:
    """Compares without order: matches each new item with an equal old item, and reports all others as changes."""
    remaining = list(old)
    unmatched: list[int] = []
    for index, item in enumerate(new):
        match = next((candidate for candidate in remaining if _is_equal(field, candidate, item)), None)
        if match is None:
            unmatched.append(index)
        else:
            remaining.remove(match)
    for index in unmatched:
        kind: ChangeKind = "update" if remaining else "add"
        if remaining:
            remaining.pop(0)
        changes[f"{path}[{index}]"] = Change(kind, field.force_new)
    for offset in range(len(remaining)):
        changes[f"{path}[{len(new) + offset}]"] = Change("delete", field.force_new)


def _is_equal(field: Field, old: Any, new: Any) -> bool:
    if old is UNKNOWN or new is UNKNOWN:
        return False
    return not diff(field.children, old, new) if field.children else is_same_value(field, old, new)


def plan(
    fields: Sequence[Field], olds: Mapping[str, Any], news: Mapping[str, Any], *, unknown: bool = False
) -> Properties:
    """The state that the inputs *news* lead to: their values, and the server's earlier choices for everything else.

    Args:
        fields: the property table.
        olds: the state before, empty for a new resource.
        news: the checked inputs.
        unknown: whether this is a preview: outputs of a new resource are then unknown, other outputs keep their value.
    """
    planned: Properties = {}
    for field in fields:
        old, new = olds.get(field.name), news.get(field.name)
        value = _plan_field(field, old, new, unknown=unknown, is_new=not olds)
        if value is not None:
            planned[field.name] = value
    return planned


def _plan_field(field: Field, old: Any, new: Any, *, unknown: bool, is_new: bool) -> Any:
    new = _effective_value(field, new)
    if new is None:
        if not (field.computed or field.output):
            return None
        return UNKNOWN if old is None and unknown and is_new else old
    if new is UNKNOWN or not field.children:
        if field.kind == "map" and field.computed and new is not UNKNOWN:
            return {
                **{key: value for key, value in as_dict(old).items() if key in field.preserved_keys},
                **as_dict(new),
            }
        return new
    if field.kind == "block":
        return plan(field.children, old or {}, new, unknown=unknown)
    old_items = cast("list[Any]", old or []) if field.kind == "blocks" else []
    planned: list[Any] = []
    for index, item in enumerate(cast("list[Any]", new)):
        old_item = as_dict(old_items[index]) if index < len(old_items) else {}
        planned.append(item if item is UNKNOWN else plan(field.children, old_item, item, unknown=unknown))
    return planned
