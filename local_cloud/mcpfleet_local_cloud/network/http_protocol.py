"""uvicorn's HTTP/1.1 protocol, made fit for the front of a cloud.

- A request for an upgrade that is not granted is an ordinary request (RFC 9110, 7.8). uvicorn's parser throws the body
  of such a request away; Java's HTTP client sends `Upgrade: h2c` with every request to an `http:` address.
- A head has a limit in bytes and in seconds, or a caller could fill the memory or hold a connection for ever.

Not on `mcpfleet_server.connection`, which does another job behind such a front: it bounds what is pipelined and
what trails a body, and leaves upgrades and slow heads to the front.
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mcpfleet_local_cloud.network.dial import Address
from mcpfleet_local_cloud.network.gathering import Gathered

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a request's URL and headers (cloud.google.com/load-balancing/docs/quotas#request-header-limits)."""
HEAD_SECONDS: Final = 60.0
"""How long a head may take from its first byte, and a new connection until it has one."""
_TOO_LARGE: Final = "The request's URL and headers are larger than 64 KiB."


class FrontProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        between: the addresses of client and server, where they are not those of the socket.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        between: tuple[Address, Address] | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._between = between
        self._in_head = False
        self._head_bytes = 0
        self._plain = False
        """Whether the request that is being read asked for an upgrade, and is read for the second time."""
        self._head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self.transport = Gathered(transport, self.loop)  # type: ignore[assignment]
        if self._between is not None:
            self.client, self.server = self._between
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; answer 400 where it is not HTTP."""
        self._unset_keepalive_if_required()
        if self._in_head:
            self._head_bytes += len(data)
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError:
            self._refuse("Invalid HTTP request received.")
        else:
            if self._in_head and self._head_bytes > HEAD_LIMIT:
                self._refuse(_TOO_LARGE)

    def _feed(self, data: bytes) -> bytes:
        """Parse *data*; returns what must be parsed again, because its request asked for an upgrade."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._plain:
                raise  # it asks still: never read it a third time
            self._plain = True
            rest = self._plain_head() + data[upgrade.args[0] :]  # the parser has skipped the body
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            return rest
        return b""

    def on_message_begin(self) -> None:
        """Begin to count a head's bytes and seconds."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        if self._head_deadline is None:
            self._watch_head()

    def on_headers_complete(self) -> None:
        """Pass the request on, unless it is to be read again."""
        self._end_head()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEAD_LIMIT:
            raise ValueError(_TOO_LARGE)
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("CONNECT is for proxies")
        if not self.parser.should_upgrade():
            self._plain = False
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole, unless it is to be read again."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _plain_head(self) -> bytes:
        # `Upgrade` stays for the app to see; without the option in `Connection` it asks for nothing.
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = (option.strip() for option in value.split(b","))
                kept = b", ".join(option for option in options if option.lower() != b"upgrade")
                lines.append(b"connection: " + kept)
            else:
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _watch_head(self) -> None:
        self._head_deadline = self.loop.call_later(HEAD_SECONDS, self._refuse, "The request's head took too long.")

    def _end_head(self) -> None:
        self._in_head = False
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _refuse(self, message: str) -> None:
        self._end_head()
        if not self.transport.is_closing():
            self.logger.warning(message)
            self.send_400_response(message)
