"""The gateway's program as a process, with the host's end of the tunnel, containers and attackers.

Addresses of 127.0.0.0/16 take the places of the cloud's networks: 127.0.0.1 is the gateway's own, others containers'.
"""

import asyncio
import contextlib
import io
import socket
import ssl
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mcpfleet_local_cloud.front_end.certificates import CertificateAuthority
from mcpfleet_local_cloud.gateway import container as program_in_container
from mcpfleet_local_cloud.gateway import program, protocol
from mcpfleet_local_cloud.gateway.container import Settings
from mcpfleet_local_cloud.gateway.tunnel import Tunnel, TunnelError
from mcpfleet_local_cloud.network.listeners import AcceptedConnections

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

KEY = b"k" * protocol.KEY_SIZE
HOST = "127.0.0.1"
CONTAINER, NEIGHBOUR = "127.0.1.2", "127.0.2.2"


def free_ports(count):
    """Return ports that are free on all of 127.0.0.0/8."""
    taken = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in taken]
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
            gateway_network=f"{HOST}/32",
            tunnel_port=tunnel,
            registry_port=registry,
            dns_port=names,
            web_ports=(http, https),
            resolver=resolver,
        )
        self.process = None

    @property
    def web(self):
        return self.settings.web_ports[0]

    @property
    def tunnel(self):
        return (HOST, self.settings.tunnel_port)

    async def start(self):
        self._spawn()
        said = await asyncio.to_thread(self.process.stderr.readline)
        if "listens" not in said:
            self.process.kill()
            pytest.fail(said + self.process.communicate()[1])

    def _spawn(self):
        with tarfile.open(fileobj=io.BytesIO(program.create_archive(KEY, self.settings))) as tar:
            tar.extractall(self._folder / "gateway", filter="data")
        command = [sys.executable, *program.COMMAND[1:-1], str(self._folder / "gateway")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def status(self):
        return Path(f"/proc/{self.process.pid}/status").read_text().splitlines()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


class Here:
    """The gateway in this process, without a resolver; tests can lower its limits."""

    def __init__(self, patch):
        self._patch = patch
        self.settings = Program(None, (HOST, 9)).settings
        self.gateway = program_in_container.Gateway(KEY, self.settings)

    def bound(self, name, value):
        self._patch.setattr(program_in_container, name, value)

    @property
    def web(self):
        return self.settings.web_ports[0]

    @property
    def tunnel(self):
        return (HOST, self.settings.tunnel_port)


class Host:
    """The host's side, and an ASGI application that reports how requests arrived."""

    def __init__(self, program, tls=None):
        self._program = program
        self.arrived = []
        self.taken = asyncio.Event()
        self.raw = None
        """Set: connections are put there instead of being served."""
        self.served = AcceptedConnections(self._app, tls)
        self.tunnel = Tunnel(KEY, accept=self._accept, resolves=lambda name, ip: name == f"of-{ip}.test")

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
async def here(monkeypatch):
    made = Here(monkeypatch)
    await made.gateway.open("0.0.0.0")  # noqa: S104 - as in its container
    yield made
    made.gateway.close()


@pytest.fixture
async def host(gateway):
    made = Host(gateway)
    await made.tunnel.open(gateway.tunnel)
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def resolver():
    """Replaces Docker's resolver: it answers every query with the query and a mark."""

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
    talks = set()

    async def one(reader, writer):
        talks.add(asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(one, address, 0)
    async with server:
        yield server.sockets[0].getsockname()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


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
    with contextlib.closing(writer):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        said = await reader.read()
    return said.partition(b"\r\n\r\n")[2].decode()


async def closed(reader):
    """Wait until the other side closes without sending anything."""
    async with asyncio.timeout(15):
        try:
            return await reader.read(1) == b""
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
        for _ in range(15):  # as every resolver does: the kernel may drop a datagram among many
            await loop.sock_sendall(asking, message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    return await loop.sock_recv(asking, 65535)
        raise TimeoutError("no answer, however often it was asked")


async def test_the_host_reaches_a_container_and_bytes_and_eof_pass_both_ways(host):
    async with container(echo) as (ip, port):
        reader, writer = await asyncio.open_connection(sock=await host.tunnel.dial(ip, port))
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write_eof()
        assert await reader.read() == b"end"
        writer.close()


async def test_data_from_a_container_that_sends_first_arrives(host):
    async def greet(_, writer):
        writer.write(b"220 hello")
        writer.close()

    async with container(greet) as (ip, port):
        for _ in range(20):
            reader, writer = await asyncio.open_connection(sock=await host.tunnel.dial(ip, port))
            assert await reader.read() == b"220 hello"
            writer.close()


async def test_a_failed_dial_reports_the_reason(host):
    (port,) = free_ports(1)
    with pytest.raises(ConnectionRefusedError, match="nobody listens"):
        await host.tunnel.dial(CONTAINER, port)
    with pytest.raises(PermissionError, match="not in the cloud's networks"):
        await host.tunnel.dial("127.1.0.1", port)


async def test_containers_reach_the_host_with_their_own_address(gateway, host):
    assert await get(gateway.web, "/a") == f"http {CONTAINER} {gateway.web} /a"
    assert (
        await get(gateway.settings.web_ports[1], "/b", NEIGHBOUR)
        == f"http {NEIGHBOUR} {gateway.settings.web_ports[1]} /b"
    )
    assert (
        await get(gateway.settings.registry_port, "/v2/", HOST) == f"http {HOST} {gateway.settings.registry_port} /v2/"
    )


async def test_a_hundred_concurrent_callers_are_all_served(gateway, host):
    said = await asyncio.gather(*(get(gateway.web, f"/{item}", f"127.0.3.{item}") for item in range(1, 101)))
    assert said == [f"http 127.0.3.{item} {gateway.web} /{item}" for item in range(1, 101)]


# --- names --------------------------------------------------------------------------------------------


async def test_a_callers_names_resolve_to_the_gateway_and_others_are_forwarded(gateway, host):
    port = gateway.settings.dns_port
    for caller in (CONTAINER, NEIGHBOUR):
        said = await ask(port, query(f"of-{caller}.test"), caller)
        assert said[-4:] == socket.inet_aton(HOST)
    asked = query(f"of-{CONTAINER}.test")
    assert await ask(port, asked, NEIGHBOUR) == asked[:2] + b"\x84\x00" + asked[4:] + b"elsewhere"


async def test_dns_answers_too_large_for_udp_arrive_by_tcp(gateway, host):
    reader, writer = await connect(gateway.settings.dns_port)
    for asked in (query("example.org"), query("example.com", 8)):
        writer.write(len(asked).to_bytes(2, "big") + asked)
        said = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        assert said == asked[:2] + b"\x84\x00" + asked[4:] + b"elsewhere" * 1000
    writer.close()


async def test_names_are_not_forwarded_while_no_host_is_connected(gateway):
    asked = query("weather.example.org")
    said = await ask(gateway.settings.dns_port, asked)
    assert (said[:2], said[3] & 15, said[4:]) == (asked[:2], 2, asked[4:])


async def test_the_dns_server_survives_malformed_messages(gateway, host):
    port = gateway.settings.dns_port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hostile:
        hostile.bind((CONTAINER, 0))
        for junk in (b"", b"x", bytes(12), b"\xff" * 12, query("x.test")[:-3], bytes(2000), query("x.test") + bytes(5)):
            for _ in range(50):
                hostile.sendto(junk, (HOST, port))
    for said in (b"\xff\xff" + bytes(65535), b"\x00\x00", b"\x00\x05hello", b"\x04\x01" + bytes(1025)):
        reader, writer = await connect(port)
        writer.write(said)
        assert await closed(reader)
        writer.close()
    assert (await ask(port, query(f"of-{NEIGHBOUR}.test"), NEIGHBOUR))[-4:] == socket.inet_aton(HOST)


# --- who may not --------------------------------------------------------------------------------------


async def test_a_container_cannot_connect_to_the_ports_for_the_host_and_the_engine(gateway, host):
    for port in (gateway.settings.tunnel_port, gateway.settings.registry_port):
        assert await refused(port, CONTAINER)
    assert await refused(gateway.web, HOST)  # nor anybody but containers where they come


async def refused(port, caller):
    try:
        reader, writer = await connect(port, caller)
    except ConnectionError:
        return True
    with contextlib.closing(writer):
        writer.write(
            protocol.create_hello(bytes(protocol.NONCE_SIZE))
        )  # whoever is let in at the tunnel gets a challenge
        return await closed(reader)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + bytes(100),
        protocol.create_hello(b"n" * protocol.NONCE_SIZE) + b"A" + bytes(32),  # no key
        protocol.create_hello(b"n" * protocol.NONCE_SIZE) + bytes(100_000),
        bytes(100_000),
    ],
    ids=["HTTP", "no proof", "more than was asked for", "anything"],
)
async def test_a_process_without_the_key_cannot_use_the_tunnel(gateway, host, said):
    reader, writer = await connect(gateway.settings.tunnel_port, HOST)
    writer.write(said)
    async with asyncio.timeout(15):
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) in (0, protocol.CHALLENGE_SIZE)
    writer.close()
    assert await get(gateway.web, "/") == f"http {CONTAINER} {gateway.web} /"


