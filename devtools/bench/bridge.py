"""`./dev bench bridge`: compares our bridge with others, with the same stdio server, and tests its endurance.

The bridge and its processes run on one CPU, the load on another. Every response is checked; failed calls don't count.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from devtools.bench.hostile import ENVIRONMENT, SESSIONS, attack
from devtools.bench.load import Client, Figures, Response, load
from devtools.bench.peers import Peer, install_peers, our_bridge
from devtools.bench.soak import Footprint, descendants, footprint, soak
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases, SetupError

SECONDS: Final = 5.0
CRASHES: Final = 100
RECOVERY_SECONDS: Final = 15.0
"""The seconds after a crash within which a call must succeed."""

SOAK_CALLS: Final = 100_000
_WIDTH: Final = 130
_MAX_FAILED_RECOVERIES: Final = 3
"""The number of crashes in a row without recovery after which the test stops."""


@dataclass
class Crashes:
    """The results of repeated crashes of a server's process.

    Attributes:
        explained: Crashes whose call returned an error with a reason.
        unexplained: All other crashes.
        recovered: Crashes after which a call succeeded in time.
        attempts: The number of all crashes.
        waits: Seconds from each crashing call to the first call that succeeds.
        before: The bridge's footprint before the first crash.
        after: The bridge's footprint after the last crash.
    """

    explained: int = 0
    unexplained: int = 0
    recovered: int = 0
    attempts: int = 0
    waits: list[float] = field(default_factory=list[float])
    before: Footprint | None = None
    after: Footprint | None = None


@dataclass
class Row:
    """The figures of one bridge."""

    peer: Peer
    single: Figures | None = None
    parallel: Figures | None = None
    modern: Figures | None = None
    memory: tuple[int, int] = (0, 0)  # KiB of the bridge, and of its processes
    crashes: Crashes = field(default_factory=Crashes)


def bench_bridge(phases: Phases, runs: int) -> None:
    """Measure each bridge *runs* times and print the best runs, then measure its recovery from crashes."""
    root = Paths.from_environ(os.environ).root
    server = [sys.executable, str(root / "devtools" / "bench" / "stdio_server.py")]
    with phases.phase("Install the other bridges"):
        uv = shutil.which("uv") or Paths.from_environ(os.environ).cache / "uv" / "uv"
        peers = [
            our_bridge(root, 1),
            our_bridge(root, 2),
            *install_peers(Paths.from_environ(os.environ).cache / "bench" / "bridges", uv),
        ]
    rows: list[Row] = []
    for peer in peers:
        with phases.phase(peer.name):
            rows.append(_measure(peer, server, runs))
    print_rows(phases.console, rows, runs)


def bench_soak(phases: Phases, runs: int) -> None:
    """Make 100,000 calls to a server that crashes at every 100th call, with 50 hang-ups; print the leftovers."""
    for _ in range(runs):
        _run_soak(phases)


def _run_soak(phases: Phases) -> None:
    root = Paths.from_environ(os.environ).root
    server = [sys.executable, str(root / "devtools" / "bench" / "soak_server.py")]
    with phases.phase(f"{SOAK_CALLS} calls"), running(our_bridge(root, 2), server) as (process, url):
        asyncio.run(soak(url, calls=1000, hang_up_count=0, crash_every=10**9))  # warm up
        footprint_before = footprint(process.pid)
        result = asyncio.run(soak(url, calls=SOAK_CALLS))
        deadline = time.monotonic() + RECOVERY_SECONDS
        while footprint(process.pid).children != footprint_before.children and time.monotonic() < deadline:
            time.sleep(0.1)
        footprint_after = footprint(process.pid)
    phases.console.print(
        f"{result.calls} calls in {result.seconds:.0f} s: {result.answered} answered with their own text, "
        f"{sum(result.failures.values())} failed with a reason, {result.vanished} clients vanished, "
        f"{len(result.wrong)} wrong.\n"
        f"processes {footprint_before.children} -> {footprint_after.children}, "
        f"descriptors {footprint_before.descriptors} -> {footprint_after.descriptors}, "
        f"memory {footprint_before.memory / 1024:.1f} -> {footprint_after.memory / 1024:.1f} MiB"
    )
    for reason, count in result.failures.most_common(5):
        phases.console.print(f"  {count} x {reason}", markup=False)
    for wrong in result.wrong[:10]:
        phases.console.print(f"  wrong: {wrong}", markup=False)


def bench_hostile(phases: Phases, runs: int) -> None:
    """Let sixteen callers attack each other: 80 % of the calls with a shared process, 20 % with a session each.

    Raises:
        SetupError: A caller reached another one, or a request hung.
    """
    for _ in range(runs):
        _run_hostile(phases)


def _run_hostile(phases: Phases) -> None:
    root = Paths.from_environ(os.environ).root
    table = Table(
        "phase", "calls", "answered", "gone", "refused", "crossed", "hung", "noted", "seconds", "processes", "MiB"
    )
    refusals: list[str] = []
    for title, sessions, turns in (("shared", False, SOAK_CALLS * 4 // 5), ("sessions", True, SOAK_CALLS // 5)):
        with phases.phase(f"{turns} calls, {title}"), tempfile.TemporaryDirectory() as folder:
            notes = Path(folder) / "notes"
            with running(
                _with_attack_settings(our_bridge(root, 1), notes, sessions=sessions), hostile_command(root)
            ) as (process, url):
                footprint_before, started = footprint(process.pid), time.monotonic()
                outcome = attack(url, notes, turns, sessions=sessions)
                seconds, footprint_after = time.monotonic() - started, footprint(process.pid)
        counts = (outcome.calls, outcome.answered, outcome.hung_up, outcome.refused.total())
        faults = (len(outcome.crossed), len(outcome.hung), outcome.noted.total())
        footprint_cells = (
            f"{footprint_before.children} → {footprint_after.children}",
            f"{footprint_before.memory / 1024:.0f} → {footprint_after.memory / 1024:.0f}",
        )
        table.add_row(title, *map(str, (*counts, *faults)), f"{seconds:.0f}", *footprint_cells)
        refusals += [f"{count} x {reason}" for reason, count in outcome.refused.most_common(5)]
        if not outcome.is_clean:
            phases.console.print(table)
            raise SetupError("\n".join(outcome.faults()[:20]), "fix the bridge: a caller reached another one.")
    Console(width=max(phases.console.width, _WIDTH), file=phases.console.file).print(table)
    for line in refusals:
        phases.console.print(f"  refused: {line}", markup=False)


def hostile_command(root: Path) -> list[str]:
    """The command that starts the server of the hostile soak."""
    return [sys.executable, str(root / "devtools" / "bench" / "hostile_server.py")]


def _with_attack_settings(peer: Peer, notes: Path, *, sessions: bool) -> Peer:
    extra = {**(SESSIONS if sessions else ENVIRONMENT), "HOSTILE_NOTES": str(notes)}
    default_environment = peer.environment

    def environment(port: int, server: Sequence[str]) -> Mapping[str, str]:
        return {**default_environment(port, server), **extra}

    return replace(peer, environment=environment, stateful=sessions)


def _measure(peer: Peer, server: Sequence[str], runs: int) -> Row:
    row = Row(peer)
    with running(peer, server) as (process, url):

        def best(connections: int, *, modern: bool) -> Figures:
            stateful = peer.stateful and not modern
            results = [
                asyncio.run(load(url, connections=connections, seconds=SECONDS, modern=modern, stateful=stateful))
                for _ in range(runs)
            ]
            return max(results, key=lambda figures: figures.rate)

        asyncio.run(load(url, connections=8, seconds=2, modern=False, stateful=peer.stateful))  # warm
        row.single, row.parallel = best(1, modern=False), best(8, modern=False)
        row.modern = best(8, modern=True) if peer.modern else None
        children = descendants(process.pid)
        row.memory = (footprint(process.pid).memory, sum(footprint(child).memory for child in children))
    # A new process, so that resources of earlier sessions don't count.
    with running(peer, server) as (process, url):
        row.crashes = asyncio.run(_measure_crashes(peer, process, url))
    return row


async def _measure_crashes(peer: Peer, process: "subprocess.Popen[bytes]", url: str) -> Crashes:
    outcome = Crashes()
    client = Client(url, modern=False, stateful=peer.stateful)
    await _wait_for_success(client, RECOVERY_SECONDS)
    outcome.before = footprint(process.pid)
    failed_recoveries = 0
    while outcome.attempts < CRASHES and failed_recoveries < _MAX_FAILED_RECOVERIES:
        outcome.attempts += 1
        started = time.monotonic()
        answer = await _try_call(client, "crash", RECOVERY_SECONDS)
        if answer is not None and answer.error_text():
            outcome.explained += 1
        else:
            outcome.unexplained += 1
        if await _wait_for_success(client, RECOVERY_SECONDS) is None:
            failed_recoveries += 1
        else:
            failed_recoveries = 0
            outcome.recovered += 1
            outcome.waits.append(time.monotonic() - started)
    await client.close()
    await asyncio.sleep(1)
    outcome.after = footprint(process.pid)
    return outcome


async def _wait_for_success(client: Client, seconds: float) -> float | None:
    """Wait until a call succeeds; returns the seconds, or None after *seconds*."""
    started = time.monotonic()
    while (remaining := seconds - (time.monotonic() - started)) > 0:
        answer = await _try_call(client, "add", remaining)
        if answer is not None and answer.text() == "3":
            return time.monotonic() - started
        await asyncio.sleep(0.02)
    return None


async def _try_call(client: Client, tool: str, seconds: float) -> Response | None:
    try:
        arguments = {} if tool == "crash" else {"a": 1, "b": 2}
        return await asyncio.wait_for(client.call(tool, arguments), seconds)
    except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
        await client.close()
        return None


@contextmanager
def running(peer: Peer, server: Sequence[str]) -> "Generator[tuple[subprocess.Popen[bytes], str]]":
    """Run a bridge on the first CPU, and the caller on the last; stops the bridge with its child processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    all_cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cpus)})  # a process inherits the CPUs of its parent
    environment = {**os.environ, **peer.environment(port, server)}
    process = subprocess.Popen(
        list(peer.command(port, server)),
        env=environment,
        cwd=peer.directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.sched_setaffinity(0, {max(all_cpus)})
    url = f"http://127.0.0.1:{port}{peer.path}"
    try:
        waited = asyncio.run(_wait_for_success(Client(url, modern=False, stateful=peer.stateful), 60))
        if waited is None:
            raise SetupError(f"{peer.name} answered no call.", f"start it by hand: {peer.command(port, server)}")
        yield process, url
    finally:
        os.sched_setaffinity(0, all_cpus)
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    children = descendants(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    for pid in (process.pid, *children):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def print_rows(console: Console, rows: Sequence[Row], runs: int) -> None:
    """Print the tables of speed and recovery."""
    speed = Table(
        "bridge", "c=1 p50", "p99", "c=8 /s", "p50", "p99", "2026-07-28 /s", "MiB", "+ processes",
        title=f"./dev bench bridge: tools/call, milliseconds and calls a second, best of {runs}, on one CPU",
    )  # fmt: skip
    recovery = Table(
        "bridge", "crashes", "reason returned", "recovered", "outage s, median", "processes", "descriptors", "MiB",
        title="The server's process ends in the middle of a call, again and again",
    )  # fmt: skip
    for row in rows:
        single, parallel, modern = row.single or Figures(), row.parallel or Figures(), row.modern
        failed = sum(sum(figures.wrong.values()) for figures in (single, parallel, modern or Figures()))
        speed.add_row(
            row.peer.name,
            f"{single.percentile(0.5):.1f}",
            f"{single.percentile(0.99):.1f}",
            f"{parallel.rate:.0f}" + (f" ({failed} failed)" if failed else ""),
            f"{parallel.percentile(0.5):.1f}",
            f"{parallel.percentile(0.99):.1f}",
            "no" if modern is None else f"{modern.rate:.0f}",
            f"{row.memory[0] / 1024:.0f}",
            f"{row.memory[1] / 1024:.0f}",
        )
        crashes = row.crashes
        first, last = crashes.before or Footprint(0, 0, 0), crashes.after or Footprint(0, 0, 0)
        waits = sorted(crashes.waits) or [float("nan")]
        recovery.add_row(
            row.peer.name,
            str(crashes.attempts),
            str(crashes.explained),
            str(crashes.recovered),
            f"{waits[len(waits) // 2]:.2f}",
            f"{first.children} → {last.children}",
            f"{first.descriptors} → {last.descriptors}",
            f"{first.memory / 1024:.0f} → {last.memory / 1024:.0f}",
        )
    # Without a terminal, rich uses 80 columns, which are too few.
    wide = Console(width=max(console.width, _WIDTH))
    wide.print(speed)
    wide.print(recovery)
