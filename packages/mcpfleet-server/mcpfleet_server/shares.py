"""How much of what there is for all one caller may have.

Three quarters, and never all where there are two or more: the rest is for others. A caller who is not known is
everybody together, so no share holds for it: nobody could be told from those who would be kept out.
"""

from collections.abc import Iterable

Identity = tuple[str, str]
"""Issuer and subject of a caller; None in its place stands for whoever is not known."""


def share(limit: int) -> int:
    """What one caller may have of *limit*."""
    return max(1, min(limit - 1, -(-limit * 3 // 4)))


def has_share(caller: Identity | None, held: Iterable[Identity | None], limit: int) -> bool:
    """Whether a caller has its share of *limit* already; *held*: whose each is that is taken."""
    return caller is not None and sum(one == caller for one in held) >= share(limit)
