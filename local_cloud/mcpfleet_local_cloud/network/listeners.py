"""ASGI apps on connections: on listeners of our own, and on connections that somebody else has accepted."""

import asyncio
import errno
import socket
import ssl
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from mcpfleet_local_cloud.network.dial import Address
from mcpfleet_local_cloud.network.http_protocol import FrontProtocol

_KEEP_ALIVE: Final = 75
_CLOSE_SECONDS: Final = 2
_TLS_SECONDS: Final = 10


class Listeners:
    """Open ports on *host*, with *tls* if it is given; `serve` says who answers on them.

    A port belongs to us from `open` on, so an address can be promised before anything answers there.
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._tls = tls
        self._app: ASGIApp | None = None
        self._sockets: dict[int, socket.socket] = {}
        self._servers: dict[int, uvicorn.Server] = {}

    def open(self, port: int) -> bool:
        """Take *port*; False where another program has it."""
        if port in self._sockets:
            return True
        # The protocol is named because asyncio turns Nagle's delay (40 ms for each small answer) off only then.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # our own closed connections don't count
        try:
            listener.bind((self._host, port))
            listener.listen(2048)
        except OSError as refusal:
            listener.close()
            if refusal.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                return False
            raise
        listener.setblocking(False)
        self._sockets[port] = listener
        return True

    async def serve(self, app: ASGIApp | None = None) -> None:
        """Answer on every open port that nobody answers on yet, with *app* or the one given before."""
        self._app = app or self._app
        if self._app is None:
            return
        for port, listener in list(self._sockets.items()):
            if port not in self._servers:
                self._servers[port] = server = _server(self._app, self._tls)
                await server.startup(sockets=[listener])

    async def close(self, port: int) -> None:
        """Give *port* back; what is being answered may finish within two seconds."""
        listener = self._sockets.pop(port, None)
        server = self._servers.pop(port, None)
        if server is not None:
            await server.shutdown(sockets=[listener] if listener else None)
        elif listener is not None:
            listener.close()

    async def close_all(self) -> None:
        """Give every port back."""
        await asyncio.gather(*(self.close(port) for port in list(self._sockets)))


class Connections:
    """*app*, with *tls* if it is given, on connections that somebody else has accepted."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server = _server(app, tls)
        self._started = asyncio.Lock()

    async def serve(self, sock: socket.socket, client: Address, server: Address) -> None:
        """Answer on *sock*, which came from *client* to *server*; returns when that has begun.

        Raises:
            OSError: it has gone already, or there was no TLS within ten seconds.
        """
        async with self._started:
            if not self._server.started:
                await self._server.startup(sockets=[])
        config = self._server.config

        def make() -> FrontProtocol:
            state = self._server.lifespan.state
            return FrontProtocol(config, self._server.server_state, state, between=(client, server))

        seconds = None if self._tls is None else _TLS_SECONDS
        await asyncio.get_running_loop().connect_accepted_socket(
            make, sock, ssl=self._tls, ssl_handshake_timeout=seconds
        )

    async def close(self) -> None:
        """Close every connection; what is being answered may finish within two seconds."""
        if self._server.started:
            await self._server.shutdown()


def _server(app: ASGIApp, tls: ssl.SSLContext | None) -> uvicorn.Server:
    """A server that is only ever started and shut down: its own loop (signals, Date header) is not wanted here."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=FrontProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    config.load()
    config.ssl = tls
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    return server
