"""The children that all stateless clients share: a fixed number, each restarted when it ends.

A call goes to the child with the fewest calls under way. While none is up, calls wait, so many and so long as
the settings say; once no child can be started any more, they are refused at once, and the health check says so.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, Child, Start, StartError, initialize_params
from mcpfleet_bridge.messages import Unavailable
from mcpfleet_bridge.replies import Exchange, Outcome
from mcpfleet_bridge.settings import Settings
from mcpfleet_server.caller import Identity, has_full_share

logger = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.1  # seconds before the second attempt in a row; the first is at once
LONGEST_DELAY: Final = 30.0
FAILURES: Final = 3
"""After so many attempts in a row the server counts as one that can't be started."""

_NO_METHOD = "The client can't be asked anything: this call shares the server's process with other clients"

Sleep = Callable[[float], Awaitable[None]]

Render = Callable[[Child, bool, bytes], tuple[int, bool, bytes]]
"""Makes an era's answer of the server's: from child, success and body to HTTP status, success and body."""


class Hears(Protocol):
    """Who listens to what the shared children say of themselves."""

    def changed(self, method: str, params: bytes | None) -> None:
        """Something that every client may know has changed."""

    def joined(self, child: Child) -> None:
        """A child has come up."""


def delay_before(attempt: int) -> float:
    """Seconds to wait before the start that follows so many failures in a row."""
    return 0.0 if attempt == 0 else min(LONGEST_DELAY, FIRST_DELAY * 2 ** (attempt - 1))


