"""Protects the proxy, client services and agents from requests of foreign web pages.

Each of them acts with an identity: the proxy gives every caller the user's identity, a client calls servers as its own
account, and a browser sends its user's login. A web page can reach them in two ways: by a name that its owner points to
127.0.0.1 (DNS rebinding, visible in Host), and by a cross-site request (visible in Origin, or in Sec-Fetch-Site if
there is no Origin). The browser sets these headers, and a page cannot change them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet.errors import UsageError
from mcpfleet.net import is_loopback, parse_host

BODY_BYTES: Final = 1 << 20
BODY_SECONDS: Final = 30.0
MAX_CONCURRENT_REQUESTS: Final = 1000
"""The most concurrent requests of one process; Cloud Run sends no more to an instance."""
_JSON: Final = re.compile(r"application/json[ \t]*(;.*)?", re.IGNORECASE)
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Refusal:
    """The response to a request that is refused: HTTP status and text."""

    status: int
    text: str


def loopback_refusal(raw: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """Check the headers of a request to the proxy; None if the request is allowed."""
    headers = [(name.lower(), value.decode("latin-1")) for name, value in raw]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not is_loopback(parse_host(f"//{hosts[0]}")):
        hosts_text = ", ".join(hosts) or "none"
        return Refusal(421, f"This proxy accepts the hosts localhost and 127.0.0.1 only, not Host: {hosts_text}.")
    origins = [value for name, value in headers if name == b"origin"]
    for origin in origins:
        if not is_loopback(parse_host(origin)):
            return Refusal(403, f"This proxy refuses web pages of other hosts (Origin: {origin}).")
    cross_site = any(name == b"sec-fetch-site" and value.strip() == "cross-site" for name, value in headers)
    if cross_site and not origins:
        return Refusal(403, "This proxy refuses requests from other websites (Sec-Fetch-Site: cross-site).")
    return None


def parse_origins(text: str) -> tuple[str, ...]:
    """Parse origins that are separated by commas, as in `MCP_CLIENT_ORIGINS`.

    Raises:
        UsageError: One is not a valid origin.
    """
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    if invalid := [origin for origin in origins if not _ORIGIN.fullmatch(origin)]:
        raise UsageError(f"{invalid[0]!r} is not an origin; write https://HOST[:PORT] in lower case, without a path.")
    return origins


def page_refusal(
    raw: Iterable[tuple[bytes, bytes]], client: str | None, allowed: Collection[str] = ()
) -> Refusal | None:
    """Check whether a request comes from a foreign web page; None if it is allowed.

    Args:
        raw: The request's headers.
        client: The caller's address, if it is known.
        allowed: The origins of other pages that may send requests.
    """
    headers = [(name.lower(), value.decode("latin-1").strip()) for name, value in raw]
    origins = [value for name, value in headers if name == b"origin"]
    sites = [value for name, value in headers if name == b"sec-fetch-site"]
    if not origins and not sites:
        return None  # no browser
    if len(origins) > 1 or len(sites) > 1:
        return Refusal(400, "The request has several Origin or Sec-Fetch-Site headers.")
    if origins and origins[0] in allowed:
        return None
    hosts = [value for name, value in headers if name == b"host"]
    host = hosts[0] if len(hosts) == 1 else ""
    if client is not None and is_loopback(client) and not is_loopback(parse_host(f"//{host}")):
        return Refusal(421, f"On this machine, only pages at localhost and 127.0.0.1 are allowed, not at {host!r}.")
    if sites:
        # `none` means that the user typed the address; `same-site` may be any page below the same domain.
        if sites[0] in {"same-origin", "none"}:
            return None
        return Refusal(403, f"Pages of other origins are not allowed (Sec-Fetch-Site: {sites[0]!r}).")
    if _authority(origins[0]) is not None and _authority(origins[0]) == _authority(
        f"{urlsplit(origins[0]).scheme}://{host}"
    ):
        return None
    return Refusal(403, f"Pages of other origins are not allowed (Origin: {origins[0]!r}).")


def _authority(origin: str) -> tuple[str, int | None] | None:
    host = parse_host(origin)
    if not host:
        return None
    parts = urlsplit(origin)
    return host, parts.port or _PORTS.get(parts.scheme)


class SameOriginApp:
    """An ASGI application that accepts requests other than GET and HEAD only from programs and from its own pages.

    Such requests must be JSON, which a page of another origin can send only after a CORS preflight, and that fails. The
    whole body is read before the application gets the request, within limits for its size and time.

    Args:
        app: The application to protect.
        origins: The origins of other pages that may send requests.
        body_bytes: The largest body.
        body_seconds: The longest time for a body to arrive.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        origins: Collection[str] = (),
        body_bytes: int = BODY_BYTES,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._body_bytes = body_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        client = scope["client"][0] if scope.get("client") else None
        refusal = page_refusal(scope["headers"], client, self._origins) or _content_type_refusal(scope["headers"])
        body = b""
        if refusal is None:
            content = await self._read_body(scope, receive)
            if content is None:
                return  # the caller disconnected
            refusal, body = (content, b"") if isinstance(content, Refusal) else (None, content)
        if refusal is not None:
            response = JSONResponse({"error": {"message": refusal.text}}, refusal.status, {"connection": "close"})
            await response(scope, receive, send)
            return
        is_replayed = False

        async def replay() -> Message:
            nonlocal is_replayed
            if is_replayed:
                return await receive()
            is_replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | Refusal | None:
        """Read the whole body; None if the caller disconnected."""
        too_large = Refusal(413, f"The body is larger than {self._body_bytes} bytes.")
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(not length.isdigit() or len(length) > 15 or int(length) > self._body_bytes for length in lengths):
            return too_large
        parts, size = list[bytes](), 0
        try:
            async with asyncio.timeout(self._body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part: bytes = message.get("body", b"")
                    size += len(part)
                    if size > self._body_bytes:
                        return too_large
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            return Refusal(408, f"The body did not arrive within {self._body_seconds:g} s.")


def _content_type_refusal(raw: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    content_types = [value.decode("latin-1").strip() for name, value in raw if name.lower() == b"content-type"]
    if len(content_types) == 1 and _JSON.fullmatch(content_types[0]):
        return None
    return Refusal(415, "Send JSON, with Content-Type: application/json.")
