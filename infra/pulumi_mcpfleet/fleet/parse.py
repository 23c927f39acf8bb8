"""From the raw config to a `Fleet`, or to one report of every mistake in it.

pydantic finds the mistakes, `mistakes` says each in the user's words. What one mistake hides from pydantic is found by
looking again at a fleet without it.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final, cast

from pydantic import ValidationError

from pulumi_mcpfleet.fleet.base import INVALID_SERVERS
from pulumi_mcpfleet.fleet.mistakes import Line, lines, spelled
from pulumi_mcpfleet.fleet.model import Fleet
from pulumi_mcpfleet.fleet.values import NEW_REGIONS

_SECTIONS: Final = ("servers", "clients")
_DECIDING: Final = {"servers": {"source"}, "clients": {"source", "calls", "topology", "vpc"}}
"""Keys without which a server or client would be another one to the others."""
_BETWEEN: Final = frozenset({"access", "domain", "encryption_key", "labels", "service_name", "sidecars"}).union(
    *_DECIDING.values()
)
"""Keys of servers and clients that rules of the whole fleet look at."""
_FILES: Final = "items"
"""A mapping that may not be empty where it is written."""
_PLACES: Final = "regions"
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
    said: Any = cast("Mapping[Any, Any]", raw).get(NEW_REGIONS) if isinstance(raw, Mapping) else None
    return {"root": root, NEW_REGIONS: cast("list[Any]", said) if isinstance(said, list | tuple) else ()}


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
        self._rest = _copied(raw)
        self._context = _context(raw, root)
        self._left_out: dict[str, set[Any]] = {}
        self._kept: dict[tuple[int | str, ...], list[int]] = {}
        """By the path of a list: where the entries that are left stand in the user's."""

    def lines(self, invalid: ValidationError) -> Iterator[str]:
        """Every line, in the order of the rounds; of a place where one found something the later ones say no more."""
        said = set[str]()
        while True:
            found = [line for mistake in invalid.errors(include_url=False) for line in lines(mistake)]
            places = [spelled(self._as_written(line.path)) for line in found]
            yield from (f"{at}: {line.sentence}" for at, line in zip(places, found, strict=True) if at not in said)
            said.update(places)
            if not (self._without_entries(found) or self._without_servers(found)):
                return
            try:
                Fleet.model_validate(self._rest, context={**self._context, INVALID_SERVERS: self._left_out})
            except ValidationError as further:
                invalid = further
            else:
                return

    def _as_written(self, path: Sequence[int | str]) -> list[int | str]:
        """*path* in what is left, as it is in the user's own file."""
        return [
            self._kept[here][step] if isinstance(step, int) and (here := tuple(path[:index])) in self._kept else step
            for index, step in enumerate(path)
        ]

    def _without_entries(self, found: Sequence[Line]) -> bool:
        """Leave out the entries that have a mistake; whether there were any."""
        entries = {tuple(line.entry) for line in found if line.entry is not None and not _whole(line.entry)}
        # Of a list from its end, so that the others stay where they are meanwhile.
        ordered = sorted(entries, key=lambda entry: [*map(_order, entry)], reverse=True)
        removed = [self._remove(entry) for entry in ordered if entry[-2] != _PLACES]
        return any(removed)

    def _remove(self, entry: tuple[int | str, ...]) -> bool:
        """Remove *entry*, unless it is the last one where none would be another mistake."""
        holder, last = self._rest, entry[-1]
        for step in entry[:-1]:
            try:
                holder = holder[step]
            except (LookupError, TypeError):
                return False
        if isinstance(holder, dict):
            named = cast("dict[Any, Any]", holder)
            if last not in named or (len(named) == 1 and entry[-2] == _FILES):
                return False
            self._left_out.setdefault(str(entry[-2]), set()).add(last)
            del named[last]
            return True
        items = cast("list[Any]", holder) if isinstance(holder, list) else []
        if not isinstance(last, int) or last >= len(items) or len(items) == 1:
            return False
        del self._kept.setdefault(entry[:-1], [*range(len(items))])[last]
        del items[last]
        return True

    def _without_servers(self, found: Sequence[Line]) -> bool:
        """Leave out of the servers and clients what has a mistake; whether any are left to look at."""
        wrong: dict[tuple[Any, Any], set[Any]] = {}
        for line in found:
            if len(line.path) > 1 and line.path[0] in _SECTIONS:
                wrong.setdefault((line.path[0], line.path[1]), set()).add(line.path[2] if len(line.path) > 2 else None)
        left = [self._without_keys(entry, keys) or self._remove(entry) for entry, keys in wrong.items()]
        return any(left) and bool(self._rest.get("servers"))

    def _without_keys(self, entry: tuple[Any, Any], keys: Set[Any]) -> bool:
        """Leave of a server or client what others have to do with; whether there is something, and no mistake in it."""
        section, name = entry
        there: dict[Any, Any] = self._rest[section]
        spec: Any = there.get(name)
        if not isinstance(spec, dict) or keys & {None, *_DECIDING[section]}:
            return False
        named = cast("dict[Any, Any]", spec)
        left = {key: value for key, value in named.items() if key in _BETWEEN - keys}
        if len(left) == len(named):
            return False
        if isinstance(volumes := named.get("volumes"), dict):
            self._left_out.setdefault("volumes", set()).update(cast("dict[Any, Any]", volumes))
        there[name] = left
        return True


def _whole(entry: Sequence[int | str]) -> bool:
    """Whether *entry* is a whole server or client."""
    return len(entry) == 2 and entry[0] in _SECTIONS


def _copied(value: Any) -> Any:
    """*value* with mappings and lists of its own; one that stands in two places is two."""
    if isinstance(value, Mapping):
        return {key: _copied(one) for key, one in cast("Mapping[Any, Any]", value).items()}
    return [_copied(one) for one in cast("list[Any]", value)] if isinstance(value, list | tuple) else value


def _order(step: int | str) -> tuple[bool, int, str]:
    return (True, step, "") if isinstance(step, int) else (False, 0, step)
