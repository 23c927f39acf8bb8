"""The session of a client that shook hands (revisions up to 2025-11-25), and how it survives the server's instance.

A server may forget a session: its instance was replaced, or the request reached another one. Nobody but the relay
notices: it shakes hands again in the client's words, repeats what the client had set (log level, subscriptions), and
tells the client that lists may have changed. Servers without sessions, this project's default, need none of it.
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
LEAST_PAUSE_SECONDS: Final = 0.1
"""A server that says `retry: 0` is not asked without a pause."""
LONGEST_PAUSE_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 2.0

_LISTS: Final = ("tools", "prompts", "resources")
_INITIALIZED: Final = jsonrpc.encode({"jsonrpc": "2.0", "method": jsonrpc.INITIALIZED})

_UNKNOWN: Final = re.compile(rb"(?i)session[ _-]?id|session not found|(no valid|invalid|unknown|missing) session")
"""How servers word that they do not know a session. A tool's own words about some other session are not among them."""

_log = logging.getLogger("mcpfleet.connect")

Spawn = Callable[[Any], asyncio.Task[None]]


@dataclass
class Handshake:
    """What a handshake agreed on.

    Attributes:
        opening: The client's `initialize`.
        id: The server's id for it; '' where the server keeps no sessions.
        version: The protocol revision.
        capabilities: The server's.
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
    """The server does not know the session, so it has not looked at the request."""

    def __init__(self, session: Handshake) -> None:
        super().__init__(session.id)
        self.session = session


class Sessions:
    """The current session, and its successors.

    Args:
        upstream: The server.
        receive: Takes what the server says outside of any request.
        emit: Takes a line for the client.
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
        self._set: dict[str, bytes] = {}
        """What the client has set in the session, by what it is about; the last word counts."""

    def open(self, opening: Message, response: httpx2.Response, answer: Mapping[str, Any] | None) -> None:
        """Keep what the answer to an `initialize` says; an error leaves what was."""
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
        """Keep what a successful request has set, to be set again in the next session."""
        uri = message.params.get("uri")
        match message.method:
            case "logging/setLevel":
                self._set["level"] = message.raw
            case "resources/subscribe":
                self._set[f"uri {uri}"] = message.raw
            case "resources/unsubscribe":
                self._set.pop(f"uri {uri}", None)
            case _:
                pass

    async def lost(self, response: httpx2.Response, session: Handshake | None) -> SessionLostError | None:
        """Whether an answer says that the session is unknown; read where that takes its body."""
        if session is None or not session.id:
            return None
        kind = response.headers.get("content-type", "").lower()
        if response.status_code == 404 and not kind.startswith("text/html"):
            return SessionLostError(session)
        # Servers older than 2025-06-18, and some newer ones, say it with a 400 and in words only.
        if response.status_code == 400 and _UNKNOWN.search(await response.aread()):
            return SessionLostError(session)
        return None

    async def renew(self, lost: Handshake, spawn: Spawn) -> None:
        """Shake hands again, unless somebody else has done it meanwhile.

        Raises:
            FailedError: The server does not want to.
        """
        async with self._renewing:
            if self.current is not lost:
                return
            _log.info("the server has forgotten the session; shaking hands again")
            async with self._upstream.send("POST", ACCEPT, lost.opening.raw) as response:
                if failed := self._upstream.failure(response):
                    raise failed
                self.open(lost.opening, response, await _answer(response))
            session = self.current
            if session is lost or session is None:
                raise FailedError("The server has forgotten the session and makes no new one.", done=False, final=True)
            for raw in (_INITIALIZED, *self._set.values()):
                async with self._upstream.send("POST", session.headers, raw) as response:
                    await response.aread()
            self.listen(spawn)
            for name in _LISTS:
                offered = session.capabilities.get(name)
                if isinstance(offered, dict) and cast("dict[str, Any]", offered).get("listChanged"):
                    self._emit(jsonrpc.encode({"jsonrpc": "2.0", "method": f"notifications/{name}/list_changed"}))

    def changed(self, listening: Message) -> None:
        """Tell a subscriber that what it listens for may have changed: nobody watched while its stream was away."""
        wanted: Any = listening.params.get("notifications")
        wanted = cast("dict[str, Any]", wanted) if isinstance(wanted, dict) else {}
        meta = {jsonrpc.SUBSCRIPTION_META: listening.id}
        for name in _LISTS:
            if wanted.get(f"{name}ListChanged"):
                method, params = f"notifications/{name}/list_changed", {"_meta": meta}
                self._emit(jsonrpc.encode({"jsonrpc": "2.0", "method": method, "params": params}))
        uris: Any = wanted.get("resourceSubscriptions")
        for uri in cast("list[Any]", uris) if isinstance(uris, list) else []:
            params = {"uri": uri, "_meta": meta}
            self._emit(
                jsonrpc.encode({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params})
            )

    def listen(self, spawn: Spawn) -> None:
        """Open the stream on which a server with sessions speaks without being asked."""
        if self.current is not None and self.current.id:
            spawn(self._listen(self.current, spawn))

    async def _listen(self, session: Handshake, spawn: Spawn) -> None:
        event, pause = "", 1.0
        while self.current is session:
            headers = {**session.headers, "accept": "text/event-stream"}
            if event:
                headers["last-event-id"] = event
            try:
                async with self._upstream.send("GET", headers) as response:
                    if lost := await self.lost(response, session):
                        raise lost
                    if response.status_code != 200:
                        return  # 405: this server does not speak first
                    pause = 1.0
                    async for one in events(response):
                        event = one.id or event
                        pause = pause if one.retry is None else one.retry / 1000
                        if one.data:
                            self._receive(one.data)
            except SessionLostError:
                try:
                    await self.renew(session, spawn)
                except FailedError as failed:
                    _log.warning("no new session: %s", failed)
                return
            except FailedError as failed:
                _log.info("the server's stream is not back yet: %s", failed)
            await self._sleep(max(LEAST_PAUSE_SECONDS, pause))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def aclose(self) -> None:
        """Tell the server that the session has ended, if it answers soon."""
        session, self.current = self.current, None
        if session is None or not session.id:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS), self._upstream.send("DELETE", session.headers):
                pass
        except (FailedError, TimeoutError) as error:
            _log.info("the session was not closed: %s", error)


async def _answer(response: httpx2.Response) -> Mapping[str, Any] | None:
    """The answer in a handshake's response, in either form."""
    if is_stream(response):
        async for event in events(response):
            found = jsonrpc.decode(event.data)
            if found is not None and "method" not in found:
                return found
        return None
    return jsonrpc.decode(await response.aread())
