"""Which Host and Origin headers a request may carry: protection against DNS rebinding.

A web page can make a browser send requests to a name that the page's owner points at your machine; the
request then carries the owner's name in `Host` and the page's in `Origin`. The MCP specification demands
the Origin check (2025-11-25, streamable HTTP, "Security Warning"); the Host check is the SDK's policy.

The SDK's own lists take exact names only, and a Cloud Run service answers on names that can't be known
before it exists (`SERVICE-HASH-REGION.a.run.app`, one more for each traffic tag). So an entry here may hold
`*`, which stands for any run of letters, digits, hyphens and dots, but not in the last two labels: those
must say who owns the name.
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
    """One entry of the list of hosts.

    Attributes:
        text: The entry as it was given, in lower case.
        host: Matches an accepted host, in lower case, as a whole.
        ports: The accepted ports, None in it meaning "no port is named"; None means any port.
    """

    text: str
    host: re.Pattern[str]
    ports: frozenset[int | None] | None

    @classmethod
    def parse(cls, entry: str, default_ports: Iterable[int] = (80, 443)) -> "HostPattern":
        """Read `host`, `host:port` or `host:*`.

        Args:
            entry: A name, an IPv4 address or a bracketed IPv6 address; a name may hold `*`.
            default_ports: The ports that mean the same as naming none.

        Raises:
            ValueError: If the entry has another form, or would accept names of any owner.
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
            raise ValueError(f"{entry!r} has no possible port; ports go from 1 to 65535")
        return cls(text, pattern, frozenset({int(port)}))

    def accepts(self, authority: str) -> bool:
        """Whether a `host[:port]` is one of these. What isn't plainly of that form is not."""
        match = _AUTHORITY.fullmatch(authority.lower()) if len(authority) <= _MAX_LENGTH else None
        if match is None or self.host.fullmatch(match["host"]) is None:
            return False
        port = None if match["port"] is None else int(match["port"])
        return self.ports is None or port in self.ports


@dataclass(frozen=True, slots=True)
class OriginPattern:
    """One entry of the list of web origins, such as `https://app.example.com`."""

    scheme: str
    authority: HostPattern

    @classmethod
    def parse(cls, entry: str) -> "OriginPattern":
        """Read `scheme://host[:port]`.

        Raises:
            ValueError: If the entry has another form. `null` can't be allowed: every sandboxed page has it.
        """
        scheme, separator, authority = entry.lower().partition("://")
        if not separator or _SCHEME.fullmatch(scheme) is None:
            raise ValueError(f"{entry!r} is not an origin; write scheme://host or scheme://host:port")
        default = _DEFAULT_PORTS.get(scheme)
        return cls(scheme, HostPattern.parse(authority, () if default is None else (default,)))

    def accepts(self, origin: str) -> bool:
        """Whether an Origin header is this one."""
        scheme, separator, authority = origin.partition("://")
        return bool(separator) and scheme.lower() == self.scheme and self.authority.accepts(authority)


LOOPBACK = tuple(HostPattern.parse(entry) for entry in ("localhost:*", "127.0.0.1:*", "[::1]:*"))
"""Always accepted: sidecars and probes call through loopback, and no page elsewhere has such a name."""
