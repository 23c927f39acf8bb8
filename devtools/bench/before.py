"""`./dev bench before --base REV`: server and bridge of this working tree beside those of another commit.

Each round measures one and then the other, in an order that changes from round to round, so that what else the machine
does meets both. Every sample is a process of its own. What counts is the ratio within a round; how far the ratios of
the rounds lie apart says how much of a difference means nothing. Both run on the packages of this checkout's lock files
but for the images, each of which has its own.
"""

import asyncio
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from devtools.bench.bridge import running as running_bridge
from devtools.bench.load import load
from devtools.bench.peers import ours
from devtools.bench.server import Load, find_load, measured, memory, running, start_only
from devtools.bench.server_peers import Server, ours_of
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.setup import PreparedMachine

_SECONDS: Final = 4.0
_SMALL: Final = Load("64 B, 8", 64, 8)
_LARGE: Final = Load("100 KB, 8", 100_000, 8)

Sample = Mapping[str, float]
"""Figures by their title."""


def bench_before(phases: Phases, prepared: PreparedMachine, runs: int, base: str) -> None:
    """Measure both *runs* times and print medians, spreads and ratios.

    Args:
        phases: Where progress is shown.
        prepared: This machine.
        runs: How many rounds.
        base: The commit to measure beside.

    Raises:
        SetupError: There is no such commit, or something can't be built.
    """
    find_load(phases)
    root = prepared.paths.root
    with tree_of(root, base) as before:
        with phases.phase("Images"):
            servers = [
                ours_of(prepared, tree, f"mcpfleet-bench/{name}") for tree, name in ((before, "before"), (root, "now"))
            ]
        with phases.phase("Server"):
            server = _rounds(runs, *(lambda one=one: _server(prepared, one) for one in servers))
        with phases.phase("Bridge"):
            bridge = _rounds(runs, *(lambda tree=tree: _bridge(tree, root) for tree in (before, root)))
    console = Console(width=max(phases.console.width, 110), file=phases.console.file)
    for title, rounds in (("server", server), ("bridge", bridge)):
        console.print(_table(f"{title}: {base} beside the working tree, {runs} rounds: median (least to most)", rounds))


@contextmanager
def tree_of(root: Path, base: str) -> Generator[Path]:
    """The files of a commit, in a folder that goes away."""
    packed = subprocess.run(
        ["git", "-C", str(root), "archive", "--end-of-options", base], check=False, capture_output=True
    )
    if packed.returncode:
        raise SetupError(
            f"git has no commit {base!r}: {packed.stderr.decode(errors='replace').strip()}", "give --base a commit."
        )
    with tempfile.TemporaryDirectory(prefix="mcpfleet-bench-") as folder:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def _rounds(runs: int, before: Callable[[], Sample], now: Callable[[], Sample]) -> list[tuple[Sample, Sample]]:
    rounds: list[tuple[Sample, Sample]] = []
    for number in range(runs):
        if number % 2:
            second, first = now(), before()
        else:
            first, second = before(), now()
        rounds.append((first, second))
    return rounds


def _server(prepared: PreparedMachine, server: Server) -> Sample:
    found = {"start s": start_only(prepared, server)}
    with running(prepared, server) as container:
        found["idle MB"] = memory(container)
        for era, shown in (("modern", "2026-07-28"), ("legacy", "2025-11-25")):
            for kind in (_SMALL, _LARGE):
                (figures,) = measured(container, era, kind, 1)
                if figures.errors:
                    raise SetupError(f"{figures.errors} calls failed at {kind.title}.", "mend the server.")
                found[f"{shown} {kind.title}: calls/s"] = figures.rate
                found[f"{shown} {kind.title}: CPU µs"] = figures.cpu
        found["loaded MB"] = memory(container)
    return found


def _bridge(tree: Path, root: Path) -> Sample:
    found: dict[str, float] = {}
    server = [sys.executable, str(root / "devtools" / "bench" / "stdio_server.py")]
    with running_bridge(ours(tree, 1), server) as (_, url):
        asyncio.run(load(url, connections=8, seconds=1, modern=False, stateful=False))  # warm
        for shown, modern in (("2025-11-25", False), ("2026-07-28", True)):
            for connections in (1, 8):
                figures = asyncio.run(
                    load(url, connections=connections, seconds=_SECONDS, modern=modern, stateful=False)
                )
                if figures.wrong:
                    raise SetupError(f"Calls failed: {figures.wrong}", "mend the bridge.")
                found[f"{shown} {connections}: calls/s"] = figures.rate
                found[f"{shown} {connections}: p50 ms"] = figures.percentile(0.5)
                found[f"{shown} {connections}: p99 ms"] = figures.percentile(0.99)
    return found


def _table(title: str, rounds: Sequence[tuple[Sample, Sample]]) -> Table:
    table = Table("figure", "before", "now", "now / before", title=title)
    for name in rounds[0][0]:
        old = [before[name] for before, _ in rounds]
        new = [now[name] for _, now in rounds]
        ratios = [after / earlier for earlier, after in zip(old, new, strict=True)]
        table.add_row(name, spread(old), spread(new), spread(ratios))
    return table


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the most."""
    digits = 0 if min(values) >= 100 else 2
    middle, least, most = (f"{one:,.{digits}f}" for one in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"
