"""A cache of an issuer's public keys: fetched at first use, again after an hour, and when a key is missing."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

_MAX_AGE_SECONDS: Final = 3600.0
_RETRY_SECONDS: Final = 10.0
"""Minimum seconds between two fetches, however many tokens name an unknown key."""


class KeysError(Exception):
    """The keys can't be fetched, so no signature can be checked."""


class PublicKeys:
    """The keys of one issuer, fetched when first needed.

    Args:
        read: Fetches all keys by their ID; raises KeysError.
        clock: A monotonic clock, in seconds.
        retry_seconds: Seconds after a failed fetch before the next one.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Mapping[str | None, Any]]],
        clock: Callable[[], float] = time.monotonic,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._read = read
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._keys: Mapping[str | None, Any] = {}
        self._last_attempt = self._last_success = float("-inf")
        self._failure: KeysError | None = None
        self._lock = asyncio.Lock()

    async def find(self, key_id: str | None) -> Any | None:
        """Return the key with an ID, or the only key if *key_id* is None. None means that the issuer has no such key.

        Raises:
            KeysError: The keys can't be fetched.
        """
        key = self._find_cached(key_id)
        # A caller with a cached key does not wait for a fetch that another caller's unknown key has started.
        if key is not None and (self._lock.locked() or not self._is_due(key)):
            return key
        async with self._lock:
            if self._is_due(self._find_cached(key_id)):
                await self._refresh()
            key = self._find_cached(key_id)
        if key is None and self._failure is not None:
            raise KeysError(str(self._failure)) from self._failure
        return key

    def _find_cached(self, key_id: str | None) -> Any | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _is_due(self, cached: Any | None) -> bool:
        """Return whether to fetch the keys now."""
        now = self._clock()
        if cached is not None and now - self._last_success <= _MAX_AGE_SECONDS:
            return False
        # An unknown key ID may be new or made up: the issuer is not asked for each of them.
        return now - self._last_attempt > (_RETRY_SECONDS if self._failure is None else self._retry_seconds)

    async def _refresh(self) -> None:
        try:
            self._keys = await self._read()
        except KeysError as error:
            self._failure = error
            logger.warning("Public keys can't be fetched; using the cached ones: %s", error)
        else:
            self._failure = None
            self._last_success = self._clock()
        self._last_attempt = self._clock()