async def test_a_replayed_handshake_is_refused(gateway, host):
    """Replays everything that a host with the key sent on one connection."""
    heard = asyncio.Queue()

    async def overhear(reader, writer):
        """Stand between the two, as far as the handshake goes."""
        there, out = await asyncio.open_connection(*gateway.tunnel)
        with contextlib.closing(out):
            said = await reader.readexactly(protocol.HELLO_SIZE)
            out.write(said)
            writer.write(await there.readexactly(protocol.CHALLENGE_SIZE))
            said += await reader.readexactly(protocol.PROOF_SIZE)
        await heard.put(said)

    async with container(overhear, HOST) as (ip, port):
        victim = Tunnel(KEY, accept=None, resolves=None)
        await victim.open((ip, port))
        said = await heard.get()
        await victim.close()
    reader, writer = await connect(gateway.settings.tunnel_port, HOST)
    writer.write(said)
    async with asyncio.timeout(15):
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) in (0, protocol.CHALLENGE_SIZE)
    writer.close()


async def reflect(reader, writer):
    """An impostor on the port, which sends back what it receives."""
    said = await reader.readexactly(protocol.HELLO_SIZE)
    writer.write(said[-protocol.NONCE_SIZE :] * 2)
    await reader.read()
    writer.close()


async def made_up(reader, writer):
    writer.write(bytes(protocol.CHALLENGE_SIZE))
    await reader.read()
    writer.close()


