"""What host and gateway container say to each other, byte by byte. Standard library only: it runs in the container too.

Every TCP connection goes from the host to the gateway's tunnel port and begins with the same handshake:

    host     hello       greeting, 32 random bytes
    gateway  challenge   32 random bytes, MAC as the gateway
    host     proof       purpose (1 byte), MAC as the host for that purpose

A MAC is HMAC-SHA256 with the cloud's key over the role, the purpose and both sides' random bytes: it proves the key
without showing it, for this connection, this direction and this purpose alone. Then, by purpose:

    ACCEPT   the gateway sends an `RoutedRequest` when a container has connected to it, then both pass its bytes
    DIAL     the host sends an address; the gateway answers with an `Outcome`, then both pass the connection's bytes
    NAMES    the gateway sends DNS queries as frames, the host answers as frames

Numbers are big-endian; addresses are IPv4, as the cloud's networks are.
"""

import hmac
import ipaddress
import struct
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

KEY_SIZE: Final = 32
NONCE_SIZE: Final = 32
_MAC_SIZE: Final = 32
_GREETING: Final = b"mcpfleet-tunnel/1\n"
HELLO_SIZE: Final = len(_GREETING) + NONCE_SIZE
CHALLENGE_SIZE: Final = NONCE_SIZE + _MAC_SIZE
PROOF_SIZE: Final = 1 + _MAC_SIZE
SECONDS: Final = 5.0
"""How long a handshake may take, on either side."""

_ARRIVAL: Final = struct.Struct("!H4sH")
ARRIVAL_SIZE: Final = _ARRIVAL.size
_ADDRESS: Final = struct.Struct("!4sH")
ADDRESS_SIZE: Final = _ADDRESS.size
_LENGTH: Final = struct.Struct("!H")
_QUERY: Final = struct.Struct("!I4s4s")
_ANSWER: Final = struct.Struct("!I")
DNS_HEADER: Final = 12
LONGEST_QUERY: Final = 1024
"""Bytes of a DNS query: a name has 255 at most, and what EDNS adds is small."""

Address = tuple[str, int]
"""IPv4 address and port."""


class WireError(Exception):
    """The other side said what none of ours would."""


class Purpose(Enum):
    """What a connection of the host is for."""

    ACCEPT = b"A"
    DIAL = b"D"
    NAMES = b"N"


class Outcome(IntEnum):
    """What became of a dial."""

    CONNECTED = 0
    REFUSED = 1
    UNREACHABLE = 2
    FORBIDDEN = 3


def _mac(key: bytes, role: bytes, host_nonce: bytes, gateway_nonce: bytes) -> bytes:
    return hmac.digest(key, _GREETING + role + host_nonce + gateway_nonce, "sha256")


def hello(nonce: bytes) -> bytes:
    """What the host begins with."""
    return _GREETING + nonce


