"""The interface of the store: objects that several instances change, each change by exactly one of them."""

from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """The store can't be reached or does not answer as expected; the request may be tried again."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as it was read.

    Attributes:
        data: Its content.
        generation: Changes with each write.
    """

    data: bytes
    generation: int


class Store(Protocol):
    """Objects by name. Every method raises StoreError if the store can't be reached."""

    async def create(self, name: str, data: bytes) -> bool:
        """Create an object; return False if it exists already."""
        ...

    async def read(self, name: str) -> StoredObject | None:
        """Return an object, or None if there is none."""
        ...

    async def replace(self, name: str, data: bytes, generation: int) -> bool:
        """Replace an object; return False if it is no longer of this generation."""
        ...
