"""The protocol between host and gateway container. Standard library only, because it runs in the container too.

Every TCP connection goes from the host to the gateway's tunnel port and starts with the same handshake:

    host     hello       greeting, 32 random bytes
    gateway  challenge   32 random bytes, MAC as the gateway
    host     proof       purpose (1 byte), MAC as the host for that purpose

A MAC is HMAC-SHA256 with the cloud's key over the role, the purpose and both sides' random bytes: it proves the key
without revealing it, only for this connection, this direction and this purpose. Then, by purpose:

    ACCEPT   the gateway sends an `IncomingConnection` when a container has connected to it, then both pass its bytes
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
HANDSHAKE_SECONDS: Final = 5.0
"""The time limit of a handshake in seconds, on either side."""

_INCOMING: Final = struct.Struct("!H4sH")
INCOMING_SIZE: Final = _INCOMING.size
_ADDRESS: Final = struct.Struct("!4sH")
ADDRESS_SIZE: Final = _ADDRESS.size
_LENGTH: Final = struct.Struct("!H")
_QUERY: Final = struct.Struct("!I4s4s")
_ANSWER: Final = struct.Struct("!I")
DNS_HEADER_SIZE: Final = 12
MAX_QUERY_SIZE: Final = 1024
"""The largest DNS query in bytes: a name has 255 at most, and EDNS adds little."""

Address = tuple[str, int]
"""IPv4 address and port."""


class ProtocolError(Exception):
    """The other side violated the protocol."""


class Purpose(Enum):
    """The purpose of a connection of the host."""

    ACCEPT = b"A"
    DIAL = b"D"
    NAMES = b"N"


class Outcome(IntEnum):
    """The outcome of a dial."""

    CONNECTED = 0
    REFUSED = 1
    UNREACHABLE = 2
    FORBIDDEN = 3


def _mac(key: bytes, role: bytes, host_nonce: bytes, gateway_nonce: bytes) -> bytes:
    return hmac.digest(key, _GREETING + role + host_nonce + gateway_nonce, "sha256")


def create_hello(nonce: bytes) -> bytes:
    """Create the host's first message."""
    return _GREETING + nonce


def create_challenge(key: bytes, hello: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """Create the gateway's reply to *hello*; return it with the host's nonce.

    Raises:
        ProtocolError: *hello* is invalid.
    """
    if len(hello) != HELLO_SIZE or not hello.startswith(_GREETING):
        raise ProtocolError("the hello is invalid")
    host_nonce = hello[len(_GREETING) :]
    return nonce + _mac(key, b"gateway", host_nonce, nonce), host_nonce


def create_proof(key: bytes, purpose: Purpose, host_nonce: bytes, challenge: bytes) -> bytes:
    """Create the host's reply to *challenge*.

    Raises:
        ProtocolError: The sender of the challenge does not have the key.
    """
    if len(challenge) != CHALLENGE_SIZE:
        raise ProtocolError("the challenge is invalid")
    nonce, mac = challenge[:NONCE_SIZE], challenge[NONCE_SIZE:]
    if not hmac.compare_digest(mac, _mac(key, b"gateway", host_nonce, nonce)):
        raise ProtocolError("it does not have this cloud's key")
    return purpose.value + _mac(key, b"host " + purpose.value, host_nonce, nonce)


def verify_proof(key: bytes, host_nonce: bytes, gateway_nonce: bytes, proof: bytes) -> Purpose:
    """Verify the host's proof, and return the connection's purpose.

    Raises:
        ProtocolError: The sender does not have the key.
    """
    purpose, mac = proof[:1], proof[1:]
    if not hmac.compare_digest(mac, _mac(key, b"host " + purpose, host_nonce, gateway_nonce)):
        raise ProtocolError("it does not have this cloud's key")
    try:
        return Purpose(purpose)
    except ValueError:
        raise ProtocolError(f"unknown purpose {purpose!r}") from None


@dataclass(frozen=True)
class IncomingConnection:
    """A connection to the gateway, from a container, or from Docker to the registry's port."""

    port: int
    """The gateway's port."""
    caller: Address

    def pack(self) -> bytes:
        """Encode it in `INCOMING_SIZE` bytes."""
        host, port = self.caller
        return _INCOMING.pack(self.port, ipaddress.IPv4Address(host).packed, port)

    @staticmethod
    def unpack(data: bytes) -> "IncomingConnection":
        """Decode `INCOMING_SIZE` bytes."""
        port, host, caller_port = _INCOMING.unpack(data)
        return IncomingConnection(port, (str(ipaddress.IPv4Address(host)), caller_port))


def pack_address(address: Address) -> bytes:
    """Encode an address that the gateway should dial.

    Raises:
        ValueError: It is not an IPv4 address with a port.
    """
    host, port = address
    if not 0 < port < 1 << 16:
        raise ValueError(f"{port} is not a TCP port")
    return _ADDRESS.pack(ipaddress.IPv4Address(host).packed, port)


def unpack_address(data: bytes) -> Address:
    """Decode an address from `ADDRESS_SIZE` bytes."""
    host, port = _ADDRESS.unpack(data)
    return str(ipaddress.IPv4Address(host)), port


@dataclass(frozen=True)
class Query:
    """A container's DNS query, which the gateway sends to the host."""

    number: int
    caller: str
    """The container's address."""
    server: str
    """The gateway's address that received the query: names of the cloud resolve to it for this container."""
    message: bytes
    """The DNS message (RFC 1035), not parsed by the gateway."""

    def pack(self) -> bytes:
        """Encode it as a frame."""
        caller, server = (ipaddress.IPv4Address(address).packed for address in (self.caller, self.server))
        return _frame(_QUERY.pack(self.number, caller, server) + self.message)

    @staticmethod
    def unpack(frame: bytes) -> "Query":
        """Decode a frame of `FrameParser`.

        Raises:
            ProtocolError: It is not a query.
        """
        if not _QUERY.size + DNS_HEADER_SIZE <= len(frame) <= _QUERY.size + MAX_QUERY_SIZE:
            raise ProtocolError(f"a query of {len(frame)} bytes")
        number, caller, server = _QUERY.unpack_from(frame)
        addresses = str(ipaddress.IPv4Address(caller)), str(ipaddress.IPv4Address(server))
        return Query(number, *addresses, frame[_QUERY.size :])


@dataclass(frozen=True)
class Answer:
    """The host's answer to a `Query`."""

    number: int
    message: bytes
    """The DNS message (RFC 1035); empty: the name is not of this cloud, so the gateway asks its own resolver."""

    def pack(self) -> bytes:
        """Encode it as a frame."""
        return _frame(_ANSWER.pack(self.number) + self.message)

    @staticmethod
    def unpack(frame: bytes) -> "Answer":
        """Decode a frame of `FrameParser`.

        Raises:
            ProtocolError: It is not an answer.
        """
        if len(frame) < _ANSWER.size or 0 < len(frame) - _ANSWER.size < DNS_HEADER_SIZE:
            raise ProtocolError(f"an answer of {len(frame)} bytes")
        (number,) = _ANSWER.unpack_from(frame)
        return Answer(number, frame[_ANSWER.size :])


def _frame(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


class FrameParser:
    """Splits a stream of bytes into frames, each prefixed by its length in two bytes; it buffers at most one frame."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Add *data*, and return the frames that it completes."""
        data = self._pending + data
        frames: list[bytes] = []
        offset = 0
        while len(data) - offset >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, offset)
            end = offset + _LENGTH.size + length
            if len(data) < end:
                break
            frames.append(data[offset + _LENGTH.size : end])
            offset = end
        self._pending = data[offset:]
        return frames
