"""The assertions of Identity-Aware Proxy: a signed header by which it says who has passed (`MCP_ACCESS=iap`).

`X-Goog-IAP-JWT-Assertion` is a JWT signed with ES256 by a key of https://www.gstatic.com/iap/verify/public_key-jwk. Its
issuer is https://cloud.google.com/iap and its audience, for a service of Cloud Run,
`/projects/NUMBER/locations/REGION/services/SERVICE` (cloud.google.com/iap/docs/signed-headers-howto). It is checked
here: should a request ever reach the container without the proxy, it is refused, and the plain headers beside it
(`X-Goog-Authenticated-User-*`), which anybody can write, are never looked at.

What checks a signature is imported with the first assertion, so that a container with another access never loads it.
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
"""Seconds that the clocks may be apart, as Google says (signed-headers-howto)."""
_FETCH_SECONDS: Final = 10.0
_LARGEST: Final = 256 * 1024
_LONGEST: Final = 16 * 1024
_REMEMBERED: Final = 256


class NoAssertionError(Exception):
    """Nothing says who calls; the text is for the client."""


def fetch_keys() -> bytes:
    """Get the proxy's public keys; blocks.

    Raises:
        KeysError: They don't come whole and in time.
    """
    import urllib.request
    from http.client import HTTPException

    until = time.monotonic() + _FETCH_SECONDS
    body = b""
    try:
        with urllib.request.urlopen(KEYS_URL, timeout=_FETCH_SECONDS / 2) as answer:
            while part := answer.read1(64 * 1024):
                body += part
                if len(body) > _LARGEST or time.monotonic() > until:
                    raise KeysError(f"{KEYS_URL} is larger than {_LARGEST} bytes or took too long")
    except (OSError, HTTPException) as error:
        raise KeysError(f"{KEYS_URL}: {error}") from error
    return body


class Assertions:
    """Says who has passed Identity-Aware Proxy.

    Args:
        audiences: What the proxy calls this service; one is enough.
        fetch: Gets the keys.
        clock: Seconds since the epoch.
        ticks: Seconds by a clock that nobody sets; the keys' age is measured with it.
    """

    def __init__(
        self,
        audiences: Sequence[str],
        fetch: Callable[[], bytes] = fetch_keys,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._audiences = list(audiences)
        self._clock = clock

        async def read() -> Mapping[str | None, Any]:
            return _keys(await asyncio.to_thread(fetch))

        self._keys = PublicKeys(read, ticks)
        self._verified: dict[bytes, tuple[Mapping[str, Any], float]] = {}

    async def claims(self, headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, Any]:
        """The claims about whoever calls, verified.

        Args:
            headers: The request's, as ASGI has them: each line, by lower-case name.

        Raises:
            NoAssertionError: There is no assertion, more than one, or one that is not valid here and now.
            KeysError: It can't be checked at present.
        """
        found = [value for name, value in headers if name == HEADER]
        if len(found) != 1 or len(found[0]) > _LONGEST:
            raise NoAssertionError("This server is behind Identity-Aware Proxy and takes its requests alone")
        assertion = found[0].strip(b" \t")
        claims, until = self._verified.get(assertion, ({}, 0.0))
        if self._clock() >= until:
            self._verified.pop(assertion, None)
            claims, until = await self._verify(assertion)
            if len(self._verified) >= _REMEMBERED:
                del self._verified[next(iter(self._verified))]
            self._verified[assertion] = claims, until
        return claims

    async def _verify(self, assertion: bytes) -> tuple[Mapping[str, Any], float]:
        import jwt

        try:
            header = jwt.get_unverified_header(assertion)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise NoAssertionError("Identity-Aware Proxy's assertion is no JWT") from error
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
                # Times are compared below, with a clock that a test can set.
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


def _keys(document: bytes) -> Mapping[str | None, Any]:
    """The keys for ES256 in a JSON Web Key Set, by their id.

    Raises:
        KeysError: There is none.
    """
    import jwt

    found: dict[str | None, Any] = {}
    try:
        members: object = json.loads(document)
        entries: object = cast("dict[str, object]", members).get("keys") if isinstance(members, dict) else None
    except (ValueError, RecursionError) as error:
        raise KeysError(f"{KEYS_URL} is no JSON") from error
    for entry in cast("list[object]", entries) if isinstance(entries, list) else []:
        try:
            key = jwt.PyJWK(cast("dict[str, Any]", entry), "ES256")
        except (jwt.PyJWTError, TypeError, ValueError, AttributeError):
            continue  # of a kind that signs no assertion
        if isinstance(key.key_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            found[key.key_id] = key
    if not found:
        raise KeysError(f"{KEYS_URL} holds no key for ES256")
    return found
