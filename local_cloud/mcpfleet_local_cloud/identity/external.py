"""Verifies ID tokens of other issuers, with keys (JWKS) that are configured or fetched from an issuer on this machine.

All input is untrusted: tokens, which anyone can send, and the responses of issuers.
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

MAX_TOKEN_LENGTH: Final = 64 * 1024
"""The maximum number of characters of a token."""
_ALGORITHMS: Final = ("RS256", "ES256")
_MAX_AGE_SECONDS: Final = 24 * 3600
_MIN_RSA_BITS: Final = 2048
_MAX_KEYS: Final = 100
_MAX_RESPONSE_BYTES: Final = 64 * 1024
_FETCH_SECONDS: Final = 5
_CACHE_SECONDS: Final = 60
_MAX_CACHED: Final = 100
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_UNCHECKED: Final = {f"verify_{claim}": False for claim in ("exp", "iat", "nbf", "aud", "sub", "jti", "iss")}
KeySet = Sequence[Mapping[str, Any]]


class IssuerError(Exception):
    """An issuer's keys can't be fetched; the message has the reason."""


def unverified_claims(token: str) -> dict[str, Any]:
    """The claims of a token before its verification, to find its keys; they are untrusted.

    Raises:
        TokenError: *token* is not a token.
    """
    return _decode(token, None, _header(token)[0])


def verify(token: str, keys: KeySet, now: float) -> dict[str, Any]:
    """Verify that one of *keys* signed the token and that it is valid at *now* (seconds since the epoch).

    Returns:
        The claims; callers must check issuer and audience.

    Raises:
        TokenTimeError: the signature is valid, but the token is expired, not valid yet, or issued more than a day ago.
        TokenError: anything else.
    """
    algorithm, kid = _header(token)
    matching = [key for key in keys if key.get("kid") == kid]
    if len(matching) != 1:
        raise TokenError(f"the issuer has {len(matching)} keys with the id {kid!r}")
    claims = _decode(token, _public_key(matching[0], algorithm), algorithm)
    issued, expires = _read_time(claims, "iat"), _read_time(claims, "exp")
    if expires <= now:
        raise TokenTimeError("the token has expired")
    if issued > now + CLOCK_SKEW or ("nbf" in claims and _read_time(claims, "nbf") > now + CLOCK_SKEW):
        raise TokenTimeError("the token is not valid yet")
    if issued < now - _MAX_AGE_SECONDS:
        raise TokenTimeError("the token was issued more than a day ago")
    return claims


def parse_key_set(text: str | bytes) -> KeySet:
    """Parse a JSON Web Key Set (RFC 7517).

    Raises:
        ValueError: *text* is not a key set, or has a key that is neither RSA nor EC.
    """
    try:
        document = as_object(parse_strict_json(text.encode() if isinstance(text, str) else text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    keys = as_list((document or {}).get("keys"))
    if keys is None or not all(isinstance(key, dict) for key in keys) or len(keys) > _MAX_KEYS:
        raise ValueError(f"it is no object with `keys`, a list of up to {_MAX_KEYS} objects")
    objects = cast("list[dict[str, Any]]", keys)
    if any(key.get("kty") not in ("RSA", "EC") for key in objects):
        raise ValueError("a key's `kty` is neither RSA nor EC")
    return objects


class IssuerKeys:
    """Fetches and caches the keys of issuers on this machine; the local cloud sends no request to other machines.

    Args:
        clock: seconds since the epoch.
        transport: sends the requests; None for the network.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._clock = clock
        self._transport = transport
        self._cache: dict[str, tuple[float, KeySet | IssuerError]] = {}

    async def fetch_keys(self, issuer: str) -> KeySet:
        """The keys of *issuer* by its discovery document, fetched at most once a minute.

        Raises:
            IssuerError: the keys can't be fetched.
        """
        expires, cached = self._cache.get(issuer, (0.0, IssuerError()))
        if self._clock() >= expires:
            cached = await self._fetch(issuer)
            if len(self._cache) >= _MAX_CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[issuer] = (self._clock() + _CACHE_SECONDS, cached)
        if isinstance(cached, IssuerError):
            raise cached
        return cached

    async def _fetch(self, issuer: str) -> KeySet | IssuerError:
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                configuration = await self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                document = as_object(parse_strict_json(configuration)) or {}
                if document.get("issuer") != issuer:
                    return IssuerError("its discovery document names another issuer")
                return parse_key_set(await self._get(str(document.get("jwks_uri"))))
        except IssuerError as error:
            return error
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError, RecursionError) as error:
            return IssuerError(f"{type(error).__name__}: {error}")

    async def _get(self, url: str) -> bytes:
        if not is_on_this_machine(url):
            raise IssuerError(f"{url[:200]} is not on this machine, and the local cloud calls no other machine")
        async with (
            httpx2.AsyncClient(transport=self._transport, timeout=_FETCH_SECONDS, trust_env=False) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != 200:
                raise IssuerError(f"{url[:200]} responds with status {response.status_code}")
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _MAX_RESPONSE_BYTES:
                    raise IssuerError(f"{url[:200]} responds with more than {_MAX_RESPONSE_BYTES} bytes")
        return content


def is_on_this_machine(url: str) -> bool:
    """Whether *url* is on this machine, decided without DNS."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and parts.hostname in _LOOPBACK and parts.username is None
    except ValueError:
        return False


def _header(token: str) -> tuple[str, str]:
    if len(token) > MAX_TOKEN_LENGTH or not _COMPACT.fullmatch(token):
        raise TokenError("not a token of three parts")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise TokenError(str(error)) from error
    algorithm, kid = header.get("alg"), header.get("kid")
    # Critical extensions change the meaning of a token (RFC 7515 4.1.11); this code supports none.
    if algorithm not in _ALGORITHMS or not isinstance(kid, str) or "crit" in header:
        raise TokenError("not a plain token signed with RS256 or ES256 by a key that it names")
    return algorithm, kid


def _public_key(jwk: Mapping[str, Any], algorithm: str) -> RSAPublicKey | EllipticCurvePublicKey:
    try:
        key = jwt.PyJWK.from_dict(dict(jwk), algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise TokenError(f"the issuer's key cannot be used: {error}") from error
    if isinstance(key, RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return key
    raise TokenError("the issuer's key is no public RSA key of 2048 bits or P-256 key")


def _decode(token: str, key: RSAPublicKey | EllipticCurvePublicKey | None, algorithm: str) -> dict[str, Any]:
    options: Any = {**_UNCHECKED, "verify_signature": key is not None}
    try:
        claims: dict[str, Any] = jwt.decode(token, key or "", algorithms=[algorithm], options=options)
        json.dumps(claims, allow_nan=False)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise TokenError(str(error)) from error
    return claims


def _read_time(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:  # a bool is an int to Python
        raise TokenError(f"the claim {name} is not a whole number")
    return value
