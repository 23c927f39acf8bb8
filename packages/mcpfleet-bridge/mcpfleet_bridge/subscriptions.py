"""`subscriptions/listen` of protocol version 2026-07-28: a stream of change notifications.

Changes that the shared children announce (of lists and resources) concern all clients. The bridge subscribes to a
resource once at each child, however many clients listen for it, and again at a restarted child.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, Child
from mcpfleet_bridge.exchange import Exchange
from mcpfleet_bridge.messages import Json, MessageError, RefusedError, UnavailableError
from mcpfleet_bridge.pool import Pool
from mcpfleet_server.caller import Identity, has_full_share

MAX_STREAMS: Final = 200
MAX_RESOURCES: Final = 100
NO_LIMIT_SECONDS: Final = 7 * 24 * 3600.0
"""Seconds; the platform ends a request long before that."""

_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
_FLAGS: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
_RESOURCE_UPDATED: Final = "notifications/resources/updated"
_SUBSCRIBE_SECONDS: Final = 10.0


@dataclass(frozen=True)
class _Listener:
    call: Call
    caller: Identity | None
    flags: frozenset[str]
    resources: frozenset[str]


class Subscriptions:
    """All open streams of `subscriptions/listen`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._listeners: set[_Listener] = set()
        self._resources: Counter[str] = Counter()
        self.on_tools_changed: Callable[[], None] = lambda: None
        pool.listener = self

    async def serve(self, exchange: Exchange, request_id: bytes, members: Json) -> None:
        """Serve one `subscriptions/listen`; returns when the stream ends.

        Raises:
            RefusedError: The request is invalid, or there are too many streams.
        """
        if not exchange.accepts_stream:
            raise RefusedError(messages.INVALID_REQUEST, "Accept must name text/event-stream", status=406)
        callers = (open_listener.caller for open_listener in self._listeners)
        if len(self._listeners) >= MAX_STREAMS or has_full_share(exchange.caller, callers, MAX_STREAMS):
            raise UnavailableError("Too many subscriptions are open; try again later")
        child = self._pool.find_child() or await self._pool.wait_for_child(exchange.caller)
        flags, resources = _read_filters(members, can_subscribe=_can_subscribe(child))
        call = Call(request_id, "subscriptions/listen", None)
        listener = _Listener(call, exchange.caller, flags, resources)
        self._listeners.add(listener)
        try:
            acknowledged: dict[str, Any] = dict.fromkeys(sorted(flags), True)
            if resources:
                acknowledged["resourceSubscriptions"] = sorted(resources)
            self._notify(listener, "notifications/subscriptions/acknowledged", {"notifications": acknowledged})
            await self._subscribe(resources)
            await exchange.follow(call, NO_LIMIT_SECONDS)
        finally:
            self._listeners.discard(listener)
        await self._unsubscribe(resources)
        if call.answer is not None:
            await exchange.send_message(200, messages.result(request_id, call.answer[1]))

    def close(self) -> None:
        """End every stream with its final result."""
        for listener in self._listeners:
            meta = {_SUBSCRIPTION: messages.Raw(listener.call.request_id)}
            listener.call.succeed(messages.dump({"resultType": "complete", "_meta": meta}))

    # --- notifications from children ----------------------------------------------------------------------

    def on_change(self, method: str, params: bytes | None) -> None:
        """Pass a change on to the streams that listen for it."""
        uri = None
        members: dict[str, Any] = {}
        if method == _RESOURCE_UPDATED:
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
                self._notify(listener, method, members)

    def on_child_up(self, child: Child) -> None:
        """Subscribe a new child to the resources that clients listen for."""
        self.on_tools_changed()
        if self._resources and _can_subscribe(child):
            for uri in self._resources:
                child.submit(Call(b"0", "resources/subscribe", messages.dump({"uri": uri})))

    @staticmethod
    def _notify(listener: _Listener, method: str, members: dict[str, Any]) -> None:
        meta = {_SUBSCRIPTION: messages.Raw(listener.call.request_id)}
        frame = messages.notification(method, messages.dump({**members, "_meta": meta}))
        # A client that does not read may miss notifications, which only ask it to fetch the current state.
        listener.call.push(frame, droppable=True)

    async def _subscribe(self, resources: frozenset[str]) -> None:
        for uri in resources:
            self._resources[uri] += 1
            if self._resources[uri] == 1:
                await self._pool.send_to_all("resources/subscribe", messages.dump({"uri": uri}), _SUBSCRIBE_SECONDS)

    async def _unsubscribe(self, resources: frozenset[str]) -> None:
        for uri in resources:
            self._resources[uri] -= 1
            if self._resources[uri] <= 0:
                del self._resources[uri]
                await self._pool.send_to_all("resources/unsubscribe", messages.dump({"uri": uri}), _SUBSCRIBE_SECONDS)


def _read_filters(members: Json, *, can_subscribe: bool) -> tuple[frozenset[str], frozenset[str]]:
    filters = messages.fields(members.get("notifications", b"null"))
    flags = frozenset(flag for flag in _FLAGS.values() if bytes(filters.get(flag, b"")) == b"true")
    try:
        resources = msgspec.json.decode(filters.get("resourceSubscriptions", b"[]"), type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise MessageError(messages.INVALID_PARAMS, "resourceSubscriptions must be a list of URIs") from None
    if len(resources) > MAX_RESOURCES:
        raise MessageError(messages.INVALID_PARAMS, f"resourceSubscriptions can have at most {MAX_RESOURCES} URIs")
    return flags, frozenset(resources if can_subscribe else ())


class _Resources(msgspec.Struct):
    subscribe: bool = False


class _Capabilities(msgspec.Struct):
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _Greeting(msgspec.Struct):
    capabilities: _Capabilities = msgspec.field(default_factory=_Capabilities)


def _can_subscribe(child: Child) -> bool:
    try:
        return msgspec.json.decode(child.initialize_result, type=_Greeting).capabilities.resources.subscribe
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
