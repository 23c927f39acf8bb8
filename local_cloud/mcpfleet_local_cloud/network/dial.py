"""The type of functions that connect to containers, and one that connects directly."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

Address = tuple[str, int]
"""IPv4 address and port."""

Dial = Callable[[str, int], Awaitable[socket.socket]]
"""Connects to an IPv4 address and port, and returns the connected, non-blocking socket. Raises OSError."""


async def connect_directly(ip: str, port: int) -> socket.socket:
    """Connect from this machine."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (ip, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock
