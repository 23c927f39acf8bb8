"""Serves ASGI apps on listening ports, and on connections that were accepted elsewhere."""

import asyncio
import errno
import socket
import ssl
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from mcpfleet_local_cloud.network.dial import Address
from mcpfleet_local_cloud.network.http_protocol import FrontEndProtocol

_KEEP_ALIVE: Final = 75
_CLOSE_SECONDS: Final = 2
_TLS_SECONDS: Final = 10


class Listeners:
    """Listening ports on *host*, with *tls* if it is given.

    `open` reserves a port, so that its address can be used before `serve` starts an app on it.
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._tls = tls
        self._app: ASGIApp | None = None
        self._sockets: dict[int, socket.socket] = {}
        self._servers: dict[int, uvicorn.Server] = {}

    def open(self, port: int) -> bool:
        """Listen on *port*; return False if another program has it."""
        if port in self._sockets:
            return True
        # With the protocol given, asyncio disables Nagle's algorithm (40 ms for each small response).
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore this process's closed connections
        try:
            listener.bind((self._host, port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                return False
            raise
        listener.setblocking(False)
        self._sockets[port] = listener
        return True

    async def serve(self, app: ASGIApp | None = None) -> None:
        """Serve *app*, by default that of the last call, on every open port that has no app yet."""
        self._app = app or self._app
        if self._app is None:
            return
        for port, listener in list(self._sockets.items()):
            if port not in self._servers:
                self._servers[port] = server = _create_server(self._app, self._tls)
                await server.startup(sockets=[listener])

    async def close(self, port: int) -> None:
        """Close *port*; running requests may finish within two seconds."""
        listener = self._sockets.pop(port, None)
        server = self._servers.pop(port, None)
        if server is not None:
            await server.shutdown(sockets=[listener] if listener else None)
        elif listener is not None:
            listener.close()

    async def close_all(self) -> None:
        """Close every port."""
        await asyncio.gather(*(self.close(port) for port in list(self._sockets)))


class AcceptedConnections:
    """Serves *app*, with *tls* if it is given, on connections that were accepted elsewhere."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server = _create_server(app, tls)
        self._started = asyncio.Lock()

    async def serve(self, sock: socket.socket, client: Address, server: Address) -> None:
        """Start to serve *sock*, a connection from *client* to *server*.

        Raises:
            OSError: It is closed already, or the TLS handshake took more than ten seconds.
        """
        async with self._started:
            if not self._server.started:
                await self._server.startup(sockets=[])
        config = self._server.config

        def create_protocol() -> FrontEndProtocol:
            state = self._server.lifespan.state
            return FrontEndProtocol(config, self._server.server_state, state, addresses=(client, server))

        seconds = None if self._tls is None else _TLS_SECONDS
        await asyncio.get_running_loop().connect_accepted_socket(
            create_protocol, sock, ssl=self._tls, ssl_handshake_timeout=seconds
        )

    async def close(self) -> None:
        """Close every connection; running requests may finish within two seconds."""
        if self._server.started:
            await self._server.shutdown()


def _create_server(app: ASGIApp, tls: ssl.SSLContext | None) -> uvicorn.Server:
    """Create a server that is only started and shut down, without uvicorn's main loop (signals, Date header)."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=FrontEndProtocol,
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
