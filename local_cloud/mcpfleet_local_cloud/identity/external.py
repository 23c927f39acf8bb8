"""ID tokens that others have signed: checked with the issuer's keys (JWKS), given or fetched from this machine.

Nothing here is trusted: neither the token, which anybody may send, nor what an issuer answers.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from mcpfleet_local_cloud.identity.jws import CLOCK_SKEW, TokenError, TokenTimeError
from mcpfleet_local_cloud.rest.json_api import as_list, as_object, parse_strict_json

LONGEST: Final = 64 * 1024
"""Characters of a token."""
_ALGORITHMS: Final = ("RS256", "ES256")
_OLDEST: Final = 24 * 3600
_SMALLEST_RSA: Final = 2048
_MOST_KEYS: Final = 100
_ANSWER: Final = 64 * 1024
_FETCH_SECONDS: Final = 5
_KEPT_SECONDS: Final = 60
_KEPT: Final = 100
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_UNCHECKED: Final = {f"verify_{claim}": False for claim in ("exp", "iat", "nbf", "aud", "sub", "jti", "iss")}
Keys = Sequence[Mapping[str, Any]]


class IssuerError(Exception):
    """The keys of an issuer cannot be had; the text says why."""


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token whose keys must still be found; trust nothing in them.

    Raises:
        TokenError: not a token.
    """
    return _decoded(token, None, _header(token)[0])


def verify(token: str, keys: Keys, now: float) -> dict[str, Any]:
    """The claims of a token that one of *keys* signed and that is valid at *now* (seconds since the epoch).

    Issuer and audience are for the caller to judge.

    Raises:
        TokenTimeError: expired, not valid yet, or issued more than a day ago; the signature is good.
        TokenError: anything else.
    """
    algorithm, kid = _header(token)
    found = [key for key in keys if key.get("kid") == kid]
    if len(found) != 1:
        raise TokenError(f"the issuer has {len(found)} keys of the name {kid!r}")
    claims = _decoded(token, _key(found[0], algorithm), algorithm)
    issued, expires = _instant(claims, "iat"), _instant(claims, "exp")
    if expires <= now:
        raise TokenTimeError("the token has expired")
    if issued > now + CLOCK_SKEW or ("nbf" in claims and _instant(claims, "nbf") > now + CLOCK_SKEW):
        raise TokenTimeError("the token is not valid yet")
    if issued < now - _OLDEST:
        raise TokenTimeError("the token was issued more than a day ago")
    return claims


def key_set(text: str | bytes) -> Keys:
    """The keys of a JSON Web Key Set (RFC 7517).

    Raises:
        ValueError: not a key set, or one with a key that is neither RSA nor EC.
    """
    try:
        document = as_object(parse_strict_json(text.encode() if isinstance(text, str) else text))
    except RecursionError as refusal:
        raise ValueError("it is nested too deeply") from refusal
    keys = as_list((document or {}).get("keys"))
    if keys is None or not all(isinstance(key, dict) for key in keys) or len(keys) > _MOST_KEYS:
        raise ValueError(f"it is no object with `keys`, a list of up to {_MOST_KEYS} objects")
    found = cast("list[dict[str, Any]]", keys)
    if any(key.get("kty") not in ("RSA", "EC") for key in found):
        raise ValueError("a key's `kty` is neither RSA nor EC")
    return found


class Issuers:
    """Fetches the keys of issuers on this machine; others cannot be asked, since nothing here leaves it.

    Args:
        clock: seconds since the epoch.
        transport: what carries the requests; the network where it is not given.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._clock = clock
        self._transport = transport
        self._known: dict[str, tuple[float, Keys | IssuerError]] = {}

    async def keys(self, issuer: str) -> Keys:
        """The keys of *issuer*, by its discovery document; asked at most once a minute.

        Raises:
            IssuerError: they cannot be had.
        """
        until, known = self._known.get(issuer, (0.0, IssuerError()))
        if self._clock() >= until:
            known = await self._ask(issuer)
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[issuer] = (self._clock() + _KEPT_SECONDS, known)
        if isinstance(known, IssuerError):
            raise known
        return known

    async def _ask(self, issuer: str) -> Keys | IssuerError:
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                configuration = await self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                document = as_object(parse_strict_json(configuration)) or {}
                if document.get("issuer") != issuer:
                    return IssuerError("its discovery document names another issuer")
                return key_set(await self._get(str(document.get("jwks_uri"))))
        except IssuerError as refusal:
            return refusal
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError, RecursionError) as broken:
            return IssuerError(f"{type(broken).__name__}: {broken}")

    async def _get(self, url: str) -> bytes:
        if not on_this_machine(url):
            raise IssuerError(f"{url[:200]} is not on this machine, and nothing here leaves it")
        async with (
            httpx2.AsyncClient(transport=self._transport, timeout=_FETCH_SECONDS, trust_env=False) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != 200:
                raise IssuerError(f"{url[:200]} answers {answer.status_code}")
            content = b""
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > _ANSWER:
                    raise IssuerError(f"{url[:200]} answers more than {_ANSWER} bytes")
        return content


def on_this_machine(url: str) -> bool:
    """Whether *url* leads, without a question to any name server, to this machine."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and parts.hostname in _LOOPBACK and parts.username is None
    except ValueError:
        return False


def _header(token: str) -> tuple[str, str]:
    if len(token) > LONGEST or not _COMPACT.fullmatch(token):
        raise TokenError("not a token of three parts")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as refusal:
        raise TokenError(str(refusal)) from refusal
    algorithm, kid = header.get("alg"), header.get("kid")
    # Critical extensions change what a token means (RFC 7515 4.1.11); none is known here.
    if algorithm not in _ALGORITHMS or not isinstance(kid, str) or "crit" in header:
        raise TokenError("not a plain token signed with RS256 or ES256 by a key that it names")
    return algorithm, kid


def _key(found: Mapping[str, Any], algorithm: str) -> RSAPublicKey | EllipticCurvePublicKey:
    try:
        key = jwt.PyJWK.from_dict(dict(found), algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError) as refusal:
        raise TokenError(f"the issuer's key cannot be used: {refusal}") from refusal
    if isinstance(key, RSAPublicKey) and key.key_size >= _SMALLEST_RSA:
        return key
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return key
    raise TokenError("the issuer's key is no public RSA key of 2048 bits or P-256 key")


def _decoded(token: str, key: RSAPublicKey | EllipticCurvePublicKey | None, algorithm: str) -> dict[str, Any]:
    options: Any = {**_UNCHECKED, "verify_signature": key is not None}
    try:
        claims: dict[str, Any] = jwt.decode(token, key or "", algorithms=[algorithm], options=options)
        json.dumps(claims, allow_nan=False)
    except (jwt.PyJWTError, ValueError, RecursionError) as refusal:
        raise TokenError(str(refusal)) from refusal
    return claims


def _instant(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:  # a bool is an int to Python
        raise TokenError(f"the claim {name} is not a whole number")
    return value
