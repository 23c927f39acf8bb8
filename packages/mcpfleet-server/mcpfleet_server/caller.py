"""Who called: what Google's front end has checked, and nothing that a caller could have written himself.

Which header that is follows from the service's access mode, which the fleet says in `MCP_ACCESS`:

- `iam`: the ID token that Cloud Run has checked. "If both headers are provided in a request, only the
  X-Serverless-Authorization header is checked" (cloud.google.com/run/docs/authenticating/service-to-service), so that
  one counts wherever it is present, and `Authorization` where it is not. The front end puts
  `SIGNATURE_REMOVED_BY_GOOGLE` in the place of the signature of what it has checked
  (cloud.google.com/run/docs/troubleshooting#signature-removed) and passes the other header on as it came. So the
  claims can be read, and can't be verified again; a token with a signature has passed no front end.
- `iap`: the assertion of Identity-Aware Proxy, verified (`iap.py`). The proxy calls Cloud Run with a token of its own
  in `X-Serverless-Authorization` (cloud.google.com/iap/docs/enabling-cloud-run), which says nothing of the caller.
- `oauth`: what the server itself has verified.
- `public`, and where nobody has said: no caller is believed. Anybody can write a token of any form.

Standard library alone.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, cast

Access = Literal["iam", "iap", "oauth", "public"]

ACCESSES: Final[tuple[Access, ...]] = ("iam", "iap", "oauth", "public")

_CHECKED_FIRST: Final = b"x-serverless-authorization"
_CHECKED_ELSE: Final = b"authorization"
_REMOVED: Final = b"SIGNATURE_REMOVED_BY_GOOGLE"
_GOOGLE: Final = ("https://accounts.google.com", "accounts.google.com")
_IAP: Final = "https://cloud.google.com/iap"
_IAP_GOOGLE: Final = "accounts.google.com:"
_LONGEST: Final = 16 * 1024
"""Bytes of a token; Google's have about one KiB."""
_REMEMBERED: Final = 256


Identity = tuple[str, str]
"""Issuer and subject of a caller; None in its place stands for whoever is not known."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The claims that say who a caller is.

    Attributes:
        issuer: Who says so.
        subject: The issuer's unchanging id of the account. Only with the issuer it is an identity.
        email: The account's address, where Google says that it has verified it; for showing.
        scopes: What an OAuth token allows; empty for an ID token.
        claims: All that the token says. Of `iam` and `iap`, read only.
    """

    issuer: str
    subject: str
    email: str | None = None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)

    @property
    def identity(self) -> Identity:
        """What belongs to a caller is kept under this."""
        return self.issuer, self.subject

    @property
    def name(self) -> str:
        """What a log calls the caller."""
        return self.email or f"{self.issuer} {self.subject}"


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """The caller of the request that is being answered; for tools, on any transport. None: nobody that is known."""
    return _current.get()


def bind_caller(caller: Caller | None) -> None:
    """Say who called, for this task and the tasks that it starts."""
    _current.set(caller)


def caller_of_claims(claims: Mapping[str, Any], scopes: frozenset[str] = frozenset()) -> Caller | None:
    """The caller of a token that has been verified; None where it names nobody.

    An address counts only where Google vouches for it: as `email_verified` of its ID tokens
    (developers.google.com/identity/openid-connect/openid-connect), and in an assertion of Identity-Aware Proxy about
    a Google account (cloud.google.com/iap/docs/signed-headers-howto). Another issuer's addresses are what its users
    have typed in.
    """
    issuer, subject, email = claims.get("iss"), claims.get("sub"), claims.get("email")
    if not isinstance(issuer, str) or not isinstance(subject, str) or not issuer or not subject:
        return None
    vouched = claims.get("email_verified") is True if issuer in _GOOGLE else False
    vouched = vouched or (issuer == _IAP and subject.startswith(_IAP_GOOGLE))
    return Caller(issuer, subject, email if vouched and isinstance(email, str) and email else None, scopes, claims)


def checked_by_cloud_run(headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """The caller whose ID token Cloud Run's front end has checked; None where none is there. For `iam` alone.

    Args:
        headers: The request's, as ASGI has them: each line, by lower-case name.
    """
    first: bytes | None = None
    other: bytes | None = None
    for name, value in headers:
        if name == _CHECKED_ELSE:
            if other is not None:
                return None  # two readers might take different ones for the checked one
            other = value
        elif name == _CHECKED_FIRST:
            if first is not None:
                return None
            first = value
    credential = other if first is None else first
    return None if credential is None or len(credential) > _LONGEST else _read(credential)


@lru_cache(_REMEMBERED)
def _read(credential: bytes) -> Caller | None:
    scheme, _, token = credential.strip(b" \t").partition(b" ")
    parts = token.strip(b" \t").split(b".")
    if scheme.lower() != b"bearer" or len(parts) != 3 or parts[2] != _REMOVED:
        return None
    claims = _claims(parts[1])
    return None if claims is None else caller_of_claims(MappingProxyType(claims))


def _claims(payload: bytes) -> dict[str, Any] | None:
    try:
        decoded: object = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else None


def share(limit: int) -> int:
    """How much of what there is for all one caller may have.

    Three quarters, and never all where there are two or more: the rest is for others. A caller who is not known is
    everybody together, so no share holds for it: nobody could be told from those who would be kept out.
    """
    return max(1, min(limit - 1, -(-limit * 3 // 4)))


def has_share(caller: Identity | None, held: Iterable[Identity | None], limit: int) -> bool:
    """Whether a caller has its share of *limit* already; *held*: whose each is that is taken."""
    return caller is not None and sum(one == caller for one in held) >= share(limit)
