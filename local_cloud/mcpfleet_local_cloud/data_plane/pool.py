"""How many instances of one revision run, and which of them takes a request.

The rules are Cloud Run's (cloud.google.com/run/docs/about-instance-autoscaling, about-concurrency): an instance takes
at most `concurrency` requests at once; when all are full and there may be more instances, one is started while the
requests wait; who waits too long is told 429. Instances that had nothing to do for a while are stopped, down to the
minimum. What an instance is, and how it starts and stops, is the caller's affair; so is the time (`tick`).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

LONGEST_WAIT: Final = 10.0
"""Seconds that a request waits for room; longer only where instances start slowly (see `_patience`)."""
IDLE_AFTER: Final = 900.0
"""Seconds without a request after which an instance may go (Cloud Run: "up to 15 minutes")."""
STEADY: Final = 60.0
"""An instance that lived so many seconds is no part of a crash loop."""
SLOWEST_RETRY: Final = 60.0

_log = logging.getLogger(__name__)
T = TypeVar("T")


class NoInstanceError(Exception):
    """The request was aborted because there was no available instance (Google's words; HTTP 429)."""


class NoRevisionError(Exception):
    """No revision of the service is ready to serve (HTTP 503)."""


@dataclass(eq=False)
class Slot(Generic[T]):
    """One running instance and what it is doing."""

    instance: T
    born: float
    idle_since: float
    active: int = 0
    ready: bool = True
    """Whether it may get new requests: its readiness probe, if it has one, succeeds."""


@dataclass(eq=False)
class _Waiter(Generic[T]):
    until: float
    future: asyncio.Future[Slot[T]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class InstancePool(Generic[T]):
    """The instances of one revision.

    Args:
        start: brings one instance up until it can serve; raises if it can't.
        stop: stops one instance for good.
        concurrency: requests that one instance takes at once.
        minimum: instances that are kept also when idle.
        maximum: instances that there may ever be.
        idle_after: seconds without a request after which an instance above *minimum* is stopped.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        start: Callable[[], Awaitable[T]],
        stop: Callable[[T], Awaitable[None]],
        concurrency: int,
        minimum: int,
        maximum: int,
        idle_after: float = IDLE_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._stop = stop
        self._concurrency = concurrency
        self._minimum = minimum
        self._maximum = max(1, maximum)
        self._idle_after = idle_after
        self._clock = clock
        self._slots: list[Slot[T]] = []
        self._waiting: deque[_Waiter[T]] = deque()
        self._starting = 0
        self._keep = 0  # instances that a crash must not take away; 0 until the first one served, or after idling
        self._failures = 0
        self._not_before = 0.0
        self._start_seconds: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._closed = False

    @property
    def instances(self) -> list[T]:
        """Those that can serve now."""
        return [slot.instance for slot in self._slots]

    @property
    def active(self) -> int:
        """Requests that are being served."""
        return sum(slot.active for slot in self._slots)

    async def warm(self) -> None:
        """Start what must run from the beginning: the minimum, and one even where that is 0.

        Raises:
            Exception: the first that *start* raised; the other instances stay, until `close`.
        """
        missing = min(max(self._minimum, 1), self._maximum) - len(self._slots) - self._starting
        self._starting += max(missing, 0)
        outcomes = await asyncio.gather(*(self._launch() for _ in range(missing)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def resize(self, minimum: int, maximum: int) -> None:
        """Change the bounds; instances above the new maximum go at the next `tick` at which they are idle."""
        self._minimum = minimum
        self._maximum = max(1, maximum)
        self._keep = max(minimum, 1) if self._slots else minimum
        self._scale()

    def set_ready(self, instance: T, *, ready: bool) -> None:
        """Let *instance* have new requests, or none."""
        for slot in self._slots:
            if slot.instance is instance:
                slot.ready = ready
                self._serve_waiting(slot)

    async def acquire(self, preferred: Callable[[T], bool] | None = None) -> Slot[T]:
        """An instance with room for one more request; `release` it afterwards.

        Args:
            preferred: which instance to take if it has room.

        Raises:
            NoInstanceError: none became free in time, or the pool was closed.
        """
        if self._closed:
            raise NoInstanceError
        free = [slot for slot in self._slots if self._has_room(slot)]
        if free:  # in order of age, so that those which a peak has added fall idle again
            return self._take(next((slot for slot in free if preferred and preferred(slot.instance)), free[0]))
        waiter = _Waiter[T](until=self._clock() + self._patience())
        self._waiting.append(waiter)
        self._quiet.clear()
        self._scale()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.release(waiter.future.result())
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            self._note_quiet()

    def release(self, slot: Slot[T]) -> None:
        """The request is over, well or not."""
        slot.active -= 1
        slot.idle_since = self._clock()
        if slot in self._slots:
            self._serve_waiting(slot)
        self._note_quiet()

    def adopt(self, instance: T) -> None:
        """Take in an instance that can serve."""
        now = self._clock()
        slot = Slot(instance=instance, born=now, idle_since=now)
        self._slots.append(slot)
        self._keep = max(self._minimum, 1)
        self._serve_waiting(slot)

    def lost(self, instance: T) -> None:
        """*instance* ended without being asked to: forget it, and start another one (later, if it keeps crashing)."""
        slot = next((slot for slot in self._slots if slot.instance is instance), None)
        if slot is None:
            return
        self._slots.remove(slot)
        if self._clock() - slot.born >= STEADY:
            self._failures = 0
        self._back_off()
        self._scale()

    def tick(self) -> None:
        """Do what time alone brings about; to be called about once a second."""
        now = self._clock()
        while self._waiting and self._waiting[0].until <= now:
            waiter = self._waiting.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(NoInstanceError())
        for slot in reversed(list(self._slots)):
            if len(self._slots) <= self._minimum:
                break
            surplus = len(self._slots) > self._maximum
            if slot.active == 0 and (surplus or now - slot.idle_since >= self._idle_after):
                self._slots.remove(slot)
                self._spawn(self._stop(slot.instance))
                self._keep = self._minimum
        self._scale()

    async def drain(self, seconds: float) -> None:
        """Let every request that was let in finish, but wait no longer than *seconds*; then `close`."""
        try:
            await asyncio.wait_for(self._quiet.wait(), seconds)
        except TimeoutError:
            _log.warning("%d requests were cut off: they outlasted the request timeout", self.active)
        await self.close()

    async def close(self) -> None:
        """Stop every instance; nothing starts any more."""
        self._closed = True
        for waiter in self._waiting:
            if not waiter.future.done():
                waiter.future.set_exception(NoInstanceError())
        slots, self._slots = self._slots, []
        tasks = list(self._tasks)
        await asyncio.gather(*(self._stop(slot.instance) for slot in slots), return_exceptions=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, slot: Slot[T]) -> Slot[T]:
        slot.active += 1
        self._quiet.clear()
        return slot

    def _serve_waiting(self, slot: Slot[T]) -> None:
        while self._waiting and self._has_room(slot):
            waiter = self._waiting.popleft()
            if not waiter.future.done():
                waiter.future.set_result(self._take(slot))

    def _has_room(self, slot: Slot[T]) -> bool:
        return slot.ready and slot.active < self._concurrency

    def _note_quiet(self) -> None:
        if not self._waiting and self.active == 0:
            self._quiet.set()

    def _patience(self) -> float:
        # "up to 3.5 times the average startup time of instances, or 10 seconds, whichever is greater"
        seen = self._start_seconds
        return max(LONGEST_WAIT, 3.5 * sum(seen) / len(seen)) if seen else LONGEST_WAIT

    def _back_off(self) -> None:
        """The first failure costs no wait, the next ones 1, 2, 4 … seconds."""
        delay = min(2.0 ** (self._failures - 1), SLOWEST_RETRY) if self._failures else 0.0
        self._failures += 1
        self._not_before = self._clock() + delay

    def _scale(self) -> None:
        if self._closed or self._clock() < self._not_before:
            return
        while len(self._slots) + self._starting < self._maximum and (
            len(self._slots) + self._starting < self._keep or self._starting * self._concurrency < len(self._waiting)
        ):
            self._starting += 1
            self._spawn(self._launch_more())

    async def _launch_more(self) -> None:
        try:
            await self._launch()
        except Exception as reason:
            self._back_off()
            _log.warning("an instance did not start: %s", reason)

    async def _launch(self) -> None:
        began = self._clock()
        try:
            instance = await self._start()
        finally:
            self._starting -= 1
        self._start_seconds = [*self._start_seconds[-9:], self._clock() - began]
        self._not_before = 0.0
        self.adopt(instance)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
