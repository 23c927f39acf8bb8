"""Google groups for IAM policies, with nested membership."""

import re
from collections.abc import Sequence
from typing import Final

from mcpfleet_local_cloud.rest.errors import invalid, not_found
from mcpfleet_local_cloud.state.store import Store, StoreCache

KIND: Final = "group"
_EMAIL: Final = re.compile(r"[^@\s:/]+@[^@\s:/]+\.[^@\s:/.]+")
_MAX_LENGTH: Final = 254
_MAX_MEMBERS: Final = 1000
"""The maximum number of members of one group."""


class Groups:
    """The groups of one cloud by address; members are addresses of users, service accounts and other groups."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache = StoreCache[str, frozenset[str]](store)

    def all(self) -> dict[str, list[str]]:
        """The members of every group."""
        return {name: record["members"] for name, record in self._store.list(KIND)}

    def put(self, group: str, members: Sequence[str]) -> list[str]:
        """Set the members of *group*, and create it if necessary; returns the stored members.

        Raises:
            GoogleError: INVALID_ARGUMENT: an address is invalid, or there are too many members.
        """
        if len(members) > _MAX_MEMBERS:
            raise invalid(f"members: a group has at most {_MAX_MEMBERS} members.")
        addresses = sorted({_parse_address(member) for member in members})
        self._store.put(KIND, _parse_address(group), {"members": addresses})
        return addresses

    def delete(self, group: str) -> None:
        """Delete the group.

        Raises:
            GoogleError: NOT_FOUND.
        """
        if not self._store.delete(KIND, group.lower()):
            raise not_found(f"group {group}")

    def groups_of(self, address: str) -> frozenset[str]:
        """All groups that *address* is a member of, directly or through other groups."""
        groups = self._cache.get(address)
        if groups is None:
            groups = self._find_groups(address.lower())
            self._cache.put(address, groups)
        return groups

    def _find_groups(self, address: str) -> frozenset[str]:
        groups = {name: set(members) for name, members in self.all().items()}
        containing: set[str] = set()
        pending = {address}
        while pending:
            pending = {name for name, members in groups.items() if name not in containing and members & pending}
            containing |= pending
        return frozenset(containing)


def _parse_address(text: str) -> str:
    if len(text) > _MAX_LENGTH or not _EMAIL.fullmatch(text):
        raise invalid(f"{text[:_MAX_LENGTH]!r} is not an e-mail address.")
    return text.lower()
