"""The gateway's program as a process on loopback, the host's end of the tunnel, and containers and strangers around.

Addresses of 127.0.0.0/16 take the places of the cloud's networks: 127.0.0.1 is the gateway's own, others containers'.
"""

import asyncio
import contextlib
import io
import socket
import struct
import subprocess
import sys
import tarfile

import pytest

from mcpfleet_local_cloud.gateway import program, wire
from mcpfleet_local_cloud.gateway.container import Settings
from mcpfleet_local_cloud.gateway.tunnel import Tunnel
from mcpfleet_local_cloud.network.listeners import Connections

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

KEY = b"k" * wire.KEY_SIZE
HOST = "127.0.0.1"
CONTAINER, NEIGHBOUR = "127.0.1.2", "127.0.2.2"


def free_ports(count):
    """Ports of all of 127.0.0.0/8 that nobody has."""
    taken = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


class Program:
    """The gateway as a process."""

    def __init__(self, folder, resolver):
        self._folder = folder
        tunnel, registry, names, http, https = free_ports(5)
        self.settings = Settings(
            networks=("127.0.0.0/16",),
            own=f"{HOST}/32",
            tunnel=tunnel,
            registry=registry,
            names=names,
            web=(http, https),
            resolver=resolver,
        )
        self.process = None

    @property
    def web(self):
        return self.settings.web[0]

    @property
    def tunnel(self):
        return (HOST, self.settings.tunnel)

    async def start(self):
        self._spawn()
        said = await asyncio.to_thread(self.process.stderr.readline)
        if "listens" not in said:
            self.process.kill()
            pytest.fail(said + self.process.communicate()[1])

    def _spawn(self):
        with tarfile.open(fileobj=io.BytesIO(program.archive(KEY, self.settings))) as tar:
            tar.extractall(self._folder / "gateway", filter="data")
        command = [sys.executable, *program.COMMAND[1:-1], str(self._folder / "gateway")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


class Host:
    """The host's end, and an ASGI app that says how requests came to it."""

    def __init__(self, program, tls=None):
        self._program = program
        self.arrived = []
        self.taken = asyncio.Event()
        self.raw = None
        """Set: connections are put there instead of being served."""
        self.served = Connections(self._app, tls)
        self.tunnel = Tunnel(KEY, accept=self._accept, named=lambda name, ip: name == f"of-{ip}.test")

    async def _accept(self, port, caller, sock):
        self.arrived.append((port, caller))
        if self.raw is not None:
            await self.raw.put(sock)
            return
        await self.served.serve(sock, caller, (HOST, port))

    async def _app(self, scope, receive, send):
        body = f"{scope['scheme']} {scope['client'][0]} {scope['server'][1]} {scope['path']}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    async def close(self):
        await self.tunnel.close()
        await self.served.close()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def gateway(tmp_path):
    async with resolver() as address:
        made = Program(tmp_path, address)
        await made.start()
        yield made
        made.kill()


@pytest.fixture
async def host(gateway):
    made = Host(gateway)
    await made.tunnel.open(gateway.tunnel)
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def resolver():
    """Stands where Docker's resolver is: answers every query with what it was asked and a mark."""

    class Protocol(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.transport.sendto(data[:2] + b"\x84\x00" + data[4:] + b"elsewhere", addr)

    async def stream(reader, writer):
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        said = data[:2] + b"\x84\x00" + data[4:] + b"elsewhere" * 1000
        writer.write(len(said).to_bytes(2, "big") + said)
        writer.close()

    (port,) = free_ports(1)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Protocol, local_addr=(HOST, port))
    server = await asyncio.start_server(stream, HOST, port)
    yield HOST, port
    transport.close()
    server.close()


@contextlib.asynccontextmanager
async def container(talk, address=CONTAINER):
    """A container that listens, and has *talk* speak on every connection."""
    server = await asyncio.start_server(talk, address, 0)
    async with server:
        yield server.sockets[0].getsockname()


async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write(b"end")
    writer.close()


async def connect(port, caller=CONTAINER, **options):
    return await asyncio.open_connection(HOST, port, local_addr=(caller, 0), **options)


async def get(port, path, caller=CONTAINER, **options):
    reader, writer = await connect(port, caller, **options)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    said = await reader.read()
    writer.close()
    return said.partition(b"\r\n\r\n")[2].decode()


async def closed(reader):
    """Wait until the other side closes without having said anything."""
    async with asyncio.timeout(15):
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True


def query(name, number=7):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


async def ask(port, message, caller=CONTAINER):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.bind((caller, 0))
        asking.connect((HOST, port))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(asking, message)
        async with asyncio.timeout(15):
            return await loop.sock_recv(asking, 65535)


async def test_the_host_reaches_a_container_and_both_ends_pass_bytes_and_their_end(host):
    async with container(echo) as (ip, port):
        reader, writer = await asyncio.open_connection(sock=await host.tunnel.dial(ip, port))
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write_eof()
        assert await reader.read() == b"end"
        writer.close()


async def test_a_container_that_speaks_first_is_heard(host):
    async def greet(_, writer):
        writer.write(b"220 hello")
        writer.close()

    async with container(greet) as (ip, port):
        for _ in range(20):
            reader, writer = await asyncio.open_connection(sock=await host.tunnel.dial(ip, port))
            assert await reader.read() == b"220 hello"
            writer.close()


async def test_a_dial_says_what_went_wrong(host):
    (port,) = free_ports(1)
    with pytest.raises(ConnectionRefusedError, match="nobody listens"):
        await host.tunnel.dial(CONTAINER, port)
    with pytest.raises(PermissionError, match="not in the cloud's networks"):
        await host.tunnel.dial("127.1.0.1", port)


async def test_containers_reach_the_host_and_it_knows_from_where(gateway, host):
    assert await get(gateway.web, "/a") == f"http {CONTAINER} {gateway.web} /a"
    assert await get(gateway.settings.web[1], "/b", NEIGHBOUR) == f"http {NEIGHBOUR} {gateway.settings.web[1]} /b"
    assert await get(gateway.settings.registry, "/v2/", HOST) == f"http {HOST} {gateway.settings.registry} /v2/"


async def test_a_hundred_callers_at_once_are_all_served(gateway, host):
    said = await asyncio.gather(*(get(gateway.web, f"/{one}", f"127.0.3.{one}") for one in range(1, 101)))
    assert said == [f"http 127.0.3.{one} {gateway.web} /{one}" for one in range(1, 101)]