class Pool:
    """The shared children."""

    def __init__(self, settings: Settings, start: Start, sleep: Sleep = asyncio.sleep) -> None:
        self._settings = settings
        self._start = start
        self._sleep = sleep
        self._children: list[Child] = []
        self._ended: dict[Child, asyncio.Future[str]] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._failures = [0] * settings.pool
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._waiters: list[Identity | None] = []
        self._trouble = ""
        self._served = False
        self.hears: Hears | None = None
        self.on_hopeless: Callable[[str], None] = lambda _reason: None
        """Told why, once no child has ever come up and none can be started."""
        self.starts = 0

    # --- life ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the children, once; each is kept alive until `close`."""
        if not self._keepers:
            self._keepers = [asyncio.create_task(self._keep(slot)) for slot in range(self._settings.pool)]

    async def close(self) -> None:
        """End every child."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self, slot: int) -> None:
        while True:
            if wait := delay_before(self._failures[slot]):
                await self._sleep(wait)
            child = Child(self)
            ended = self._ended[child] = asyncio.get_running_loop().create_future()
            try:
                self.starts += 1
                await child.start(self._start, initialize_params(), self._settings.start_seconds)
                self._up(slot, child)
                self._trouble = f"the server's process ends by itself: {await ended}"
                # One that has served calls may be started again at once; one that only starts and ends may not.
                self._failures[slot] = 0 if child.answered else self._failures[slot] + 1
            except StartError as error:
                self._failures[slot] += 1
                self._trouble = str(error)
                # An error of the server's, not of this code: a traceback would say nothing.
                logger.error("Attempt %d to start the server failed: %s", self._failures[slot], error)  # noqa: TRY400
                if self._lost():
                    self._wake_all()  # they are refused, with the reason
                    if not self._served:
                        self.on_hopeless(self._trouble)
            finally:
                del self._ended[child]
                if child in self._children:
                    self._children.remove(child)
                await child.stop()

    def _up(self, slot: int, child: Child) -> None:
        if not child.alive:
            raise StartError("the server ended as soon as it had started")
        logger.info("The server is ready", extra={"child": child.name})
        self._served = True
        self._children.append(child)
        if self.hears:
            self.hears.joined(child)
        for _ in range(self._settings.concurrency):
            self._wake_one()

    # --- state --------------------------------------------------------------------------------------------

    @property
    def children(self) -> list[Child]:
        """Those that are up."""
        return self._children

    def trouble(self) -> str | None:
        """Why no call can be served at present, or None."""
        if self._children or (not self._keepers and not self._settings.warm):
            return None
        return self._trouble if self._lost() else "the server is starting"

    def _lost(self) -> bool:
        return not self._children and all(failures >= FAILURES for failures in self._failures)

    # --- calls --------------------------------------------------------------------------------------------

    def pick(self) -> Child | None:
        """The child with the fewest calls that takes another, or None."""
        best: Child | None = None
        for child in self._children:
            if child.alive and (best is None or len(child.calls) < len(best.calls)):
                best = child
        return None if best is None or len(best.calls) >= self._settings.concurrency else best

    async def answer(self, exchange: Exchange, call: Call, seconds: float, render: Render | None = None) -> None:
        """Have a child answer a call; in the server's own words where it is not rendered.

        A client that goes away has its call cancelled: without a session nobody could ever fetch the answer.

        Raises:
            Unavailable: None takes it.
        """
        child = self.pick() or await self.borrow(exchange.caller)
        child.submit(call)
        outcome = Outcome.VANISHED
        try:
            outcome = await exchange.follow(call, seconds)
        finally:
            if call.answer is None:
                child.forget(call, outcome.value)
            self.released()
        await exchange.conclude(call, outcome, seconds, None if render is None else partial(render, child))

    async def borrow(self, caller: Identity | None) -> Child:
        """The child to send a caller's next call to. Submit it before anything else is awaited.

        Raises:
            Unavailable: None takes it, or the caller has its share of those that wait.
        """
        self.begin()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.queue_seconds
        while (child := self.pick()) is None:
            if self._lost():
                raise Unavailable(f"The MCP server can't be started: {self._trouble}")
            most = self._settings.queue
            if len(self._waiting) >= most or has_full_share(caller, self._waiters, most):
                raise Unavailable("Too many calls wait for the MCP server already")
            turn = loop.create_future()
            self._waiting.append(turn)
            self._waiters.append(caller)
            timer = loop.call_at(deadline, _set, turn)
            try:
                await turn
            finally:
                timer.cancel()
                self._waiters.remove(caller)
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            if loop.time() >= deadline and self.pick() is None:
                raise Unavailable(f"The MCP server took no call for {self._settings.queue_seconds:g} s")
        return child

    def released(self) -> None:
        """A call has left a child: the next one that waits may have its place."""
        if self._waiting:
            self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._waiting:
            self._wake_one()

    # --- what children say --------------------------------------------------------------------------------

    def on_request(self, child: Child, identity: bytes, method: str, params: bytes | None) -> None:
        """The server asks a client, but nobody can tell which of them."""
        child.respond(identity, error=messages.error(messages.METHOD_NOT_FOUND, f"{_NO_METHOD} ({method})"))

    def on_notification(self, child: Child, method: str, params: bytes | None) -> None:
        """A change is for all who listen; a log message is for the log, since nobody can tell whose it is."""
        if method == "notifications/message":
            log_message(child, params)
        elif self.hears:
            self.hears.changed(method, params)

    def on_gone(self, child: Child, reason: str) -> None:
        """A process has ended; its keeper starts the next."""
        ended = self._ended.get(child)
        if ended is not None and not ended.done():
            ended.set_result(reason)

    async def ask(self, method: str, params: bytes | None, seconds: float) -> None:
        """Ask every child that is up something of the bridge's own; answers are not looked at."""
        calls = [Call(b"0", method, params) for _ in self._children]
        for child, call in zip(self._children, calls, strict=True):
            child.submit(call)
        await asyncio.gather(*(call.news(seconds) for call in calls))


def _set(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)


_LEVELS: Final = {"debug": 10, "info": 20, "notice": 20, "warning": 30, "error": 40, "critical": 50}


def log_message(child: Child, params: bytes | None) -> None:
    """Write a log message of the server's to our own log."""
    with contextlib.suppress(messages.MessageError):
        members = messages.fields(params or b"{}")
        level = messages.text(members.get("level")) or "info"
        data = bytes(members.get("data", messages.Raw(b"null")))[:16_384].decode("utf-8", "replace")
        logging.getLogger("mcpfleet_bridge.server").log(_LEVELS.get(level, 50), "%s", data, extra={"child": child.name})
