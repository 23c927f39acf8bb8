"""Redirect URIs: which ones a client may have, and whether a requested one is one of them.

Authorization codes are sent to these URIs, so a requested URI must equal a registered one, character by character
(RFC 9700, section 4.1.3). The port of a loopback URI is the exception: a program on a person's machine takes a free one
(RFC 8252, section 7.3).
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult, urlsplit

from pydantic import AnyUrl, ValidationError

MAX_CHARACTERS: Final = 512
MAX_URIS: Final = 10

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9\-._~:/?\[\]!$&()*+,;=%]+", re.ASCII)
"""Only characters that no parser reads as the end of the host, as another URI, or as HTML."""

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_FORBIDDEN_SCHEMES: Final = (
    *("about", "blob", "chrome", "chrome-extension", "content", "data", "file", "filesystem", "ftp", "intent", "jar"),
    *("javascript", "mailto", "resource", "sms", "tel", "vbscript", "view-source", "ws", "wss"),
)
"""Schemes that run code in a browser or open something other than the client."""


def check(uri: str) -> None:
    """Check that a client may have a redirect URI.

    Raises:
        ValueError: It may not; the text says why.
    """
    parts = _split(uri)
    if parts is None:
        raise ValueError("a redirect URI must be an absolute URI in its canonical form, without user or fragment")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("a redirect URI with http must have a loopback host")
    if parts.scheme in _FORBIDDEN_SCHEMES:
        raise ValueError(f"a redirect URI must not have the scheme {parts.scheme}")


def is_registered(requested: str, registered: Iterable[str]) -> bool:
    """Return whether a client that has registered these URIs may use the requested one."""
    try:
        check(requested)
    except ValueError:
        return False
    return any(requested == uri or _is_same_loopback(requested, uri) for uri in registered)


def is_loopback(uri: str) -> bool:
    """Return whether a URI leads to the person's own machine: to a loopback host, or to a program by its scheme."""
    parts = _split(uri)
    return parts is not None and (parts.scheme not in ("http", "https") or parts.hostname in _LOOPBACK)


def display_host(uri: str) -> str:
    """Return the part of a redirect URI that says where it leads."""
    parts = urlsplit(uri)
    return parts.netloc if parts.scheme in ("http", "https") else f"{parts.scheme}://{parts.netloc}"


def _split(uri: str) -> SplitResult | None:
    """Return the parts of a URI, or None unless every parser reads the same parts."""
    if len(uri) > MAX_CHARACTERS or _PLAIN.fullmatch(uri) is None:
        return None
    try:
        canonical = str(AnyUrl(uri))
        parts = urlsplit(uri)
        port = parts.port
    except (ValidationError, ValueError):
        return None
    # The SDK and browsers write an empty path as "/".
    if canonical != uri and not (canonical == f"{uri}/" and not parts.path and not parts.query):
        return None
    return parts if parts.hostname and port != 0 else None


def _is_same_loopback(requested: str, registered: str) -> bool:
    left, right = urlsplit(requested), urlsplit(registered)
    return (
        left.scheme == right.scheme == "http"
        and left.hostname in _LOOPBACK
        and (left.hostname, left.path, left.query) == (right.hostname, right.path, right.query)
    )
