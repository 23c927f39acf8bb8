"""Protocol versions with a handshake (2024-11-05 to 2025-11-25) without sessions: each request is independent.

The bridge has completed its own handshake with the server, so it answers a client's `initialize` from that. Features
that need a session are neither offered nor served: a log level, subscriptions, and requests of the server to the
client.
"""

from typing import Final

from msgspec import UNSET

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call
from mcpfleet_bridge.exchange import Exchange
from mcpfleet_bridge.messages import Message, MessageError, Raw
from mcpfleet_bridge.pool import Pool
from mcpfleet_bridge.settings import Settings

HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""The protocol versions with a handshake."""

_NEEDS_SESSION: Final = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})


class LegacyHandler:
    """Serves clients with a handshake from the pool."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._results: dict[tuple[bytes, str], bytes] = {}

    async def handle(self, exchange: Exchange, message: Message) -> None:
        """Handle one message.

        Raises:
            RefusedError: The message can't be passed on.
        """
        request_id = messages.request_id(message) if message.method is not UNSET else None
        if request_id is None:
            # No notification is relevant without a session. A cancellation names an ID that another client may use,
            # too; a client cancels by closing the connection.
            await exchange.send_empty(202)
            return
        method = str(message.method)
        if method == "initialize":
            await self._initialize(exchange, request_id, message)
            return
        if method in _NEEDS_SESSION:
            reason = f"{method} needs a session, which this server does not offer"
            await exchange.send_message(
                200, messages.failure(request_id, messages.error(messages.METHOD_NOT_FOUND, reason))
            )
            return
        call = Call(request_id, method, params_of(message))
        await self._pool.serve_call(exchange, call, self._settings.call_seconds)

    async def _initialize(self, exchange: Exchange, request_id: bytes, message: Message) -> None:
        requested = messages.text(messages.fields(message.params).get("protocolVersion")) or ""
        child = self._pool.find_child() or await self._pool.wait_for_child(exchange.caller)
        # The key contains the child's own result, so a new child with a different one is not affected by the cache.
        key = (child.initialize_result, requested if requested in HANDSHAKE_VERSIONS else "")
        result = self._results.get(key)
        if result is None:
            if len(self._results) > 64:  # a server whose result changes every time
                self._results.clear()
            result = self._results[key] = translate_initialize_result(child.initialize_result, requested)
        await exchange.send_message(200, messages.result(request_id, result))


def params_of(message: Message) -> bytes | None:
    """Return a message's parameters.

    Raises:
        MessageError: They are not an object, which MCP requires.
    """
    if message.params is UNSET:
        return None
    params = messages.raw_bytes(message.params)
    if not params.startswith(b"{"):
        raise MessageError(messages.INVALID_PARAMS, "params must be an object")
    return params


def translate_initialize_result(initialize_result: bytes, requested: str) -> bytes:
    """Translate the server's InitializeResult for a client without a session.

    Args:
        initialize_result: The server's result for the bridge.
        requested: The protocol version that the client requests; it gets it unless the server's own is older.
    """
    members = messages.fields(initialize_result)
    version = messages.text(members.get("protocolVersion")) or HANDSHAKE_VERSIONS[0]
    if requested in HANDSHAKE_VERSIONS and requested < version:
        version = requested
    members["protocolVersion"] = Raw(messages.dump(version))
    if "capabilities" in members:
        capabilities = messages.fields(members["capabilities"])
        for name in ("logging", "tasks"):
            capabilities.pop(name, None)
        for name, value in capabilities.items():
            if stripped := _remove_members(value, "listChanged", "subscribe"):
                capabilities[name] = stripped
        members["capabilities"] = Raw(messages.dump(capabilities))
    return messages.dump(members)


def _remove_members(value: Raw, *names: str) -> Raw | None:
    """Return an object without some of its members, or None if the value is not an object."""
    try:
        members = messages.fields(value)
    except MessageError:
        return None
    return Raw(messages.dump({name: member for name, member in members.items() if name not in names}))