async def silent(reader, writer):
    await reader.read()
    writer.close()


async def shut(_, writer):
    writer.close()


@pytest.mark.parametrize(
    ("stranger", "why"),
    [(reflect, "does not have this cloud's key"), (made_up, "does not have this cloud's key"), (shut, r"closed|reset")],
)
async def test_the_host_sends_nothing_to_an_impostor_on_the_gateways_port_and_reports_it(stranger, why):
    async with container(stranger, HOST) as (ip, port):
        tunnel = Tunnel(KEY, accept=None, resolves=None)
        with pytest.raises(TunnelError, match=why):
            await tunnel.open((ip, port), 0.5)
        await tunnel.close()


async def test_the_host_gives_up_on_a_silent_gateway(monkeypatch):
    monkeypatch.setattr(protocol, "HANDSHAKE_SECONDS", 0.1)
    async with container(silent, HOST) as (ip, port):
        tunnel = Tunnel(KEY, accept=None, resolves=None)
        with pytest.raises(TunnelError, match=r"TimeoutError|does not answer"):
            await tunnel.open((ip, port), 0.5)
        await tunnel.close()


async def test_the_gateway_refuses_a_host_with_another_key(gateway):
    tunnel = Tunnel(b"o" * protocol.KEY_SIZE, accept=None, resolves=None)
    with pytest.raises(TunnelError, match="does not have this cloud's key"):
        await tunnel.open(gateway.tunnel, 0.5)
    await tunnel.close()


