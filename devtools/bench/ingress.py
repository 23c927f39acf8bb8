"""`./dev bench ingress --base REV`: measures the ingress's cost per request, compared with another commit.

It runs a minimal server, the front end with real accounts, policies and tokens in a process on one core, and a client
on another, without Docker. Each round measures all routes with each number of connections, in alternating order. Other
load on the machine affects rates and times, but hardly the CPU time per request.
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

from devtools.bench.before import checkout_commit, format_spread
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import Phases, SetupError

_SECONDS: Final = 3.0
_CONNECTIONS: Final = (1, 8, 64)
_BODY: Final = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add"}}'.ljust(200)
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Route:
    """A route to the server."""

    title: str
    host: str
    port: int
    token: str = ""
    processes: list[int] = field(default_factory=list[int])
    """The ids of the processes whose CPU time counts."""


@dataclass
class Figures:
    """The figures of one load; times in seconds."""

    times: list[float]
    seconds: float
    cpu: list[float]
    """The CPU seconds per request of each process."""

    def percentile(self, share: float) -> float:
        """The time in seconds that the given share of the requests stayed below."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class _Caller(asyncio.Protocol):
    """One connection, which sends the next request after each response."""

    def __init__(self, request: bytes, end_time: float, times: list[float], done: asyncio.Future[None]) -> None:
        self._request = request
        self._end_time = end_time
        self._times = times
        self._done = done
        self._buffer = b""
        self._started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or len(self._buffer) < end + 204:
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(RuntimeError(self._buffer.decode()))
            return
        self._buffer = self._buffer[end + 204 :]
        now = time.perf_counter()
        self._times.append(now - self._started)
        if now < self._end_time:
            self._send()
        else:
            self._transport.close()
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("closed"))


async def _measure_load(route: Route, connections: int, seconds: float) -> Figures:
    loop = asyncio.get_running_loop()
    lines = [
        b"POST /mcp HTTP/1.1",
        b"host: 127.0.0.1:%d" % route.port,
        b"user-agent: bench",
        b"accept: application/json, text/event-stream",
        b"accept-encoding: gzip",
        b"mcp-protocol-version: 2025-11-25",
        b"content-type: application/json",
        b"content-length: %d" % len(_BODY),
        *([b"authorization: Bearer " + route.token.encode()] if route.token else []),
    ]
    request = b"\r\n".join(lines) + b"\r\n\r\n" + _BODY
    times: list[float] = []
    cpu_before = [_cpu(pid) for pid in route.processes]
    started = time.perf_counter()
    waiting: list[asyncio.Future[None]] = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(
            lambda done=done: _Caller(request, started + seconds, times, done), route.host, route.port
        )
        waiting.append(done)
    await asyncio.gather(*waiting)
    elapsed = time.perf_counter() - started
    cpu = [(_cpu(pid) - spent) / len(times) for pid, spent in zip(route.processes, cpu_before, strict=True)]
    return Figures(times, elapsed, cpu)


def _cpu(process: int) -> float:
    """The CPU seconds that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in sockets]


@contextmanager
def _run_server() -> Generator[int]:
    script = str(Path(__file__).with_name("ingress_server.py"))
    with _run_process([sys.executable, script, "127.0.0.2"], {}) as process:
        yield int(_read_line(process))


@contextmanager
def _run_ingress(title: str, tree: Path, port: int, server: int, gateway: str = "") -> Generator[Route]:
    script = str(Path(__file__).with_name("ingress_cloud.py"))
    environment = {"PYTHONPATH": f"{tree / 'local_cloud'}:{tree / 'infra'}:{tree / 'packages' / 'mcpfleet'}"}
    with _run_process([sys.executable, script, str(port), "127.0.0.2", str(server), gateway], environment) as process:
        route = Route(title, "127.0.0.1", port, processes=[process.pid])
        if gateway:
            route.processes.append(int(_read_line(process)))
        route.token = _read_line(process)
        os.sched_setaffinity(process.pid, {0})
        try:
            yield route
        finally:
            for pid in route.processes[1:]:
                os.kill(pid, signal.SIGTERM)


@contextmanager
def _run_process(command: list[str], environment: dict[str, str]) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _read_line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline().strip() if process.stdout is not None else ""
    if not line:
        raise SetupError("The measured front end stopped.", "see its output above.")
    return line


def bench_ingress(phases: Phases, place: CloudFolder, runs: int, base: str) -> None:
    """Measure all routes *runs* times, and print medians, minimums and maximums.

    Args:
        phases: Shows the progress.
        place: The checkout.
        runs: The number of rounds.
        base: The commit to compare with.

    Raises:
        SetupError: There is no such commit, or a process stopped.
    """
    results: dict[tuple[int, str], list[Figures]] = {}
    with ExitStack() as stack:
        base_tree = stack.enter_context(checkout_commit(place.root, base))
        port = stack.enter_context(_run_server())
        first, *others = _free_ports(3)
        routes = [
            Route("no ingress", "127.0.0.2", port),
            stack.enter_context(_run_ingress(f"ingress, {base}", base_tree, first, port)),
            stack.enter_context(_run_ingress("ingress", place.root, others[0], port)),
            stack.enter_context(_run_ingress("ingress and gateway", place.root, others[1], port, sys.executable)),
        ]
        for route in routes:
            uvloop.run(_measure_load(route, 8, 0.5))  # warm
        for run in range(runs):
            with phases.phase(f"Run {run + 1} of {runs}"):
                for connections in _CONNECTIONS:
                    for route in routes if run % 2 else reversed(routes):
                        figures = uvloop.run(_measure_load(route, connections, _SECONDS))
                        results.setdefault((connections, route.title), []).append(figures)
    console = Console(width=max(phases.console.width, 120), file=phases.console.file)
    console.print(_table(results, [route.title for route in routes], runs))


def _table(results: dict[tuple[int, str], list[Figures]], titles: list[str], runs: int) -> Table:
    table = Table(
        "connections",
        "way",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU µs, front end",
        "CPU µs, gateway",
        title=f"./dev bench ingress: POST of 200 bytes, {runs} rounds: median (minimum to maximum)",
    )
    for connections in _CONNECTIONS:
        for title in titles:
            figures = results[connections, title]
            cpu = [[values.cpu[process] * 1e6 for values in figures] for process in range(len(figures[0].cpu))]
            table.add_row(
                str(connections),
                title,
                format_spread([len(values.times) / values.seconds for values in figures]),
                format_spread([values.percentile(0.5) * 1000 for values in figures]),
                format_spread([values.percentile(0.99) * 1000 for values in figures]),
                *(format_spread(values) for values in cpu),
            )
    return table
