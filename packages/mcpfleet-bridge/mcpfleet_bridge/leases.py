"""Children for one call at a time, for clients that the server may ask during a call.

A question of the server can be assigned to a client only if its child serves a single call. Children are reused by
profile: the client's capabilities and log level, which are part of the handshake. A child is reused only for the same
caller, only if its last call ended normally, and only if it never learned a client's roots, because late output and
state belong to that caller. Unknown callers share children, as they share the pool, except children that send log
messages to their client.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, Child, Start, StartError, initialize_params
from mcpfleet_bridge.messages import UnavailableError
from mcpfleet_bridge.pool import log_message
from mcpfleet_bridge.settings import Settings
from mcpfleet_server.caller import Identity, has_full_share

logger = logging.getLogger(__name__)

_LEVEL_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Profile:
    """The properties of a client that a child learns in its handshake.

    Attributes:
        capabilities: The client's capabilities that are relevant to a server, as JSON.
        level: The lowest level of log messages that the client wants, or None for no log messages.
    """

    capabilities: bytes
    level: str | None


@dataclass(frozen=True)
class Question:
    """A request of the server to the client."""

    request_id: bytes
    method: str
    params: bytes | None


@dataclass(frozen=True, eq=False)
class _Waiter:
    """A call that waits for a child."""

    caller: Identity | None
    future: "asyncio.Future[None]"

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Lease:
    """A child that serves one call at a time."""

    def __init__(self, profile: Profile, caller: Identity | None, on_exit: Callable[["Lease"], None]) -> None:
        self.profile = profile
        self.caller = caller
        self.child = Child(self)
        self.questions: deque[Question] = deque()
        self.call: Call | None = None
        self.is_reusable = caller is not None or profile.level is None
        self.idle_since = 0.0
        self._on_exit = on_exit

    def on_request(self, child: Child, request_id: bytes, method: str, params: bytes | None) -> None:
        """Queue a question for the client of the call in progress."""
        if method == "roots/list":
            self.is_reusable = False
        self.questions.append(Question(request_id, method, params))
        if self.call is not None:
            self.call.wake()

    def on_notification(self, child: Child, method: str, params: bytes | None) -> None:
        """Pass a log message on to the call in progress, if its client wants it."""
        if method != "notifications/message":
            return
        if self.call is None or self.profile.level is None:
            log_message(child, params)
        else:
            self.call.push(messages.notification(method, params), droppable=True)

    def on_exit(self, child: Child, reason: str) -> None:
        """Handle the exit of the process."""
        self._on_exit(self)


class Leases:
    """All leased children, and the idle ones that can be leased again."""

    def __init__(self, settings: Settings, start: Start) -> None:
        self._settings = settings
        self._start = start
        self._idle: list[Lease] = []
        self._active: set[Lease] = set()
        self._waiting: deque[_Waiter] = deque()

    @property
    def all(self) -> list[Lease]:
        """Every child, active or idle."""
        return [*self._idle, *self._active]

    def count_waiting(self) -> tuple[int, Counter[Identity | None]]:
        """Count the waiting calls: those that any child can serve, and, by caller, those above their caller's share."""
        by_caller = Counter(waiter.caller for waiter in self._waiting if not self._is_below_share(waiter.caller))
        return len(self._waiting) - by_caller.total(), by_caller

    async def acquire(self, profile: Profile, caller: Identity | None) -> Lease:
        """Lease a child with a profile to a caller, until `release`.

        Raises:
            UnavailableError: All children are in use, the caller has its share of them, or the server can't be
                started.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.queue_seconds
        while True:
            if self._is_below_share(caller):
                for lease in self._idle:
                    if (lease.profile, lease.caller) == (profile, caller):
                        self._idle.remove(lease)
                        self._active.add(lease)
                        return lease
                if len(self._idle) + len(self._active) < self._settings.exclusive:
                    return await self._start_lease(profile, caller)
                if self._idle:
                    # Make room by stopping an idle child with another profile or of another caller.
                    await self._stop_lease(self._idle.pop(0))
                    continue
            if self._settings.exclusive == 0:
                raise UnavailableError("MCP_STDIO_EXCLUSIVE is 0, so the server can't ask clients")
            limit = self._settings.queue
            is_full = len(self._waiting) >= limit or has_full_share(
                caller, (waiter.caller for waiter in self._waiting), limit
            )
            if is_full or loop.time() >= deadline:
                raise UnavailableError("All processes for calls with questions are in use; try again later")
            own_waiter = _Waiter(caller, loop.create_future())
            self._waiting.append(own_waiter)
            timer = loop.call_at(deadline, own_waiter.wake)
            try:
                await own_waiter.future
            finally:
                timer.cancel()
                if own_waiter in self._waiting:
                    self._waiting.remove(own_waiter)

    def _is_below_share(self, caller: Identity | None) -> bool:
        return not has_full_share(caller, (lease.caller for lease in self._active), self._settings.exclusive)

    async def _start_lease(self, profile: Profile, caller: Identity | None) -> Lease:
        lease = Lease(profile, caller, self._handle_exit)
        self._active.add(lease)
        try:
            await lease.child.start(self._start, initialize_params(profile.capabilities), self._settings.start_seconds)
            if profile.level is not None:
                level = Call(b"0", "logging/setLevel", messages.dump({"level": profile.level}))
                lease.child.submit(level)
                await level.wait(_LEVEL_SECONDS)
        except StartError as error:
            self._discard(lease)
            raise UnavailableError(f"The MCP server can't be started: {error}") from None
        except asyncio.CancelledError:
            self._discard(lease)
            raise
        return lease

    async def release(self, lease: Lease) -> None:
        """Return a leased child, which is kept if it can serve another call."""
        lease.call = None
        is_clean = not lease.child.calls and not lease.questions and lease.child.is_alive
        if lease not in self._active:
            return
        if is_clean and lease.is_reusable:
            lease.idle_since = asyncio.get_running_loop().time()
            self._active.discard(lease)
            self._idle.append(lease)
            self._wake_next()
        else:
            await self._stop_lease(lease)

    async def expire(self, now: float) -> None:
        """Stop the children that have been idle for too long."""
        expired = [lease for lease in self._idle if now - lease.idle_since >= self._settings.session_idle]
        for lease in expired:
            self._idle.remove(lease)
            await self._stop_lease(lease)

    async def close(self) -> None:
        """Stop every child."""
        await asyncio.gather(*(self._stop_lease(lease) for lease in self.all))

    async def _stop_lease(self, lease: Lease) -> None:
        await lease.child.stop()
        self._discard(lease)

    def _handle_exit(self, lease: Lease) -> None:
        if lease in self._idle:
            self._idle.remove(lease)
            self._wake_next()
        if lease.call is not None:
            lease.call.wake()

    def _discard(self, lease: Lease) -> None:
        self._active.discard(lease)
        if lease in self._idle:
            self._idle.remove(lease)
        self._wake_next()

    def _wake_next(self) -> None:
        for waiter in self._waiting:
            if self._is_below_share(waiter.caller):
                self._waiting.remove(waiter)
                waiter.wake()
                return
