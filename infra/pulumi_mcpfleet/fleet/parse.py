"""From the raw config to a `Fleet`, or to one report of every mistake in it.

pydantic finds the mistakes, `mistakes` says each in the user's words. What one mistake hides from pydantic is found by
looking again at a fleet without it.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final, cast

from pydantic import ValidationError

from pulumi_mcpfleet.fleet.base import INVALID_NAMES
from pulumi_mcpfleet.fleet.mistakes import ReportLine, format_path, report_lines
from pulumi_mcpfleet.fleet.model import Fleet
from pulumi_mcpfleet.fleet.values import NEW_REGIONS

_SECTIONS: Final = ("servers", "clients")
_IDENTITY_KEYS: Final = {"servers": {"source"}, "clients": {"source", "calls", "topology", "vpc"}}
"""Keys without which a server or client would be another one to the others."""
_CROSS_RULE_KEYS: Final = frozenset({"access", "domain", "encryption_key", "labels", "service_name", "sidecars"}).union(
    *_IDENTITY_KEYS.values()
)
"""Keys of servers and clients that rules of the whole fleet look at."""
_NONEMPTY_MAPPING: Final = "items"
"""A mapping that may not be empty where it is written."""
_ORDERED_LIST: Final = "regions"
"""A list whose first entry decides about more than itself, and that other keys count."""


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
        raise FleetError("fleet: missing; add mcpfleet:fleet under config, as docs/fleet.md shows")
    try:
        return Fleet.model_validate(raw, context=_context(raw, root))
    except ValidationError as invalid:
        raise FleetError("\n".join(dict.fromkeys(_Report(raw, root).lines(invalid)))) from None


def _context(raw: Any, root: Path | None) -> dict[str, Any]:
    """What rules of single values look at besides: the folder, and the regions that the user adds to those known."""
    new_regions: Any = cast("Mapping[Any, Any]", raw).get(NEW_REGIONS) if isinstance(raw, Mapping) else None
    return {"root": root, NEW_REGIONS: cast("list[Any]", new_regions) if isinstance(new_regions, list | tuple) else ()}


class _Report:
    """Every mistake of a fleet, round by round.

    A rule of a whole mapping or list, such as `env`, is looked at only once each of its entries is right, and what is
    between servers only once each of them is. So after each round the wrong entries are left out; or where there are
    none, of each wrong server all but what others have to do with; or the whole of it. The rest is looked at again.

    Args:
        raw: The user's fleet.
        root: See `parse_fleet`.
    """

    def __init__(self, raw: Any, root: Path | None) -> None:
        self._remaining = _copy(raw)
        self._context = _context(raw, root)
        self._dropped: dict[str, set[Any]] = {}
        self._user_indexes: dict[tuple[int | str, ...], list[int]] = {}
        """By the path of a list: where the entries that are left stand in the user's."""

    def lines(self, invalid: ValidationError) -> Iterator[str]:
        """Every line, in the order of the rounds; of a place where one found something the later ones say no more."""
        reported = set[str]()
        while True:
            mistakes = [line for mistake in invalid.errors(include_url=False) for line in report_lines(mistake)]
            paths = [format_path(self._user_path(line.path)) for line in mistakes]
            yield from (
                f"{path}: {line.message}" for path, line in zip(paths, mistakes, strict=True) if path not in reported
            )
            reported.update(paths)
            if not (self._drop_entries(mistakes) or self._drop_workloads(mistakes)):
                return
            try:
                Fleet.model_validate(self._remaining, context={**self._context, INVALID_NAMES: self._dropped})
            except ValidationError as further:
                invalid = further
            else:
                return

    def _user_path(self, path: Sequence[int | str]) -> list[int | str]:
        """*path* in what is left, as it is in the user's own file."""
        return [
            self._user_indexes[prefix][step]
            if isinstance(step, int) and (prefix := tuple(path[:index])) in self._user_indexes
            else step
            for index, step in enumerate(path)
        ]

    def _drop_entries(self, mistakes: Sequence[ReportLine]) -> bool:
        """Leave out the entries that have a mistake; whether there were any."""
        entries = {tuple(line.entry) for line in mistakes if line.entry is not None and not _is_workload(line.entry)}
        # Of a list from its end, so that the others stay where they are meanwhile.
        ordered = sorted(entries, key=lambda entry: [*map(_sort_key, entry)], reverse=True)
        removed = [self._remove(entry) for entry in ordered if entry[-2] != _ORDERED_LIST]
        return any(removed)

    def _remove(self, entry: tuple[int | str, ...]) -> bool:
        """Remove *entry*, unless it is the last one where none would be another mistake."""
        container, last = self._remaining, entry[-1]
        for step in entry[:-1]:
            try:
                container = container[step]
            except (LookupError, TypeError):
                return False
        if isinstance(container, dict):
            mapping = cast("dict[Any, Any]", container)
            if last not in mapping or (len(mapping) == 1 and entry[-2] == _NONEMPTY_MAPPING):
                return False
            self._dropped.setdefault(str(entry[-2]), set()).add(last)
            del mapping[last]
            return True
        items = cast("list[Any]", container) if isinstance(container, list) else []
        if not isinstance(last, int) or last >= len(items) or len(items) == 1:
            return False
        del self._user_indexes.setdefault(entry[:-1], [*range(len(items))])[last]
        del items[last]
        return True

    def _drop_workloads(self, mistakes: Sequence[ReportLine]) -> bool:
        """Leave out of the servers and clients what has a mistake; whether any are left to look at."""
        wrong_keys: dict[tuple[Any, Any], set[Any]] = {}
        for line in mistakes:
            if len(line.path) > 1 and line.path[0] in _SECTIONS:
                wrong_keys.setdefault((line.path[0], line.path[1]), set()).add(
                    line.path[2] if len(line.path) > 2 else None
                )
        changed = [self._drop_keys(entry, keys) or self._remove(entry) for entry, keys in wrong_keys.items()]
        return any(changed) and bool(self._remaining.get("servers"))

    def _drop_keys(self, entry: tuple[Any, Any], keys: Set[Any]) -> bool:
        """Leave of a server or client what others have to do with; whether there is something, and no mistake in it."""
        section, name = entry
        workloads: dict[Any, Any] = self._remaining[section]
        spec: Any = workloads.get(name)
        if not isinstance(spec, dict) or keys & {None, *_IDENTITY_KEYS[section]}:
            return False
        fields = cast("dict[Any, Any]", spec)
        remaining = {key: value for key, value in fields.items() if key in _CROSS_RULE_KEYS - keys}
        if len(remaining) == len(fields):
            return False
        if isinstance(volumes := fields.get("volumes"), dict):
            self._dropped.setdefault("volumes", set()).update(cast("dict[Any, Any]", volumes))
        workloads[name] = remaining
        return True


def _is_workload(entry: Sequence[int | str]) -> bool:
    """Whether *entry* is a whole server or client."""
    return len(entry) == 2 and entry[0] in _SECTIONS


def _copy(value: Any) -> Any:
    """*value* with mappings and lists of its own; one that stands in two places is two."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    return [_copy(item) for item in cast("list[Any]", value)] if isinstance(value, list | tuple) else value


def _sort_key(step: int | str) -> tuple[bool, int, str]:
    return (True, step, "") if isinstance(step, int) else (False, 0, step)
