"""`mcpfleet connect` between the official client and failing servers: no message is lost or doubled.

The slow ones run side by side, all begun when the module starts: together they take as long as the longest, 20 s.
"""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import CreateMessageResult, ElicitResult, TextContent

from tests.integration.checkout import free_port

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

AUDIENCE = "https://ledger.example"
MINT = """
import base64, json, sys, time
part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
claims = {"aud": "%s", "exp": int(time.time()) + int(sys.argv[1]), "email": "ada@acme.dev"}
print(part({"alg": "none"}) + "." + part(claims) + ".c2ln")
"""


@pytest.fixture
def anyio_backend():
    return "asyncio"


def mint(lifetime):
    """Return a token with realistic claims; these tests don't verify signatures."""

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"aud": AUDIENCE, "exp": int(time.time()) + lifetime, "email": "ada@acme.dev"}
    return f"{part({'alg': 'none'})}.{part(claims)}.c2ln"


@dataclass
class Ledger:
    """A server process, with the ledger of the calls that it carried out."""

    folder: Path
    port: int = field(default_factory=free_port)
    environment: dict = field(default_factory=dict)
    process: subprocess.Popen | None = None

    def start(self):
        environment = {**os.environ, "PORT": str(self.port), "AUDIENCE": AUDIENCE, "LEDGER": str(self.file)}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("connect_server.py"))],
            env={**environment, **self.environment},
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    @property
    def file(self):
        return self.folder / "ledger"

    @property
    def calls(self):
        return self.file.read_text().split("\n")[:-1] if self.file.exists() else []

    async def until_called(self, count=1):
        async with asyncio.timeout(20):
            while len(self.calls) < count:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def ledger_of(tmp_path_factory):
    made, base = [], tmp_path_factory.mktemp("ledgers")

    def make(**environment):
        made.append(one := Ledger(Path(tempfile.mkdtemp(dir=base)), environment=environment))
        return one.start()

    yield make
    for one in made:
        if one.process.poll() is None:
            one.kill()


@asynccontextmanager
async def connected(port, *, lifetime=3600, mode="legacy", identity=None, environment=None, **client):
    """The official client, through `mcpfleet connect`."""
    command = f"{sys.executable} -c '{MINT % AUDIENCE}' {lifetime}"
    arguments = ["connect", "--url", f"http://127.0.0.1:{port}/mcp", "--audience", AUDIENCE]
    process = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcpfleet.cli", *arguments, *(["--token-command", command] if identity is None else identity)],
        env=environment,
    )
    async with Client(stdio_client(process), mode=mode, **client) as session:
        yield session


def text(result):
    assert not result.is_error, result
    return result.content[0].text


async def test_sampling_and_elicitation_requests_of_a_server_reach_the_client(ledger_of):
    async def sample(_context, params):
        assert params.messages[0].content.text == "how much?"
        answer = TextContent(type="text", text="ten")
        return CreateMessageResult(role="assistant", content=answer, model="scripted")

    async def elicit(_context, params):
        assert params.message == "Pay?"
        return ElicitResult(action="accept", content={"agreed": True})

    server = ledger_of()
    async with connected(server.port, sampling_callback=sample, elicitation_callback=elicit) as client:
        assert text(await client.call_tool("ask_model", {})) == "ten"
        assert text(await client.call_tool("ask_person", {})) == "accept True"


async def test_a_call_interrupted_by_a_killed_server_is_not_repeated_and_reported_as_unknown(
    ledger_of,
):
    server = ledger_of()
    async with connected(server.port) as client:
        await client.list_tools()
        call = asyncio.ensure_future(client.call_tool("pay", {"amount": 7, "seconds": 60}))
        await server.until_called()
        server.kill()
        server.start()
        with pytest.raises(MCPError) as failure:
            await asyncio.wait_for(call, 30)
        assert failure.value.error.data["mcpfleet"]["outcome"] == "unknown"
        assert "not called again" in failure.value.error.message
        # The session died with the server; the client need not know.
        assert text(await client.call_tool("pay", {"amount": 8})) == "paid 8"
    assert server.calls == ["pay 7", "pay 8"]


async def test_a_read_only_call_interrupted_by_a_killed_server_is_repeated(ledger_of):
    server = ledger_of()
    async with connected(server.port) as client:
        await client.list_tools()
        call = asyncio.ensure_future(client.call_tool("look", {"seconds": 1}))
        await server.until_called()
        server.kill()
        server.start()
        assert text(await asyncio.wait_for(call, 30)) == "seen"
    assert server.calls == ["look", "look"]


