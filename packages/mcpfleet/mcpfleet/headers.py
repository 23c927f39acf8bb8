"""Which headers cross the proxy: pure functions on raw (name, value) pairs.

Hop-by-hop headers belong to one connection (RFC 9110 section 7.6.1) and stop here; all others cross
unchanged, in order, repeated ones too. Exceptions, each for a reason given below: `Host`, `Expect`, the
header that carries our token, and a `Location` that points to the service.
"""

from __future__ import annotations

from collections.abc import Iterable

RawHeaders = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


_END_TO_END = frozenset({b"authorization", b"cookie", b"forwarded", b"host", b"origin", b"set-cookie", b"traceparent"})
_END_TO_END_PREFIXES = (b"content-", b"mcp-", b"sec-", b"x-cloud-", b"x-forwarded-", b"x-goog-", b"x-serverless-")
"""What `Connection` has no right to name: whose a message is, where it goes, what it holds. It crosses all the same."""


def request_headers(raw: Iterable[tuple[bytes, bytes]], host: bytes, token_header: bytes) -> RawHeaders:
    """What the service is sent.

    Args:
        raw: The caller's headers.
        host: The service's host (and port), instead of the proxy's.
        token_header: Dropped, as a caller on loopback does not choose the identity; the auth sets it.
    """
    # Expect: the proxy's own server has already answered it with 100 Continue. Cloud Run looks at
    # X-Serverless-Authorization first, so it goes whichever header carries the token.
    kept = _without(raw, {b"host", b"expect", b"x-serverless-authorization", token_header.lower()})
    return [(b"host", host), *kept]


def response_headers(raw: Iterable[tuple[bytes, bytes]], service: str, here: str) -> RawHeaders:
    """What the caller is answered.

    Args:
        raw: The service's headers.
        service: The service's origin. A redirect to it is turned to the proxy: past it there is no identity.
        here: The proxy's origin, as the caller knows it.
    """
    origin = service.encode("ascii")
    headers = _without(raw, set())
    for index, (name, value) in enumerate(headers):
        rest = value[len(origin) :]
        if name.lower() == b"location" and value.startswith(origin) and rest[:1] in {b"", b"/", b"?", b"#"}:
            headers[index] = (name, here.encode("ascii") + rest)
    return headers


def _without(raw: Iterable[tuple[bytes, bytes]], more: set[bytes]) -> RawHeaders:
    pairs = list(raw)
    # Connection lists further headers that are of this hop only.
    named = {
        token.strip().lower() for name, value in pairs if name.lower() == b"connection" for token in value.split(b",")
    }
    end_to_end = {name for name in named if name in _END_TO_END or name.startswith(_END_TO_END_PREFIXES)}
    dropped = HOP_BY_HOP | (named - end_to_end) | more
    return [(name, value) for name, value in pairs if name.lower() not in dropped]
