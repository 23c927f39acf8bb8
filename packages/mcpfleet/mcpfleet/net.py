"""The way to a service: which hosts are this machine, the HTTP client, why a connection failed, when to try again."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx2

from mcpfleet.bounds import ANSWER_SECONDS, Bound, answer_seconds

CONNECT_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 60.0
"""How long an unused connection is kept: a new one costs a TLS handshake, an old one may be dead unnoticed."""
DEAD_SECONDS: Final = 30
"""A peer that acknowledges nothing for this long is gone: its network, or ours."""
_LIMITS: Final = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=IDLE_SECONDS)


def is_loopback(host: str) -> bool:
    """Whether a bare host name or address (no port, no brackets) can only mean this machine.

    Only `localhost` and literal loopback addresses count: any other name is whatever its DNS says,
    which is what a DNS-rebinding attack changes.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(url: str) -> str:
    """The bare, lower-case host of a URL, or '' where there is none that can be read."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # a port that is no number makes the whole authority unreadable
        # A user part or a backslash is how a URL shows one host to a reader and another to a program.
        return "" if set(parts.netloc) & {"@", "\\"} else parts.hostname or ""
    except ValueError:
        return ""


@cache
def trusted(trust_env: bool) -> ssl.SSLContext:
    """The certificate authorities that clients of this process trust, read once.

    A client reads them when it is made, also one that speaks plain HTTP; it takes 20 ms of CPU.

    Args:
        trust_env: Whether `SSL_CERT_FILE` and `SSL_CERT_DIR` count.
    """
    return httpx2.create_ssl_context(trust_env=trust_env)


def client_for(
    auth: httpx2.Auth,
    on_this_machine: bool,
    transport: httpx2.AsyncBaseTransport | None = None,
    *,
    answers: Bound | None = None,
) -> httpx2.AsyncClient:
    """A client for requests to one service.

    It follows no redirects and keeps no cookies. Streams may be silent for as long as the service lets them.

    Args:
        auth: The identity.
        on_this_machine: Whether the service is: a company's HTTP proxy cannot reach this machine's own addresses.
        transport: The way out; real HTTP if not given, through the proxy that the environment names.
        answers: What bounds the answers.
    """
    if transport is None and (on_this_machine or not getproxies()):
        transport = httpx2.AsyncHTTPTransport(limits=_LIMITS, socket_options=_keep_alive())
    return _Client(
        transport=transport,
        auth=auth,
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        limits=_LIMITS,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        event_hooks={"response": [answers] if answers else []},
    )


class _Client(httpx2.AsyncClient):
    """Bounds the time until an answer begins: httpx2 bounds each read only, so headers that drip would go on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = answer_seconds()

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request.

        Raises:
            httpx2.ReadTimeout: Its answer did not begin in time.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await super().send(request, **options)
        except TimeoutError as error:
            text = f"no answer began within {self._seconds:g} s ({ANSWER_SECONDS})"
            raise httpx2.ReadTimeout(text, request=request) from error


@cache
def _keep_alive() -> tuple[tuple[int, int, int], ...]:
    """Options with which the system ends a connection to a peer that is gone, as far as this system takes them."""
    with socket.socket() as tried:

        def taken() -> Iterator[tuple[int, int, int]]:
            for level, name, value in (
                (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
                (socket.IPPROTO_TCP, "TCP_KEEPIDLE", DEAD_SECONDS // 2),
                (socket.IPPROTO_TCP, "TCP_KEEPALIVE", DEAD_SECONDS // 2),  # the name on macOS
                (socket.IPPROTO_TCP, "TCP_KEEPINTVL", DEAD_SECONDS // 6),
                (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
                (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", DEAD_SECONDS * 1000),
            ):
                try:
                    option = level, int(getattr(socket, name)), value
                    tried.setsockopt(*option)
                except (AttributeError, OSError):
                    continue
                yield option

        return tuple(taken())


def delay(attempt: int) -> float:
    """Seconds before the next attempt: 0.25, 0.5, 1, 2, 4, and 4 from then on."""
    return min(0.25 * 2**attempt, 4.0)


def connection_reason(error: BaseException) -> str:
    """The operating system's words for why a connection failed, which lie below the library's."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, BaseExceptionGroup):  # one for each address that was tried
            below = cast("BaseExceptionGroup[BaseException]", below).exceptions[0]
        if isinstance(below, OSError) and below.strerror:
            return below.strerror
        below = below.__cause__ or below.__context__
    return str(error) or type(error).__name__


def is_certificate(error: BaseException) -> bool:
    """Whether a connection failed because the other side's certificate is not trusted: trying again will not help."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError):
            return True
        below = below.__cause__ or below.__context__
    return False
