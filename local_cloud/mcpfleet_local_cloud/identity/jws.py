"""Signs and verifies tokens (JWT, RFC 7519) with RS256 only, more strictly than PyJWT does by itself.

PyJWT parses the token and checks the signature, and that no bit is left over. This module also rejects padding and
critical extensions, fixes the algorithm (no `none`, no HMAC with a public key), and takes the time from the caller's
clock, as an integer.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

# The seconds that Google allows a client's clock to be ahead of its own.
CLOCK_SKEW: Final = 10
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_CLAIMS: Final = tuple(f"verify_{claim}" for claim in ("exp", "iat", "nbf", "aud", "sub", "jti", "iss"))


class TokenError(Exception):
    """The token is not valid; the message has the reason, for logs only and not for the caller."""


class TokenTimeError(TokenError):
    """The token is genuine, but expired or not valid yet."""


def sign(claims: Mapping[str, Any], key: RSAPrivateKey, kid: str) -> str:
    """The compact token with *claims*, signed with *key*, whose id is *kid*."""
    return jwt.encode(dict(claims), key, algorithm="RS256", headers={"kid": kid})


def read_key_id(token: str) -> str:
    """The `kid` in the header of an unverified token.

    Raises:
        TokenError: *token* is not a token, not RS256, or has no `kid`.
    """
    kid = _decode(token, None)["header"].get("kid")
    if not isinstance(kid, str):
        raise TokenError("the token's header has no kid")
    return kid


def unverified_claims(token: str) -> dict[str, Any]:
    """The claims of a token before its verification, to find its key; they are untrusted.

    Raises:
        TokenError: *token* is not a token.
    """
    return _decode(token, None)["payload"]


def verify(token: str, key: RSAPublicKey, *, now: float) -> dict[str, Any]:
    """Verify that *key* signed the token and that it is valid at *now* (seconds since the epoch).

    Returns:
        The claims, with `exp` and `iat`; callers must check audience and issuer.

    Raises:
        TokenTimeError: the signature is valid, but the token is expired or not valid yet.
        TokenError: anything else.
    """
    read_key_id(token)
    claims: dict[str, Any] = _decode(token, key)["payload"]
    issued, expires = _read_time(claims, "iat"), _read_time(claims, "exp")
    if expires <= now:
        raise TokenTimeError("the token has expired")
    if issued > now + CLOCK_SKEW:
        raise TokenTimeError("the token was issued in the future")
    if "nbf" in claims and _read_time(claims, "nbf") > now + CLOCK_SKEW:
        raise TokenTimeError("the token is not valid yet")
    return claims


def _read_time(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    # A bool is an int to Python, and a NaN compares false with everything.
    if type(value) is not int:
        raise TokenError(f"the claim {name} is not a whole number")
    return value


def _decode(token: str, key: RSAPublicKey | None) -> dict[str, Any]:
    """The header and payload of *token*; checks the signature if there is a *key*, but no claims."""
    if not _COMPACT.fullmatch(token):
        raise TokenError("not a token of three parts")
    options = {**dict.fromkeys(_CLAIMS, False), "verify_signature": key is not None}
    try:
        decoded = jwt.decode_complete(token, key or "", algorithms=["RS256"], options=cast("Any", options))
    except jwt.PyJWTError as error:
        raise TokenError(str(error)) from error
    # Critical extensions change the meaning of a token (RFC 7515 4.1.11); this code supports none.
    if decoded["header"].get("alg") != "RS256" or "crit" in decoded["header"]:
        raise TokenError("the token is not a plain RS256 token")
    return decoded
