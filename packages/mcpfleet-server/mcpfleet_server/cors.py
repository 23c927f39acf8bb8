"""CORS headers, which let web pages of the allowed origins call a server and read its responses (Fetch standard).

A response names exactly the request's origin, if `allowlist.py` accepts it, and never `*`. Credentials are never
allowed: a page sends its own token, never the cookies that its user has for this host.

This is not Starlette's CORSMiddleware, because that takes only exact origins or one expression, sends the allowed
methods and headers to origins outside its list, and can't allow a family of headers (`Mcp-Param-*`). The bridge does
not have Starlette, either.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

HeaderLines = tuple[tuple[bytes, bytes], ...]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

REQUEST_METHOD_HEADER: Final = "access-control-request-method"
"""The header that distinguishes a browser's preflight from other OPTIONS requests."""

REQUEST_HEADERS_HEADER: Final = "access-control-request-headers"

_ALLOW_ORIGIN: Final = b"access-control-allow-origin"
_ALLOWED_HEADERS: Final = (
    "Accept, Authorization, Content-Type, Last-Event-ID, Mcp-Method, Mcp-Name, MCP-Protocol-Version, Mcp-Session-Id,"
    " Traceparent, Tracestate, X-Serverless-Authorization"
)
_PARAM_HEADER: Final = re.compile(r"mcp-param-[!#$%&'*+\-.^_`|~0-9a-z]+", re.ASCII)
"""Headers that repeat an argument; each tool's schema declares its own (specification 2026-07-28)."""
_MAX_AGE_SECONDS: Final = b"600"
"""How long a browser may cache a preflight. Short, so that removing an origin takes effect soon."""
_EXPOSED_HEADERS: Final = b"Mcp-Session-Id, WWW-Authenticate"


def response_headers(origin: bytes) -> HeaderLines:
    """Return the header lines that let pages of an origin read a response."""
    return ((_ALLOW_ORIGIN, origin), (b"access-control-expose-headers", _EXPOSED_HEADERS), (b"vary", b"Origin"))


def preflight_headers(origin: bytes, requested_headers: str) -> HeaderLines:
    """Return the header lines of the response to a preflight.

    Args:
        origin: An allowed origin.
        requested_headers: The preflight's list of headers that the page wants to send.
    """
    requested = {name.strip(" \t").lower() for name in requested_headers.split(",")}
    allowed = ", ".join((_ALLOWED_HEADERS, *sorted(filter(_PARAM_HEADER.fullmatch, requested))))
    return (
        (_ALLOW_ORIGIN, origin),
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", allowed.encode()),
        (b"access-control-max-age", _MAX_AGE_SECONDS),
        (b"vary", b"Origin, Access-Control-Request-Headers"),
    )


def wrap_send(send: Send, origin: bytes) -> Send:
    """Return a `send` that adds the CORS headers for *origin* to a response that has none."""

    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            if all(name.lower() != _ALLOW_ORIGIN for name, _ in headers):
                message = {**message, "headers": [*headers, *response_headers(origin)]}
        await send(message)

    return send_with_headers
