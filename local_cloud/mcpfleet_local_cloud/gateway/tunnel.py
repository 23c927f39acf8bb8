"""The host's end of the tunnel to the gateway container (see `protocol`)."""

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
from mcpfleet_local_cloud.gateway.protocol import Address, Outcome, ProtocolError, Purpose

Accept = Callable[[int, Address, socket.socket], Awaitable[None]]
"""Accepts a connection to a port of the gateway: the port, the caller's address, and the connected, non-blocking
socket, which the function has to close."""

Resolves = Callable[[str, str], bool]
"""Whether a name (lower case, without a final dot) resolves to the gateway, for the container with an address."""

_MIN_READY: Final = 4
_MAX_READY: Final = 64
"""The number of ready connections of each purpose: at first, and at most. It grows when none is ready."""
_GATEWAY_SECONDS: Final = 5.0
"""Seconds that a dial waits for an unreachable gateway."""
_PAUSES: Final = (0.05, 2.0)
"""Seconds between attempts to reach the gateway: at first, and at most."""
_log = logging.getLogger(__name__)


class TunnelError(Exception):
    """The gateway cannot be reached; the text has the cause."""


class Tunnel:
    """One cloud's tunnel. Call `open` before use.

    Args:
        key: The cloud's key (`program.create_key`).
        accept: Accepts connections to the gateway.
        resolves: Decides about names.
    """

    def __init__(self, key: bytes, *, accept: Accept, resolves: Resolves) -> None:
        self._key = key
        self._accept = accept
        self._resolves = resolves
        self._address: Address | None = None
        self._connected = asyncio.Event()
        self._last_error = ""
        self._idle = 0
        """The number of connections that wait for a connection to the gateway."""
        self._acceptors = 0
        self._dialers = deque[socket.socket]()
        self._opening = 0
        self._target = _MIN_READY
        self._tasks: set[asyncio.Task[None]] = set()
        self._name_task: asyncio.Task[None] | None = None

    async def open(self, address: Address, seconds: float = 10) -> None:
        """Connect to the gateway's tunnel port at *address*, and again whenever the connection breaks.

        It may be called again with another address, after the gateway was replaced.

        Raises:
            TunnelError: The gateway could not be reached within *seconds*; attempts continue.
        """
        self._address = address
        if self._name_task is not None:
            self._name_task.cancel()
        self._connected.clear()
        self._name_task = self._spawn(self._keep_connected())
        while self._acceptors < _MIN_READY:
            self._add_acceptor()
        try:
            await asyncio.wait_for(self._connected.wait(), seconds)
        except TimeoutError:
            raise TunnelError(self._unreachable()) from None

    async def close(self) -> None:
        """Disconnect; connections that were handed out stay open."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._dialers:
            self._dialers.popleft().close()

    async def dial(self, ip: str, port: int) -> socket.socket:
        """Connect to a container (`network.dial.Dial`).

        Raises:
            ConnectionRefusedError: No program listens there.
            PermissionError: The address is not in the cloud's networks.
            ConnectionError: The gateway cannot be reached.
            OSError: The address cannot be reached.
        """
        header = protocol.pack_address((ip, port))
        try:
            sock, outcome = await asyncio.wait_for(self._dial(header), _GATEWAY_SECONDS)
        except TimeoutError:
            raise ConnectionError(self._unreachable()) from None
        if outcome is Outcome.CONNECTED:
            return sock
        sock.close()
        target = f"{ip}:{port}"
        match outcome:
            case Outcome.REFUSED:
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens at {target}")
            case Outcome.FORBIDDEN:
                raise PermissionError(errno.EACCES, f"{target} is not in the cloud's networks")
            case _:
                raise OSError(errno.EHOSTUNREACH, f"{target} does not answer")

    # Connections to containers.

    async def _dial(self, header: bytes) -> tuple[socket.socket, Outcome]:
        while True:
            sock = await self._take_dialer()
            if (outcome := await self._request_dial(sock, header)) is not None:
                return sock, outcome
            # The gateway has ended since the connection was opened.

    async def _take_dialer(self) -> socket.socket:
        """Take a connection for a dial: a ready one, or a new one."""
        while self._dialers:
            sock = self._dialers.popleft()
            self._open_dialers()
            if _is_open(sock):
                return sock
            sock.close()
        # None was ready, so keep more of them.
        self._target = min(self._target * 2, _MAX_READY)
        self._open_dialers()
        while True:
            await self._connected.wait()
            with contextlib.suppress(OSError, ProtocolError):
                return await self._open(Purpose.DIAL)
            await asyncio.sleep(_PAUSES[0])

    async def _request_dial(self, sock: socket.socket, header: bytes) -> Outcome | None:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(sock, header)
            return Outcome((await _receive_exactly(sock, 1))[0])
        except (OSError, ValueError):
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise

    def _open_dialers(self) -> None:
        if self._connected.is_set() and len(self._dialers) + self._opening < self._target:
            self._opening += 1
            self._spawn(self._add_dialer())

    async def _add_dialer(self) -> None:
        try:
            self._dialers.append(await self._open(Purpose.DIAL))
        except (OSError, ProtocolError):
            return  # the next dial tries again
        finally:
            self._opening -= 1
        self._open_dialers()

    # Connections from containers to the host.

    def _add_acceptor(self) -> None:
        self._acceptors += 1
        self._spawn(self._accept_connections())

    async def _accept_connections(self) -> None:
        while True:
            await self._connected.wait()
            try:
                sock = await self._open(Purpose.ACCEPT)
            except (OSError, ProtocolError):
                await asyncio.sleep(_PAUSES[0])
                continue
            self._idle += 1
            try:
                incoming = protocol.IncomingConnection.unpack(await _receive_exactly(sock, protocol.INCOMING_SIZE))
            except OSError:
                sock.close()
                continue
            except BaseException:
                sock.close()
                raise
            finally:
                self._idle -= 1
            if not self._idle and self._acceptors < _MAX_READY:
                self._add_acceptor()
            self._spawn(self._hand_over(incoming, sock))

    async def _hand_over(self, incoming: protocol.IncomingConnection, sock: socket.socket) -> None:
        try:
            await self._accept(incoming.port, incoming.caller, sock)
        except OSError as error:  # it went before it was served, or its TLS is none
            _log.debug("%s: %s", incoming, error)

    # The connection for DNS queries, which also shows whether the gateway can be reached.

    async def _keep_connected(self) -> None:
        pause, longest_pause = _PAUSES
        while True:
            try:
                sock = await self._open(Purpose.NAMES)
            except (OSError, ProtocolError) as error:
                text = str(error) or type(error).__name__
                if text != self._last_error:
                    _log.warning("the gateway cannot be reached: %s", text)
                self._last_error = text
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest_pause)
                continue
            if self._last_error:
                _log.warning("the gateway can be reached again")
            self._last_error = ""
            pause = _PAUSES[0]
            self._connected.set()
            self._open_dialers()
            try:
                await self._answer_queries(sock)
            finally:
                self._connected.clear()
                sock.close()

    async def _answer_queries(self, sock: socket.socket) -> None:
        """Answer DNS queries until the connection ends."""
        loop = asyncio.get_running_loop()
        frames = protocol.FrameParser()
        with contextlib.suppress(OSError, ProtocolError):
            while data := await loop.sock_recv(sock, 1 << 16):
                answers = b"".join(self._answer_query(protocol.Query.unpack(frame)) for frame in frames.feed(data))
                await loop.sock_sendall(sock, answers)

    def _answer_query(self, query: protocol.Query) -> bytes:
        answer = names.answer_query(query.message, query.server, lambda name: self._resolves(name, query.caller))
        return protocol.Answer(query.number, answer).pack()

    # All connections.

    async def _open(self, purpose: Purpose) -> socket.socket:
        """Open a connection to the gateway, with mutual authentication by the key.

        Raises:
            OSError: The gateway cannot be reached.
            ProtocolError: The other side is not the gateway.
        """
        loop = asyncio.get_running_loop()
        assert self._address is not None  # noqa: S101 - set before anything is spawned
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(protocol.HANDSHAKE_SECONDS):
                await loop.sock_connect(sock, self._address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                nonce = secrets.token_bytes(protocol.NONCE_SIZE)
                await loop.sock_sendall(sock, protocol.create_hello(nonce))
                challenge = await _receive_exactly(sock, protocol.CHALLENGE_SIZE)
                await loop.sock_sendall(sock, protocol.create_proof(self._key, purpose, nonce, challenge))
        except BaseException:
            sock.close()
            raise
        return sock

    def _unreachable(self) -> str:
        host, port = self._address or ("", 0)
        return f"the cloud's gateway at {host}:{port} cannot be reached: {self._last_error or 'it does not answer'}"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive exactly *size* bytes: the following ones are for the function that gets the connection.

    Raises:
        ConnectionError: The connection was closed before.
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
    """Return whether a connection, on which no data is expected, is still open."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
