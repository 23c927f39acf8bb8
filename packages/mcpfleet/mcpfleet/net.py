"""Which hosts are this machine, why a connection failed, and when to try again."""

from __future__ import annotations

import ipaddress
from typing import cast
from urllib.parse import urlsplit


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
