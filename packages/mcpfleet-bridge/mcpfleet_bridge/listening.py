"""`subscriptions/listen` of the revision 2026-07-28: one long answer that tells what has changed.

What the shared children announce (their lists, their resources) concerns every client alike. A resource is
subscribed to at the children once, however many clients listen for it, and again at a child that was restarted.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, Child
from mcpfleet_bridge.messages import Json, MessageError, Refused, Unavailable
from mcpfleet_bridge.pool import Pool
from mcpfleet_bridge.replies import Exchange
from mcpfleet_server.caller import Identity, has_full_share

MAX_STREAMS: Final = 200
MAX_RESOURCES: Final = 100
FOREVER: Final = 7 * 24 * 3600.0
"""Seconds; the platform ends a request long before."""

_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
_FLAGS: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
_UPDATED: Final = "notifications/resources/updated"
_ASK_SECONDS: Final = 10.0


@dataclass(frozen=True)
class _Listener:
    call: Call
    caller: Identity | None
    flags: frozenset[str]
    resources: frozenset[str]


class Listening:
    """Every open stream."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._listeners: set[_Listener] = set()
        self._resources: Counter[str] = Counter()
        self.on_tools_changed: Callable[[], None] = lambda: None
        pool.hears = self

    async def serve(self, exchange: Exchange, identity: bytes, members: Json) -> None:
        """Answer one `subscriptions/listen`; returns when the stream ends.

        Raises:
            Refused: It is not such a request, or there are too many.
        """
        if not exchange.takes_stream:
            raise Refused(messages.INVALID_REQUEST, "The answer is a text/event-stream", status=406)
        callers = (one.caller for one in self._listeners)
        if len(self._listeners) >= MAX_STREAMS or has_full_share(exchange.caller, callers, MAX_STREAMS):
            raise Unavailable("Too many clients listen already")
        child = self._pool.pick() or await self._pool.borrow(exchange.caller)
        flags, resources = _wanted(members, can_subscribe=_can_subscribe(child))
        call = Call(identity, "subscriptions/listen", None)
        listener = _Listener(call, exchange.caller, flags, resources)
        self._listeners.add(listener)
        try:
            honoured: dict[str, Any] = dict.fromkeys(sorted(flags), True)
            if resources:
                honoured["resourceSubscriptions"] = sorted(resources)
            self._tell(listener, "notifications/subscriptions/acknowledged", {"notifications": honoured})
            await self._subscribe(resources)
            await exchange.follow(call, FOREVER)
        finally:
            self._listeners.discard(listener)
        await self._unsubscribe(resources)
        if call.answer is not None:
            await exchange.finish(200, messages.result(identity, call.answer[1]))

    def close(self) -> None:
        """End every stream as one that is ended on purpose."""
        for listener in self._listeners:
            meta = {_SUBSCRIPTION: messages.Raw(listener.call.identity)}
            listener.call.succeed(messages.dump({"resultType": "complete", "_meta": meta}))

    # --- what the children say ----------------------------------------------------------------------------

    def changed(self, method: str, params: bytes | None) -> None:
        """A shared child announces a change."""
        uri = None
        members: dict[str, Any] = {}
        if method == _UPDATED:
            try:
                uri = messages.text(messages.fields(params or b"{}").get("uri"))
            except MessageError:
                return
            members["uri"] = uri
        flag = _FLAGS.get(method)
        if flag == "toolsListChanged":
            self.on_tools_changed()
        for listener in self._listeners:
            if flag in listener.flags or (uri is not None and uri in listener.resources):
                self._tell(listener, method, members)

    def joined(self, child: Child) -> None:
        """A child that has come up learns what is listened for."""
        self.on_tools_changed()
        if self._resources and _can_subscribe(child):
            for uri in self._resources:
                child.submit(Call(b"0", "resources/subscribe", messages.dump({"uri": uri})))

    @staticmethod
    def _tell(listener: _Listener, method: str, members: dict[str, Any]) -> None:
        meta = {_SUBSCRIPTION: messages.Raw(listener.call.identity)}
        frame = messages.notification(method, messages.dump({**members, "_meta": meta}))
        # A client that has stopped reading loses announcements, which say "look again" and nothing more.
        listener.call.push(frame, droppable=True)

    async def _subscribe(self, resources: frozenset[str]) -> None:
        for uri in resources:
            self._resources[uri] += 1
            if self._resources[uri] == 1:
                await self._pool.ask("resources/subscribe", messages.dump({"uri": uri}), _ASK_SECONDS)

    async def _unsubscribe(self, resources: frozenset[str]) -> None:
        for uri in resources:
            self._resources[uri] -= 1
            if self._resources[uri] <= 0:
                del self._resources[uri]
                await self._pool.ask("resources/unsubscribe", messages.dump({"uri": uri}), _ASK_SECONDS)


def _wanted(members: Json, *, can_subscribe: bool) -> tuple[frozenset[str], frozenset[str]]:
    wish = messages.fields(members.get("notifications", b"null"))
    flags = frozenset(flag for flag in _FLAGS.values() if bytes(wish.get(flag, b"")) == b"true")
    try:
        resources = msgspec.json.decode(wish.get("resourceSubscriptions", b"[]"), type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise MessageError(messages.INVALID_PARAMS, "resourceSubscriptions is a list of URIs") from None
    if len(resources) > MAX_RESOURCES:
        raise MessageError(messages.INVALID_PARAMS, f"resourceSubscriptions has at most {MAX_RESOURCES} URIs")
    return flags, frozenset(resources if can_subscribe else ())


class _Resources(msgspec.Struct):
    subscribe: bool = False


class _Capabilities(msgspec.Struct):
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _Greeting(msgspec.Struct):
    capabilities: _Capabilities = msgspec.field(default_factory=_Capabilities)


def _can_subscribe(child: Child) -> bool:
    try:
        return msgspec.json.decode(child.greeting, type=_Greeting).capabilities.resources.subscribe
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
