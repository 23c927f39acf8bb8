"""An ID token as a value: what it says about itself, read without verifying it.

The service that receives a token verifies it. Here its claims are only read: when it expires (to fetch
the next in time) and whom it names (to tell a person under which name they were refused).
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
"""What goes into a header; google-auth passes over other characters where it decodes."""


@dataclass(frozen=True)
class IdToken:
    """One ID token.

    Attributes:
        value: The JWT as it goes into a header; kept out of `repr`, so out of logs.
        expires_at: Unix time in seconds, from the claim `exp`.
        member: The caller as IAM writes it, `user:ada@acme.dev`; empty when the token names no email.
        audience: The claim `aud`; a person's token holds their OAuth client there, not the service.
        issued_at: Unix time in seconds by the issuer's clock, from the claim `iat`; None where it says nothing.
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
            text: The token; white space around it is dropped.
            origin: Where it came from, for the message.

        Raises:
            CredentialsRefusedError: It is not an ID token (an OAuth access token, for example).
        """
        text = text.strip()
        try:
            if not _JWT.fullmatch(text):
                raise ValueError("it is not three words of base64url")
            # google-auth is not annotated here; it returns the payload's JSON object.
            claims = cast("Mapping[str, Any]", jwt.decode(text, verify=False))  # pyright: ignore[reportUnknownMemberType]
            expires_at = float(claims["exp"])
            issued_at = float(claims["iat"]) if "iat" in claims else None
            if not math.isfinite(expires_at) or not math.isfinite(issued_at or 0.0):
                raise ValueError("it does not say when it expires")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            kind = "an OAuth access token" if text.startswith("ya29.") else "something else"
            raise CredentialsRefusedError(
                f"{origin} gave {kind}, not an ID token (a JWT with an expiry). "
                "Cloud Run takes ID tokens only; `gcloud auth print-identity-token` prints one."
            ) from error
        return cls(text, expires_at, _member(str(claims.get("email", ""))), str(claims.get("aud", "")), issued_at)


def _member(email: str) -> str:
    if not email:
        return ""
    kind = "serviceAccount" if email.endswith(".gserviceaccount.com") else "user"
    return f"{kind}:{email}"
