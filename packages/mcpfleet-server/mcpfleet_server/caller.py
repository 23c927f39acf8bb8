"""The verified caller of a request, taken only from headers that a caller can't forge.

The service's access mode, which the fleet sets in `MCP_ACCESS`, decides which header is used:

- `iam`: the ID token that Cloud Run has checked. "If both headers are provided in a request, only the
  X-Serverless-Authorization header is checked" (cloud.google.com/run/docs/authenticating/service-to-service), so that
  header is used if it is present, otherwise `Authorization`. The front end replaces the signature of the token that it
  has checked with `SIGNATURE_REMOVED_BY_GOOGLE` (cloud.google.com/run/docs/troubleshooting#signature-removed), and
  passes the other header on unchanged. So the claims can be read, but not verified again. A token that still has its
  signature has not passed a front end.
- `iap`: the assertion of Identity-Aware Proxy, verified (`iap.py`). The proxy calls Cloud Run with its own token in
  `X-Serverless-Authorization` (cloud.google.com/iap/docs/enabling-cloud-run), which does not identify the caller.
- `oauth`: the token that the server itself has verified.
- `login`: the claims in `X-Mcpfleet-Caller`, which the gate in the ingress container (`mcpfleet_login`) writes after
  it has checked the access token. The gate removes that header from what comes in, and nothing else reaches the
  application.
- `public` or unset: no caller is trusted, because anybody can write a token of any form.

This module needs only the standard library.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, cast

AccessMode = Literal["iam", "iap", "login", "oauth", "public"]

ACCESS_MODES: Final[tuple[AccessMode, ...]] = ("iam", "iap", "login", "oauth", "public")

LOGIN_HEADER: Final = b"x-mcpfleet-caller"
"""The header in which the gate of `access: login` names the caller: a JSON object of claims in base64url."""

_PREFERRED_HEADER: Final = b"x-serverless-authorization"
_FALLBACK_HEADER: Final = b"authorization"
_REMOVED_SIGNATURE: Final = b"SIGNATURE_REMOVED_BY_GOOGLE"
_GOOGLE_ISSUERS: Final = ("https://accounts.google.com", "accounts.google.com")
_IAP_ISSUER: Final = "https://cloud.google.com/iap"
_IAP_GOOGLE_PREFIX: Final = "accounts.google.com:"
_MAX_TOKEN_BYTES: Final = 16 * 1024
"""Maximum bytes of a token; Google's tokens have about one KiB."""
_CACHE_SIZE: Final = 256


Identity = tuple[str, str]
"""Issuer and subject of a caller. None in its place means that the caller is unknown."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified claims about a caller.

    Attributes:
        issuer: The issuer of the token.
        subject: The issuer's permanent ID of the account. It identifies the account only together with the issuer.
        email: The account's address if Google has verified it; for display only.
        scopes: The scopes of an OAuth token; empty for an ID token.
        claims: All claims of the token; read-only for `iam` and `iap`.
    """

    issuer: str
    subject: str
    email: str | None = None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)

    @property
    def identity(self) -> Identity:
        """Issuer and subject: the key for everything that belongs to this caller."""
        return self.issuer, self.subject

    @property
    def name(self) -> str:
        """The caller's name in logs."""
        return self.email or f"{self.issuer} {self.subject}"


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """Return the caller of the current request, or None if it is unknown. Works in tools, on every transport."""
    return _current.get()


def bind_caller(caller: Caller | None) -> None:
    """Set the caller for this task and the tasks that it starts."""
    _current.set(caller)