async def test_a_cancelled_call_does_not_affect_the_next_call(ledger_of):
    server = ledger_of()
    async with connected(server.port) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.call_tool("pay", {"amount": 1, "seconds": 60})
        assert text(await client.call_tool("pay", {"amount": 2})) == "paid 2"


# --- the slow ones, side by side ------------------------------------------------------------------------


class Network:
    """A relay to a port that can be interrupted: nothing passes in either direction until it is restored."""

    def __init__(self, port):
        self.target = port
        self.up = asyncio.Event()
        self.up.set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def carry(self, reader, writer):
        await self.up.wait()
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self.pump(reader, back), self.pump(there, writer), return_exceptions=True)

    async def pump(self, source, sink):
        with suppress(OSError):
            while data := await source.read(65536):
                await self.up.wait()
                sink.write(data)
                await sink.drain()
        sink.close()

    async def cut(self, seconds):
        self.up.clear()
        await asyncio.sleep(seconds)
        self.up.set()


class Metadata:
    """A metadata server whose tokens last *lifetime* seconds, and that can be away."""

    def __init__(self, lifetime):
        self.lifetime = lifetime
        self.there = True

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.host = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def answer(self, reader, writer):
        with suppress(OSError, asyncio.IncompleteReadError):
            line = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
            if self.there:
                body = (
                    mint(self.lifetime)
                    if b"/identity" in line
                    else '{"email": "bot@acme.dev", "scopes": [], "aliases": []}'
                )
                kind = "text/plain" if b"/identity" in line else "application/json"
                head = f"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nContent-Type: {kind}\r\nConnection: close\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                await writer.drain()
        writer.close()


async def cold_start(ledger_of):
    server = ledger_of(COLD="20")
    began = time.monotonic()
    async with connected(server.port, mode="2026-07-28") as client:
        assert text(await client.call_tool("pay", {"amount": 1})) == "paid 1"
    assert time.monotonic() - began >= 20
    return server.calls


async def network_gone(ledger_of):
    server = ledger_of()
    async with Network(server.port) as network, connected(network.port) as client:
        call = asyncio.ensure_future(client.call_tool("pay", {"amount": 1, "seconds": 1}))
        await server.until_called()
        outage = asyncio.ensure_future(network.cut(10))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(client.call_tool("pay", {"amount": 2}))
        assert text(await call) == "paid 1"
        assert text(await second) == "paid 2"
        assert outage.done(), "no answer came through a wire that was cut"
    return server.calls


async def metadata_down(ledger_of):
    server = ledger_of()
    async with Metadata(lifetime=11) as metadata:
        environment = {"GCE_METADATA_HOST": metadata.host, "GCE_METADATA_IP": metadata.host, "HOME": str(server.folder)}
        async with connected(server.port, identity=[], environment=environment) as client:
            assert text(await client.call_tool("pay", {"amount": 1})) == "paid 1"
            metadata.there = False
            await asyncio.sleep(2)  # the token held has come within its leeway: the next call needs another
            call = asyncio.ensure_future(client.call_tool("pay", {"amount": 2}))
            await asyncio.sleep(3)
            assert not call.done()
            metadata.there = True
            assert text(await call) == "paid 2"
    return server.calls


async def token_expired(ledger_of):
    # A token is good for its first two seconds here, and a request is on its way for longer than its whole life.
    server = ledger_of(SLOW="3")
    async with connected(server.port, lifetime=12, mode="2026-07-28") as client:
        for amount in range(1, 5):
            assert text(await client.call_tool("pay", {"amount": amount})) == f"paid {amount}"
    return server.calls


SLOW = {
    cold_start: ["pay 1"],
    network_gone: ["pay 1", "pay 2"],
    metadata_down: ["pay 1", "pay 2"],
    token_expired: ["pay 1", "pay 2", "pay 3", "pay 4"],
}


@pytest.fixture(scope="module", autouse=True)
def under_way(ledger_of):
    """Every slow scenario, in a thread of its own, by its name."""
    outcomes = {}

    def run(scenario):
        try:
            outcomes[scenario] = asyncio.run(asyncio.wait_for(scenario(ledger_of), 90))
        except BaseException as error:
            outcomes[scenario] = error

    threads = {scenario: threading.Thread(target=run, args=(scenario,), daemon=True) for scenario in SLOW}
    for thread in threads.values():
        thread.start()

    def outcome(scenario):
        threads[scenario].join(120)
        if isinstance(outcomes.get(scenario), BaseException):
            raise outcomes[scenario]
        return outcomes[scenario]

    return outcome


@pytest.mark.parametrize("scenario", SLOW, ids=lambda scenario: scenario.__name__)
def test_each_call_during_a_temporary_failure_is_made_exactly_once(under_way, scenario):
    assert under_way(scenario) == SLOW[scenario]
