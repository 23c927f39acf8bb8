"""Connections to containers: how one is made is handed to whoever needs it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

Address = tuple[str, int]
"""IPv4 address and port."""

Dial = Callable[[str, int], Awaitable[socket.socket]]
"""Connects to an IPv4 address and port: a connected socket that does not block. Raises OSError."""


async def direct(ip: str, port: int) -> socket.socket:
    """A connection of this machine's own."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (ip, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock
