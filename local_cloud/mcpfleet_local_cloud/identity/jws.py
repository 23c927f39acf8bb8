"""Signed tokens (JWT, RFC 7519) with RS256 alone, checked more strictly than the library does by itself.

PyJWT takes the token apart and checks the signature, and that no bit is left over. What it leaves open is closed here:
padding, which it would take, is refused, the algorithm is fixed (no `none`, no HMAC made with a public key), a critical
extension is refused, and time comes from the caller's clock, in whole numbers.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

# What Google allows a client's clock to run ahead of its own.
CLOCK_SKEW: Final = 10
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_CLAIMS: Final = tuple(f"verify_{claim}" for claim in ("exp", "iat", "nbf", "aud", "sub", "jti", "iss"))


class TokenError(Exception):
    """The token is not to be trusted; the text says why, for a log and not for the caller."""


class TokenTimeError(TokenError):
    """The token is genuine, but not for now."""


def sign(claims: Mapping[str, Any], key: RSAPrivateKey, kid: str) -> str:
    """The compact token of *claims*, signed with *key* under the name *kid*."""
    return jwt.encode(dict(claims), key, algorithm="RS256", headers={"kid": kid})


def key_id(token: str) -> str:
    """The `kid` in the header of a token that nobody has verified yet.

    Raises:
        TokenError: not a token, not RS256, or without a `kid`.
    """
    kid = _complete(token, None)["header"].get("kid")
    if not isinstance(kid, str):
        raise TokenError("the token names no key")
    return kid


def unverified(token: str) -> dict[str, Any]:
    """The claims of a token whose key must still be found; trust nothing in them.

    Raises:
        TokenError: not a token.
    """
    return _complete(token, None)["payload"]


def verify(token: str, key: RSAPublicKey, *, now: float) -> dict[str, Any]:
    """The claims of a token that *key* signed and that is valid at *now* (seconds since the epoch).

    `exp` and `iat` must be there; audience and issuer are for the caller to judge.

    Raises:
        TokenTimeError: expired, or not valid yet; the signature is good.
        TokenError: anything else.
    """
    key_id(token)
    claims: dict[str, Any] = _complete(token, key)["payload"]
    issued, expires = _instant(claims, "iat"), _instant(claims, "exp")
    if expires <= now:
        raise TokenTimeError("the token has expired")
    if issued > now + CLOCK_SKEW:
        raise TokenTimeError("the token was issued in the future")
    if "nbf" in claims and _instant(claims, "nbf") > now + CLOCK_SKEW:
        raise TokenTimeError("the token is not valid yet")
    return claims


def _instant(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    # A bool is an int to Python, and a NaN compares false with everything.
    if type(value) is not int:
        raise TokenError(f"the claim {name} is not a whole number")
    return value


def _complete(token: str, key: RSAPublicKey | None) -> dict[str, Any]:
    """Header and payload of *token*; its signature is checked where there is a *key*, its time and names never."""
    if not _COMPACT.fullmatch(token):
        raise TokenError("not a token of three parts")
    options = {**dict.fromkeys(_CLAIMS, False), "verify_signature": key is not None}
    try:
        decoded = jwt.decode_complete(token, key or "", algorithms=["RS256"], options=cast("Any", options))
    except jwt.PyJWTError as refusal:
        raise TokenError(str(refusal)) from refusal
    # Critical extensions change what a token means (RFC 7515 4.1.11); none is known here.
    if decoded["header"].get("alg") != "RS256" or "crit" in decoded["header"]:
        raise TokenError("the token is not a plain RS256 token")
    return decoded
