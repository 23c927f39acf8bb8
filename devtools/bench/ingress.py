"""`./dev bench ingress --base REV`: what the ingress costs a request, beside the same of another commit.

One server that does nothing, the front end with real accounts, policies and tokens in a process on one core, and a
client on another; no Docker. Each round measures all ways of each number of connections, in an order that changes.
What else the machine does reaches rates and times; CPU per request much less.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import uvloop
from rich.console import Console
from rich.table import Table

from devtools.bench.before import spread, tree_of
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import Phases, SetupError

_SECONDS: Final = 3.0
_CONNECTIONS: Final = (1, 8, 64)
_BODY: Final = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add"}}'.ljust(200)
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Way:
    """A way to the server."""

    title: str
    host: str
    port: int
    token: str = ""
    processes: list[int] = field(default_factory=list[int])
    """Those whose CPU counts."""


@dataclass
class Figures:
    """What one load came to; times in seconds."""

    times: list[float]
    seconds: float
    cpu: list[float]
    """Of each process, a request."""

    def percentile(self, share: float) -> float:
        """Seconds below which so large a share of the requests stayed."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class _Caller(asyncio.Protocol):
    """One connection: a request as soon as the last one is answered."""

    def __init__(self, request: bytes, until: float, times: list[float], done: asyncio.Future[None]) -> None:
        self._request = request
        self._until = until
        self._times = times
        self._done = done
        self._held = b""
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0 or len(self._held) < end + 204:
            return
        if not self._held.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(RuntimeError(self._held.decode()))
            return
        self._held = self._held[end + 204 :]
        now = time.perf_counter()
        self._times.append(now - self._began)
        if now < self._until:
            self._send()
        else:
            self._transport.close()
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("closed"))


async def _load(way: Way, connections: int, seconds: float) -> Figures:
    loop = asyncio.get_running_loop()
    lines = [
        b"POST /mcp HTTP/1.1",
        b"host: 127.0.0.1:%d" % way.port,
        b"user-agent: bench",
        b"accept: application/json, text/event-stream",
        b"accept-encoding: gzip",
        b"mcp-protocol-version: 2025-11-25",
        b"content-type: application/json",
        b"content-length: %d" % len(_BODY),
        *([b"authorization: Bearer " + way.token.encode()] if way.token else []),
    ]
    request = b"\r\n".join(lines) + b"\r\n\r\n" + _BODY
    times: list[float] = []
    before = [_cpu(one) for one in way.processes]
    began = time.perf_counter()
    waiting: list[asyncio.Future[None]] = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(
            lambda done=done: _Caller(request, began + seconds, times, done), way.host, way.port
        )
        waiting.append(done)
    await asyncio.gather(*waiting)
    took = time.perf_counter() - began
    cpu = [(_cpu(one) - spent) / len(times) for one, spent in zip(way.processes, before, strict=True)]
    return Figures(times, took, cpu)


def _cpu(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


@contextmanager
def _server() -> Generator[int]:
    script = str(Path(__file__).with_name("ingress_server.py"))
    with _process([sys.executable, script, "127.0.0.2"], {}) as process:
        yield int(_line(process))


@contextmanager
def _ingress(title: str, tree: Path, port: int, server: int, gateway: str = "") -> Generator[Way]:
    script = str(Path(__file__).with_name("ingress_cloud.py"))
    environment = {"PYTHONPATH": f"{tree / 'local_cloud'}:{tree / 'infra'}:{tree / 'packages' / 'mcpfleet'}"}
    with _process([sys.executable, script, str(port), "127.0.0.2", str(server), gateway], environment) as process:
        way = Way(title, "127.0.0.1", port, processes=[process.pid])
        if gateway:
            way.processes.append(int(_line(process)))
        way.token = _line(process)
        os.sched_setaffinity(process.pid, {0})
        try:
            yield way
        finally:
            for one in way.processes[1:]:
                os.kill(one, signal.SIGTERM)


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline().strip() if process.stdout is not None else ""
    if not line:
        raise SetupError("The front end that is measured ended.", "see what it wrote above.")
    return line


def bench_ingress(phases: Phases, place: CloudFolder, runs: int, base: str) -> None:
    """Measure *runs* times and print medians with the least and the most.

    Args:
        phases: Where progress is shown.
        place: The working tree.
        runs: How many rounds.
        base: The commit to measure beside.

    Raises:
        SetupError: There is no such commit, or a process ended.
    """
    found: dict[tuple[int, str], list[Figures]] = {}
    with ExitStack() as stack:
        before = stack.enter_context(tree_of(place.root, base))
        port = stack.enter_context(_server())
        first, *others = _free_ports(3)
        ways = [
            Way("no ingress", "127.0.0.2", port),
            stack.enter_context(_ingress(f"ingress, {base}", before, first, port)),
            stack.enter_context(_ingress("ingress", place.root, others[0], port)),
            stack.enter_context(_ingress("ingress and gateway", place.root, others[1], port, sys.executable)),
        ]
        for way in ways:
            uvloop.run(_load(way, 8, 0.5))  # warm
        for run in range(runs):
            with phases.phase(f"Run {run + 1} of {runs}"):
                for connections in _CONNECTIONS:
                    for way in ways if run % 2 else reversed(ways):
                        figures = uvloop.run(_load(way, connections, _SECONDS))
                        found.setdefault((connections, way.title), []).append(figures)
    console = Console(width=max(phases.console.width, 120), file=phases.console.file)
    console.print(_table(found, [way.title for way in ways], runs))


def _table(found: dict[tuple[int, str], list[Figures]], titles: list[str], runs: int) -> Table:
    table = Table(
        "connections",
        "way",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU µs, front end",
        "CPU µs, gateway",
        title=f"./dev bench ingress: POST of 200 bytes, {runs} rounds: median (least to most)",
    )
    for connections in _CONNECTIONS:
        for title in titles:
            each = found[connections, title]
            cpu = [[one.cpu[process] * 1e6 for one in each] for process in range(len(each[0].cpu))]
            table.add_row(
                str(connections),
                title,
                spread([len(one.times) / one.seconds for one in each]),
                spread([one.percentile(0.5) * 1000 for one in each]),
                spread([one.percentile(0.99) * 1000 for one in each]),
                *(spread(one) for one in cpu),
            )
    return table
