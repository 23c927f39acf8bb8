"""The handshake era (2024-11-05 to 2025-11-25) without sessions: every request stands for itself.

The bridge has greeted the server already, so a client's `initialize` is answered from that. What only a session
could carry is neither offered nor served: a log level, subscriptions, requests of the server to the client.
"""

from typing import Final

from msgspec import UNSET

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call
from mcpfleet_bridge.messages import Message, MessageError, Raw
from mcpfleet_bridge.pool import Pool
from mcpfleet_bridge.replies import Exchange
from mcpfleet_bridge.settings import Settings

VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""The revisions with a handshake."""

_NEEDS_SESSION: Final = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})


class Legacy:
    """Serves clients of the handshake era from the pool."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._greetings: dict[tuple[bytes, str], bytes] = {}

    async def handle(self, exchange: Exchange, message: Message) -> None:
        """Answer one message.

        Raises:
            Refused: The message can't be passed on.
        """
        identity = messages.request_id(message) if message.method is not UNSET else None
        if identity is None:
            # Of notifications, none concerns a server whose clients have no session. A cancellation names an id
            # that any other client may have given as well; closing the connection cancels for certain.
            await exchange.empty(202)
            return
        method = str(message.method)
        if method == "initialize":
            await self._initialize(exchange, identity, message)
            return
        if method in _NEEDS_SESSION:
            reason = f"{method} needs a session, and this server has none"
            await exchange.finish(200, messages.failure(identity, messages.error(messages.METHOD_NOT_FOUND, reason)))
            return
        call = Call(identity, method, params_of(message))
        await self._pool.answer(exchange, call, self._settings.call_seconds)

    async def _initialize(self, exchange: Exchange, identity: bytes, message: Message) -> None:
        wanted = messages.text(messages.fields(message.params).get("protocolVersion")) or ""
        child = self._pool.pick() or await self._pool.borrow(exchange.caller)
        # The greeting is the child's own, so a new child's other words are never hidden by a cache.
        key = (child.greeting, wanted if wanted in VERSIONS else "")
        greeting = self._greetings.get(key)
        if greeting is None:
            if len(self._greetings) > 64:  # a server whose greeting changes every time
                self._greetings.clear()
            greeting = self._greetings[key] = greeting_for(child.greeting, wanted)
        await exchange.finish(200, messages.result(identity, greeting))


def params_of(message: Message) -> bytes | None:
    """A message's parameters.

    Raises:
        MessageError: They are no object, which MCP asks them to be.
    """
    if message.params is UNSET:
        return None
    params = messages.raw(message.params)
    if not params.startswith(b"{"):
        raise MessageError(messages.INVALID_PARAMS, "params is an object in MCP")
    return params


def greeting_for(greeting: bytes, wanted: str) -> bytes:
    """The server's InitializeResult for a client that has no session.

    Args:
        greeting: What the server has said to the bridge.
        wanted: The revision that the client asks for; it gets it unless the server speaks an older one.
    """
    members = messages.fields(greeting)
    spoken = messages.text(members.get("protocolVersion")) or VERSIONS[0]
    if wanted in VERSIONS and wanted < spoken:
        spoken = wanted
    members["protocolVersion"] = Raw(messages.dump(spoken))
    if "capabilities" in members:
        capabilities = messages.fields(members["capabilities"])
        for name in ("logging", "tasks"):
            capabilities.pop(name, None)
        for name, value in capabilities.items():
            if value_of := _without(value, "listChanged", "subscribe"):
                capabilities[name] = value_of
        members["capabilities"] = Raw(messages.dump(capabilities))
    return messages.dump(members)


def _without(value: Raw, *names: str) -> Raw | None:
    """An object without some of its members; None if it is no object."""
    try:
        members = messages.fields(value)
    except MessageError:
        return None
    return Raw(messages.dump({name: member for name, member in members.items() if name not in names}))
