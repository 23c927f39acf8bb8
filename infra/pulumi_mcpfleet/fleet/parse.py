"""Parse the raw config into a `Fleet`, or into one report of all its mistakes.

pydantic finds the mistakes, and the module `mistakes` formats them. One mistake can hide others from pydantic: so the
fleet is validated again without the wrong parts, until there are no further mistakes.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final, cast

from pydantic import ValidationError

from pulumi_mcpfleet.fleet.base import INVALID_NAMES, ConfigPath
from pulumi_mcpfleet.fleet.mistakes import ReportLine, format_path, report_lines
from pulumi_mcpfleet.fleet.model import Fleet
from pulumi_mcpfleet.fleet.values import NEW_REGIONS

_SECTIONS: Final = ("servers", "clients")
_IDENTITY_KEYS: Final = {"servers": {"source"}, "clients": {"source", "calls", "topology", "vpc"}}
"""Keys that rules between servers and clients need: without them, a server or client can't be validated partially."""
_CROSS_RULE_KEYS: Final = frozenset({"access", "domain", "encryption_key", "labels", "service_name", "sidecars"}).union(
    *_IDENTITY_KEYS.values()
)
"""Keys of servers and clients that rules of the whole fleet read."""
_NONEMPTY_MAPPING: Final = "items"
"""The key of a mapping that must not be empty if it is set."""
_ORDERED_LIST: Final = "regions"
"""The key of a list whose length and first entry matter to other rules, so that no entry may be dropped."""


class FleetError(Exception):
    """The fleet has mistakes.

    The text is for the user: one line for each mistake, which begins with its path in the config.
    """


def parse_fleet(raw: Mapping[str, Any] | None, *, root: Path | None = None) -> Fleet:
    """Validate *raw*, the value of `mcpfleet:fleet`.

    Args:
        raw: The value as parsed from YAML or JSON; None if the config does not have the key.
        root: The folder of Pulumi.yaml. If it is given, the parser also checks the folders and lock files that the
            fleet names.

    Raises:
        FleetError: The fleet has mistakes; the text has all of them.
    """
    if raw is None:
        raise FleetError("fleet: missing; add mcpfleet:fleet under config, as docs/fleet.md shows")
    try:
        return Fleet.model_validate(raw, context=_context(raw, root))
    except ValidationError as invalid:
        raise FleetError("\n".join(dict.fromkeys(_Report(raw, root).lines(invalid)))) from None


def _context(raw: Any, root: Path | None) -> dict[str, Any]:
    """The context for rules of single values: the root folder, and the regions that the user adds to the known ones."""
    new_regions: Any = cast("Mapping[Any, Any]", raw).get(NEW_REGIONS) if isinstance(raw, Mapping) else None
    return {"root": root, NEW_REGIONS: cast("list[Any]", new_regions) if isinstance(new_regions, list | tuple) else ()}


class _Report:
    """All mistakes of a fleet, found in several rounds of validation.

    pydantic runs the rules of a mapping or list, such as `env`, only if all its entries are valid, and the rules
    between servers only if all servers are. So after each round, the report drops the wrong entries. If there are none,
    it drops all keys of the wrong servers but those that rules between servers read, or else the whole servers. Then it
    validates the rest again.

    Args:
        raw: The user's fleet.
        root: See `parse_fleet`.
    """

    def __init__(self, raw: Any, root: Path | None) -> None:
        self._remaining = _copy(raw)
        self._context = _context(raw, root)
        self._dropped: dict[str, set[Any]] = {}
        self._user_indexes: dict[ConfigPath, list[int]] = {}
        """By the path of a list: the indexes that its remaining entries have in the user's file."""

    def lines(self, invalid: ValidationError) -> Iterator[str]:
        """All lines, in the order of the rounds; a path that one round reported is not reported again."""
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
        """Convert *path* in the remaining fleet to the path in the user's file."""
        return [
            self._user_indexes[prefix][step]
            if isinstance(step, int) and (prefix := tuple(path[:index])) in self._user_indexes
            else step
            for index, step in enumerate(path)
        ]

    def _drop_entries(self, mistakes: Sequence[ReportLine]) -> bool:
        """Drop the entries with mistakes; true if any entry was dropped."""
        entries = {tuple(line.entry) for line in mistakes if line.entry is not None and not _is_workload(line.entry)}
        # In a list from its end, so that the indexes of the other entries do not change meanwhile.
        ordered = sorted(entries, key=lambda entry: [*map(_sort_key, entry)], reverse=True)
        removed = [self._remove(entry) for entry in ordered if entry[-2] != _ORDERED_LIST]
        return any(removed)

    def _remove(self, entry: ConfigPath) -> bool:
        """Remove *entry*, unless an empty mapping or list would be another mistake; true if it was removed."""
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
        """Drop wrong parts of servers and clients; true if anything was dropped and there are servers to validate."""
        wrong_keys: dict[tuple[Any, Any], set[Any]] = {}
        for line in mistakes:
            if len(line.path) > 1 and line.path[0] in _SECTIONS:
                wrong_keys.setdefault((line.path[0], line.path[1]), set()).add(
                    line.path[2] if len(line.path) > 2 else None
                )
        changed = [self._drop_keys(entry, keys) or self._remove(entry) for entry, keys in wrong_keys.items()]
        return any(changed) and bool(self._remaining.get("servers"))

    def _drop_keys(self, entry: tuple[Any, Any], keys: Set[Any]) -> bool:
        """Drop all keys of a server or client but those that rules of the whole fleet read.

        Returns:
            True if keys were dropped. False if a needed key has a mistake, or if only needed keys remain.
        """
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
    """Check whether *entry* is the path of a whole server or client."""
    return len(entry) == 2 and entry[0] in _SECTIONS


def _copy(value: Any) -> Any:
    """Copy *value* with all its mappings and lists; a YAML alias becomes a separate copy."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    return [_copy(item) for item in cast("list[Any]", value)] if isinstance(value, list | tuple) else value


def _sort_key(step: int | str) -> tuple[bool, int, str]:
    return (True, step, "") if isinstance(step, int) else (False, 0, step)