# --- who takes too much -------------------------------------------------------------------------------


async def test_idle_unauthenticated_connections_do_not_block_the_host(gateway):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(200):
            _, writer = await connect(gateway.settings.tunnel_port, HOST)
            stack.callback(writer.close)
        host = Host(gateway)
        stack.push_async_callback(host.close)
        await host.tunnel.open(gateway.tunnel)
        assert await get(gateway.web, "/") == f"http {CONTAINER} {gateway.web} /"


async def test_a_container_at_its_connection_limit_does_not_block_other_containers(gateway, host):
    async with contextlib.AsyncExitStack() as stack:
        held = 0
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while held < 300:
                reader, writer = await connect(gateway.web)
                stack.callback(writer.close)
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                held += 1
        assert held == 256
        assert await get(gateway.web, "/", NEIGHBOUR) == f"http {NEIGHBOUR} {gateway.web} /"
    # And once it lets them go it is served again.
    assert await eventually(lambda: get(gateway.web, "/"), f"http {CONTAINER} {gateway.web} /")


async def eventually(attempt, wanted):
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(ConnectionError):
                if await attempt() == wanted:
                    return True


async def test_a_connection_without_proof_of_the_key_is_closed_after_the_deadline(here, monkeypatch):
    monkeypatch.setattr(protocol, "HANDSHAKE_SECONDS", 0.1)
    reader, writer = await connect(here.settings.tunnel_port, HOST)
    with contextlib.closing(writer):
        writer.write(
            protocol.create_hello(b"n" * protocol.NONCE_SIZE)
        )  # half of the handshake is no reason to wait longer
        assert len(await reader.readexactly(protocol.CHALLENGE_SIZE)) == protocol.CHALLENGE_SIZE
        assert await closed(reader)


async def test_a_containers_connection_is_closed_if_the_host_does_not_accept_in_time(here):
    here.bound("_WAIT_SECONDS", 0.1)
    reader, writer = await connect(here.web)
    with contextlib.closing(writer):
        assert await closed(reader)


async def test_waiting_connections_are_limited_per_container(here):
    async with contextlib.AsyncExitStack() as stack:
        readers = []
        for caller in [CONTAINER] * 65 + [NEIGHBOUR]:
            reader, writer = await connect(here.web, caller)
            stack.callback(writer.close)
            readers.append(reader)
        assert await closed(readers[64])
        host = Host(here)
        host.raw = asyncio.Queue()
        stack.push_async_callback(host.close)
        await host.tunnel.open(here.tunnel)
        for _ in range(65):
            stack.callback((await host.raw.get()).close)
        assert sorted({caller[0] for _, caller in host.arrived}) == [CONTAINER, NEIGHBOUR]


async def test_the_total_number_of_connections_is_limited_and_a_closed_one_frees_a_place(here):
    here.bound("_MAX_CONNECTIONS", 3)
    callers = [f"127.0.{service}.2" for service in range(1, 5)]
    host = Host(here)
    host.raw = asyncio.Queue()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(host.close)
        await host.tunnel.open(here.tunnel)
        ends = []
        for caller in callers[:3]:
            _, writer = await connect(here.web, caller)
            ends.append((writer, await host.raw.get()))
            stack.callback(writer.close)
            stack.callback(ends[-1][1].close)
        reader, writer = await connect(here.web, callers[3])
        stack.callback(writer.close)
        assert await closed(reader)
        for end in ends[0]:
            end.close()

        async def served():
            reader, writer = await connect(here.web, callers[3])
            stack.callback(writer.close)
            refused, taken = asyncio.create_task(closed(reader)), asyncio.create_task(host.raw.get())
            done, waiting = await asyncio.wait({refused, taken}, return_when=asyncio.FIRST_COMPLETED)
            for each in waiting:
                each.cancel()
            if taken in done:
                stack.callback(taken.result().close)
            return taken in done

        assert await eventually(served, True)


