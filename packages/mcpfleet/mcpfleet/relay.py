"""The core of `mcpfleet connect`: forwards messages between a stdio client and a private MCP server.

Messages are forwarded unchanged. The relay adds what HTTP needs (headers, the session, streams that are resumed), and
handles what happens to desktops: cold starts, new revisions of the service, expired tokens, sleep, no network.

A request that the server may have handled is not sent again, unless that is safe: for methods that only read, and for
calls of tools with `readOnlyHint` or `idempotentHint`. Otherwise the error reply says that the outcome is unknown.

Not here: lines and pipes (`mcpfleet.stdio`), HTTP and tokens (`mcpfleet.upstream`). Messages are not translated between
protocol versions: the client and the server need a common one.
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
from mcpfleet.net import retry_delay
from mcpfleet.pending import PendingRequest
from mcpfleet.sessions import ACCEPT, MIN_PAUSE_SECONDS, Handshake, SessionLostError, Sessions
from mcpfleet.tools import Tools
from mcpfleet.upstream import STREAM_BROKEN, FailedError, Upstream, events, is_stream

RETRY_SECONDS: Final = 60.0
"""How long a request that is safe to repeat is tried again. Desktop clients stop waiting after about as long."""
FIRST_RETRY_SECONDS: Final = 20.0
"""How long a request is tried again while the server has never responded: its URL is probably wrong."""
DRAIN_SECONDS: Final = 1.0
MAX_EMPTY_RESUMES: Final = 5
"""The most attempts to resume a stream that bring no event."""
MAX_RESUMES: Final = 10_000
"""The most resumptions of a stream. A server may end streams on purpose, to be polled: a call of an hour that is polled
every second needs 3600."""
MAX_RENEWALS: Final = 3
_QUOTED_CHARACTERS: Final = 200
"""The most characters of an invalid reply that are shown."""

_log = logging.getLogger("mcpfleet.connect")

Emit = Callable[[bytes], None]
Sleep = Callable[[float], Awaitable[None]]


class Relay:
    """Connects a stdio client with one private MCP server.

    Args:
        upstream: The server.
        emit: Called with each line for the client, without its end.
        sleep: Waits for a number of seconds.
        clock: A monotonic clock, in seconds.
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
        self._sessions = Sessions(upstream, self._pass_on_unsolicited, emit, sleep)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: dict[Id, tuple[PendingRequest, asyncio.Task[None]]] = {}
        self._handshake: asyncio.Task[None] | None = None

    async def handle_line(self, line: bytes) -> None:
        """Handle one line of the client. Returns at once, except during a handshake, which all messages wait for."""
        if not line.strip():
            return
        try:
            message = jsonrpc.parse(line)
        except jsonrpc.NotAMessageError as error:
            self._emit(jsonrpc.error_reply(error.id, f"mcpfleet connect: {error}.", error.code))
            return
        if self._handshake is not None and not self._handshake.done():
            await asyncio.wait({self._handshake})
        if message.method == jsonrpc.CANCELLED:
            self._cancel(message)
        elif message.is_request:
            self._start_request(message)
        else:
            task = self._spawn(self._send_message(message))
            if message.method == jsonrpc.INITIALIZED:
                self._handshake = task

    async def aclose(self, grace: float = 0.0) -> None:
        """Wait at most *grace* seconds for pending requests, then cancel them and end the session."""
        waiting = {task for pending, task in self._pending.values() if pending.message.method != jsonrpc.LISTEN}
        if waiting and grace > 0:
            await asyncio.wait(waiting, timeout=grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sessions.aclose()

    # --- the client's messages ------------------------------------------------------------------------

    def _start_request(self, message: Message) -> None:
        ident = cast("Id", message.id)
        if ident in self._pending:  # the id is used again: the client now waits for the new request
            self._pending[ident][1].cancel()
        pending = PendingRequest(message)
        task = self._spawn(self._run_request(pending))
        self._pending[ident] = (pending, task)
        if message.method == jsonrpc.INITIALIZE:
            self._handshake = task

    def _cancel(self, message: Message) -> None:
        cancelled = message.cancelled_id
        if cancelled is None or cancelled not in self._pending:
            return  # the client has its reply already
        pending, task = self._pending[cancelled]
        session = self._sessions.current
        if pending.message.version or session is None or not session.id:
            task.cancel()  # without a session, closing the request's stream is what cancels it
            return

        async def send_then_cancel() -> None:
            await self._send_message(message)
            task.cancel()

        self._spawn(send_then_cancel())

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _send_message(self, message: Message) -> None:
        """Send a notification, or the client's reply to one of the server's requests."""
        try:
            await self._deliver(message)
        except FailedError as failed:
            _log.warning("%s was not delivered: %s", message.method or "a reply", failed)
            return
        if message.method == jsonrpc.INITIALIZED:
            self._sessions.listen(self._spawn)

    async def _deliver(self, message: Message) -> None:
        started_at, attempt = self._clock(), 0
        while True:
            session = self._session_of(message)
            try:
                async with self._upstream.send("POST", self._headers(message, session), message.raw) as response:
                    if lost := await self._sessions.check_lost(response, session):
                        raise lost
                    if failed := self._upstream.check_status(response):
                        raise failed
                    if response.status_code >= 400:
                        _log.warning("%s got status %d", message.method or "a reply", response.status_code)
                    return
            except SessionLostError as lost:
                if not message.method:
                    raise FailedError("the session of its request has ended", may_be_done=False) from lost
                await self._sessions.renew(lost.session, self._spawn)
            except FailedError as failed:
                # A notification may have effects, too, so it is not sent twice.
                await self._wait_or_raise(failed, started_at, attempt, may_repeat=False)
            attempt += 1

    async def _run_request(self, pending: PendingRequest) -> None:
        message = pending.message
        try:
            await self._exchange(pending)
        except FailedError as failed:
            self._emit(pending.error_reply(failed))
        except asyncio.CancelledError:
            raise  # the client cancelled it, so it expects no reply
        except Exception as error:
            _log.exception("%s failed", message.method)
            if not pending.is_answered:
                self._emit(jsonrpc.error_reply(message.id, f"mcpfleet connect: {error!r}", outcome="unknown"))
        finally:
            if self._pending.get(cast("Id", message.id), (None,))[0] is pending:
                del self._pending[cast("Id", message.id)]

    async def _exchange(self, pending: PendingRequest) -> None:
        """Send a request, and repeat it until there is a reply.

        Raises:
            FailedError: The request must not be sent again.
        """
        message = pending.message
        started_at, attempt, renewed = self._clock(), 0, 0
        lost: Handshake | None = None
        while True:
            pending.attempts += 1
            try:
                if lost is not None:
                    await self._sessions.renew(lost, self._spawn)
                    lost = None
                session = self._session_of(message)
                if await self._send_once(pending, session):
                    return
                started_at, attempt = self._clock(), 0  # a subscription whose stream has ended
                raise FailedError("The subscription's stream has ended.", may_be_done=True)
            except SessionLostError as error:
                lost, renewed = error.session, renewed + 1
                if renewed > MAX_RENEWALS:
                    raise FailedError("The server loses new sessions at once.", may_be_done=False) from error
                continue
            except FailedError as failed:
                if pending.is_answered:
                    return  # the failure came after the reply
                if pending.is_acknowledged:
                    if failed.is_final:
                        raise
                    await self._sleep(
                        max(retry_delay(attempt), failed.retry_seconds)
                    )  # try again for as long as the client listens
                else:
                    may_repeat = self._tools.may_repeat(message) and not pending.has_server_request
                    await self._wait_or_raise(failed, started_at, attempt, may_repeat=may_repeat)
            attempt += 1

    async def _wait_or_raise(self, failed: FailedError, started_at: float, attempt: int, *, may_repeat: bool) -> None:
        """Wait before the next attempt; raises *failed* if there must be none."""
        retry_seconds = RETRY_SECONDS if self._upstream.has_answered else FIRST_RETRY_SECONDS
        pause = max(retry_delay(attempt), failed.retry_seconds)
        if (
            failed.is_final
            or (failed.may_be_done and not may_repeat)
            or self._clock() - started_at + pause > retry_seconds
        ):
            raise failed
        _log.info("trying again in %.2f s: %s", pause, failed)
        await self._sleep(pause)

    async def _send_once(self, pending: PendingRequest, session: Handshake | None) -> bool:
        """Send a request once and pass on its reply; returns False if a subscription ended.

        Raises:
            SessionLostError: The server does not know the session, and has not handled the request.
            FailedError: There is no reply.
        """
        message = pending.message
        async with self._upstream.send("POST", self._headers(message, session), message.raw) as response:
            if lost := await self._sessions.check_lost(response, session):
                raise lost
            if failed := self._upstream.check_status(response):
                if message.method == jsonrpc.DISCOVER and failed.status in {400, 405, 406, 415}:
                    # An old server that does not know the method: this error makes the client try a handshake.
                    pending.is_answered = True
                    self._emit(jsonrpc.error_reply(message.id, str(failed), jsonrpc.METHOD_NOT_FOUND))
                    return True
                raise failed
            if message.method == jsonrpc.INITIALIZE:
                return await self._pass_on_handshake(pending, response)
            if is_stream(response):
                return await self._pass_on_stream(pending, response, session)
            return self._pass_on_body(pending, await response.aread(), response)

    def _session_of(self, message: Message) -> Handshake | None:
        """The session of a message; None if it opens a session, or has its own protocol version."""
        return None if message.version or message.method == jsonrpc.INITIALIZE else self._sessions.current

    def _headers(self, message: Message, session: Handshake | None) -> dict[str, str]:
        if message.version and message.method != jsonrpc.INITIALIZE:
            return {**ACCEPT, **self._tools.headers(message)}
        return ACCEPT if session is None else session.headers

    # --- the server's messages ------------------------------------------------------------------------

    async def _pass_on_handshake(self, pending: PendingRequest, response: httpx2.Response) -> bool:
        """Store the session of a handshake, and pass on the reply."""
        if not is_stream(response):
            return self._pass_on_body(pending, await response.aread(), response)
        async for event in events(response):
            if event.data and self._pass_on(event.data, pending, response):
                return True
        raise FailedError("The server ended the handshake without a reply.", may_be_done=False)

    def _pass_on_body(self, pending: PendingRequest, body: bytes, response: httpx2.Response) -> bool:
        """Pass on a reply that is the whole body."""
        message, status = jsonrpc.decode(body), response.status_code
        normalized = None if message is None else jsonrpc.normalize_reply(message, cast("Id", pending.message.id))
        if message is None or normalized is None:
            excerpt = inert(body[: 4 * _QUOTED_CHARACTERS].decode("utf-8", "replace").strip(), _QUOTED_CHARACTERS)
            text = (
                f"The response ({status}, {len(body)} bytes) is not JSON-RPC. Check that the URL is an MCP endpoint."
                + (f" It begins: {excerpt}" if excerpt else "")
            )
            raise FailedError(text, may_be_done=not 400 <= status < 500, is_final=True, status=status)
        self._emit_reply(pending, body, message, normalized, response)
        return True

    async def _pass_on_stream(
        self, pending: PendingRequest, response: httpx2.Response, session: Handshake | None
    ) -> bool:
        """Pass on a reply from a stream. A stream that breaks off is resumed if the server supports it."""
        try:
            if await self._pass_on_events(pending, response):
                return True
        except STREAM_BROKEN:
            if not (pending.event_id or pending.is_acknowledged):
                raise
        if pending.event_id and session is not None:
            return await self._resume(pending, session)
        if pending.is_acknowledged:
            return False
        raise FailedError("The server ended the stream before the reply.", may_be_done=True)

    async def _pass_on_events(self, pending: PendingRequest, response: httpx2.Response) -> bool:
        """Pass on a stream's messages; returns whether the reply was among them."""
        stream = events(response)
        async for event in stream:
            pending.event_id = event.id or pending.event_id
            if event.retry is not None:
                pending.retry_seconds = event.retry / 1000
            if event.data and self._pass_on(event.data, pending):
                # Read the stream to its end, which is near, so that the connection can be used again.
                try:
                    async with asyncio.timeout(DRAIN_SECONDS):
                        async for _ in stream:
                            pass
                except (STREAM_BROKEN, TimeoutError):
                    pass
                return pending.is_answered
        return False

    async def _resume(self, pending: PendingRequest, session: Handshake) -> bool:
        """Fetch the rest of a stream that broke off (revisions 2025-03-26 to 2025-11-25)."""
        attempt = 0
        for _ in range(MAX_RESUMES):
            await self._sleep(
                max(MIN_PAUSE_SECONDS, retry_delay(attempt) if pending.retry_seconds is None else pending.retry_seconds)
            )
            event_id, attempt = pending.event_id, attempt + 1
            headers = {**session.headers, "accept": "text/event-stream", "last-event-id": event_id}
            try:
                async with self._upstream.send("GET", headers) as response:
                    if response.status_code != 200:
                        break
                    if await self._pass_on_events(pending, response):
                        return True
            except FailedError as failed:
                _log.info("the stream is still interrupted: %s", failed)
            if pending.event_id != event_id:
                attempt = 0  # there was an event, so the number of attempts starts again
            elif attempt == MAX_EMPTY_RESUMES:
                break
        raise FailedError("The response broke off, and the server could not resume it.", may_be_done=True)

    def _pass_on_unsolicited(self, body: bytes) -> None:
        """Pass on a message that the server sent outside of a request."""
        self._pass_on(body, None)

    def _pass_on(self, body: bytes, pending: PendingRequest | None, response: httpx2.Response | None = None) -> bool:
        """Pass on one message of a stream; returns whether it is the reply to *pending*."""
        message = jsonrpc.decode(body)
        if message is None:
            _log.warning("ignored a message that is not JSON: %.200r", body)
            return False
        # A server's error has no id if the server could not read it. Another id belongs to another request.
        if pending is not None and message.get("id") in (None, pending.message.id):
            normalized = jsonrpc.normalize_reply(message, cast("Id", pending.message.id))
            if normalized is not None:
                self._emit_reply(pending, body, message, normalized, response)
                return True
        normalized = jsonrpc.normalize_server_message(message)
        if normalized is None:
            _log.warning("ignored a message that is not a reply, a request or a notification: %.200r", body)
            return False
        if pending is not None and normalized["method"] == jsonrpc.ACKNOWLEDGED:
            was_acknowledged, pending.is_acknowledged = pending.is_acknowledged, True
            if was_acknowledged:
                self._sessions.notify_changed(pending.message)
                return False
        elif pending is not None and "id" in normalized:
            pending.has_server_request = True
        self._emit(_client_line(body, message, normalized))
        return False

    def _emit_reply(
        self,
        pending: PendingRequest,
        body: bytes,
        message: dict[str, Any],
        normalized: dict[str, Any],
        response: httpx2.Response | None,
    ) -> None:
        """Send the client the reply that it waits for."""
        if "result" in normalized:
            self._tools.read_list(pending.message, normalized["result"])
            self._sessions.remember(pending.message)
            if self._is_active_subscription(pending):
                return  # an instance that stops ends its streams; the subscription continues on the next instance
        line = _client_line(body, message, normalized)
        if response is not None and pending.message.method == jsonrpc.INITIALIZE:
            self._sessions.open(pending.message, response, normalized)
        pending.is_answered = True
        self._emit(line)

    def _is_active_subscription(self, pending: PendingRequest) -> bool:
        return pending.message.method == jsonrpc.LISTEN and pending.is_acknowledged


def _client_line(body: bytes, message: dict[str, Any], normalized: dict[str, Any]) -> bytes:
    try:
        return jsonrpc.client_line(body, message, normalized)
    except ValueError as error:
        raise FailedError(
            f"The server's message cannot be forwarded: {error}.", may_be_done=True, is_final=True
        ) from error
