"""The children that all stateless clients share: a fixed number, each restarted when it exits.

A call goes to the child with the fewest calls in progress. While no child is available, calls wait; the settings limit
their number and time. If no child can be started any more, calls are refused at once, and the health check fails.
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
from mcpfleet_bridge.exchange import Exchange, Outcome
from mcpfleet_bridge.messages import UnavailableError
from mcpfleet_bridge.settings import Settings
from mcpfleet_server.caller import Identity, has_full_share

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS: Final = 0.1  # before the second start in a row; the first is at once
MAX_DELAY_SECONDS: Final = 30.0
MAX_START_FAILURES: Final = 3
"""After this number of failed starts in a row, the server counts as impossible to start."""

_NO_CLIENT = "The server can't ask the client: this call shares the server's process with other clients"

Sleep = Callable[[float], Awaitable[None]]

Translate = Callable[[Child, bool, bytes], tuple[int, bool, bytes]]
"""Translates a server's response for a protocol version: (child, is success, body) to (status, is success, body)."""


class PoolListener(Protocol):
    """Receives the changes that the shared children announce."""

    def on_change(self, method: str, params: bytes | None) -> None:
        """Handle a notification that concerns every client."""

    def on_child_up(self, child: Child) -> None:
        """Handle a child that has become available."""


def restart_delay(failures: int) -> float:
    """Return the seconds to wait before the next start after *failures* failed starts in a row."""
    return 0.0 if failures == 0 else min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** (failures - 1))


