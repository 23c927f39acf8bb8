"""Answers DNS queries for names of this cloud (RFC 1035): the host's half of the containers' name server."""

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
"""The time to live of an answer: services come and go."""


def answer_query(query: bytes, address: str, is_cloud_name: Callable[[str], bool]) -> bytes:
    """Answer *query*: with *address* for a name of this cloud; empty for a name that another resolver may answer.

    Any other name of a single label does not exist: the gateway's resolver, which is Docker's, would resolve names of
    containers in networks that the caller is not in.
    """
    try:
        request = dns.message.from_wire(query, question_only=True)
        (question,) = request.question
        if request.opcode() != dns.opcode.QUERY or request.flags & dns.flags.QR:
            raise dns.exception.FormError
    except (dns.exception.DNSException, ValueError):
        format_error = dns.message.Message(id=int.from_bytes(query[:2], "big"))
        format_error.flags = dns.flags.QR
        format_error.set_rcode(dns.rcode.FORMERR)
        return format_error.to_wire()
    name = question.name.to_text(omit_final_dot=True).lower()
    response = dns.message.make_response(request)
    if question.rdclass != dns.rdataclass.IN:
        response.set_rcode(dns.rcode.REFUSED)
    elif not is_cloud_name(name):
        if len(question.name.labels) != 2:  # the root counts as a label
            return b""
        response.set_rcode(dns.rcode.NXDOMAIN)
    else:
        response.flags |= dns.flags.AA
        if question.rdtype == dns.rdatatype.A:
            record = dns.rrset.from_text(question.name, _SECONDS, dns.rdataclass.IN, dns.rdatatype.A, address)
            response.answer.append(record)
    return response.to_wire()
