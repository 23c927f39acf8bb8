"""`./dev bench server`: compares the reference server's hosting layer with its peers, in one run on one machine.

Every server runs in a container of the same base image on CPU 0, in the host's network; wrk runs on CPU 1. All have one
tool, `payload(size)`. A figure is the best of the runs, because other load on the machine only slows a server down. The
starts alternate between the servers, so that other load affects all of them equally.
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

from devtools.bench.server_peers import FASTMCP, OURS, Server, prepare_servers
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
    """A load to measure.

    Attributes:
        title: The title of the column.
        size: The bytes of a response.
        connections: The number of concurrent clients.
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
    """The figures of one load: requests per second, milliseconds, CPU microseconds per request, failed requests."""

    rate: float
    p50: float
    p99: float
    cpu: float
    errors: int

    def __str__(self) -> str:
        failed = f" · {self.errors} failed" if self.errors else ""
        return f"{self.rate:,.0f} · {self.p50:.2f}/{self.p99:.1f} · {self.cpu:.0f}{failed}"


def bench_server(phases: Phases, prepared: PreparedMachine, runs: int) -> None:
    """Measure all servers and print the tables."""
    ensure_load_generator(phases)
    with phases.phase("Servers"):
        servers = prepare_servers(phases, prepared)
    console = phases.console
    console.print(f"load average before: {os.getloadavg()[0]:.2f}; {runs} runs of {_SECONDS} s each, best of them")
    starts = Table(
        "server", "start s: median (min)", "idle MB", "loaded MB", "image or files MB", title=_TITLE_OF_STARTS
    )
    speeds = {
        protocol: Table("server", *(load.title for load in LOADS), title=_table_title(protocol))
        for protocol in ("modern", "legacy")
    }
    seconds: dict[str, list[float]] = {server.title: [] for server in servers}
    with phases.phase("Starts"):
        for _ in range(max(_STARTS, runs)):
            for server in servers:
                seconds[server.title].append(measure_start(prepared, server))
    for server in servers:
        with phases.phase(server.title), running(prepared, server) as container:
            idle = memory(container)
            for protocol in server.protocols:
                speeds[protocol].add_row(server.title, *(str(_best(container, protocol, load, runs)) for load in LOADS))
            starts.add_row(
                server.title,
                f"{statistics.median(seconds[server.title]):.2f} ({min(seconds[server.title]):.2f})",
                f"{idle:.0f}",
                f"{memory(container):.0f}",
                f"{server.megabytes:.0f}",
            )
    our_start, peer_start = (statistics.median(seconds[title]) for title in (OURS, FASTMCP))
    wide = Console(width=max(console.width, 150), file=console.file)
    for table in (*speeds.values(), starts):
        wide.print(table)
    console.print(
        f"start: ours {our_start:.2f} s, FastMCP {peer_start:.2f} s, medians in the same rounds; "
        f"ratio {our_start / peer_start:.2f}"
    )
    console.print(f"load average after: {os.getloadavg()[0]:.2f}")


def ensure_load_generator(phases: Phases) -> None:
    """Install wrk if it is missing, and check that it can have its own CPU.

    Raises:
        SetupError: The machine has only one CPU, or wrk can't be installed.
    """
    if len(os.sched_getaffinity(0)) < 2:
        raise SetupError("This machine has one CPU.", "run the benchmark on a machine with at least two.")
    if shutil.which("wrk") is None:
        with phases.phase("wrk") as step:
            install(ThisHost(), step, ["wrk"], "install wrk (https://github.com/wg/wrk).")


def _table_title(protocol: str) -> str:
    version = "2026-07-28" if protocol == "modern" else "2025-11-25"
    return f"tools/call, {version}, one core: requests/s · p50/p99 ms · CPU µs per request, by answer and connections"


@dataclass
class Container:
    """A running container.

    Attributes:
        pid: The id of its first process on this machine.
    """

    pid: int


@contextmanager
def running(prepared: PreparedMachine, server: Server) -> Generator[Container]:
    """Run a server, wait for its first response, and remove it at the end."""
    container = _create(prepared, server)
    try:
        container.start()
        _wait_for_answer(server)
        container.reload()
        yield Container(int(container.attrs["State"]["Pid"]))
    finally:
        container.remove(force=True)


def measure_start(prepared: PreparedMachine, server: Server) -> float:
    """Measure the seconds from `docker start` to the first successful `tools/list`."""
    container = _create(prepared, server)
    try:
        started = time.perf_counter()
        # Through the API, because the CLI itself takes longer to start than a container.
        container.start()
        _wait_for_answer(server)
        return time.perf_counter() - started
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
        log_config={"Type": "none"},  # pyright: ignore[reportArgumentType]  # the API takes a dict
    )


def _wait_for_answer(server: Server) -> None:
    is_modern = "modern" in server.protocols
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta} if is_modern else {}}
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28" if is_modern else "2025-11-25",
        **({"mcp-method": "tools/list"} if is_modern else {}),
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
            raise SetupError(f"{server.title} answered {answer.status}: {text[:200]!r}", "fix devtools/bench/servers.")
        except OSError:
            time.sleep(0.002)
        finally:
            connection.close()
    raise SetupError(f"{server.title} did not answer within 60 s.", "see its log: docker logs.")


def _best(container: Container, protocol: str, load: Load, runs: int) -> Figures:
    return max(measure_load(container, protocol, load, runs), key=lambda figures: figures.rate)


def measure_load(container: Container, protocol: str, load: Load, runs: int) -> list[Figures]:
    """Measure a load *runs* times on a running server, after one second of warm-up."""
    _run_wrk(protocol, load, 1)  # fills caches, and compiles code that is compiled at first use
    figures: list[Figures] = []
    for _ in range(runs):
        cpu_before = _cpu_seconds(container)
        output = _run_wrk(protocol, load, _SECONDS)
        cpu_seconds = _cpu_seconds(container) - cpu_before
        rate = output["requests"] / output["seconds"]
        figures.append(
            Figures(
                rate,
                output["p50"],
                output["p99"],
                cpu_seconds / max(1, output["requests"]) * 1e6,
                int(output["errors"]),
            )
        )
    return figures


def _run_wrk(protocol: str, load: Load, seconds: int) -> dict[str, float]:
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "20s"]
    result = subprocess.run(
        [*command, "-s", str(_LUA), f"http://127.0.0.1:{_PORT}/mcp"],
        env={**os.environ, "PROTOCOL": protocol, "SIZE": str(load.size)},
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode or not result.stdout.strip():
        raise SetupError(f"wrk failed: {result.stderr.strip()}", "fix the cause in its message.")
    figures: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    return figures


def _cpu_seconds(container: Container) -> float:
    fields = Path(f"/proc/{container.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(container: Container) -> float:
    """The resident memory of the container's first process, in MB."""
    status = Path(f"/proc/{container.pid}/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024 / 1e6