def challenge(key: bytes, said: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """The gateway's reply to the hello *said*, and the host's nonce out of that.

    Raises:
        WireError: *said* is no hello.
    """
    if len(said) != HELLO_SIZE or not said.startswith(_GREETING):
        raise WireError("no hello of ours")
    host_nonce = said[len(_GREETING) :]
    return nonce + _mac(key, b"gateway", host_nonce, nonce), host_nonce


def proof(key: bytes, purpose: Purpose, host_nonce: bytes, said: bytes) -> bytes:
    """The host's reply to the challenge *said*.

    Raises:
        WireError: whoever said it does not have the key.
    """
    if len(said) != CHALLENGE_SIZE:
        raise WireError("no challenge of ours")
    nonce, mac = said[:NONCE_SIZE], said[NONCE_SIZE:]
    if not hmac.compare_digest(mac, _mac(key, b"gateway", host_nonce, nonce)):
        raise WireError("it does not have this cloud's key")
    return purpose.value + _mac(key, b"host " + purpose.value, host_nonce, nonce)


def purpose_of(key: bytes, host_nonce: bytes, gateway_nonce: bytes, said: bytes) -> Purpose:
    """What the connection is for, of which the host gave the proof *said*.

    Raises:
        WireError: whoever said it does not have the key.
    """
    wanted, mac = said[:1], said[1:]
    if not hmac.compare_digest(mac, _mac(key, b"host " + wanted, host_nonce, gateway_nonce)):
        raise WireError("it does not have this cloud's key")
    try:
        return Purpose(wanted)
    except ValueError:
        raise WireError(f"unknown purpose {wanted!r}") from None


@dataclass(frozen=True)
class Arrival:
    """A connection that a container, or for the registry's port the engine, made to the gateway."""

    port: int
    """The gateway's port that it came to."""
    caller: Address

    def pack(self) -> bytes:
        """Its bytes."""
        host, port = self.caller
        return _ARRIVAL.pack(self.port, ipaddress.IPv4Address(host).packed, port)

    @staticmethod
    def unpack(data: bytes) -> "Arrival":
        """The arrival with those `ARRIVAL_SIZE` bytes."""
        port, host, caller_port = _ARRIVAL.unpack(data)
        return Arrival(port, (str(ipaddress.IPv4Address(host)), caller_port))


def pack_address(address: Address) -> bytes:
    """An address that is to be dialed.

    Raises:
        ValueError: it is no IPv4 address and port.
    """
    host, port = address
    if not 0 < port < 1 << 16:
        raise ValueError(f"{port} is no TCP port")
    return _ADDRESS.pack(ipaddress.IPv4Address(host).packed, port)


def unpack_address(data: bytes) -> Address:
    """The address with those `ADDRESS_SIZE` bytes."""
    host, port = _ADDRESS.unpack(data)
    return str(ipaddress.IPv4Address(host)), port


@dataclass(frozen=True)
class Query:
    """A container's DNS query, for the host to decide on."""

    number: int
    caller: str
    """The container's address."""
    asked: str
    """The gateway's own address that it asked: what names of the cloud lead to for this container."""
    message: bytes
    """RFC 1035, unread."""

    def pack(self) -> bytes:
        """Its frame."""
        caller, asked = (ipaddress.IPv4Address(each).packed for each in (self.caller, self.asked))
        return _framed(_QUERY.pack(self.number, caller, asked) + self.message)

    @staticmethod
    def unpack(frame: bytes) -> "Query":
        """The query in *frame*, as `Frames` gives it.

        Raises:
            WireError: it is none.
        """
        if not _QUERY.size + DNS_HEADER <= len(frame) <= _QUERY.size + LONGEST_QUERY:
            raise WireError(f"a query of {len(frame)} bytes")
        number, caller, asked = _QUERY.unpack_from(frame)
        addresses = str(ipaddress.IPv4Address(caller)), str(ipaddress.IPv4Address(asked))
        return Query(number, *addresses, frame[_QUERY.size :])


@dataclass(frozen=True)
class Answer:
    """The host's answer to a `Query`."""

    number: int
    message: bytes
    """RFC 1035; empty: the name is none of the cloud's, so the gateway asks its own resolver."""

    def pack(self) -> bytes:
        """Its frame."""
        return _framed(_ANSWER.pack(self.number) + self.message)

    @staticmethod
    def unpack(frame: bytes) -> "Answer":
        """The answer in *frame*, as `Frames` gives it.

        Raises:
            WireError: it is none.
        """
        if len(frame) < _ANSWER.size or 0 < len(frame) - _ANSWER.size < DNS_HEADER:
            raise WireError(f"an answer of {len(frame)} bytes")
        (number,) = _ANSWER.unpack_from(frame)
        return Answer(number, frame[_ANSWER.size :])


def _framed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Takes a stream of bytes apart into frames, each behind its length in two bytes; at most one is held."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that *data* completes."""
        data = self._held + data
        found: list[bytes] = []
        at = 0
        while len(data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            end = at + _LENGTH.size + length
            if len(data) < end:
                break
            found.append(data[at + _LENGTH.size : end])
            at = end
        self._held = data[at:]
        return found