class Pool:
    """The shared children of all stateless clients."""

    def __init__(self, settings: Settings, start: Start, sleep: Sleep = asyncio.sleep) -> None:
        self._settings = settings
        self._start = start
        self._sleep = sleep
        self._children: list[Child] = []
        self._exits: dict[Child, asyncio.Future[str]] = {}
        self._supervisors: list[asyncio.Task[None]] = []
        self._failures = [0] * settings.pool
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._waiting_callers: list[Identity | None] = []
        self._problem = ""
        self._has_started = False
        self.listener: PoolListener | None = None
        self.on_failed_start: Callable[[str], None] = lambda _reason: None
        """Called with the reason if no child has ever become available and none can be started."""
        self.start_count = 0

    # --- lifecycle ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the children, which are restarted until `close`. Further calls have no effect."""
        if not self._supervisors:
            self._supervisors = [asyncio.create_task(self._supervise(slot)) for slot in range(self._settings.pool)]

    async def close(self) -> None:
        """Stop every child."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)

    async def _supervise(self, slot: int) -> None:
        while True:
            if delay := restart_delay(self._failures[slot]):
                await self._sleep(delay)
            child = Child(self)
            exited = self._exits[child] = asyncio.get_running_loop().create_future()
            try:
                self.start_count += 1
                await child.start(self._start, initialize_params(), self._settings.start_seconds)
                self._add_child(slot, child)
                self._problem = f"the server's process exits by itself: {await exited}"
                # A child that has served calls is restarted at once; one that only starts and exits is not.
                self._failures[slot] = 0 if child.response_count else self._failures[slot] + 1
            except StartError as error:
                self._failures[slot] += 1
                self._problem = str(error)
                # Without a traceback, because the error is the server's, not the bridge's.
                logger.error("Attempt %d to start the server failed: %s", self._failures[slot], error)  # noqa: TRY400
                if self._is_failed():
                    self._wake_all()  # waiting calls are refused with the reason
                    if not self._has_started:
                        self.on_failed_start(self._problem)
            finally:
                del self._exits[child]
                if child in self._children:
                    self._children.remove(child)
                await child.stop()

    def _add_child(self, slot: int, child: Child) -> None:
        if not child.is_alive:
            raise StartError("the server exited right after its start")
        logger.info("The server is ready", extra={"child": child.name})
        self._has_started = True
        self._children.append(child)
        if self.listener:
            self.listener.on_child_up(child)
        for _ in range(self._settings.concurrency):
            self._wake_one()

    # --- state --------------------------------------------------------------------------------------------

    @property
    def children(self) -> list[Child]:
        """The available children."""
        return self._children

    def find_problem(self) -> str | None:
        """Return the reason why no call can be served at present, or None."""
        if self._children or (not self._supervisors and not self._settings.warm):
            return None
        return self._problem if self._is_failed() else "the server is starting"

    def _is_failed(self) -> bool:
        return not self._children and all(failures >= MAX_START_FAILURES for failures in self._failures)

    # --- calls --------------------------------------------------------------------------------------------

    def find_child(self) -> Child | None:
        """Return the child with the fewest calls, or None if no child can take another call."""
        best: Child | None = None
        for child in self._children:
            if child.is_alive and (best is None or len(child.calls) < len(best.calls)):
                best = child
        return None if best is None or len(best.calls) >= self._settings.concurrency else best

    async def serve_call(
        self, exchange: Exchange, call: Call, seconds: float, translate: Translate | None = None
    ) -> None:
        """Let a child serve a call, and send the response; *translate* may change it.

        If the client disconnects, the call is cancelled: without a session, nobody could fetch its result.

        Raises:
            UnavailableError: No child can take the call.
        """
        child = self.find_child() or await self.wait_for_child(exchange.caller)
        child.submit(call)
        outcome = Outcome.DISCONNECTED
        try:
            outcome = await exchange.follow(call, seconds)
        finally:
            if call.answer is None:
                child.cancel(call, outcome.value)
            self.release()
        await exchange.send_outcome(call, outcome, seconds, None if translate is None else partial(translate, child))

    async def wait_for_child(self, caller: Identity | None) -> Child:
        """Wait for a child that can take a call. Submit the call before you await anything else.

        Raises:
            UnavailableError: No child can take it in time, or the queue or the caller's share of it is full.
        """
        self.start()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.queue_seconds
        while (child := self.find_child()) is None:
            if self._is_failed():
                raise UnavailableError(f"The MCP server can't be started: {self._problem}")
            limit = self._settings.queue
            if len(self._waiting) >= limit or has_full_share(caller, self._waiting_callers, limit):
                raise UnavailableError("Too many calls wait for the MCP server; try again later")
            turn = loop.create_future()
            self._waiting.append(turn)
            self._waiting_callers.append(caller)
            timer = loop.call_at(deadline, _wake, turn)
            try:
                await turn
            finally:
                timer.cancel()
                self._waiting_callers.remove(caller)
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            if loop.time() >= deadline and self.find_child() is None:
                raise UnavailableError(f"The MCP server took no call for {self._settings.queue_seconds:g} s")
        return child

    def release(self) -> None:
        """Free the place of a call for the next waiting one."""
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

    # --- messages from children ---------------------------------------------------------------------------

    def on_request(self, child: Child, request_id: bytes, method: str, params: bytes | None) -> None:
        """Refuse a request to the client, because the call that it belongs to is unknown."""
        child.respond(request_id, error=messages.error(messages.METHOD_NOT_FOUND, f"{_NO_CLIENT} ({method})"))

    def on_notification(self, child: Child, method: str, params: bytes | None) -> None:
        """Pass a change on to the listener. Write a log message to the log, because its client is unknown."""
        if method == "notifications/message":
            log_message(child, params)
        elif self.listener:
            self.listener.on_change(method, params)

    def on_exit(self, child: Child, reason: str) -> None:
        """Let the supervisor of an exited child start the next one."""
        exited = self._exits.get(child)
        if exited is not None and not exited.done():
            exited.set_result(reason)

    async def send_to_all(self, method: str, params: bytes | None, seconds: float) -> None:
        """Send a request to every available child, and wait for the responses, which are ignored."""
        calls = [Call(b"0", method, params) for _ in self._children]
        for child, call in zip(self._children, calls, strict=True):
            child.submit(call)
        await asyncio.gather(*(call.wait(seconds) for call in calls))


def _wake(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)


_LEVELS: Final = {"debug": 10, "info": 20, "notice": 20, "warning": 30, "error": 40, "critical": 50}


def log_message(child: Child, params: bytes | None) -> None:
    """Write a log message of the server to the bridge's log."""
    with contextlib.suppress(messages.MessageError):
        members = messages.fields(params or b"{}")
        level = messages.text(members.get("level")) or "info"
        data = bytes(members.get("data", messages.Raw(b"null")))[:16_384].decode("utf-8", "replace")
        logging.getLogger("mcpfleet_bridge.server").log(_LEVELS.get(level, 50), "%s", data, extra={"child": child.name})
