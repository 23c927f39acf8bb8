"""Who may use the proxy: programs on this machine, not web pages.

The proxy lends a person's identity to whoever reaches its port. A web page reaches it in two ways: by a
name that its owner points to 127.0.0.1 (DNS rebinding; the Host betrays it), and by a plain cross-site
request (the Origin, or Sec-Fetch-Site where there is no Origin, betrays it).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mcpfleet.net import host_of, is_loopback


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
