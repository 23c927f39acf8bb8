"""HTTP connections to services: the client, loopback hosts, reasons of failed connections, retry delays."""

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

from mcpfleet.bounds import ANSWER_SECONDS, ResponseLimit, answer_seconds

CONNECT_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 60.0
"""How long an unused connection is kept: a new one costs a TLS handshake, and an old one may have failed unnoticed."""
DEAD_SECONDS: Final = 30
"""A connection whose peer acknowledges nothing for this long counts as failed."""
_LIMITS: Final = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=IDLE_SECONDS)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address (no port, no brackets) can only mean this machine.

    Only `localhost` and literal loopback addresses count. DNS decides about any other name, and a DNS-rebinding
    attack changes that.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_host(url: str) -> str:
    """The host of a URL, in lower case and without port and brackets; '' if the URL has no valid host."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if the port is not a number
        # With a user part or a backslash, a URL can show one host to a person and another to a program.
        return "" if set(parts.netloc) & {"@", "\\"} else parts.hostname or ""
    except ValueError:
        return ""


@cache
def ssl_context(trust_env: bool) -> ssl.SSLContext:
    """The TLS context of the clients of this process, created once.

    Otherwise each client would read the certificate authorities, even one for plain HTTP, in 20 ms of CPU.

    Args:
        trust_env: Whether to use `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    """
    return httpx2.create_ssl_context(trust_env=trust_env)


def create_client(
    auth: httpx2.Auth,
    on_this_machine: bool,
    transport: httpx2.AsyncBaseTransport | None = None,
    *,
    limit: ResponseLimit | None = None,
) -> httpx2.AsyncClient:
    """Create an HTTP client for one service.

    It follows no redirects and keeps no cookies. Streams have no read timeout.

    Args:
        auth: The identity.
        on_this_machine: Whether the service runs on this machine, where an HTTP proxy cannot reach it.
        transport: The HTTP transport; by default the network, through the proxy that the environment names.
        limit: The limit for responses.
    """
    if transport is None and (on_this_machine or not getproxies()):
        transport = httpx2.AsyncHTTPTransport(limits=_LIMITS, socket_options=_keep_alive_options())
    return _Client(
        transport=transport,
        auth=auth,
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        limits=_LIMITS,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        event_hooks={"response": [limit] if limit else []},
    )


class _Client(httpx2.AsyncClient):
    """Limits the time until a response begins. httpx2 limits each read only, so slow headers could go on forever."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = answer_seconds()

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request.

        Raises:
            httpx2.ReadTimeout: The response did not begin in time.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await super().send(request, **options)
        except TimeoutError as error:
            text = f"no response within {self._seconds:g} s ({ANSWER_SECONDS})"
            raise httpx2.ReadTimeout(text, request=request) from error


@cache
def _keep_alive_options() -> tuple[tuple[int, int, int], ...]:
    """Socket options that end a connection to a peer that is gone, as far as this system supports them."""
    with socket.socket() as probe:

        def supported_options() -> Iterator[tuple[int, int, int]]:
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
                    probe.setsockopt(*option)
                except (AttributeError, OSError):
                    continue
                yield option

        return tuple(supported_options())


def retry_delay(attempt: int) -> float:
    """Seconds before the next attempt: 0.25, 0.5, 1, 2, and then always 4."""
    return min(0.25 * 2**attempt, 4.0)


def connection_reason(error: BaseException) -> str:
    """The operating system's reason why a connection failed, from the causes of the library's error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):  # with one error for each address
            cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def is_certificate_error(error: BaseException) -> bool:
    """Return whether a connection failed because the certificate is not trusted: then a retry does not help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
