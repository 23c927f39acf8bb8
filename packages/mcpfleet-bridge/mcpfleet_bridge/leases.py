"""Children for one call at a time: for clients that the server may ask something during a call.

Which client a question of the server's is for can only be told while there is one. Children are kept by
profile, which is what the client can do and how much it wants logged: that is part of the handshake.
A child is used again only by the same caller, if its last call ended as it should, and if it never learned a client's
roots: what it says late, or remembers, is that caller's. Callers who are not known share, as they do the pool, but
no child that has log messages for its client.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, Child, Start, StartError, initialize_params
from mcpfleet_bridge.messages import Unavailable
from mcpfleet_bridge.pool import log_message
from mcpfleet_bridge.settings import Settings
from mcpfleet_server.caller import Identity, has_full_share

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


@dataclass(frozen=True, eq=False)
class _Turn:
    """Who waits for a child."""

    caller: Identity | None
    future: "asyncio.Future[None]"

    def come(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Lease:
    """A child that one call has for itself."""

    def __init__(self, profile: Profile, caller: Identity | None, on_gone: Callable[["Lease"], None]) -> None:
        self.profile = profile
        self.caller = caller
        self.child = Child(self)
        self.questions: deque[Question] = deque()
        self.call: Call | None = None
        self.reusable = caller is not None or profile.level is None
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
        self._waiting: deque[_Turn] = deque()

    @property
    def all(self) -> list[Lease]:
        """Every child there is."""
        return [*self._idle, *self._taken]

    def waiting(self) -> tuple[int, Counter[Identity | None]]:
        """How many wait for any child, and how many of each caller for one of its own, because it has its share."""
        own = Counter(turn.caller for turn in self._waiting if not self._may_have(turn.caller))
        return len(self._waiting) - own.total(), own

    async def lease(self, profile: Profile, caller: Identity | None) -> Lease:
        """A child of a profile, for the caller alone until it gives it back.

        Raises:
            Unavailable: There are as many as there may be, all taken; or the caller has its share of them; or the
                server can't be started.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.queue_seconds
        while True:
            if self._may_have(caller):
                for lease in self._idle:
                    if (lease.profile, lease.caller) == (profile, caller):
                        self._idle.remove(lease)
                        self._taken.add(lease)
                        return lease
                if len(self._idle) + len(self._taken) < self._settings.exclusive:
                    return await self._new(profile, caller)
                if self._idle:
                    # One of another profile, or of another caller, has to go.
                    await self._end(self._idle.pop(0))
                    continue
            if self._settings.exclusive == 0:
                raise Unavailable("MCP_STDIO_EXCLUSIVE is 0: the server can't ask clients anything")
            most = self._settings.queue
            full = len(self._waiting) >= most or has_full_share(caller, (one.caller for one in self._waiting), most)
            if full or loop.time() >= deadline:
                raise Unavailable("Every process for calls with questions is taken")
            turn = _Turn(caller, loop.create_future())
            self._waiting.append(turn)
            timer = loop.call_at(deadline, turn.come)
            try:
                await turn.future
            finally:
                timer.cancel()
                if turn in self._waiting:
                    self._waiting.remove(turn)

    def _may_have(self, caller: Identity | None) -> bool:
        return not has_full_share(caller, (one.caller for one in self._taken), self._settings.exclusive)

    async def _new(self, profile: Profile, caller: Identity | None) -> Lease:
        lease = Lease(profile, caller, self._gone)
        self._taken.add(lease)
        try:
            await lease.child.start(self._start, initialize_params(profile.capabilities), self._settings.start_seconds)
            if profile.level is not None:
                level = Call(b"0", "logging/setLevel", messages.dump({"level": profile.level}))
                lease.child.submit(level)
                await level.news(_LEVEL_SECONDS)
        except StartError as error:
            self._discard(lease)
            raise Unavailable(f"The MCP server can't be started: {error}") from None
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
        for turn in self._waiting:
            if self._may_have(turn.caller):
                self._waiting.remove(turn)
                turn.come()
                return
