"""Who calls, from the ID token that Cloud Run's front end has verified already."""

import base64
import binascii
from collections.abc import Mapping

import msgspec


class _Claims(msgspec.Struct):
    sub: str = ""
    iss: str = ""


def caller_of(headers: Mapping[bytes, bytes]) -> str | None:
    """The issuer and subject of the token, or None without one.

    The signature is not looked at: the front end has removed it. Nothing is permitted by this; it only keeps a
    session with whoever began it, so that an id that leaks is of no use to another of the server's callers.
    """
    token = headers.get(b"x-serverless-authorization") or headers.get(b"authorization") or b""
    scheme, _, jwt = token.partition(b" ")
    parts = jwt.split(b".")
    if scheme.lower() != b"bearer" or len(parts) != 3:  # header, claims, signature
        return None
    try:
        raw = base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4))
        claims = msgspec.json.decode(raw, type=_Claims)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    return f"{claims.iss} {claims.sub}" if claims.sub else None
