"""The DNS server in the gateway container: the host answers for names of the cloud, Docker's resolver for all others.

Only the first four bytes of a message are read here, id and flags (RFC 1035, 4.1.1): the host parses the messages,
because it has a library for it. Standard library only (see `protocol`).
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from typing import Final, cast

from mcpfleet_local_cloud.gateway import protocol

_TIMEOUT_SECONDS: Final = 5.0
"""Seconds that the host or the resolver may take to answer; clients repeat their queries."""
_MAX_QUERIES: Final = 1024
_MAX_QUERIES_PER_CALLER: Final = 64
_MAX_SOCKETS: Final = 256
_MAX_STREAMS: Final = 64
_MAX_STREAMS_PER_CALLER: Final = 4
_LENGTH: Final = 2
_IS_ANSWER: Final = 0x80
_SERVER_FAILED: Final = 2


class _Limiter:
    """Limits how many operations run at once, in total and for one caller."""

    def __init__(self, limit: int, per_caller: int) -> None:
        self._limit = limit
        self._per_caller = per_caller
        self._counts = Counter[str]()

    @contextlib.contextmanager
    def acquire(self, caller: str) -> Generator[bool]:
        """Count one more operation within the context; give False if the limit is reached."""
        if self._counts[caller] >= self._per_caller or self._counts.total() >= self._limit:
            yield False
            return
        self._counts[caller] += 1
        try:
            yield True
        finally:
            self._counts[caller] -= 1
            if not self._counts[caller]:
                del self._counts[caller]


class DnsServer:
    """Answers the DNS queries of containers. Call `open` before use.

    Args:
        resolver: The DNS server for names that are not the cloud's.
        is_allowed: Whether the client with an address may send queries.
    """

    def __init__(self, resolver: protocol.Address, is_allowed: Callable[[str], bool]) -> None:
        self._resolver = resolver
        self._is_allowed = is_allowed
        self._host: asyncio.Transport | None = None
        self._numbers = 0
        self._pending: dict[int, asyncio.Future[bytes]] = {}
        self._queries = _Limiter(_MAX_QUERIES, _MAX_QUERIES_PER_CALLER)
        self._streams = _Limiter(_MAX_STREAMS, _MAX_STREAMS_PER_CALLER)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: dict[str, asyncio.DatagramTransport] = {}
        self._port = 0
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> None:
        """Listen on *port* of the address *host*, by UDP and TCP."""
        self._port = port
        await self._open_socket(host)
        self._server = await asyncio.start_server(self._serve_stream, host, port, limit=protocol.MAX_QUERY_SIZE)

    def close(self) -> None:
        """Stop listening."""
        for datagram_socket in self._sockets.values():
            datagram_socket.close()
        if self._server is not None:
            self._server.close()

    # Events of the host's connection.

    def set_host(self, transport: asyncio.Transport) -> None:
        """Use *transport* for queries to the host."""
        self._host = transport

    def remove_host(self, transport: asyncio.Transport) -> None:
        """Stop using *transport*, which has disconnected."""
        if self._host is transport:
            self._host = None

    def on_answer(self, answer: protocol.Answer) -> None:
        """Handle an answer of the host."""
        waiting = self._pending.get(answer.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer.message)

    # Queries of containers.

    def on_datagram(
        self, transport: asyncio.DatagramTransport, server: str, message: bytes, caller: protocol.Address
    ) -> None:
        """Handle a query that came by UDP to the address *server*."""
        if self._is_allowed(caller[0]) and _is_query(message):
            self._spawn(self._reply(transport, server, message, caller))

    async def _reply(
        self, transport: asyncio.DatagramTransport, server: str, message: bytes, caller: protocol.Address
    ) -> None:
        with self._queries.acquire(caller[0]) as is_acquired:
            if not is_acquired:
                return
            if server == "0.0.0.0":  # noqa: S104 - compared, not bound
                server = _local_address(caller)
                # From now on this network has a socket of its own, so that a flood affects only this network.
                if server not in self._sockets and len(self._sockets) < _MAX_SOCKETS:
                    with contextlib.suppress(OSError):
                        await self._open_socket(server)
            transport.sendto(await self._answer(server, message, caller[0], self._ask_by_datagram), caller)

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer queries by TCP (RFC 1035, 4.2.2), one after the other: for answers too large for UDP."""
        caller: str = writer.get_extra_info("peername")[0]
        server: str = writer.get_extra_info("sockname")[0]
        with self._streams.acquire(caller) as is_acquired, contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while is_acquired and self._is_allowed(caller):
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    message = await _read_message(reader)
                if len(message) > protocol.MAX_QUERY_SIZE or not _is_query(message):
                    break
                answer = await self._answer(server, message, caller, self._ask_by_stream)
                writer.write(len(answer).to_bytes(_LENGTH, "big") + answer)
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await writer.drain()
        writer.close()

    async def _answer(
        self, server: str, message: bytes, caller: str, ask_resolver: Callable[[bytes], Coroutine[None, None, bytes]]
    ) -> bytes:
        """Answer a query; the resolver is asked only after the host has answered that the name is not the cloud's."""
        self._numbers = (self._numbers + 1) % (1 << 32)
        number = self._numbers
        if self._host is None:
            return _server_failure(message)
        self._pending[number] = waiting = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                self._host.write(protocol.Query(number, caller, server, message).pack())
                answer = await waiting
            return answer or await asyncio.wait_for(ask_resolver(message), _TIMEOUT_SECONDS)
        except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
            return _server_failure(message)
        finally:
            del self._pending[number]

    async def _ask_by_datagram(self, message: bytes) -> bytes:
        """Ask the resolver by UDP; each query has a port of its own, so that it can't be guessed."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(self._resolver)
            await loop.sock_sendall(sock, message)
            while True:
                answer = await loop.sock_recv(sock, 65535)
                if answer[:2] == message[:2]:
                    return answer

    async def _ask_by_stream(self, message: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._resolver, limit=1 << 16)
        try:
            writer.write(len(message).to_bytes(_LENGTH, "big") + message)
            return await _read_message(reader)
        finally:
            writer.close()

    async def _open_socket(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        self._sockets[host], _ = await loop.create_datagram_endpoint(
            lambda: _DatagramServer(self, host), local_addr=(host, self._port)
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _DatagramServer(asyncio.DatagramProtocol):
    """Receives queries by UDP on one of the gateway's addresses."""

    _transport: asyncio.DatagramTransport

    def __init__(self, names: DnsServer, address: str) -> None:
        self._names = names
        self._address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: protocol.Address) -> None:
        self._names.on_datagram(self._transport, self._address, data, addr)


def _is_query(message: bytes) -> bool:
    return protocol.DNS_HEADER_SIZE <= len(message) <= protocol.MAX_QUERY_SIZE and not message[2] & _IS_ANSWER


def _server_failure(message: bytes) -> bytes:
    """The SERVFAIL answer to *message*."""
    return message[:2] + bytes([message[2] | _IS_ANSWER, message[3] & 0xF0 | _SERVER_FAILED]) + message[4:]


def _local_address(caller: protocol.Address) -> str:
    """The address of this machine from which packets to *caller* are sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(caller)  # sends nothing; the kernel chooses the route
        return str(sock.getsockname()[0])


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(_LENGTH), "big")
    return await reader.readexactly(size)
