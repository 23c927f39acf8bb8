"""DNS in the gateway container: the host says what a name of the cloud leads to, Docker's resolver answers the rest.

No message is read here but for its first four bytes, number and flags (RFC 1035, 4.1.1): the host reads them, where a
library for it is. Standard library only (see `wire`).
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from typing import Final, cast

from mcpfleet_local_cloud.gateway import protocol

_SECONDS: Final = 5.0
"""How long one of the two may take to answer; whoever asked asks again by itself."""
_IN_FLIGHT: Final = 1024
_PER_CALLER: Final = 64
_DOORS: Final = 256
_STREAMS: Final = 64
_STREAMS_PER_CALLER: Final = 4
_LENGTH: Final = 2
_IS_ANSWER: Final = 0x80
_SERVER_FAILED: Final = 2


class _Limit:
    """How many of something there may be at once, altogether and for one caller."""

    def __init__(self, most: int, per_caller: int) -> None:
        self._most = most
        self._per_caller = per_caller
        self._held = Counter[str]()

    @contextlib.contextmanager
    def hold(self, caller: str) -> Generator[bool]:
        """Count one more meanwhile; False where there may be no more."""
        if self._held[caller] >= self._per_caller or self._held.total() >= self._most:
            yield False
            return
        self._held[caller] += 1
        try:
            yield True
        finally:
            self._held[caller] -= 1
            if not self._held[caller]:
                del self._held[caller]


class Names:
    """Answers containers; `open` before use.

    Args:
        resolver: who answers for what is none of the cloud's.
        allowed: whether who has an address may ask.
    """

    def __init__(self, resolver: protocol.Address, allowed: Callable[[str], bool]) -> None:
        self._resolver = resolver
        self._allowed = allowed
        self._host: asyncio.Transport | None = None
        self._numbers = 0
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._queries = _Limit(_IN_FLIGHT, _PER_CALLER)
        self._streams = _Limit(_STREAMS, _STREAMS_PER_CALLER)
        self._tasks: set[asyncio.Task[None]] = set()
        self._doors: dict[str, asyncio.DatagramTransport] = {}
        self._port = 0
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> None:
        """Answer at *host*."""
        self._port = port
        await self._open_door(host)
        self._server = await asyncio.start_server(self._stream, host, port, limit=protocol.LONGEST_QUERY)

    def close(self) -> None:
        """Answer no more."""
        for door in self._doors.values():
            door.close()
        if self._server is not None:
            self._server.close()

    # What the host says.

    def found(self, transport: asyncio.Transport) -> None:
        """The host is there."""
        self._host = transport

    def lost(self, transport: asyncio.Transport) -> None:
        """A connection of the host's is gone."""
        if self._host is transport:
            self._host = None

    def answered(self, answer: protocol.Answer) -> None:
        """The host said something."""
        waiting = self._asked.get(answer.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer.message)

    # What containers ask.

    def datagram(
        self, transport: asyncio.DatagramTransport, asked: str, message: bytes, caller: protocol.Address
    ) -> None:
        """A query by UDP came to the address *asked*."""
        if self._allowed(caller[0]) and _is_query(message):
            self._spawn(self._reply(transport, asked, message, caller))

    async def _reply(
        self, transport: asyncio.DatagramTransport, asked: str, message: bytes, caller: protocol.Address
    ) -> None:
        with self._queries.hold(caller[0]) as held:
            if not held:
                return
            if asked == "0.0.0.0":  # noqa: S104 - compared, not bound
                asked = _own_address(caller)
                # From now on this network has a door of its own, and whoever floods it waits alone.
                if asked not in self._doors and len(self._doors) < _DOORS:
                    with contextlib.suppress(OSError):
                        await self._open_door(asked)
            transport.sendto(await self._answer(asked, message, caller[0], self._ask_by_datagram), caller)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Queries by TCP (RFC 1035, 4.2.2), one after the other: for answers too large for UDP."""
        caller: str = writer.get_extra_info("peername")[0]
        asked: str = writer.get_extra_info("sockname")[0]
        with self._streams.hold(caller) as held, contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while held and self._allowed(caller):
                async with asyncio.timeout(_SECONDS):
                    message = await _read(reader)
                if len(message) > protocol.LONGEST_QUERY or not _is_query(message):
                    break
                answer = await self._answer(asked, message, caller, self._ask_by_stream)
                writer.write(len(answer).to_bytes(_LENGTH, "big") + answer)
                async with asyncio.timeout(_SECONDS):
                    await writer.drain()
        writer.close()

    async def _answer(
        self, asked: str, message: bytes, caller: str, elsewhere: Callable[[bytes], Coroutine[None, None, bytes]]
    ) -> bytes:
        """What to say; a name is asked elsewhere only after the host has said that it is none of the cloud's."""
        self._numbers = (self._numbers + 1) % (1 << 32)
        number = self._numbers
        if self._host is None:
            return _failed(message)
        self._asked[number] = waiting = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_SECONDS):
                self._host.write(protocol.Query(number, caller, asked, message).pack())
                ours = await waiting
            return ours or await asyncio.wait_for(elsewhere(message), _SECONDS)
        except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
            return _failed(message)
        finally:
            del self._asked[number]

    async def _ask_by_datagram(self, message: bytes) -> bytes:
        """What the resolver says; each question has a port of its own, so that nobody can guess it."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            asking.connect(self._resolver)
            await loop.sock_sendall(asking, message)
            while True:
                said = await loop.sock_recv(asking, 65535)
                if said[:2] == message[:2]:
                    return said

    async def _ask_by_stream(self, message: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._resolver, limit=1 << 16)
        try:
            writer.write(len(message).to_bytes(_LENGTH, "big") + message)
            return await _read(reader)
        finally:
            writer.close()

    async def _open_door(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        self._doors[host], _ = await loop.create_datagram_endpoint(
            lambda: _Door(self, host), local_addr=(host, self._port)
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Door(asyncio.DatagramProtocol):
    """Takes queries by UDP at one of the gateway's addresses."""

    _transport: asyncio.DatagramTransport

    def __init__(self, names: Names, address: str) -> None:
        self._names = names
        self._address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: protocol.Address) -> None:
        self._names.datagram(self._transport, self._address, data, addr)


def _is_query(message: bytes) -> bool:
    return protocol.DNS_HEADER <= len(message) <= protocol.LONGEST_QUERY and not message[2] & _IS_ANSWER


def _failed(message: bytes) -> bytes:
    """The same message as an answer: SERVFAIL."""
    return message[:2] + bytes([message[2] | _IS_ANSWER, message[3] & 0xF0 | _SERVER_FAILED]) + message[4:]


def _own_address(caller: protocol.Address) -> str:
    """The address of this machine that *caller* sees."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(caller)  # sends nothing; the kernel picks the way
        return str(asking.getsockname()[0])


async def _read(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(_LENGTH), "big")
    return await reader.readexactly(size)
