"""`./dev bench before --base REV`: compares server and bridge of this working tree with those of another commit.

Each round measures both, in alternating order, so that other load on the machine affects both. Every sample runs in its
own process. The ratio within a round counts; the spread of the ratios shows which differences are noise. Both use the
packages of this checkout's lock files, except in the images, which have their own.
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
from devtools.bench.peers import our_bridge
from devtools.bench.server import Load, ensure_load_generator, measure_load, measure_start, memory, running
from devtools.bench.server_peers import Server, our_server
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.setup import PreparedMachine

_SECONDS: Final = 4.0
_SMALL: Final = Load("64 B, 8", 64, 8)
_LARGE: Final = Load("100 KB, 8", 100_000, 8)

Sample = Mapping[str, float]
"""Figures by title."""


def bench_before(phases: Phases, prepared: PreparedMachine, runs: int, base: str) -> None:
    """Measure both trees *runs* times, and print medians, spreads and ratios.

    Args:
        phases: Shows the progress.
        prepared: The prepared machine.
        runs: The number of rounds.
        base: The commit to compare with.

    Raises:
        SetupError: There is no such commit, or something can't be built.
    """
    ensure_load_generator(phases)
    root = prepared.paths.root
    with checkout_commit(root, base) as base_tree:
        with phases.phase("Images"):
            servers = [
                our_server(prepared, tree, f"mcpfleet-bench/{name}")
                for tree, name in ((base_tree, "before"), (root, "now"))
            ]
        with phases.phase("Server"):
            server = _run_rounds(
                runs,
                *(
                    lambda built_server=built_server: _measure_server(prepared, built_server)
                    for built_server in servers
                ),
            )
        with phases.phase("Bridge"):
            bridge = _run_rounds(runs, *(lambda tree=tree: _measure_bridge(tree, root) for tree in (base_tree, root)))
    console = Console(width=max(phases.console.width, 110), file=phases.console.file)
    for title, rounds in (("server", server), ("bridge", bridge)):
        console.print(
            _table(f"{title}: {base} and the working tree, {runs} rounds: median (minimum to maximum)", rounds)
        )


@contextmanager
def checkout_commit(root: Path, base: str) -> Generator[Path]:
    """Extract the files of a commit into a temporary folder."""
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


def _run_rounds(
    runs: int, measure_base: Callable[[], Sample], measure_current: Callable[[], Sample]
) -> list[tuple[Sample, Sample]]:
    rounds: list[tuple[Sample, Sample]] = []
    for number in range(runs):
        if number % 2:
            second, first = measure_current(), measure_base()
        else:
            first, second = measure_base(), measure_current()
        rounds.append((first, second))
    return rounds


def _measure_server(prepared: PreparedMachine, server: Server) -> Sample:
    sample = {"start s": measure_start(prepared, server)}
    with running(prepared, server) as container:
        sample["idle MB"] = memory(container)
        for protocol, version in (("modern", "2026-07-28"), ("legacy", "2025-11-25")):
            for measurement in (_SMALL, _LARGE):
                (figures,) = measure_load(container, protocol, measurement, 1)
                if figures.errors:
                    raise SetupError(f"{figures.errors} calls failed at {measurement.title}.", "fix the server.")
                sample[f"{version} {measurement.title}: calls/s"] = figures.rate
                sample[f"{version} {measurement.title}: CPU µs"] = figures.cpu
        sample["loaded MB"] = memory(container)
    return sample


def _measure_bridge(tree: Path, root: Path) -> Sample:
    sample: dict[str, float] = {}
    server = [sys.executable, str(root / "devtools" / "bench" / "stdio_server.py")]
    with running_bridge(our_bridge(tree, 1), server) as (_, url):
        asyncio.run(load(url, connections=8, seconds=1, modern=False, stateful=False))  # warm
        for version, modern in (("2025-11-25", False), ("2026-07-28", True)):
            for connections in (1, 8):
                figures = asyncio.run(
                    load(url, connections=connections, seconds=_SECONDS, modern=modern, stateful=False)
                )
                if figures.wrong:
                    raise SetupError(f"Calls failed: {figures.wrong}", "fix the bridge.")
                sample[f"{version} {connections}: calls/s"] = figures.rate
                sample[f"{version} {connections}: p50 ms"] = figures.percentile(0.5)
                sample[f"{version} {connections}: p99 ms"] = figures.percentile(0.99)
    return sample


def _table(title: str, rounds: Sequence[tuple[Sample, Sample]]) -> Table:
    table = Table("figure", "before", "now", "now / before", title=title)
    for name in rounds[0][0]:
        old = [base_sample[name] for base_sample, _ in rounds]
        new = [current_sample[name] for _, current_sample in rounds]
        ratios = [after / earlier for earlier, after in zip(old, new, strict=True)]
        table.add_row(name, format_spread(old), format_spread(new), format_spread(ratios))
    return table


def format_spread(values: Sequence[float]) -> str:
    """The median, minimum and maximum as text."""
    digits = 0 if min(values) >= 100 else 2
    median, minimum, maximum = (
        f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({minimum} to {maximum})"
