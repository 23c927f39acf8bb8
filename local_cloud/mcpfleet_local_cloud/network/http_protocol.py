"""uvicorn's HTTP/1.1 protocol, extended for a cloud's front end.

- A request for an upgrade that is not granted is an ordinary request (RFC 9110, 7.8). uvicorn's parser drops the body
  of such a request; Java's HTTP client sends `Upgrade: h2c` with every request to an `http:` address.
- A request's head has a limit in bytes and in seconds, so that a caller can't fill the memory or occupy a connection.

It does not use `mcpfleet_server.connection`, which is for servers behind such a front end: that one limits pipelined
data and data after a body, and leaves upgrades and slow heads to the front end.
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mcpfleet_local_cloud.network.dial import Address
from mcpfleet_local_cloud.network.gathering import BufferedTransport

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a request's URL and headers (cloud.google.com/load-balancing/docs/quotas#request-header-limits)."""
HEAD_SECONDS: Final = 60.0
"""The time limit in seconds for a head from its first byte, and for a new connection until its first head."""
_TOO_LARGE: Final = "The request's URL and headers are larger than 64 KiB."


class FrontEndProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        addresses: The addresses of client and server, if they differ from the socket's.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        addresses: tuple[Address, Address] | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._addresses = addresses
        self._in_head = False
        self._head_bytes = 0
        self._is_second_parse = False
        """Whether the current request asked for an upgrade, and is parsed for the second time."""
        self._head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first head."""
        super().connection_made(transport)
        self.transport = BufferedTransport(transport, self.loop)  # type: ignore[assignment]
        if self._addresses is not None:
            self.client, self.server = self._addresses
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data; respond 400 if it is not HTTP."""
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
        """Parse *data*; return the data that must be parsed again because its request asked for an upgrade."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._is_second_parse:
                raise  # it still asks for one: never parse it a third time
            self._is_second_parse = True
            rest = self._head_without_upgrade() + data[upgrade.args[0] :]  # the parser has skipped the body
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            return rest
        return b""

    def on_message_begin(self) -> None:
        """Start to count a head's bytes and seconds."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        if self._head_deadline is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        """Pass the request on, unless it must be parsed again."""
        self._end_head()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEAD_LIMIT:
            raise ValueError(_TOO_LARGE)
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("CONNECT is for proxies")
        if not self.parser.should_upgrade():
            self._is_second_parse = False
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Complete the request, unless it must be parsed again."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _head_without_upgrade(self) -> bytes:
        # `Upgrade` stays visible for the app; without the option in `Connection` it has no effect.
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = (option.strip() for option in value.split(b","))
                remaining = b", ".join(option for option in options if option.lower() != b"upgrade")
                lines.append(b"connection: " + remaining)
            else:
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _start_head_timer(self) -> None:
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
