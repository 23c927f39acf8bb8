"""Divides an address range among the cloud's networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

_LARGEST: Final = 24
_SMALLEST: Final = 28
_PARTS: Final = 4
"""Bits: a range is divided into at least sixteen networks, if it is large enough."""


@dataclass(frozen=True)
class Slice:
    """The addresses of one network.

    Attributes:
        subnet: The addresses of the network.
    """

    subnet: IPv4Network

    @property
    def router(self) -> str:
        """Docker's own address, which is the default gateway."""
        return str(self.subnet[1])

    @property
    def gateway(self) -> str:
        """The gateway container's address, which Docker assigns to no other container."""
        return str(self.subnet[2])

    @property
    def instances(self) -> IPv4Network:
        """The addresses that Docker assigns to instances."""
        return list(self.subnet.subnets(prefixlen_diff=1))[1]

    def contains(self, ip: str) -> bool:
        """Return whether *ip* is an address of this network."""
        return IPv4Address(ip) in self.subnet


def split_range(address_range: IPv4Network) -> Iterator[Slice]:
    """Split *address_range* into networks of up to 127 instances."""
    prefix = max(min(max(_LARGEST, address_range.prefixlen + _PARTS), _SMALLEST), address_range.prefixlen)
    return (Slice(subnet) for subnet in address_range.subnets(new_prefix=prefix))
