"""`mcpfleet connect`'s core: each message of a stdio client goes to a private MCP server, and the answers come back.

The messages cross as they are. Added are what HTTP wants beside them (headers, the session, streams that are
opened again) and what a desktop has to live with: cold starts, new revisions, expired tokens, sleep, no network.

Nothing is sent twice that may have been carried out, unless it can do no harm: a request that only asks, or a call of
a tool that says of itself that it only reads or is idempotent. What is not known is said so in the error.

Not here: lines and pipes (`mcpfleet.stdio`), HTTP and tokens (`mcpfleet.upstream`), translation from one protocol
revision to another: a client and a server that share none stay apart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import httpx2

from mcpfleet import jsonrpc
from mcpfleet.inert import inert
from mcpfleet.jsonrpc import Id, Message
from mcpfleet.net import delay
from mcpfleet.pending import PendingRequest
from mcpfleet.sessions import ACCEPT, LEAST_PAUSE_SECONDS, Handshake, SessionLostError, Sessions
from mcpfleet.tools import Tools
from mcpfleet.upstream import CUT, FailedError, Upstream, events, is_stream

RETRY_SECONDS: Final = 60.0
"""How long a request that is safe to send again is tried; desktop clients give up at about that time."""
FIRST_PATIENCE_SECONDS: Final = 20.0
"""The same while nothing has ever answered: more likely a mistake in the URL than an outage."""
DRAIN_SECONDS: Final = 1.0
RESUMES: Final = 5
"""So many times the rest of a stream is asked for without a word of it."""
RESUMES_IN_ALL: Final = 10_000
"""A server may end its streams on purpose, to be polled: once a second would be 3600 times in a call's longest hour."""
RENEWALS: Final = 3
_QUOTED: Final = 200
"""Characters of an answer that is none, which are shown."""

_log = logging.getLogger("mcpfleet.connect")

Emit = Callable[[bytes], None]
Sleep = Callable[[float], Awaitable[None]]


