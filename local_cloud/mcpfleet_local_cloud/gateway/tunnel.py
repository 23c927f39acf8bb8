"""The host's end of the tunnel to the gateway container (see `wire`)."""

import asyncio
import contextlib
import errno
import logging
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from mcpfleet_local_cloud.gateway import names, protocol
from mcpfleet_local_cloud.gateway.protocol import Address, Outcome, Purpose, WireError

Accept = Callable[[int, Address, socket.socket], Awaitable[None]]
"""Takes a connection that came to a port of the gateway: the port, the caller's address, and the connected socket. It
does not block, and is the taker's to close."""

Named = Callable[[str, str], bool]
"""Whether a name (lower case, without a final dot) leads to the gateway for the container with an address."""

_FEWEST: Final = 4
_MOST: Final = 64
"""Connections that stand ready, of each purpose: so many at first, and at most as many as were ever short."""
_GATEWAY_SECONDS: Final = 5.0
"""How long a dial waits for a gateway that is not there."""
_PAUSES: Final = (0.05, 2.0)
"""Seconds between attempts to reach the gateway: at first, and at most."""
_log = logging.getLogger(__name__)


class TunnelError(Exception):
    """The gateway cannot be reached; the text says why."""


class Tunnel:
    """One cloud's tunnel; `open` before use.

    Args:
        key: the cloud's (`program.new_key`).
        accept: takes what comes to the gateway.
        named: decides about names.
    """

    def __init__(self, key: bytes, *, accept: Accept, named: Named) -> None:
        self._key = key
        self._accept = accept
        self._named = named
        self._address: Address | None = None
        self._connected = asyncio.Event()
        self._problem = ""
        self._idle = 0
        """Connections on which the gateway may hand over what comes to it."""
        self._acceptors = 0
        self._dialers = deque[socket.socket]()
        self._filling = 0
        self._wanted = _FEWEST
        self._tasks: set[asyncio.Task[None]] = set()
        self._names: asyncio.Task[None] | None = None

    async def open(self, address: Address, seconds: float = 10) -> None:
        """Connect to the gateway's tunnel port at *address*, and from now on whenever the connection breaks.

        May be called again with another address, where the gateway was made anew.

        Raises:
            TunnelError: it could not be reached within *seconds*; attempts go on nevertheless.
        """
        self._address = address
        if self._names is not None:
            self._names.cancel()
        self._connected.clear()
        self._names = self._spawn(self._stay())
        while self._acceptors < _FEWEST:
            self._add_acceptor()
        try:
            await asyncio.wait_for(self._connected.wait(), seconds)
        except TimeoutError:
            raise TunnelError(self._unreachable()) from None

    async def close(self) -> None:
        """Be connected no more; connections that were handed out are left alone."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._dialers:
            self._dialers.popleft().close()

    async def dial(self, ip: str, port: int) -> socket.socket:
        """A connection to a container (`network.dial.Dial`).

        Raises:
            ConnectionRefusedError: nobody listens there.
            PermissionError: it is not in the cloud's networks.
            ConnectionError: the gateway cannot be reached.
            OSError: there is no way there.
        """
        header = protocol.pack_address((ip, port))
        try:
            sock, outcome = await asyncio.wait_for(self._dial(header), _GATEWAY_SECONDS)
        except TimeoutError:
            raise ConnectionError(self._unreachable()) from None
        if outcome is Outcome.CONNECTED:
            return sock
        sock.close()
        where = f"{ip}:{port}"
        match outcome:
            case Outcome.REFUSED:
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens at {where}")
            case Outcome.FORBIDDEN:
                raise PermissionError(errno.EACCES, f"{where} is not in the cloud's networks")
            case _:
                raise OSError(errno.EHOSTUNREACH, f"{where} does not answer")

    # Connections that containers are reached by.

    async def _dial(self, header: bytes) -> tuple[socket.socket, Outcome]:
        while True:
            sock = await self._dialer()
            if (outcome := await self._ask(sock, header)) is not None:
                return sock, outcome
            # The gateway has gone since the connection was made.

    async def _dialer(self) -> socket.socket:
        """A connection of that purpose: one that stands ready, or a new one."""
        while self._dialers:
            sock = self._dialers.popleft()
            self._fill()
            if _is_open(sock):
                return sock
            sock.close()
        # None was ready, so that more shall be.
        self._wanted = min(self._wanted * 2, _MOST)
        self._fill()
        while True:
            await self._connected.wait()
            with contextlib.suppress(OSError, WireError):
                return await self._open(Purpose.DIAL)
            await asyncio.sleep(_PAUSES[0])

    async def _ask(self, sock: socket.socket, header: bytes) -> Outcome | None:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(sock, header)
            return Outcome((await _receive(sock, 1))[0])
        except (OSError, ValueError):
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise

    def _fill(self) -> None:
        if self._connected.is_set() and len(self._dialers) + self._filling < self._wanted:
            self._filling += 1
            self._spawn(self._add_dialer())

    async def _add_dialer(self) -> None:
        try:
            self._dialers.append(await self._open(Purpose.DIAL))
        except (OSError, WireError):
            return  # the next dial tries again
        finally:
            self._filling -= 1
        self._fill()

    # Connections by which containers reach the host.

    def _add_acceptor(self) -> None:
        self._acceptors += 1
        self._spawn(self._accept_one_after_the_other())

    async def _accept_one_after_the_other(self) -> None:
        while True:
            await self._connected.wait()
            try:
                sock = await self._open(Purpose.ACCEPT)
            except (OSError, WireError):
                await asyncio.sleep(_PAUSES[0])
                continue
            self._idle += 1
            try:
                arrival = protocol.Arrival.unpack(await _receive(sock, protocol.ARRIVAL_SIZE))
            except OSError:
                sock.close()
                continue
            except BaseException:
                sock.close()
                raise
            finally:
                self._idle -= 1
            if not self._idle and self._acceptors < _MOST:
                self._add_acceptor()
            self._spawn(self._hand_over(arrival, sock))

    async def _hand_over(self, arrival: protocol.Arrival, sock: socket.socket) -> None:
        try:
            await self._accept(arrival.port, arrival.caller, sock)
        except OSError as broken:  # it went before it was served, or its TLS is none
            _log.debug("%s: %s", arrival, broken)

    # The connection that shows whether the gateway is there, by which it asks about names.

    async def _stay(self) -> None:
        pause, longest = _PAUSES
        while True:
            try:
                sock = await self._open(Purpose.NAMES)
            except (OSError, WireError) as problem:
                said = str(problem) or type(problem).__name__
                if said != self._problem:
                    _log.warning("the gateway cannot be reached: %s", said)
                self._problem = said
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
                continue
            if self._problem:
                _log.warning("the gateway is there again")
            self._problem = ""
            pause = _PAUSES[0]
            self._connected.set()
            self._fill()
            try:
                await self._answer(sock)
            finally:
                self._connected.clear()
                sock.close()

    async def _answer(self, sock: socket.socket) -> None:
        """Answer about names until the connection ends."""
        loop = asyncio.get_running_loop()
        frames = protocol.Frames()
        with contextlib.suppress(OSError, WireError):
            while data := await loop.sock_recv(sock, 1 << 16):
                said = b"".join(self._decide(protocol.Query.unpack(frame)) for frame in frames.feed(data))
                await loop.sock_sendall(sock, said)

    def _decide(self, query: protocol.Query) -> bytes:
        said = names.answer(query.message, query.asked, lambda name: self._named(name, query.caller))
        return protocol.Answer(query.number, said).pack()

    # All of them.

    async def _open(self, purpose: Purpose) -> socket.socket:
        """A new connection to the gateway, each of which has shown that it has the key.

        Raises:
            OSError: there is none.
            WireError: who is there is not the gateway.
        """
        loop = asyncio.get_running_loop()
        assert self._address is not None  # noqa: S101 - set before anything is spawned
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(protocol.SECONDS):
                await loop.sock_connect(sock, self._address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                nonce = secrets.token_bytes(protocol.NONCE_SIZE)
                await loop.sock_sendall(sock, protocol.hello(nonce))
                said = await _receive(sock, protocol.CHALLENGE_SIZE)
                await loop.sock_sendall(sock, protocol.proof(self._key, purpose, nonce, said))
        except BaseException:
            sock.close()
            raise
        return sock

    def _unreachable(self) -> str:
        host, port = self._address or ("", 0)
        return f"the cloud's gateway at {host}:{port} cannot be reached: {self._problem or 'it does not answer'}"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes and no more: what follows is for whoever gets the connection.

    Raises:
        ConnectionError: they did not come.
    """
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise ConnectionError("the connection was closed")
        data += part
    return data


def _is_open(sock: socket.socket) -> bool:
    """Whether a connection on which nothing should arrive has not ended meanwhile."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
