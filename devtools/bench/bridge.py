"""`./dev bench bridge`: our bridge beside others, in one run, before the same stdio server; and its endurance.

The bridge and its processes have one CPU, the load has another. Every answer is looked at; a call that fails does not
count.
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
from devtools.bench.load import Answer, Client, Figures, load
from devtools.bench.peers import Peer, installed, ours
from devtools.bench.soak import Footprint, descendants, footprint, soak
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases, SetupError

SECONDS: Final = 5.0
CRASHES: Final = 100
PATIENCE: Final = 15.0
"""Seconds after a crash in which a call has to succeed again."""

SOAK_CALLS: Final = 100_000
_WIDTH: Final = 130
_HOPELESS: Final = 3
"""After so many crashes in a row without recovery there will be none."""


@dataclass
class Crashes:
    """What came of a server's process that ended again and again.

    Attributes:
        told: Crashes whose own call was answered with a reason.
        silent: Crashes whose call was not.
        recovered: Crashes after which a call succeeded in time.
        tried: All of them.
        waits: Seconds from each call that crashes to the first that succeeds.
        before: What the bridge held before the first.
        after: What it held after the last.
    """

    told: int = 0
    silent: int = 0
    recovered: int = 0
    tried: int = 0
    waits: list[float] = field(default_factory=list[float])
    before: Footprint | None = None
    after: Footprint | None = None


@dataclass
class Row:
    """Everything that is told of one bridge."""

    peer: Peer
    one: Figures | None = None
    eight: Figures | None = None
    modern: Figures | None = None
    memory: tuple[int, int] = (0, 0)  # KiB of the bridge, and of its processes
    crashes: Crashes = field(default_factory=Crashes)


def bench_bridge(phases: Phases, runs: int) -> None:
    """Measure each bridge *runs* times, print the best of each figure's runs, then let each survive crashes."""
    root = Paths.from_environ(os.environ).root
    server = [sys.executable, str(root / "devtools" / "bench" / "stdio_server.py")]
    with phases.phase("Install the other bridges"):
        uv = shutil.which("uv") or Paths.from_environ(os.environ).cache / "uv" / "uv"
        peers = [
            ours(root, 1),
            ours(root, 2),
            *installed(Paths.from_environ(os.environ).cache / "bench" / "bridges", uv),
        ]
    rows: list[Row] = []
    for peer in peers:
        with phases.phase(peer.name):
            rows.append(_measured(peer, server, runs))
    print_rows(phases.console, rows, runs)


def bench_soak(phases: Phases, runs: int) -> None:
    """Make 100,000 calls of a server that crashes at every 100th, 50 clients of which hang up; print what is left."""
    for _ in range(runs):
        _soak(phases)


def _soak(phases: Phases) -> None:
    root = Paths.from_environ(os.environ).root
    server = [sys.executable, str(root / "devtools" / "bench" / "soak_server.py")]
    with phases.phase(f"{SOAK_CALLS} calls"), running(ours(root, 2), server) as (process, url):
        asyncio.run(soak(url, calls=1000, vanish=0, crash_every=10**9))  # what is made once is made
        before = footprint(process.pid)
        result = asyncio.run(soak(url, calls=SOAK_CALLS))
        settled = time.monotonic() + PATIENCE
        while footprint(process.pid).children != before.children and time.monotonic() < settled:
            time.sleep(0.1)
        after = footprint(process.pid)
    phases.console.print(
        f"{result.calls} calls in {result.seconds:.0f} s: {result.answered} answered with their own text, "
        f"{sum(result.failures.values())} failed with a reason, {result.vanished} clients vanished, "
        f"{len(result.wrong)} wrong.\n"
        f"processes {before.children} -> {after.children}, descriptors {before.descriptors} -> {after.descriptors}, "
        f"memory {before.memory / 1024:.1f} -> {after.memory / 1024:.1f} MiB"
    )
    for reason, count in result.failures.most_common(5):
        phases.console.print(f"  {count} x {reason}", markup=False)
    for wrong in result.wrong[:10]:
        phases.console.print(f"  wrong: {wrong}", markup=False)


