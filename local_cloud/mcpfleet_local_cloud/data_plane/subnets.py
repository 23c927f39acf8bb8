"""How the cloud's networks share the addresses of one range: who has which, without Docker."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

_LARGEST: Final = 24
_SMALLEST: Final = 28
_PARTS: Final = 4
"""Bits: a range is cut into sixteen networks at least, where it is large enough."""


@dataclass(frozen=True)
class Slice:
    """The addresses of one network.

    Attributes:
        subnet: All of them.
    """

    subnet: IPv4Network

    @property
    def router(self) -> str:
        """Docker's own address, the way out."""
        return str(self.subnet[1])

    @property
    def gateway(self) -> str:
        """The gateway container's, which Docker gives to nobody by itself."""
        return str(self.subnet[2])

    @property
    def instances(self) -> IPv4Network:
        """Those that Docker gives to instances."""
        return list(self.subnet.subnets(prefixlen_diff=1))[1]

    def holds(self, ip: str) -> bool:
        """Whether *ip* is one of them."""
        return IPv4Address(ip) in self.subnet


def slices(whole: IPv4Network) -> Iterator[Slice]:
    """The range *whole*, cut into networks of up to 127 instances."""
    prefix = max(min(max(_LARGEST, whole.prefixlen + _PARTS), _SMALLEST), whole.prefixlen)
    return (Slice(subnet) for subnet in whole.subnets(new_prefix=prefix))
