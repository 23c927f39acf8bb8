"""An ID token with its claims, read without verification.

The service that receives a token verifies it. Here the claims only tell when the token expires, to refresh it in time,
and which member it names, for error messages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from google.auth import jwt

from mcpfleet.errors import CredentialsRefusedError

_JWT: Final = re.compile(r"[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]*")
"""The characters that a header can have; google-auth's decoder ignores others."""


@dataclass(frozen=True)
class IdToken:
    """An ID token and its claims.

    Attributes:
        value: The JWT; not part of `repr`, so that it does not get into logs.
        expires_at: Unix time in seconds, from the claim `exp`.
        member: The IAM member, `user:ada@acme.dev`; empty if the token has no email.
        audience: The claim `aud`; in a person's token it is the OAuth client, not the service.
        issued_at: Unix time in seconds by the issuer's clock, from the claim `iat`; None if the token has none.
    """

    value: str = field(repr=False)
    expires_at: float
    member: str = ""
    audience: str = ""
    issued_at: float | None = None

    @classmethod
    def parse(cls, text: str, origin: str) -> IdToken:
        """Read the claims of a JWT.

        Args:
            text: The token; surrounding white space is ignored.
            origin: The source of the token, for the error message.

        Raises:
            CredentialsRefusedError: It is not an ID token (an OAuth access token, for example).
        """
        text = text.strip()
        try:
            if not _JWT.fullmatch(text):
                raise ValueError("it does not have three parts in base64url")
            # google-auth is not annotated here; it returns the payload's JSON object.
            claims = cast("Mapping[str, Any]", jwt.decode(text, verify=False))  # pyright: ignore[reportUnknownMemberType]
            expires_at = float(claims["exp"])
            issued_at = float(claims["iat"]) if "iat" in claims else None
            if not math.isfinite(expires_at) or not math.isfinite(issued_at or 0.0):
                raise ValueError("its expiry is not a finite number")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            kind = "an OAuth access token" if text.startswith("ya29.") else "something else"
            raise CredentialsRefusedError(
                f"{origin} gave {kind}, not an ID token (a JWT with an expiry). "
                "Cloud Run accepts ID tokens only; `gcloud auth print-identity-token` prints one."
            ) from error
        return cls(text, expires_at, _member(str(claims.get("email", ""))), str(claims.get("aud", "")), issued_at)


def _member(email: str) -> str:
    if not email:
        return ""
    kind = "serviceAccount" if email.endswith(".gserviceaccount.com") else "user"
    return f"{kind}:{email}"
