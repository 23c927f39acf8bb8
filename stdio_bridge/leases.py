"""Children for one call at a time: for clients that the server may ask something during a call.

Which client a question of the server's is for can only be told while there is one. Children are kept by
profile, which is what the client can do and how much it wants logged: that is part of the handshake.
A child is used again only if its last call ended as it should, and if it never learned a client's roots.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stdio_bridge import messages
from stdio_bridge.calls import Call
from stdio_bridge.child import Child, Start, StartError, initialize_params
from stdio_bridge.pool import Unavailable, log_message
from stdio_bridge.settings import Settings

logger = logging.getLogger(__name__)

_LEVEL_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Profile:
    """What a child has to know of a client.

    Attributes:
        capabilities: The client's capabilities that matter to a server, as JSON.
        level: The least level of log messages that the client wants, or None for no log messages.
    """

    capabilities: bytes
    level: str | None


@dataclass(frozen=True)
class Question:
    """What the server asks the client."""

    identity: bytes
    method: str
    params: bytes | None


class Lease:
    """A child that one call has for itself."""

    def __init__(self, profile: Profile, on_gone: Callable[["Lease"], None]) -> None:
        self.profile = profile
        self.child = Child(self)
        self.questions: deque[Question] = deque()
        self.call: Call | None = None
        self.reusable = True
        self.idle_since = 0.0
        self._on_gone = on_gone

    def on_request(self, child: Child, identity: bytes, method: str, params: bytes | None) -> None:
        """The server asks: the call's client answers, now or with the next call."""
        if method == "roots/list":
            self.reusable = False
        self.questions.append(Question(identity, method, params))
        if self.call is not None:
            self.call.wake()

    def on_notification(self, child: Child, method: str, params: bytes | None) -> None:
        """A log message goes to the call that is under way, if its client wants it."""
        if method != "notifications/message":
            return
        if self.call is None or self.profile.level is None:
            log_message(child, params)
        else:
            self.call.push(messages.notification(method, params), droppable=True)

    def on_gone(self, child: Child, reason: str) -> None:
        """The process has ended."""
        self._on_gone(self)


class Leases:
    """The children that are leased, and those that wait to be leased again."""

    def __init__(self, settings: Settings, start: Start) -> None:
        self._settings = settings
        self._start = start
        self._idle: list[Lease] = []
        self._taken: set[Lease] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def all(self) -> list[Lease]:
        """Every child there is."""
        return [*self._idle, *self._taken]

    @property
    def wanted(self) -> int:
        """How many wait for a child."""
        return len(self._waiting)

    async def lease(self, profile: Profile) -> Lease:
        """A child of a profile, for the caller alone until it gives it back.

        Raises:
            Unavailable: There are as many as there may be, all taken; or the server can't be started.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.queue_seconds
        while True:
            for lease in self._idle:
                if lease.profile == profile:
                    self._idle.remove(lease)
                    self._taken.add(lease)
                    return lease
            if len(self._idle) + len(self._taken) < self._settings.exclusive:
                return await self._new(profile)
            if self._idle:
                # One of another profile has to go.
                await self._end(self._idle.pop(0))
                continue
            if self._settings.exclusive == 0:
                raise Unavailable("MCP_STDIO_EXCLUSIVE is 0: the server can't ask clients anything", busy=False)
            if len(self._waiting) >= self._settings.queue or loop.time() >= deadline:
                raise Unavailable("Every process for calls with questions is taken", busy=True)
            turn = loop.create_future()
            self._waiting.append(turn)
            timer = loop.call_at(deadline, _set, turn)
            try:
                await turn
            finally:
                timer.cancel()
                if turn in self._waiting:
                    self._waiting.remove(turn)

    async def _new(self, profile: Profile) -> Lease:
        lease = Lease(profile, self._gone)
        self._taken.add(lease)
        try:
            await lease.child.start(self._start, initialize_params(profile.capabilities), self._settings.start_seconds)
            if profile.level is not None:
                level = Call(b"0", "logging/setLevel", messages.dump({"level": profile.level}))
                lease.child.submit(level)
                await level.news(_LEVEL_SECONDS)
        except StartError as error:
            self._discard(lease)
            raise Unavailable(f"The MCP server can't be started: {error}", busy=False) from None
        except asyncio.CancelledError:
            self._discard(lease)
            raise
        return lease

    async def give_back(self, lease: Lease) -> None:
        """Return a child; it is kept if it can serve another client."""
        lease.call = None
        clean = not lease.child.calls and not lease.questions and lease.child.alive
        if lease not in self._taken:
            return
        if clean and lease.reusable:
            lease.idle_since = asyncio.get_running_loop().time()
            self._taken.discard(lease)
            self._idle.append(lease)
            self._next()
        else:
            await self._end(lease)

    async def expire(self, now: float) -> None:
        """End the children that nobody has used for long."""
        for lease in [one for one in self._idle if now - one.idle_since >= self._settings.session_idle]:
            self._idle.remove(lease)
            await self._end(lease)

    async def close(self) -> None:
        """End every child."""
        await asyncio.gather(*(self._end(lease) for lease in self.all))

    async def _end(self, lease: Lease) -> None:
        await lease.child.stop()
        self._discard(lease)

    def _gone(self, lease: Lease) -> None:
        if lease in self._idle:
            self._idle.remove(lease)
            self._next()
        if lease.call is not None:
            lease.call.wake()

    def _discard(self, lease: Lease) -> None:
        self._taken.discard(lease)
        if lease in self._idle:
            self._idle.remove(lease)
        self._next()

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


def _set(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)
