"""Keys of a fleet that still work, and that a later version won't have."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from pulumi_mcpfleet.fleet.mistakes import format_path

DEPRECATED_KEYS: Final[Mapping[str, str]] = {}
"""What to write instead, and the version that removes the key, by its path below the fleet.

The steps of a path are separated by dots, and `*` is any name or index: `servers.*.instances` has the text
"write max_instances; 0.3.0 removes it". A key is here for at least one minor version (docs/releases.md). The version
that removes it takes it out of the model and gives the advice of `cloud_run_terms` for it.
"""

_ANY: Final = "*"


def find_deprecated_keys(raw: Any) -> Iterator[str]:
    """One line for each deprecated key of a fleet, which begins with its path.

    Args:
        raw: The value of `mcpfleet:fleet` as it is written, whether it has mistakes or not.
    """
    for pattern, advice in DEPRECATED_KEYS.items():
        for path in _find_paths(raw, pattern.split("."), ()):
            yield f"{format_path(path)}: is deprecated; {advice}"


def _find_paths(value: Any, steps: Sequence[str], above: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    """The paths in *value* that match *steps*, each below the path *above*."""
    if not steps:
        yield above
        return
    step, *below = steps
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            if step in (_ANY, key):
                yield from _find_paths(item, below, (*above, str(key)))
    elif isinstance(value, list | tuple) and step == _ANY:
        for index, item in enumerate(cast("Sequence[Any]", value)):
            yield from _find_paths(item, below, (*above, index))
