"""Callers as policies name them: an e-mail address, or an identity of a workload identity pool with its sets.

docs.cloud.google.com/iam/docs/principal-identifiers has the forms.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

_HOST = "iam.googleapis.com/"


class Principal(str):
    """A federated identity's `principal://` name; *sets* are the `principalSet://` members that it is, too."""

    __slots__ = ("sets",)
    sets: frozenset[str]

    def __new__(cls, name: str, sets: Iterable[str] = ()) -> Self:
        """The identity of that name in those sets."""
        made = super().__new__(cls, name)
        made.sets = frozenset(sets)
        return made

    @property
    def pool(self) -> str:
        """The full name of its pool: `projects/NUMBER/locations/global/workloadIdentityPools/POOL`."""
        return self.partition(_HOST)[2].partition("/subject/")[0]


def federated(pool: str, subject: str, groups: Sequence[str], attributes: Mapping[str, str]) -> Principal:
    """The identity *subject* of *pool* (its full name).

    Args:
        pool: the pool's full name.
        subject: `google.subject`.
        groups: `google.groups`.
        attributes: each custom attribute (`repository`, without `attribute.`) and its value.
    """
    everybody = f"principalSet://{_HOST}{pool}/"
    sets = [
        f"{everybody}*",
        *(f"{everybody}group/{group}" for group in groups),
        *(f"{everybody}attribute.{name}/{value}" for name, value in attributes.items()),
    ]
    return Principal(f"principal://{_HOST}{pool}/subject/{subject}", sets)


def sets_of(caller: str | None) -> frozenset[str]:
    """The sets of a federated *caller*; none of any other."""
    return caller.sets if isinstance(caller, Principal) else frozenset()
