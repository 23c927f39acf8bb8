"""Which tools there are, for limits and for metrics: names come from callers, who could make up thousands."""

from collections.abc import Iterable
from typing import Any, Final, cast

UNKNOWN: Final = "?"
"""What every tool that is not there is called."""

_MOST: Final = 10_000


class Tools:
    """The names of a server's tools.

    Args:
        server: The low-level server. One that can be asked for a tool's schema is asked. Another one's tools are those
            that it has listed to clients; until it has, those that have answered.
        named: Those that the environment names, which are tools in any case.
    """

    def __init__(self, server: Any, named: Iterable[str] = ()) -> None:
        self._server = server
        self._known: set[str] = set(named)
        self._has_listed = False

    def name(self, given: object) -> str:
        """The tool's name, or `UNKNOWN` where there is no such tool."""
        if not isinstance(given, str):
            return UNKNOWN
        if given in self._known:
            return given
        lookup = self._server.get_tool_input_schema
        if lookup is None:
            return UNKNOWN
        try:
            known = lookup(given) is not None
        except Exception:  # the server's own code; the call itself will tell
            known = False
        return given if known else UNKNOWN

    def listed(self, result: object) -> None:
        """Take note of what the server has answered to `tools/list`."""
        if self._server.get_tool_input_schema is None:
            self._has_listed = True
            for tool in _list(_member(result, "tools")):
                self._learn(_member(tool, "name"))

    def answered(self, name: object) -> None:
        """Take note that a tool of this name has answered."""
        if self._server.get_tool_input_schema is None and not self._has_listed:
            self._learn(name)

    def _learn(self, name: object) -> None:
        if isinstance(name, str) and len(self._known) < _MOST:
            self._known.add(name)


def _member(value: object, name: str) -> object:
    # By the time it reaches a middleware, the kernel has made a dict of it; a middleware may have put a model there.
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else getattr(value, name, None)


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []
