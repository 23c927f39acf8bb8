"""The MCP session of a client (revisions up to 2025-11-25), renewed when the server loses it.

A server may lose a session: its instance was replaced, or the request reached another one. The relay hides that from
the client: it repeats the client's handshake and settings (log level, subscriptions), and notifies the client that
lists may have changed. Servers without sessions, this project's default, don't need this.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import httpx2

from mcpfleet import jsonrpc
from mcpfleet.jsonrpc import Message
from mcpfleet.upstream import FailedError, Upstream, events, is_stream

ACCEPT: Final[dict[str, str]] = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
}
MIN_PAUSE_SECONDS: Final = 0.1
"""The minimum pause between attempts, even if a server sends `retry: 0`."""
MAX_PAUSE_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 2.0

_LISTS: Final = ("tools", "prompts", "resources")
_INITIALIZED: Final = jsonrpc.encode({"jsonrpc": "2.0", "method": jsonrpc.INITIALIZED})

_UNKNOWN_SESSION: Final = re.compile(
    rb"(?i)session[ _-]?id|session not found|(no valid|invalid|unknown|missing) session"
)
"""Error texts of servers for an unknown session; it must not match a tool's error about some other session."""

_log = logging.getLogger("mcpfleet.connect")

Spawn = Callable[[Any], asyncio.Task[None]]


@dataclass
class Handshake:
    """The result of a handshake.

    Attributes:
        opening: The client's `initialize` request.
        id: The session id; '' if the server has no sessions.
        version: The protocol version.
        capabilities: The server's capabilities.
        headers: The headers of further requests.
    """

    opening: Message
    id: str
    version: str
    capabilities: Mapping[str, Any]
    headers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.headers = dict(ACCEPT)
        if self.version:
            self.headers["mcp-protocol-version"] = self.version
        if self.id:
            self.headers["mcp-session-id"] = self.id


class SessionLostError(Exception):
    """The server does not know the session, so it has not handled the request."""

    def __init__(self, session: Handshake) -> None:
        super().__init__(session.id)
        self.session = session


class Sessions:
    """The current session with the server, which it renews.

    Args:
        upstream: The server.
        receive: Called with each message that the server sends outside of a request.
        emit: Called with each line for the client.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        upstream: Upstream,
        receive: Callable[[bytes], None],
        emit: Callable[[bytes], None],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.current: Handshake | None = None
        self._upstream = upstream
        self._receive = receive
        self._emit = emit
        self._sleep = sleep
        self._renewing = asyncio.Lock()
        self._settings: dict[str, bytes] = {}
        """The client's last message for each setting of the session, by setting."""

    def open(self, opening: Message, response: httpx2.Response, answer: Mapping[str, Any] | None) -> None:
        """Store the session from the reply to an `initialize`; an error reply changes nothing."""
        result = answer.get("result") if answer else None
        if not isinstance(result, dict):
            return
        agreed = cast("dict[str, Any]", result)
        capabilities = agreed.get("capabilities")
        self.current = Handshake(
            opening,
            response.headers.get("mcp-session-id", ""),
            str(agreed.get("protocolVersion", "")),
            cast("dict[str, Any]", capabilities) if isinstance(capabilities, dict) else {},
        )

    def remember(self, message: Message) -> None:
        """Store the setting of a successful request, to repeat it in the next session."""
        uri = message.params.get("uri")
        match message.method:
            case "logging/setLevel":
                self._settings["level"] = message.raw
            case "resources/subscribe":
                self._settings[f"uri {uri}"] = message.raw
            case "resources/unsubscribe":
                self._settings.pop(f"uri {uri}", None)
            case _:
                pass

    async def check_lost(self, response: httpx2.Response, session: Handshake | None) -> SessionLostError | None:
        """Return an error if a response shows that the session is unknown; this may read the response's body."""
        if session is None or not session.id:
            return None
        content_type = response.headers.get("content-type", "").lower()
        if response.status_code == 404 and not content_type.startswith("text/html"):
            return SessionLostError(session)
        # Servers older than 2025-06-18, and some newer ones, only send a 400 with a text.
        if response.status_code == 400 and _UNKNOWN_SESSION.search(await response.aread()):
            return SessionLostError(session)
        return None

    async def renew(self, expired: Handshake, spawn: Spawn) -> None:
        """Repeat the handshake, unless another task has done so meanwhile.

        Raises:
            FailedError: The server refuses the handshake.
        """
        async with self._renewing:
            if self.current is not expired:
                return
            _log.info("the server has lost the session; repeating the handshake")
            async with self._upstream.send("POST", ACCEPT, expired.opening.raw) as response:
                if failed := self._upstream.check_status(response):
                    raise failed
                self.open(expired.opening, response, await _read_reply(response))
            session = self.current
            if session is expired or session is None:
                raise FailedError(
                    "The server has forgotten the session and makes no new one.", may_be_done=False, is_final=True
                )
            for raw in (_INITIALIZED, *self._settings.values()):
                async with self._upstream.send("POST", session.headers, raw) as response:
                    await response.aread()
            self.listen(spawn)
            for name in _LISTS:
                offered = session.capabilities.get(name)
                if isinstance(offered, dict) and cast("dict[str, Any]", offered).get("listChanged"):
                    self._emit(jsonrpc.encode({"jsonrpc": "2.0", "method": f"notifications/{name}/list_changed"}))

    def notify_changed(self, listening: Message) -> None:
        """Notify a subscriber that everything it listens for may have changed while its stream was interrupted."""
        subscribed: Any = listening.params.get("notifications")
        subscribed = cast("dict[str, Any]", subscribed) if isinstance(subscribed, dict) else {}
        meta = {jsonrpc.SUBSCRIPTION_META: listening.id}
        for name in _LISTS:
            if subscribed.get(f"{name}ListChanged"):
                method, params = f"notifications/{name}/list_changed", {"_meta": meta}
                self._emit(jsonrpc.encode({"jsonrpc": "2.0", "method": method, "params": params}))
        uris: Any = subscribed.get("resourceSubscriptions")
        for uri in cast("list[Any]", uris) if isinstance(uris, list) else []:
            params = {"uri": uri, "_meta": meta}
            self._emit(
                jsonrpc.encode({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params})
            )

    def listen(self, spawn: Spawn) -> None:
        """Open the stream for messages that a server with sessions sends outside of requests."""
        if self.current is not None and self.current.id:
            spawn(self._listen(self.current, spawn))

    async def _listen(self, session: Handshake, spawn: Spawn) -> None:
        event_id, pause = "", 1.0
        while self.current is session:
            headers = {**session.headers, "accept": "text/event-stream"}
            if event_id:
                headers["last-event-id"] = event_id
            try:
                async with self._upstream.send("GET", headers) as response:
                    if lost := await self.check_lost(response, session):
                        raise lost
                    if response.status_code != 200:
                        return  # 405: this server sends no such messages
                    pause = 1.0
                    async for event in events(response):
                        event_id = event.id or event_id
                        pause = pause if event.retry is None else event.retry / 1000
                        if event.data:
                            self._receive(event.data)
            except SessionLostError:
                try:
                    await self.renew(session, spawn)
                except FailedError as failed:
                    _log.warning("the session could not be renewed: %s", failed)
                return
            except FailedError as failed:
                _log.info("the server's stream is still interrupted: %s", failed)
            await self._sleep(max(MIN_PAUSE_SECONDS, pause))
            pause = min(pause * 2, MAX_PAUSE_SECONDS)

    async def aclose(self) -> None:
        """End the session on the server, if the server responds within `CLOSE_SECONDS`."""
        session, self.current = self.current, None
        if session is None or not session.id:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS), self._upstream.send("DELETE", session.headers):
                pass
        except (FailedError, TimeoutError) as error:
            _log.info("the session was not closed: %s", error)


async def _read_reply(response: httpx2.Response) -> Mapping[str, Any] | None:
    """Read the reply in the response to a handshake, from JSON or a stream."""
    if is_stream(response):
        async for event in events(response):
            message = jsonrpc.decode(event.data)
            if message is not None and "method" not in message:
                return message
        return None
    return jsonrpc.decode(await response.aread())