def caller_of_claims(claims: Mapping[str, Any], scopes: frozenset[str] = frozenset()) -> Caller | None:
    """Return the caller that the claims of a verified token name, or None if they name no account.

    An email address counts only if Google has verified it: an ID token of Google with `email_verified`
    (developers.google.com/identity/openid-connect/openid-connect), or an assertion of Identity-Aware Proxy about
    a Google account (cloud.google.com/iap/docs/signed-headers-howto). Other issuers may pass on whatever their users
    have typed.
    """
    issuer, subject, email = claims.get("iss"), claims.get("sub"), claims.get("email")
    if not isinstance(issuer, str) or not isinstance(subject, str) or not issuer or not subject:
        return None
    is_verified = claims.get("email_verified") is True if issuer in _GOOGLE_ISSUERS else False
    is_verified = is_verified or (issuer == _IAP_ISSUER and subject.startswith(_IAP_GOOGLE_PREFIX))
    return Caller(issuer, subject, email if is_verified and isinstance(email, str) and email else None, scopes, claims)


def cloud_run_caller(headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """Return the caller whose ID token Cloud Run's front end has checked, or None. Use it only with access `iam`.

    Args:
        headers: The request's header lines as ASGI has them, with lower-case names.
    """
    preferred: bytes | None = None
    fallback: bytes | None = None
    for name, value in headers:
        if name == _FALLBACK_HEADER:
            if fallback is not None:
                return None  # different readers might use different ones as the checked header
            fallback = value
        elif name == _PREFERRED_HEADER:
            if preferred is not None:
                return None
            preferred = value
    credential = fallback if preferred is None else preferred
    return None if credential is None or len(credential) > _MAX_TOKEN_BYTES else _read_credential(credential)


@lru_cache(_CACHE_SIZE)
def _read_credential(credential: bytes) -> Caller | None:
    scheme, _, token = credential.strip(b" \t").partition(b" ")
    parts = token.strip(b" \t").split(b".")
    if scheme.lower() != b"bearer" or len(parts) != 3 or parts[2] != _REMOVED_SIGNATURE:
        return None
    claims = _decode_claims(parts[1])
    return None if claims is None else caller_of_claims(MappingProxyType(claims))


def login_caller(headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """Return the caller that the gate names, or None. Use it only with access `login`, behind the gate.

    Args:
        headers: The request's header lines as ASGI has them, with lower-case names.
    """
    values = [value for name, value in headers if name == LOGIN_HEADER]
    return _read_login(values[0]) if len(values) == 1 and len(values[0]) <= _MAX_TOKEN_BYTES else None


@lru_cache(_CACHE_SIZE)
def _read_login(value: bytes) -> Caller | None:
    claims = _decode_claims(value)
    caller = None if claims is None else caller_of_claims(MappingProxyType(claims))
    if claims is None or caller is None:
        return None
    # The gate passes on an address only if the issuer, which the fleet's owner has chosen, has verified it.
    email, scope = claims.get("email"), claims.get("scope")
    return replace(
        caller,
        email=email if claims.get("email_verified") is True and isinstance(email, str) and email else None,
        scopes=frozenset(scope.split()) if isinstance(scope, str) else frozenset(),
    )


def caller_reader(access: str | None) -> Callable[[Iterable[tuple[bytes, bytes]]], Caller | None] | None:
    """Return the function that reads the caller whom something in front of the container has verified.

    None if nothing has: with that access, the container itself verifies callers, or nobody does.
    """
    return {"iam": cloud_run_caller, "login": login_caller}.get(access or "")


def _decode_claims(payload: bytes) -> dict[str, Any] | None:
    try:
        decoded: object = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else None


def caller_share(limit: int) -> int:
    """Return how much of *limit* one caller may use: three quarters, but never all of two or more.

    The rest is left for other callers. The share does not apply to unknown callers: they can't be told apart, so a
    share would lock out all of them together.
    """
    return max(1, min(limit - 1, -(-limit * 3 // 4)))


def has_full_share(caller: Identity | None, owners: Iterable[Identity | None], limit: int) -> bool:
    """Return whether a caller uses its share of *limit* already.

    Args:
        caller: The caller; always False for an unknown one.
        owners: The caller of each place in use.
        limit: The number of places for all callers.
    """
    return caller is not None and sum(owner == caller for owner in owners) >= caller_share(limit)
