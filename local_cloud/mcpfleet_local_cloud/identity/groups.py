"""Google groups, as far as policies need them: who is a member, also through other groups."""

import re
from collections.abc import Sequence
from typing import Final

from mcpfleet_local_cloud.rest.errors import invalid, not_found
from mcpfleet_local_cloud.state.store import Store, StoreCache

KIND: Final = "group"
_EMAIL: Final = re.compile(r"[^@\s:/]+@[^@\s:/]+\.[^@\s:/.]+")
_LONGEST: Final = 254
_MOST: Final = 1000
"""Members of one group."""


class Groups:
    """The groups of one cloud by address; members are addresses of people, service accounts and other groups."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._found = StoreCache[str, frozenset[str]](store)

    def all(self) -> dict[str, list[str]]:
        """The members of every group."""
        return {name: record["members"] for name, record in self._store.list(KIND)}

    def put(self, group: str, members: Sequence[str]) -> list[str]:
        """Make *members* the members of *group*, which may be new; returns them as they are kept.

        Raises:
            GoogleError: INVALID_ARGUMENT: something is no address, or there are too many.
        """
        if len(members) > _MOST:
            raise invalid(f"members: a group has at most {_MOST} members.")
        kept = sorted({_address(member) for member in members})
        self._store.put(KIND, _address(group), {"members": kept})
        return kept

    def delete(self, group: str) -> None:
        """Forget the group.

        Raises:
            GoogleError: NOT_FOUND.
        """
        if not self._store.delete(KIND, group.lower()):
            raise not_found(f"group {group}")

    def of(self, address: str) -> frozenset[str]:
        """Every group that *address* is in, itself or through others."""
        known = self._found.get(address)
        if known is None:
            known = self._of(address.lower())
            self._found.put(address, known)
        return known

    def _of(self, address: str) -> frozenset[str]:
        groups = {name: set(members) for name, members in self.all().items()}
        found: set[str] = set()
        asked = {address}
        while asked:
            asked = {name for name, members in groups.items() if name not in found and members & asked}
            found |= asked
        return frozenset(found)


def _address(text: str) -> str:
    if len(text) > _LONGEST or not _EMAIL.fullmatch(text):
        raise invalid(f"{text[:_LONGEST]!r} is not an e-mail address.")
    return text.lower()