async def test_a_reader_that_is_slow_does_not_fill_the_gateways_memory(gateway, host):
    """Sends 64 MiB to a peer that doesn't read yet: it stops at the buffers' size, and continues later."""
    size = 64 << 20
    host.raw = asyncio.Queue()
    reader, writer = await connect(gateway.web)
    sending = asyncio.create_task(send(writer, size))
    there, back = await asyncio.open_connection(sock=await host.raw.get())
    back_sending = asyncio.create_task(send(back, size))
    got, got_back = await asyncio.gather(count(there), count(reader))
    await asyncio.gather(sending, back_sending)
    writer.close()
    back.close()
    assert (got, got_back) == (size, size)
    peak = next(line for line in gateway.status() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 64 << 10


async def send(writer, size):
    for _ in range(size >> 16):
        writer.write(bytes(1 << 16))
        await writer.drain()
    writer.write_eof()


async def count(reader):
    size = 0
    while data := await reader.read(1 << 16):
        size += len(data)
    return size


# --- what breaks --------------------------------------------------------------------------------------


async def test_a_connection_reset_is_passed_on_in_both_directions(gateway, host):
    broken = asyncio.Event()

    async def breaks(reader, writer):
        if await reader.read(1) == b"x":
            writer.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()
            return
        with contextlib.suppress(ConnectionError):
            await reader.read()
        broken.set()
        writer.close()

    async with container(breaks) as (ip, port):
        reader, writer = await asyncio.open_connection(sock=await host.tunnel.dial(ip, port))
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        _, writer = await asyncio.open_connection(sock=await host.tunnel.dial(ip, port))
        writer.write(b"y")
        await writer.drain()
        writer.transport.abort()
        await asyncio.wait_for(broken.wait(), 15)


async def test_a_container_that_connects_before_the_host_is_served_once_the_host_connects(gateway):
    early = asyncio.create_task(get(gateway.web, "/early"))
    reader, writer = await connect(gateway.settings.tunnel_port, HOST)  # so that the early one has been taken in
    writer.close()
    assert await closed(reader)
    host = Host(gateway)
    await host.tunnel.open(gateway.tunnel)
    assert await asyncio.wait_for(early, 15) == f"http {CONTAINER} {gateway.web} /early"
    await host.close()


async def test_connections_work_again_after_the_gateway_was_killed_and_restarted(gateway, host):
    async with container(echo) as (ip, port):
        (await host.tunnel.dial(ip, port)).close()
        gateway.kill()
        await gateway.start()
        reader, writer = await asyncio.open_connection(sock=await host.tunnel.dial(ip, port))
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
    assert await get(gateway.web, "/") == f"http {CONTAINER} {gateway.web} /"


async def test_a_dial_without_a_gateway_fails_with_that_reason(gateway, host, monkeypatch):
    monkeypatch.setattr("mcpfleet_local_cloud.gateway.tunnel._GATEWAY_SECONDS", 0.3)
    gateway.kill()
    with pytest.raises(ConnectionError, match=r"gateway at 127\.0\.0\.1"):
        await host.tunnel.dial(CONTAINER, 80)
    await gateway.start()


async def test_tls_is_terminated_on_the_host(gateway, tmp_path):
    authority = CertificateAuthority(tmp_path / "ca")
    host = Host(gateway, authority.create_tls_context(lambda name: name == "hello.test"))
    await host.tunnel.open(gateway.tunnel)
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    said = await get(gateway.settings.web_ports[1], "/", ssl=trusting, server_hostname="hello.test")
    assert said == f"https {CONTAINER} {gateway.settings.web_ports[1]} /"
    reader, writer = await connect(gateway.settings.web_ports[1])
    writer.write(b"GET / HTTP/1.1\r\n\r\n")  # what is no TLS is closed, and nothing else happens
    async with asyncio.timeout(15):
        with contextlib.suppress(ConnectionError):
            assert not (await reader.read()).startswith(b"HTTP")
    writer.close()
    await host.close()


async def test_the_gateway_exits_at_once_at_sigterm(gateway, host):
    gateway.process.terminate()
    assert await asyncio.to_thread(gateway.process.wait, 15) == 0