def bench_hostile(phases: Phases, runs: int) -> None:
    """Have sixteen callers attack each other: four of five calls at a shared process, one with a session each.

    Raises:
        SetupError: Something was crossed or hung.
    """
    for _ in range(runs):
        _hostile(phases)


def _hostile(phases: Phases) -> None:
    root = Paths.from_environ(os.environ).root
    table = Table(
        "phase", "calls", "answered", "gone", "refused", "crossed", "hung", "noted", "seconds", "processes", "MiB"
    )
    told: list[str] = []
    for title, sessions, turns in (("shared", False, SOAK_CALLS * 4 // 5), ("sessions", True, SOAK_CALLS // 5)):
        with phases.phase(f"{turns} calls, {title}"), tempfile.TemporaryDirectory() as folder:
            notes = Path(folder) / "notes"
            with running(_attacked(ours(root, 1), notes, sessions=sessions), hostile_command(root)) as (process, url):
                before, began = footprint(process.pid), time.monotonic()
                outcome = attack(url, notes, turns, sessions=sessions)
                seconds, after = time.monotonic() - began, footprint(process.pid)
        counts = (outcome.calls, outcome.answered, outcome.gone, outcome.refused.total())
        faults = (len(outcome.crossed), len(outcome.hung), outcome.noted.total())
        held = (f"{before.children} → {after.children}", f"{before.memory / 1024:.0f} → {after.memory / 1024:.0f}")
        table.add_row(title, *map(str, (*counts, *faults)), f"{seconds:.0f}", *held)
        told += [f"{count} x {reason}" for reason, count in outcome.refused.most_common(5)]
        if not outcome.clean:
            phases.console.print(table)
            raise SetupError("\n".join(outcome.faults()[:20]), "mend the bridge: one caller has reached another.")
    Console(width=max(phases.console.width, _WIDTH), file=phases.console.file).print(table)
    for line in told:
        phases.console.print(f"  refused: {line}", markup=False)


def hostile_command(root: Path) -> list[str]:
    """How the server of the hostile soak is started."""
    return [sys.executable, str(root / "devtools" / "bench" / "hostile_server.py")]


def _attacked(peer: Peer, notes: Path, *, sessions: bool) -> Peer:
    more = {**(SESSIONS if sessions else ENVIRONMENT), "HOSTILE_NOTES": str(notes)}
    usual = peer.environment

    def environment(port: int, server: Sequence[str]) -> Mapping[str, str]:
        return {**usual(port, server), **more}

    return replace(peer, environment=environment, stateful=sessions)


def _measured(peer: Peer, server: Sequence[str], runs: int) -> Row:
    row = Row(peer)
    with running(peer, server) as (process, url):

        def best(connections: int, *, modern: bool) -> Figures:
            stateful = peer.stateful and not modern
            tries = [
                asyncio.run(load(url, connections=connections, seconds=SECONDS, modern=modern, stateful=stateful))
                for _ in range(runs)
            ]
            return max(tries, key=lambda figures: figures.rate)

        asyncio.run(load(url, connections=8, seconds=2, modern=False, stateful=peer.stateful))  # warm
        row.one, row.eight = best(1, modern=False), best(8, modern=False)
        row.modern = best(8, modern=True) if peer.modern else None
        children = descendants(process.pid)
        row.memory = (footprint(process.pid).memory, sum(footprint(child).memory for child in children))
    # In a process of its own, so that what one session left behind is not counted for the crashes.
    with running(peer, server) as (process, url):
        row.crashes = asyncio.run(_crash(peer, process, url))
    return row


async def _crash(peer: Peer, process: "subprocess.Popen[bytes]", url: str) -> Crashes:
    outcome = Crashes()
    client = Client(url, modern=False, stateful=peer.stateful)
    await _works(client, PATIENCE)
    outcome.before = footprint(process.pid)
    hopeless = 0
    while outcome.tried < CRASHES and hopeless < _HOPELESS:
        outcome.tried += 1
        began = time.monotonic()
        answer = await _ask(client, "crash", PATIENCE)
        if answer is not None and answer.complaint():
            outcome.told += 1
        else:
            outcome.silent += 1
        if await _works(client, PATIENCE) is None:
            hopeless += 1
        else:
            hopeless = 0
            outcome.recovered += 1
            outcome.waits.append(time.monotonic() - began)
    await client.close()
    await asyncio.sleep(1)
    outcome.after = footprint(process.pid)
    return outcome


async def _works(client: Client, seconds: float) -> float | None:
    """Seconds until a call succeeds; None if none does in time."""
    began = time.monotonic()
    while (left := seconds - (time.monotonic() - began)) > 0:
        answer = await _ask(client, "add", left)
        if answer is not None and answer.text() == "3":
            return time.monotonic() - began
        await asyncio.sleep(0.02)
    return None


async def _ask(client: Client, tool: str, seconds: float) -> Answer | None:
    try:
        arguments = {} if tool == "crash" else {"a": 1, "b": 2}
        return await asyncio.wait_for(client.call(tool, arguments), seconds)
    except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
        await client.close()
        return None


@contextmanager
def running(peer: Peer, server: Sequence[str]) -> "Generator[tuple[subprocess.Popen[bytes], str]]":
    """A bridge, started on the first CPU, the caller on the last; ended with all that it has started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})  # a process is where its parent was when it started
    environment = {**os.environ, **peer.environment(port, server)}
    process = subprocess.Popen(
        list(peer.command(port, server)),
        env=environment,
        cwd=peer.directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.sched_setaffinity(0, {max(everywhere)})
    url = f"http://127.0.0.1:{port}{peer.path}"
    try:
        waited = asyncio.run(_works(Client(url, modern=False, stateful=peer.stateful), 60))
        if waited is None:
            raise SetupError(f"{peer.name} answered no call.", f"start it by hand: {peer.command(port, server)}")
        yield process, url
    finally:
        os.sched_setaffinity(0, everywhere)
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    started = descendants(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    for one in (process.pid, *started):
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()


def print_rows(console: Console, rows: Sequence[Row], runs: int) -> None:
    """Print the two tables."""
    speed = Table(
        "bridge", "c=1 p50", "p99", "c=8 /s", "p50", "p99", "2026-07-28 /s", "MiB", "+ processes",
        title=f"./dev bench bridge: tools/call, milliseconds and calls a second, best of {runs}, on one CPU",
    )  # fmt: skip
    after = Table(
        "bridge", "crashes", "reason returned", "recovered", "outage s, median", "processes", "descriptors", "MiB",
        title="The server's process ends in the middle of a call, again and again",
    )  # fmt: skip
    for row in rows:
        one, eight, modern = row.one or Figures(), row.eight or Figures(), row.modern
        failed = sum(sum(figures.wrong.values()) for figures in (one, eight, modern or Figures()))
        speed.add_row(
            row.peer.name,
            f"{one.percentile(0.5):.1f}",
            f"{one.percentile(0.99):.1f}",
            f"{eight.rate:.0f}" + (f" ({failed} failed)" if failed else ""),
            f"{eight.percentile(0.5):.1f}",
            f"{eight.percentile(0.99):.1f}",
            "no" if modern is None else f"{modern.rate:.0f}",
            f"{row.memory[0] / 1024:.0f}",
            f"{row.memory[1] / 1024:.0f}",
        )
        crashes = row.crashes
        before, later = crashes.before or Footprint(0, 0, 0), crashes.after or Footprint(0, 0, 0)
        waits = sorted(crashes.waits) or [float("nan")]
        after.add_row(
            row.peer.name,
            str(crashes.tried),
            str(crashes.told),
            str(crashes.recovered),
            f"{waits[len(waits) // 2]:.2f}",
            f"{before.children} → {later.children}",
            f"{before.descriptors} → {later.descriptors}",
            f"{before.memory / 1024:.0f} → {later.memory / 1024:.0f}",
        )
    # Without a terminal rich takes 80 columns, into which this does not go.
    wide = Console(width=max(console.width, _WIDTH))
    wide.print(speed)
    wide.print(after)
