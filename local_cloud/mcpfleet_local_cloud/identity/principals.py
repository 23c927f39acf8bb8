"""The identities of callers in policies: an email address, or an identity of a workload identity pool with its sets.

The formats are from docs.cloud.google.com/iam/docs/principal-identifiers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

_HOST = "iam.googleapis.com/"


class Principal(str):
    """A federated identity's `principal://` name; *sets* are the `principalSet://` members that include it."""

    __slots__ = ("sets",)
    sets: frozenset[str]

    def __new__(cls, name: str, sets: Iterable[str] = ()) -> Self:
        """Create the identity *name*, which is in *sets*."""
        principal = super().__new__(cls, name)
        principal.sets = frozenset(sets)
        return principal

    @property
    def pool(self) -> str:
        """The full name of the pool: `projects/NUMBER/locations/global/workloadIdentityPools/POOL`."""
        return self.partition(_HOST)[2].partition("/subject/")[0]


def federated_principal(pool: str, subject: str, groups: Sequence[str], attributes: Mapping[str, str]) -> Principal:
    """The identity *subject* of *pool*, with its sets.

    Args:
        pool: the pool's full name.
        subject: `google.subject`.
        groups: `google.groups`.
        attributes: the value of each custom attribute, by name without `attribute.` (`repository`).
    """
    prefix = f"principalSet://{_HOST}{pool}/"
    sets = [
        f"{prefix}*",
        *(f"{prefix}group/{group}" for group in groups),
        *(f"{prefix}attribute.{name}/{value}" for name, value in attributes.items()),
    ]
    return Principal(f"principal://{_HOST}{pool}/subject/{subject}", sets)


def sets_of(caller: str | None) -> frozenset[str]:
    """The sets of a federated *caller*; empty for all other callers."""
    return caller.sets if isinstance(caller, Principal) else frozenset()
