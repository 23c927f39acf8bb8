"""Verifies the signed header in which Identity-Aware Proxy names the caller (`MCP_ACCESS=iap`).

`X-Goog-IAP-JWT-Assertion` is a JWT signed with ES256 by a key of https://www.gstatic.com/iap/verify/public_key-jwk. Its
issuer is https://cloud.google.com/iap and its audience, for a service of Cloud Run,
`/projects/NUMBER/locations/REGION/services/SERVICE` (cloud.google.com/iap/docs/signed-headers-howto). Because it is
verified here, a request that reaches the container without the proxy is refused. The proxy's unsigned headers
(`X-Goog-Authenticated-User-*`) are never read: anybody can write them.

The libraries for signatures are imported with the first assertion, so a container with another access never loads them.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

from mcpfleet_server.keys import KeysError, PublicKeys

HEADER: Final = b"x-goog-iap-jwt-assertion"
ISSUER: Final = "https://cloud.google.com/iap"
KEYS_URL: Final = "https://www.gstatic.com/iap/verify/public_key-jwk"

_LEEWAY: Final = 30
"""Allowed clock skew in seconds, as Google recommends (signed-headers-howto)."""
_FETCH_SECONDS: Final = 10.0
_MAX_DOCUMENT_BYTES: Final = 256 * 1024
_MAX_ASSERTION_BYTES: Final = 16 * 1024
_CACHE_SIZE: Final = 256


class NoAssertionError(Exception):
    """The request has no valid assertion; the text is for the client."""


def fetch_keys() -> bytes:
    """Fetch the proxy's public keys; blocks.

    Raises:
        KeysError: The document can't be fetched completely and in time.
    """
    import urllib.request
    from http.client import HTTPException

    deadline = time.monotonic() + _FETCH_SECONDS
    body = b""
    try:
        with urllib.request.urlopen(KEYS_URL, timeout=_FETCH_SECONDS / 2) as response:
            while chunk := response.read1(64 * 1024):
                body += chunk
                if len(body) > _MAX_DOCUMENT_BYTES or time.monotonic() > deadline:
                    raise KeysError(f"{KEYS_URL} is larger than {_MAX_DOCUMENT_BYTES} bytes or took too long")
    except (OSError, HTTPException) as error:
        raise KeysError(f"{KEYS_URL}: {error}") from error
    return body


class AssertionVerifier:
    """Verifies assertions of Identity-Aware Proxy.

    Args:
        audiences: The audiences of this service; an assertion must have one of them.
        fetch: Fetches the keys.
        clock: Seconds since the epoch.
        monotonic: A monotonic clock in seconds, for the age of the keys.
    """

    def __init__(
        self,
        audiences: Sequence[str],
        fetch: Callable[[], bytes] = fetch_keys,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._audiences = list(audiences)
        self._clock = clock

        async def read() -> Mapping[str | None, Any]:
            return _parse_keys(await asyncio.to_thread(fetch))

        self._keys = PublicKeys(read, monotonic)
        self._cache: dict[bytes, tuple[Mapping[str, Any], float]] = {}

    async def verify(self, headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, Any]:
        """Verify a request's assertion and return its claims.

        Args:
            headers: The request's header lines as ASGI has them, with lower-case names.

        Raises:
            NoAssertionError: There is no assertion, more than one, or an invalid one.
            KeysError: The keys can't be fetched, so the assertion can't be checked at present.
        """
        assertions = [value for name, value in headers if name == HEADER]
        if len(assertions) != 1 or len(assertions[0]) > _MAX_ASSERTION_BYTES:
            raise NoAssertionError("This server accepts only requests that pass through Identity-Aware Proxy")
        assertion = assertions[0].strip(b" \t")
        claims, valid_until = self._cache.get(assertion, ({}, 0.0))
        if self._clock() >= valid_until:
            self._cache.pop(assertion, None)
            claims, valid_until = await self._verify_assertion(assertion)
            if len(self._cache) >= _CACHE_SIZE:
                del self._cache[next(iter(self._cache))]
            self._cache[assertion] = claims, valid_until
        return claims

    async def _verify_assertion(self, assertion: bytes) -> tuple[Mapping[str, Any], float]:
        import jwt

        try:
            header = jwt.get_unverified_header(assertion)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise NoAssertionError("Identity-Aware Proxy's assertion is not a JWT") from error
        kid = header.get("kid")
        if header.get("alg") != "ES256" or not isinstance(kid, str):
            raise NoAssertionError("Identity-Aware Proxy's assertion is not signed with ES256")
        key = await self._keys.find(kid)
        if key is None:
            raise NoAssertionError("Identity-Aware Proxy's assertion is signed with a key that Google does not publish")
        try:
            claims: dict[str, Any] = jwt.decode(
                assertion,
                key,
                algorithms=["ES256"],
                audience=self._audiences,
                issuer=ISSUER,
                leeway=_LEEWAY,
                # Checked below instead, with a clock that tests can set.
                options={
                    "require": ["exp", "iat", "iss", "aud", "sub"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise NoAssertionError(f"Identity-Aware Proxy's assertion is not valid: {error}") from error
        issued, expires, now = claims["iat"], claims["exp"], self._clock()
        if type(issued) is not int or type(expires) is not int or not issued - _LEEWAY <= now < expires + _LEEWAY:
            raise NoAssertionError("Identity-Aware Proxy's assertion is not valid at this time")
        return MappingProxyType(claims), float(expires + _LEEWAY)


def _parse_keys(document: bytes) -> Mapping[str | None, Any]:
    """Return the ES256 keys of a JSON Web Key Set, by their ID.

    Raises:
        KeysError: The document has none.
    """
    import jwt

    keys: dict[str | None, Any] = {}
    try:
        members: object = json.loads(document)
        entries: object = cast("dict[str, object]", members).get("keys") if isinstance(members, dict) else None
    except (ValueError, RecursionError) as error:
        raise KeysError(f"{KEYS_URL} is not JSON") from error
    for entry in cast("list[object]", entries) if isinstance(entries, list) else []:
        try:
            key = jwt.PyJWK(cast("dict[str, Any]", entry), "ES256")
        except (jwt.PyJWTError, TypeError, ValueError, AttributeError):
            continue  # of a type that does not sign assertions
        if isinstance(key.key_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            keys[key.key_id] = key
    if not keys:
        raise KeysError(f"{KEYS_URL} has no ES256 key")
    return keys
