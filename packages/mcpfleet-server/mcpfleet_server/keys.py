"""Public keys of whoever signs tokens: read when one is first needed, again after an hour, and when one is missing."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

_HOLD_SECONDS: Final = 3600.0
_RETRY_SECONDS: Final = 10.0
"""The keys are asked for no oftener, however many tokens name a key that is not known."""


class KeysError(Exception):
    """The keys can't be had, so nothing can be checked."""


class PublicKeys:
    """The keys of one issuer.

    Args:
        read: Gets all of them, by their id; raises KeysError.
        clock: Seconds by a clock that nobody sets.
        down: Seconds after which they are asked for again when they could not be had.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Mapping[str | None, Any]]],
        clock: Callable[[], float] = time.monotonic,
        down: float = _RETRY_SECONDS,
    ) -> None:
        self._read = read
        self._clock = clock
        self._down = down
        self._keys: Mapping[str | None, Any] = {}
        self._asked = self._had = float("-inf")
        self._failure: KeysError | None = None
        self._lock = asyncio.Lock()

    async def find(self, key_id: str | None) -> Any | None:
        """The key of that id; without an id, the only one. None: the issuer publishes no such key.

        Raises:
            KeysError: It can't be asked.
        """
        known = self._known(key_id)
        # Who holds a known key does not wait while the issuer is asked for somebody else's.
        if known is not None and (self._lock.locked() or not self._due(known)):
            return known
        async with self._lock:
            if self._due(self._known(key_id)):
                await self._refresh()
            known = self._known(key_id)
        if known is None and self._failure is not None:
            raise KeysError(str(self._failure)) from self._failure
        return known

    def _known(self, key_id: str | None) -> Any | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _due(self, known: Any | None) -> bool:
        """Whether to ask the issuer now."""
        now = self._clock()
        if known is not None and now - self._had <= _HOLD_SECONDS:
            return False
        # An unknown key may be a new one, or a stranger's invention: the issuer is not asked for each of those.
        return now - self._asked > (_RETRY_SECONDS if self._failure is None else self._down)

    async def _refresh(self) -> None:
        try:
            self._keys = await self._read()
        except KeysError as error:
            self._failure = error
            logger.warning("Public keys can't be read, the known ones are kept: %s", error)
        else:
            self._failure = None
            self._had = self._clock()
        self._asked = self._clock()
