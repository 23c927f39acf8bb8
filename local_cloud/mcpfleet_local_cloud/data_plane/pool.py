"""Scales the instances of one revision, and chooses the instance for each request.

The rules are Cloud Run's (cloud.google.com/run/docs/about-instance-autoscaling, about-concurrency): an instance takes
at most `concurrency` requests at once; when all are full and the maximum is not reached, another one is started while
requests wait; a request that waits too long gets 429. Instances that were idle for a while are stopped, down to the
minimum. The caller starts and stops instances, and calls `tick` regularly.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

LONGEST_WAIT_SECONDS: Final = 10.0
"""Seconds that a request waits for an instance; longer only if instances start slowly (see `_longest_wait`)."""
IDLE_SECONDS: Final = 900.0
"""Seconds without a request after which an instance may be stopped (Cloud Run: "up to 15 minutes")."""
STEADY_SECONDS: Final = 60.0
"""An instance that ran for so many seconds is not part of a crash loop."""
LONGEST_RETRY_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)
T = TypeVar("T")


class NoInstanceError(Exception):
    """The request was aborted because there was no available instance (Google's words; HTTP 429)."""


class NoRevisionError(Exception):
    """No revision of the service is ready to serve (HTTP 503)."""


@dataclass(eq=False)
class Slot(Generic[T]):
    """One running instance and its load."""

    instance: T
    started_at: float
    idle_since: float
    active_requests: int = 0
    is_ready: bool = True
    """Whether it may get new requests: it has no readiness probe, or the probe succeeds."""


@dataclass(eq=False)
class _Waiter(Generic[T]):
    deadline: float
    future: asyncio.Future[Slot[T]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class InstancePool(Generic[T]):
    """The instances of one revision.

    Args:
        start: Starts one instance, and returns when it can serve; raises if it can't.
        stop: Stops one instance permanently.
        concurrency: The requests that one instance takes at once.
        minimum: The instances that keep running when idle.
        maximum: The largest number of instances.
        idle_after: Seconds without a request after which an instance above *minimum* is stopped.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self,
        *,
        start: Callable[[], Awaitable[T]],
        stop: Callable[[T], Awaitable[None]],
        concurrency: int,
        minimum: int,
        maximum: int,
        idle_after: float = IDLE_SECONDS,
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
        self._target = 0  # instances that are replaced after a crash; 0 until the first one served, or after idling
        self._failures = 0
        self._not_before = 0.0
        self._start_seconds: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._closed = False

    @property
    def instances(self) -> list[T]:
        """The running instances."""
        return [slot.instance for slot in self._slots]

    @property
    def active_requests(self) -> int:
        """The number of requests that are being served."""
        return sum(slot.active_requests for slot in self._slots)

    async def ensure_minimum(self) -> None:
        """Start the minimum of instances, and one even if the minimum is 0.

        Raises:
            Exception: The first error that *start* raised; the other instances run until `close`.
        """
        missing = min(max(self._minimum, 1), self._maximum) - len(self._slots) - self._starting
        self._starting += max(missing, 0)
        outcomes = await asyncio.gather(*(self._launch() for _ in range(missing)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def resize(self, minimum: int, maximum: int) -> None:
        """Change the bounds; instances above the new maximum are stopped at the next `tick` at which they are idle."""
        self._minimum = minimum
        self._maximum = max(1, maximum)
        self._target = max(minimum, 1) if self._slots else minimum
        self._scale()

    def set_ready(self, instance: T, *, ready: bool) -> None:
        """Set whether *instance* gets new requests."""
        for slot in self._slots:
            if slot.instance is instance:
                slot.is_ready = ready
                self._serve_waiting(slot)

    async def acquire(self, preferred: Callable[[T], bool] | None = None) -> Slot[T]:
        """Reserve an instance for one more request; `release` it afterwards.

        Args:
            preferred: Whether an instance is the preferred one, which is taken if it has room.

        Raises:
            NoInstanceError: None had room in time, or the pool was closed.
        """
        if self._closed:
            raise NoInstanceError
        free = [slot for slot in self._slots if self._has_room(slot)]
        if free:  # the oldest first, so that instances which a peak has added become idle again
            return self._assign(next((slot for slot in free if preferred and preferred(slot.instance)), free[0]))
        waiter = _Waiter[T](deadline=self._clock() + self._longest_wait())
        self._waiting.append(waiter)
        self._is_idle.clear()
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
            self._update_idle()

    def release(self, slot: Slot[T]) -> None:
        """Release the instance after a request, successful or not."""
        slot.active_requests -= 1
        slot.idle_since = self._clock()
        if slot in self._slots:
            self._serve_waiting(slot)
        self._update_idle()

    def adopt(self, instance: T) -> None:
        """Add an instance that can serve."""
        now = self._clock()
        slot = Slot(instance=instance, started_at=now, idle_since=now)
        self._slots.append(slot)
        self._target = max(self._minimum, 1)
        self._serve_waiting(slot)

    def on_instance_exit(self, instance: T) -> None:
        """Remove *instance*, which ended unexpectedly, and start another one (later, if instances keep crashing)."""
        slot = next((slot for slot in self._slots if slot.instance is instance), None)
        if slot is None:
            return
        self._slots.remove(slot)
        if self._clock() - slot.started_at >= STEADY_SECONDS:
            self._failures = 0
        self._back_off()
        self._scale()

    def tick(self) -> None:
        """Handle timeouts, idle instances and delayed starts. Call it about once a second."""
        now = self._clock()
        while self._waiting and self._waiting[0].deadline <= now:
            waiter = self._waiting.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(NoInstanceError())
        for slot in reversed(list(self._slots)):
            if len(self._slots) <= self._minimum:
                break
            surplus = len(self._slots) > self._maximum
            if slot.active_requests == 0 and (surplus or now - slot.idle_since >= self._idle_after):
                self._slots.remove(slot)
                self._spawn(self._stop(slot.instance))
                self._target = self._minimum
        self._scale()

    async def drain(self, seconds: float) -> None:
        """Wait until every admitted request has finished, but at most *seconds*; then `close`."""
        try:
            await asyncio.wait_for(self._is_idle.wait(), seconds)
        except TimeoutError:
            _log.warning("%d requests were cut off: they outlasted the request timeout", self.active_requests)
        await self.close()

    async def close(self) -> None:
        """Stop every instance; none is started any more."""
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

    def _assign(self, slot: Slot[T]) -> Slot[T]:
        slot.active_requests += 1
        self._is_idle.clear()
        return slot

    def _serve_waiting(self, slot: Slot[T]) -> None:
        while self._waiting and self._has_room(slot):
            waiter = self._waiting.popleft()
            if not waiter.future.done():
                waiter.future.set_result(self._assign(slot))

    def _has_room(self, slot: Slot[T]) -> bool:
        return slot.is_ready and slot.active_requests < self._concurrency

    def _update_idle(self) -> None:
        if not self._waiting and self.active_requests == 0:
            self._is_idle.set()

    def _longest_wait(self) -> float:
        # "up to 3.5 times the average startup time of instances, or 10 seconds, whichever is greater"
        durations = self._start_seconds
        return max(LONGEST_WAIT_SECONDS, 3.5 * sum(durations) / len(durations)) if durations else LONGEST_WAIT_SECONDS

    def _back_off(self) -> None:
        """Delay the next start: not after the first failure, then by 1, 2, 4 … seconds."""
        delay = min(2.0 ** (self._failures - 1), LONGEST_RETRY_SECONDS) if self._failures else 0.0
        self._failures += 1
        self._not_before = self._clock() + delay

    def _scale(self) -> None:
        if self._closed or self._clock() < self._not_before:
            return
        while len(self._slots) + self._starting < self._maximum and (
            len(self._slots) + self._starting < self._target or self._starting * self._concurrency < len(self._waiting)
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
        started_at = self._clock()
        try:
            instance = await self._start()
        finally:
            self._starting -= 1
        self._start_seconds = [*self._start_seconds[-9:], self._clock() - started_at]
        self._not_before = 0.0
        self.adopt(instance)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
