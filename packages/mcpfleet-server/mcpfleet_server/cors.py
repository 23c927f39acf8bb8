"""What a browser must hear before it lets a page of another origin call us and read the answer (CORS, Fetch standard).

Whom `allowlist.py` has let through by its Origin hears that very origin, and nobody hears `*`. Nobody is allowed
credentials either: a page sends a token of its own, and never the cookies that its user has for us.

Not Starlette's CORSMiddleware: it knows exact origins or one expression, tells origins outside its list what it allows,
can't allow a family of headers (`Mcp-Param-*`), and the bridge does without Starlette.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Lines = tuple[tuple[bytes, bytes], ...]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ASKS: Final = "access-control-request-method"
"""The header that tells a browser's question (a preflight) from any other OPTIONS."""

ASKS_HEADERS: Final = "access-control-request-headers"

_ORIGIN: Final = b"access-control-allow-origin"
_HEADERS: Final = (
    "Accept, Authorization, Content-Type, Last-Event-ID, Mcp-Method, Mcp-Name, MCP-Protocol-Version, Mcp-Session-Id,"
    " Traceparent, Tracestate, X-Serverless-Authorization"
)
_ARGUMENT: Final = re.compile(r"mcp-param-[!#$%&'*+\-.^_`|~0-9a-z]+", re.ASCII)
"""A header that repeats an argument; which there are, each tool says (specification 2026-07-28)."""
_SECONDS: Final = b"600"
"""How long a browser may remember an answer: a list that has become shorter counts soon."""
_EXPOSED: Final = b"Mcp-Session-Id, WWW-Authenticate"


def readable(origin: bytes) -> Lines:
    """The header lines by which pages of an origin may read an answer."""
    return ((_ORIGIN, origin), (b"access-control-expose-headers", _EXPOSED), (b"vary", b"Origin"))


def preflight(origin: bytes, headers: str) -> Lines:
    """The header lines that answer the question whether pages of an origin may call.

    Args:
        origin: One that may.
        headers: What the question says of the headers that it wants to send.
    """
    wanted = {name.strip(" \t").lower() for name in headers.split(",")}
    allowed = ", ".join((_HEADERS, *sorted(filter(_ARGUMENT.fullmatch, wanted))))
    return (
        (_ORIGIN, origin),
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", allowed.encode()),
        (b"access-control-max-age", _SECONDS),
        (b"vary", b"Origin, Access-Control-Request-Headers"),
    )


def reading(send: Send, origin: bytes) -> Send:
    """`send` for an answer that pages of an origin may read; one that has said already who may is left as it is."""

    async def told(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            if all(name.lower() != _ORIGIN for name, _ in headers):
                message = {**message, "headers": [*headers, *readable(origin)]}
        await send(message)

    return told
