"""Who called: from the token that Cloud Run's front end has already verified, or that our own OAuth gate has.

The front end checks the ID token's signature, expiry and audience and the caller's right to invoke, then
forwards the token with its signature replaced. So the claims can be read, and can't be verified again.

What is read here is fit for logs and for showing, and for deciding only on a service that is private: on one
that everybody may invoke, a caller can write a token of this form himself. With `access: oauth` the caller is the
one whose token our gate has verified, and nobody else.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

# https://cloud.google.com/run/docs/troubleshooting#signature-removed
_REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"


@dataclass(frozen=True, slots=True)
class Caller:
    """The claims that say who a caller is.

    Attributes:
        subject: The issuer's unchanging id of the account.
        email: The account's address, where the token tells it.
        scopes: What an OAuth token allows; empty for an ID token.
        claims: All that the token says.
    """

    subject: str
    email: str | None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """The caller of the request that is being answered; for tools, on any transport."""
    return _current.get()


def bind_caller(caller: Caller | None) -> None:
    """Say who called, for this task and the tasks that it starts."""
    _current.set(caller)


def caller_of(headers: Mapping[str, str]) -> Caller | None:
    """The caller of a request, or None where no verified token came with it.

    Args:
        headers: The request's headers, by lower-case name.
    """
    # Cloud Run checks X-Serverless-Authorization when both are there, and leaves Authorization to the app.
    value = headers.get("x-serverless-authorization") or headers.get("authorization") or ""
    scheme, _, token = value.partition(" ")
    parts = token.strip().split(".")
    # A token with its signature still on has not passed the front end's check.
    if scheme.lower() != "bearer" or len(parts) != 3 or parts[2] != _REMOVED:
        return None
    claims = _claims(parts[1])
    subject, email = claims.get("sub"), claims.get("email")
    if not isinstance(subject, str):
        return None
    return Caller(subject, email if isinstance(email, str) else None, claims=claims)


def _claims(payload: str) -> dict[str, Any]:
    try:
        decoded: object = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else {}
