"""What keeps web pages of others away from whatever of ours listens: the proxy, the client service, agents.

Each of them acts in somebody's name: the proxy lends a person's identity to whoever reaches its port, a client calls
servers as itself, and a browser sends its user's login along. A web page reaches them in two ways: by a name that its
owner points to 127.0.0.1 (DNS rebinding; the Host betrays it), and by a plain cross-site request (the Origin, or
Sec-Fetch-Site where there is no Origin, betrays it). A browser sets these headers, and no page can.
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
from mcpfleet.net import host_of, is_loopback

BODY_BYTES: Final = 1 << 20
BODY_SECONDS: Final = 30.0
AT_ONCE: Final = 1000
"""Requests that one process of ours takes at a time; Cloud Run sends an instance no more."""
_JSON: Final = re.compile(r"application/json[ \t]*(;.*)?", re.IGNORECASE)
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Refusal:
    """An answer instead of a forwarded request: HTTP status and plain text."""

    status: int
    text: str


def refuse(raw: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """Why these request headers may not pass, or None if they may."""
    headers = [(name.lower(), value.decode("latin-1")) for name, value in raw]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not is_loopback(host_of(f"//{hosts[0]}")):
        shown = ", ".join(hosts) or "none"
        return Refusal(421, f"This proxy answers to localhost and 127.0.0.1 only, not to Host: {shown}.")
    origins = [value for name, value in headers if name == b"origin"]
    for origin in origins:
        if not is_loopback(host_of(origin)):
            return Refusal(403, f"This proxy is not for web pages of other hosts (Origin: {origin}).")
    cross_site = any(name == b"sec-fetch-site" and value.strip() == "cross-site" for name, value in headers)
    if cross_site and not origins:
        return Refusal(403, "This proxy is not for requests from other web sites (Sec-Fetch-Site: cross-site).")
    return None


def origins_of(text: str) -> tuple[str, ...]:
    """Origins that are written with commas between them, as a variable holds them.

    Raises:
        UsageError: One is no origin.
    """
    found = tuple(one.strip() for one in text.split(",") if one.strip())
    if wrong := [one for one in found if not _ORIGIN.fullmatch(one)]:
        raise UsageError(f"{wrong[0]!r} is not an origin; write https://HOST[:PORT] in small letters, without a path.")
    return found


def refuse_page(
    raw: Iterable[tuple[bytes, bytes]], client: str | None, allowed: Collection[str] = ()
) -> Refusal | None:
    """Why a request that does something may not have come from a page; None for a program's, and for our own page's.

    Args:
        raw: The request's headers.
        client: The address that it comes from, where it is known.
        allowed: Origins of other pages that may.
    """
    headers = [(name.lower(), value.decode("latin-1").strip()) for name, value in raw]
    origins = [value for name, value in headers if name == b"origin"]
    sites = [value for name, value in headers if name == b"sec-fetch-site"]
    if not origins and not sites:
        return None  # no browser
    if len(origins) > 1 or len(sites) > 1:
        return Refusal(400, "A request has one Origin and one Sec-Fetch-Site.")
    if origins and origins[0] in allowed:
        return None
    hosts = [value for name, value in headers if name == b"host"]
    host = hosts[0] if len(hosts) == 1 else ""
    if client is not None and is_loopback(client) and not is_loopback(host_of(f"//{host}")):
        return Refusal(421, f"On this machine this answers pages at localhost and 127.0.0.1 only, not at {host!r}.")
    if sites:
        # `none` is an address that a person typed; `same-site` may be anybody's page below the same domain.
        if sites[0] in {"same-origin", "none"}:
            return None
        return Refusal(403, f"This is not for pages of other origins (Sec-Fetch-Site: {sites[0]!r}).")
    if _authority(origins[0]) is not None and _authority(origins[0]) == _authority(
        f"{urlsplit(origins[0]).scheme}://{host}"
    ):
        return None
    return Refusal(403, f"This is not for pages of other origins (Origin: {origins[0]!r}).")


def _authority(origin: str) -> tuple[str, int | None] | None:
    host = host_of(origin)
    if not host:
        return None
    parts = urlsplit(origin)
    return host, parts.port or _PORTS.get(parts.scheme)


class SameOriginApp:
    """An application whose requests that do something come from programs and from its own pages only.

    They are JSON: a page of another origin can send that only after asking, and nobody here says yes. A body is read
    whole before the application sees it, and no longer than it may take.

    Args:
        app: What answers.
        origins: Origins of other pages that may ask.
        body_bytes: The largest body.
        body_seconds: The longest that a body may take to come.
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
        """Serve one request, as ASGI has it."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        client = scope["client"][0] if scope.get("client") else None
        refusal = refuse_page(scope["headers"], client, self._origins) or _not_json(scope["headers"])
        body = b""
        if refusal is None:
            taken = await self._body(scope, receive)
            if taken is None:
                return  # it went away
            refusal, body = (taken, b"") if isinstance(taken, Refusal) else (None, taken)
        if refusal is not None:
            answer = JSONResponse({"error": {"message": refusal.text}}, refusal.status, {"connection": "close"})
            await answer(scope, receive, send)
            return
        given = False

        async def replayed() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replayed, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | Refusal | None:
        """The whole body; None where the caller went away."""
        too_large = Refusal(413, f"A body has at most {self._body_bytes} bytes.")
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(not one.isdigit() or len(one) > 15 or int(one) > self._body_bytes for one in lengths):
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
            return Refusal(408, f"The body did not come within {self._body_seconds:g} s.")


def _not_json(raw: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    kinds = [value.decode("latin-1").strip() for name, value in raw if name.lower() == b"content-type"]
    if len(kinds) == 1 and _JSON.fullmatch(kinds[0]):
        return None
    return Refusal(415, "Send JSON, and say so: Content-Type: application/json.")
