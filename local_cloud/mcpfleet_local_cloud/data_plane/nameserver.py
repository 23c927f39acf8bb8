"""A name server for the cloud's containers: the names that lead to this cloud, and nothing else (RFC 1035).

Docker's own resolver asks it first. What is none of ours it refuses, and Docker goes on to the next server, which is
this machine's.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

PORT: Final = 53
_HEADER: Final = 12
_IS_ANSWER: Final = 0x80
_SECONDS: Final = 5
"""How long an answer may be remembered: services come and go."""
_FILES: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_log = logging.getLogger(__name__)


def answer(query: bytes, address: str, ours: Callable[[str], bool]) -> bytes | None:
    """What to say to *query*: *address* for a name that is *ours*; None where it is no query at all."""
    if len(query) < _HEADER or query[2] & _IS_ANSWER:
        return None
    try:
        asked = dns.message.from_wire(query, question_only=True)
        (question,) = asked.question
        if asked.opcode() != dns.opcode.QUERY or question.name == dns.name.root:
            raise dns.exception.FormError
    except (dns.exception.DNSException, ValueError):
        refusal = dns.message.Message(id=int.from_bytes(query[:2], "big"))
        refusal.flags = dns.flags.QR
        refusal.set_rcode(dns.rcode.FORMERR)
        return refusal.to_wire()
    name = question.name.to_text(omit_final_dot=True).lower()
    said = dns.message.make_response(asked)
    if question.rdclass != dns.rdataclass.IN or not ours(name):
        said.set_rcode(dns.rcode.REFUSED)
        return said.to_wire()
    said.flags |= dns.flags.AA
    if question.rdtype == dns.rdatatype.A:
        said.answer.append(dns.rrset.from_text(question.name, _SECONDS, dns.rdataclass.IN, dns.rdatatype.A, address))
    return said.to_wire()


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
