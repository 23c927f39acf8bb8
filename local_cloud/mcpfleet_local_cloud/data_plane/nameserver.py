"""A name server for the cloud's containers: the names that lead to this cloud, and nothing else (RFC 1035).

Docker's own resolver asks it first. What is none of ours it refuses, and Docker goes on to the next server, which is
this machine's.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

PORT: Final = 53
_A, _AAAA, _IN = 1, 28, 1
_REFUSED, _FORMAT, _OK = 5, 1, 0
_SECONDS: Final = 5
"""How long an answer may be remembered: services come and go."""
_LABEL: Final = 63
_FILES: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_log = logging.getLogger(__name__)


def answer(query: bytes, address: str, ours: Callable[[str], bool]) -> bytes | None:
    """What to say to *query*: *address* for a name that is *ours*; None where it is no query at all."""
    if len(query) < 12 or query[2] & 0x80:
        return None
    number, flags, questions = struct.unpack("!HHH", query[:6])
    found = _question(query) if questions == 1 and not flags & 0x7800 else None
    if found is None:
        return struct.pack("!HHHHHH", number, 0x8000 | _FORMAT, 0, 0, 0, 0)
    name, kind, of_class, end = found
    mine = of_class == _IN and ours(name)
    has_address = mine and kind == _A
    code = _OK if mine else _REFUSED
    # An answer, authoritative where it is ours, recursion as it was asked for.
    head = struct.pack(
        "!HHHHHH", number, 0x8000 | (0x0400 if mine else 0) | (flags & 0x0100) | code, 1, has_address, 0, 0
    )
    record = struct.pack("!HHHIH", 0xC00C, _A, _IN, _SECONDS, 4) + socket.inet_aton(address) if has_address else b""
    return head + query[12:end] + record


def _question(query: bytes) -> tuple[str, int, int, int] | None:
    """Name, type and class of the question, and where it ends; None where it is broken."""
    labels: list[str] = []
    at = 12
    while at < len(query) and (size := query[at]):
        if size > _LABEL or at + 1 + size > len(query):
            return None
        labels.append(query[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    if at + 5 > len(query) or not labels:
        return None
    kind, of_class = struct.unpack("!HH", query[at + 1 : at + 5])
    return ".".join(labels), kind, of_class, at + 5


class NameServer(asyncio.DatagramProtocol):
    """Answers on *address* for names that are *ours*, for the caller with that address; `open` before use."""

    def __init__(self, address: str, ours: Callable[[str, str], bool]) -> None:
        self._address = address
        self._ours = ours
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self) -> bool:
        """Begin to answer; False where the port cannot be had (it is below 1024, and may be another program's)."""
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self._address, PORT))
        except OSError as refusal:
            _log.warning("no name server on %s:%d (%s): containers find no other service", self._address, PORT, refusal)
            return False
        return True

    def close(self) -> None:
        """Answer no more."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one query."""
        said = answer(data, self._address, lambda name: self._ours(name, addr[0]))
        if said is not None and self._transport is not None:
            self._transport.sendto(said, addr)


def machine_servers() -> list[str]:
    """This machine's name servers that a container can reach: those that are not on its own loopback."""
    for path in _FILES:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        servers = [words[1] for words in map(str.split, lines) if len(words) > 1 and words[0] == "nameserver"]
        reachable = [one for one in servers if not one.startswith("127.") and one != "::1" and "%" not in one]
        if reachable:
            return reachable
    return []