class Relay:
    """A stdio client's side of one private MCP server.

    Args:
        upstream: The server.
        emit: Takes each line for the client, without its end.
        sleep: Waits for a number of seconds.
        clock: Seconds.
    """

    def __init__(
        self,
        upstream: Upstream,
        emit: Emit,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._emit = emit
        self._sleep = sleep
        self._clock = clock
        self._tools = Tools()
        self._sessions = Sessions(upstream, self._from_server, emit, sleep)
        self._tasks: set[asyncio.Task[None]] = set()
        self._flights: dict[Id, tuple[PendingRequest, asyncio.Task[None]]] = {}
        self._opening: asyncio.Task[None] | None = None

    async def handle_line(self, line: bytes) -> None:
        """Take one line of the client. Returns at once, except while a handshake is under way, which all must await."""
        if not line.strip():
            return
        try:
            message = jsonrpc.parse(line)
        except jsonrpc.NotAMessageError as error:
            self._emit(jsonrpc.error_reply(error.id, f"mcpfleet connect: {error}.", error.code))
            return
        if self._opening is not None and not self._opening.done():
            await asyncio.wait({self._opening})
        if message.method == jsonrpc.CANCELLED:
            self._cancel(message)
        elif message.is_request:
            self._begin(message)
        else:
            task = self._spawn(self._tell(message))
            if message.method == jsonrpc.INITIALIZED:
                self._opening = task

    async def aclose(self, grace: float = 0.0) -> None:
        """End: let requests under way finish for *grace* seconds, then end them and the session."""
        waiting = {task for flight, task in self._flights.values() if flight.message.method != jsonrpc.LISTEN}
        if waiting and grace > 0:
            await asyncio.wait(waiting, timeout=grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sessions.aclose()

    # --- the client's messages ------------------------------------------------------------------------

    def _begin(self, message: Message) -> None:
        ident = cast("Id", message.id)
        if ident in self._flights:  # an id used again: the waiter is now this request's
            self._flights[ident][1].cancel()
        flight = PendingRequest(message)
        task = self._spawn(self._answer(flight))
        self._flights[ident] = (flight, task)
        if message.method == jsonrpc.INITIALIZE:
            self._opening = task

    def _cancel(self, message: Message) -> None:
        cancelled = message.cancels
        if cancelled is None or cancelled not in self._flights:
            return  # its answer is on its way already
        flight, task = self._flights[cancelled]
        session = self._sessions.current
        if flight.message.version or session is None or not session.id:
            task.cancel()  # without a session, closing the request's stream is what cancels it
            return

        async def tell_then_stop() -> None:
            await self._tell(message)
            task.cancel()

        self._spawn(tell_then_stop())

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _tell(self, message: Message) -> None:
        """Send a notification, or the client's answer to one of the server's requests."""
        try:
            await self._deliver(message)
        except FailedError as failed:
            _log.warning("%s was not delivered: %s", message.method or "an answer", failed)
            return
        if message.method == jsonrpc.INITIALIZED:
            self._sessions.listen(self._spawn)

    async def _deliver(self, message: Message) -> None:
        began, attempt = self._clock(), 0
        while True:
            session = self._session_of(message)
            try:
                async with self._upstream.send("POST", self._headers(message, session), message.raw) as response:
                    if lost := await self._sessions.lost(response, session):
                        raise lost
                    if failed := self._upstream.failure(response):
                        raise failed
                    if response.status_code >= 400:
                        _log.warning("%s was answered %d", message.method or "an answer", response.status_code)
                    return
            except SessionLostError as lost:
                if not message.method:
                    raise FailedError("the session in which it was asked has ended", done=False) from lost
                await self._sessions.renew(lost.session, self._spawn)
            except FailedError as failed:
                # A notification that comes twice is no call made twice, but is not worth a doubt either.
                await self._wait_or_raise(failed, began, attempt, may_repeat=False)
            attempt += 1

    async def _answer(self, flight: PendingRequest) -> None:
        message = flight.message
        try:
            await self._exchange(flight)
        except FailedError as failed:
            self._emit(flight.refusal(failed))
        except asyncio.CancelledError:
            raise  # the client cancelled it, so it waits for no answer
        except Exception as error:
            _log.exception("%s failed", message.method)
            if not flight.answered:
                self._emit(jsonrpc.error_reply(message.id, f"mcpfleet connect: {error!r}", outcome="unknown"))
        finally:
            if self._flights.get(cast("Id", message.id), (None,))[0] is flight:
                del self._flights[cast("Id", message.id)]

    async def _exchange(self, flight: PendingRequest) -> None:
        """Send a request until it is answered.

        Raises:
            FailedError: It is not to be sent again.
        """
        message = flight.message
        began, attempt, renewed = self._clock(), 0, 0
        lost: Handshake | None = None
        while True:
            flight.attempts += 1
            try:
                if lost is not None:
                    await self._sessions.renew(lost, self._spawn)
                    lost = None
                session = self._session_of(message)
                if await self._once(flight, session):
                    return
                began, attempt = self._clock(), 0  # a subscription that stood, and whose stream has ended
                raise FailedError("The subscription's stream has ended.", done=True)
            except SessionLostError as error:
                lost, renewed = error.session, renewed + 1
                if renewed > RENEWALS:
                    raise FailedError("The server gives sessions up as fast as they are made.", done=False) from error
                continue
            except FailedError as failed:
                if flight.answered:
                    return  # what went wrong did so after the answer
                if flight.acknowledged:
                    if failed.final:
                        raise
                    await self._sleep(max(delay(attempt), failed.wait))  # for as long as the client listens
                else:
                    may_repeat = self._tools.may_repeat(message) and not flight.asked
                    await self._wait_or_raise(failed, began, attempt, may_repeat=may_repeat)
            attempt += 1

    async def _wait_or_raise(self, failed: FailedError, began: float, attempt: int, *, may_repeat: bool) -> None:
        """Wait before the next attempt, or say that there is none."""
        patience = RETRY_SECONDS if self._upstream.answered else FIRST_PATIENCE_SECONDS
        pause = max(delay(attempt), failed.wait)
        if failed.final or (failed.done and not may_repeat) or self._clock() - began + pause > patience:
            raise failed
        _log.info("again in %.2f s: %s", pause, failed)
        await self._sleep(pause)

    async def _once(self, flight: PendingRequest, session: Handshake | None) -> bool:
        """Send a request once and pass its answer on; False where a subscription came to its end.

        Raises:
            SessionLostError: The server does not know the session any more, and has done nothing.
            FailedError: There is no answer.
        """
        message = flight.message
        async with self._upstream.send("POST", self._headers(message, session), message.raw) as response:
            if lost := await self._sessions.lost(response, session):
                raise lost
            if failed := self._upstream.failure(response):
                if message.method == jsonrpc.DISCOVER and failed.status in {400, 405, 406, 415}:
                    # An old server that does not know the method: its client is to shake hands with it.
                    flight.answered = True
                    self._emit(jsonrpc.error_reply(message.id, str(failed), jsonrpc.METHOD_NOT_FOUND))
                    return True
                raise failed
            if message.method == jsonrpc.INITIALIZE:
                return await self._initialized(flight, response)
            if is_stream(response):
                return await self._stream(flight, response, session)
            return self._whole(flight, await response.aread(), response)

    def _session_of(self, message: Message) -> Handshake | None:
        """The session that a message belongs to: none where it opens one, or names its revision for itself."""
        return None if message.version or message.method == jsonrpc.INITIALIZE else self._sessions.current

    def _headers(self, message: Message, session: Handshake | None) -> dict[str, str]:
        if message.version and message.method != jsonrpc.INITIALIZE:
            return {**ACCEPT, **self._tools.headers(message)}
        return ACCEPT if session is None else session.headers

    # --- the server's messages ------------------------------------------------------------------------

    async def _initialized(self, flight: PendingRequest, response: httpx2.Response) -> bool:
        """Keep what a handshake says of the session, and pass it on."""
        if not is_stream(response):
            return self._whole(flight, await response.aread(), response)
        async for event in events(response):
            if event.data and self._pass_on(event.data, flight, response):
                return True
        raise FailedError("The server ended the handshake without an answer.", done=False)

    def _whole(self, flight: PendingRequest, body: bytes, response: httpx2.Response) -> bool:
        """Pass on an answer that came in one piece."""
        found, status = jsonrpc.decode(body), response.status_code
        formed = None if found is None else jsonrpc.answer(found, cast("Id", flight.message.id))
        if found is None or formed is None:
            said = inert(body[: 4 * _QUOTED].decode("utf-8", "replace").strip(), _QUOTED)
            text = (
                f"The answer ({status}, {len(body)} bytes) is no JSON-RPC answer; is the URL that of an MCP endpoint?"
                + (f" It says: {said}" if said else "")
            )
            raise FailedError(text, done=not 400 <= status < 500, final=True, status=status)
        self._give(flight, body, found, formed, response)
        return True

    async def _stream(self, flight: PendingRequest, response: httpx2.Response, session: Handshake | None) -> bool:
        """Pass on an answer that comes as a stream; one that breaks off is resumed where the server can."""
        try:
            if await self._events(flight, response):
                return True
        except CUT:
            if not (flight.event or flight.acknowledged):
                raise
        if flight.event and session is not None:
            return await self._resume(flight, session)
        if flight.acknowledged:
            return False
        raise FailedError("The server ended the stream of the answer before the answer.", done=True)

    async def _events(self, flight: PendingRequest, response: httpx2.Response) -> bool:
        """Pass on a stream's messages; whether the answer was among them."""
        stream = events(response)
        async for event in stream:
            flight.event = event.id or flight.event
            if event.retry is not None:
                flight.wait = event.retry / 1000
            if event.data and self._pass_on(event.data, flight):
                # Read to its end, which is near, the connection serves the next request.
                try:
                    async with asyncio.timeout(DRAIN_SECONDS):
                        async for _ in stream:
                            pass
                except (CUT, TimeoutError):
                    pass
                return flight.answered
        return False

    async def _resume(self, flight: PendingRequest, session: Handshake) -> bool:
        """Fetch the rest of a stream that broke off (revisions 2025-03-26 to 2025-11-25)."""
        attempt = 0
        for _ in range(RESUMES_IN_ALL):
            await self._sleep(max(LEAST_PAUSE_SECONDS, delay(attempt) if flight.wait is None else flight.wait))
            event, attempt = flight.event, attempt + 1
            headers = {**session.headers, "accept": "text/event-stream", "last-event-id": event}
            try:
                async with self._upstream.send("GET", headers) as response:
                    if response.status_code != 200:
                        break
                    if await self._events(flight, response):
                        return True
            except FailedError as failed:
                _log.info("the stream is not back yet: %s", failed)
            if flight.event != event:
                attempt = 0  # it goes on, so it has as many attempts again
            elif attempt == RESUMES:
                break
        raise FailedError("The answer broke off, and the server does not have the rest of it.", done=True)

    def _from_server(self, body: bytes) -> None:
        """Pass on what a server says outside of any request."""
        self._pass_on(body, None)

    def _pass_on(self, body: bytes, flight: PendingRequest | None, response: httpx2.Response | None = None) -> bool:
        """Give the client one message of a stream; whether it is the answer that *flight* waits for."""
        found = jsonrpc.decode(body)
        if found is None:
            _log.warning("passed over, not JSON: %.200r", body)
            return False
        # An error of a server that has not read the id has none. With another id it is the answer to something else.
        if flight is not None and found.get("id") in (None, flight.message.id):
            formed = jsonrpc.answer(found, cast("Id", flight.message.id))
            if formed is not None:
                self._give(flight, body, found, formed, response)
                return True
        formed = jsonrpc.speech(found)
        if formed is None:
            _log.warning("passed over, neither asked for nor a message of a server: %.200r", body)
            return False
        if flight is not None and formed["method"] == jsonrpc.ACKNOWLEDGED:
            known, flight.acknowledged = flight.acknowledged, True
            if known:
                self._sessions.changed(flight.message)
                return False
        elif flight is not None and "id" in formed:
            flight.asked = True
        self._emit(_line(body, found, formed))
        return False

    def _give(
        self,
        flight: PendingRequest,
        body: bytes,
        found: dict[str, Any],
        formed: dict[str, Any],
        response: httpx2.Response | None,
    ) -> None:
        """Give the client the answer that it waits for."""
        if "result" in formed:
            self._tools.learn(flight.message, formed["result"])
            self._sessions.remember(flight.message)
            if self._goes_on(flight):
                return  # an instance that stops says goodbye; the subscription goes on with the next
        line = _line(body, found, formed)
        if response is not None and flight.message.method == jsonrpc.INITIALIZE:
            self._sessions.open(flight.message, response, formed)
        flight.answered = True
        self._emit(line)

    def _goes_on(self, flight: PendingRequest) -> bool:
        return flight.message.method == jsonrpc.LISTEN and flight.acknowledged


def _line(body: bytes, found: dict[str, Any], formed: dict[str, Any]) -> bytes:
    try:
        return jsonrpc.line_of(body, found, formed)
    except ValueError as error:
        raise FailedError(f"The server's message cannot be passed on: {error}.", done=True, final=True) from error
