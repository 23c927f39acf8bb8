"""Which names lead to this cloud, in DNS (RFC 1035): the host's half of the containers' name server."""

from collections.abc import Callable
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

_SECONDS: Final = 5
"""How long an answer may be remembered: services come and go."""


def answer(query: bytes, address: str, ours: Callable[[str], bool]) -> bytes:
    """What to say to *query*: *address* for a name that is *ours*; nothing for one that may be asked elsewhere.

    A name of a single label that is not ours is nobody's: the gateway's resolver, Docker's, would answer with names of
    containers in networks that the caller is not in.
    """
    try:
        asked = dns.message.from_wire(query, question_only=True)
        (question,) = asked.question
        if asked.opcode() != dns.opcode.QUERY or asked.flags & dns.flags.QR:
            raise dns.exception.FormError
    except (dns.exception.DNSException, ValueError):
        refusal = dns.message.Message(id=int.from_bytes(query[:2], "big"))
        refusal.flags = dns.flags.QR
        refusal.set_rcode(dns.rcode.FORMERR)
        return refusal.to_wire()
    name = question.name.to_text(omit_final_dot=True).lower()
    said = dns.message.make_response(asked)
    if question.rdclass != dns.rdataclass.IN:
        said.set_rcode(dns.rcode.REFUSED)
    elif not ours(name):
        if len(question.name.labels) != 2:  # the root is a label, too
            return b""
        said.set_rcode(dns.rcode.NXDOMAIN)
    else:
        said.flags |= dns.flags.AA
        if question.rdtype == dns.rdatatype.A:
            record = dns.rrset.from_text(question.name, _SECONDS, dns.rdataclass.IN, dns.rdatatype.A, address)
            said.answer.append(record)
    return said.to_wire()
