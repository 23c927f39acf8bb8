"""The Host and Origin headers that a request may have: protection against DNS rebinding.

A web page can make a browser send requests to a name that the page's owner points at your machine. The
request then has the owner's name in `Host` and the page's in `Origin`. The MCP specification requires
the Origin check (2025-11-25, streamable HTTP, "Security Warning"); the Host check is the SDK's policy.

The SDK's own lists take exact names only, and a Cloud Run service answers on names that can't be known
before it exists (`SERVICE-HASH-REGION.a.run.app`, one more for each traffic tag). So an entry here may contain
`*`, which stands for any run of letters, digits, hyphens and dots, but not in the last two labels: those
identify the owner of the name.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_AUTHORITY = re.compile(rf"(?P<host>{_NAME}|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)
_ENTRY = re.compile(r"(?P<host>[a-z0-9_.*-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}|\*))?", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)

# The longest DNS name is 253 characters; with a port and brackets nothing valid is longer than this.
_MAX_LENGTH = 262

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HostPattern:
    """A pattern that a Host header may match.

    Attributes:
        text: The entry as written, in lower case.
        host: Matches the whole of an accepted host in lower case.
        ports: The accepted ports; None in the set means "no port". None instead of a set means any port.
    """

    text: str
    host: re.Pattern[str]
    ports: frozenset[int | None] | None

    @classmethod
    def parse(cls, entry: str, default_ports: Iterable[int] = (80, 443)) -> "HostPattern":
        """Read `host`, `host:port` or `host:*`.

        Args:
            entry: A name, an IPv4 address or a bracketed IPv6 address; a name may contain `*`.
            default_ports: The ports that are equivalent to no port.

        Raises:
            ValueError: If the entry has another form, or would accept hosts of any owner.
        """
        text = entry.lower()
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise ValueError(f"{entry!r} is not a host; write name, name:port or name:*, without scheme or path")
        host, port = match["host"], match["port"]
        example = host.replace("*", "x")
        if not example.startswith("[") and re.fullmatch(_NAME, example, re.ASCII) is None:
            raise ValueError(f"{entry!r} is not a host name: its labels are letters, digits and hyphens")
        if "*" in "".join(host.split(".")[-2:]):
            raise ValueError(
                f"{entry!r} would accept hosts of any owner; keep `*` before the last two labels: mcp-*.run.app"
            )
        pattern = re.compile(re.escape(host).replace(r"\*", "[a-z0-9_.-]*"), re.ASCII)
        defaults = frozenset[int | None](default_ports)
        if port == "*":
            return cls(text, pattern, None)
        if port is None or defaults == frozenset({int(port)}):
            return cls(text, pattern, defaults | {None})
        if not 1 <= int(port) <= 65535:
            raise ValueError(f"{entry!r} has an invalid port; give one from 1 to 65535")
        return cls(text, pattern, frozenset({int(port)}))

    def accepts(self, authority: str) -> bool:
        """Return whether a `host[:port]` matches. Text of another form never matches."""
        match = _AUTHORITY.fullmatch(authority.lower()) if len(authority) <= _MAX_LENGTH else None
        if match is None or self.host.fullmatch(match["host"]) is None:
            return False
        port = None if match["port"] is None else int(match["port"])
        return self.ports is None or port in self.ports


@dataclass(frozen=True, slots=True)
class OriginPattern:
    """A pattern that an Origin header may match, such as `https://app.example.com`."""

    scheme: str
    authority: HostPattern

    @classmethod
    def parse(cls, entry: str) -> "OriginPattern":
        """Read `scheme://host[:port]`.

        Raises:
            ValueError: If the entry has another form. `null` can't be allowed: every sandboxed page sends it.
        """
        scheme, separator, authority = entry.lower().partition("://")
        if not separator or _SCHEME.fullmatch(scheme) is None:
            raise ValueError(f"{entry!r} is not an origin; write scheme://host or scheme://host:port")
        default = _DEFAULT_PORTS.get(scheme)
        return cls(scheme, HostPattern.parse(authority, () if default is None else (default,)))

    def accepts(self, origin: str) -> bool:
        """Return whether an Origin header matches."""
        scheme, separator, authority = origin.partition("://")
        return bool(separator) and scheme.lower() == self.scheme and self.authority.accepts(authority)


LOOPBACK_HOSTS = tuple(HostPattern.parse(entry) for entry in ("localhost:*", "127.0.0.1:*", "[::1]:*"))
"""Hosts that are always accepted: sidecars and probes call through loopback, and no page elsewhere has such a name."""
