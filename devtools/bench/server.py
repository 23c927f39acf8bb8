"""`./dev bench server`: the reference server's hosting layer beside its peers, in one run on one machine.

Every server runs in a container of the same base image, without a network of its own, on CPU 0; wrk runs on CPU 1. All
have the one tool `payload(size)`. A figure is the best of the runs: what else the machine does can only slow it down.
The starts go round, one of each server at a time, so that it slows all of them alike.
"""

import http.client
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from devtools.bench.server_peers import FASTMCP, OURS, Server, gather
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.setup import PreparedMachine
from mcpfleet_local_cloud.commands.setup.docker_install import install
from mcpfleet_local_cloud.commands.setup.host import ThisHost

_PORT: Final = 18480
_SECONDS: Final = 3
_STARTS: Final = 5
_TITLE_OF_STARTS: Final = "Start to the first answered tools/list; resident memory; size (MB: 1,000,000 bytes)"
_LUA: Final = Path(__file__).with_name("call.lua")


@dataclass(frozen=True)
class Load:
    """What is measured.

    Attributes:
        title: The column.
        size: Bytes of an answer.
        connections: How many clients call at once.
    """

    title: str
    size: int
    connections: int


LOADS: Final = (
    Load("64 B, 1", 64, 1),
    Load("64 B, 8", 64, 8),
    Load("64 B, 64", 64, 64),
    Load("100 KB, 8", 100_000, 8),
)


@dataclass(frozen=True)
class Figures:
    """What one load gave."""

    rate: float
    p50: float
    p99: float
    cpu: float
    errors: int

    def __str__(self) -> str:
        failed = f" · {self.errors} failed" if self.errors else ""
        return f"{self.rate:,.0f} · {self.p50:.2f}/{self.p99:.1f} · {self.cpu:.0f}{failed}"


def bench_server(phases: Phases, prepared: PreparedMachine, runs: int) -> None:
    """Measure and print."""
    find_load(phases)
    with phases.phase("Servers"):
        servers = gather(phases, prepared)
    console = phases.console
    console.print(f"load average before: {os.getloadavg()[0]:.2f}; {runs} runs of {_SECONDS} s each, best of them")
    starts = Table(
        "server", "start s: median (min)", "idle MB", "loaded MB", "image or files MB", title=_TITLE_OF_STARTS
    )
    speeds = {era: Table("server", *(load.title for load in LOADS), title=_title(era)) for era in ("modern", "legacy")}
    seconds: dict[str, list[float]] = {server.title: [] for server in servers}
    with phases.phase("Starts"):
        for _ in range(max(_STARTS, runs)):
            for server in servers:
                seconds[server.title].append(start_only(prepared, server))
    for server in servers:
        with phases.phase(server.title), running(prepared, server) as container:
            idle = memory(container)
            for era in server.eras:
                speeds[era].add_row(server.title, *(str(_best(container, era, load, runs)) for load in LOADS))
            starts.add_row(
                server.title,
                f"{statistics.median(seconds[server.title]):.2f} ({min(seconds[server.title]):.2f})",
                f"{idle:.0f}",
                f"{memory(container):.0f}",
                f"{server.megabytes:.0f}",
            )
    ours, peer = (statistics.median(seconds[title]) for title in (OURS, FASTMCP))
    wide = Console(width=max(console.width, 150), file=console.file)
    for table in (*speeds.values(), starts):
        wide.print(table)
    console.print(
        f"start: ours {ours:.2f} s, FastMCP {peer:.2f} s, medians in the same rounds: {ours / peer:.2f} of it"
    )
    console.print(f"load average after: {os.getloadavg()[0]:.2f}")


def find_load(phases: Phases) -> None:
    """Have wrk here, and a CPU for it alone.

    Raises:
        SetupError: One of them can't be had.
    """
    if len(os.sched_getaffinity(0)) < 2:
        raise SetupError("This machine has one CPU.", "run it where server and load can have one each.")
    if shutil.which("wrk") is None:
        with phases.phase("wrk") as step:
            install(ThisHost(), step, ["wrk"], "install wrk (https://github.com/wg/wrk).")


def _title(era: str) -> str:
    revision = "2026-07-28" if era == "modern" else "2025-11-25"
    return f"tools/call, {revision}, one core: requests/s · p50/p99 ms · CPU µs per request, by answer and connections"


@dataclass
class Container:
    """A container that runs.

    Attributes:
        pid: Its first process, as this machine numbers it.
    """

    pid: int


@contextmanager
def running(prepared: PreparedMachine, server: Server) -> Generator[Container]:
    """A server that has answered its first request; removed at the end."""
    container = _create(prepared, server)
    try:
        container.start()
        _answered(server)
        container.reload()
        yield Container(int(container.attrs["State"]["Pid"]))
    finally:
        container.remove(force=True)


def start_only(prepared: PreparedMachine, server: Server) -> float:
    """Seconds from `docker start` to the first `tools/list` that is answered well."""
    container = _create(prepared, server)
    try:
        began = time.perf_counter()
        # The CLI would take longer to come than Docker to start.
        container.start()
        _answered(server)
        return time.perf_counter() - began
    finally:
        container.remove(force=True)


def _create(prepared: PreparedMachine, server: Server) -> Any:
    return prepared.docker.containers.create(
        server.image,
        list(server.command),
        environment={"PORT": str(_PORT), "MCP_WORKERS": "1", **server.environment},
        volumes={str(path): {"bind": place, "mode": "ro"} for path, place in server.mounts.items()},
        network_mode="host",
        cpuset_cpus="0",
        user="0",
        log_config={"Type": "none"},  # pyright: ignore[reportArgumentType]  # a dict is what the API takes
    )


def _answered(server: Server) -> None:
    modern = "modern" in server.eras
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta} if modern else {}}
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28" if modern else "2025-11-25",
        **({"mcp-method": "tools/list"} if modern else {}),
    }
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=5)
        try:
            connection.request("POST", "/mcp", json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200 and b'"payload"' in text:
                return
            raise SetupError(f"{server.title} answered {answer.status}: {text[:200]!r}", "mend devtools/bench/servers.")
        except OSError:
            time.sleep(0.002)
        finally:
            connection.close()
    raise SetupError(f"{server.title} did not answer within 60 s.", "look at its log: docker logs.")


def _best(container: Container, era: str, load: Load, runs: int) -> Figures:
    return max(measured(container, era, load, runs), key=lambda one: one.rate)


def measured(container: Container, era: str, load: Load, runs: int) -> list[Figures]:
    """Load a running server so many times, after a second that does not count."""
    _wrk(era, load, 1)  # caches, and code that is compiled at its first use
    figures: list[Figures] = []
    for _ in range(runs):
        before = _cpu(container)
        found = _wrk(era, load, _SECONDS)
        used = _cpu(container) - before
        rate = found["requests"] / found["seconds"]
        figures.append(
            Figures(rate, found["p50"], found["p99"], used / max(1, found["requests"]) * 1e6, int(found["errors"]))
        )
    return figures


def _wrk(era: str, load: Load, seconds: int) -> dict[str, float]:
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "20s"]
    done = subprocess.run(
        [*command, "-s", str(_LUA), f"http://127.0.0.1:{_PORT}/mcp"],
        env={**os.environ, "ERA": era, "SIZE": str(load.size)},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode or not done.stdout.strip():
        raise SetupError(f"wrk failed: {done.stderr.strip()}", "see what it says.")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def _cpu(container: Container) -> float:
    fields = Path(f"/proc/{container.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(container: Container) -> float:
    """Resident memory of its first process, in MB."""
    status = Path(f"/proc/{container.pid}/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024 / 1e6
