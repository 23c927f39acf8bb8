"""`./dev bench fleet`: what the fleet's checks and components cost, beside the same resources registered by hand.

Each figure is the preview of a new stack of 1, 10, 50 or 200 servers by the real engine: nothing is deployed. Both
programs are run in turn, each time in a process of its own.
"""

import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table

from devtools.bench.up import copy_of
from mcpfleet_local_cloud.commands import background
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.environment import exports
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.setup import PreparedMachine

SIZES: Final = (1, 10, 50, 200)
Sample = dict[str, float]

_BARE_MAIN: Final = '''"""The same resources by hand."""

from devtools.bench.bare import deploy

deploy()
'''


def fleet_of(count: int) -> dict[str, Any]:
    """A fleet of *count* servers from an existing image, each with one invoker."""
    server = {
        "source": {"image": "docker.io/acme/toolbox:1", "port": 5000},
        "access": {"iam": {"invokers": ["user:ada@mcpfleet.test"]}},
    }
    return {"region": "europe-west1", "servers": {f"server-{number:03}": server for number in range(count)}}


def bench_fleet(phases: Phases, place: CloudFolder, prepared: PreparedMachine, runs: int) -> None:
    """Measure *runs* previews of each size and program, and print the medians."""
    bench = replace(place, root=copy_of(place, "fleet"), state=place.state / "bench-fleet", port=place.port + 101)
    samples: dict[tuple[str, int], list[Sample]] = {}
    try:
        bench.state.mkdir(parents=True, exist_ok=True)
        plugins = background.ensure_plugins(bench, {**prepared.environment(), **exports(bench, None)})
        background.ensure_cloud(bench, {**prepared.environment(), **exports(bench, None)})
        providers = str(plugins.facts["PULUMI_DEBUG_PROVIDERS"])
        environment = {**prepared.environment(), **exports(bench, providers)}
        for count in SIZES:
            with phases.phase(f"{count} servers"):
                for _ in range(runs):
                    for name in ("fleet", "bare"):
                        _write(bench.root, name, count)
                        sample = _preview(bench, prepared, environment)
                        samples.setdefault((name, count), []).append(sample)
                _same_number(samples, count)
    finally:
        background.stop_all(bench)
        shutil.rmtree(bench.root)
        shutil.rmtree(bench.state)
    _print(phases.console, samples, runs)


def _write(root: Path, name: str, count: int) -> None:
    """Make *root* the project of one program and size."""
    config = {"gcp:project": "mcpfleet-local", "gcp:universeDomain": "mcpfleet.test", "mcpfleet:fleet": fleet_of(count)}
    (root / "Pulumi.local.yaml").write_text(yaml.safe_dump({"config": config}), encoding="utf-8")
    own = Path(__file__).resolve().parents[2] / "__main__.py"
    main = own.read_text(encoding="utf-8") if name == "fleet" else _BARE_MAIN
    (root / "__main__.py").write_text(main, encoding="utf-8")


def _preview(place: CloudFolder, prepared: PreparedMachine, environment: dict[str, str]) -> Sample:
    shutil.rmtree(place.state / "pulumi", ignore_errors=True)
    command = [sys.executable, "-m", "devtools.bench.preview"]
    command += [str(place.root), str(place.state), str(place.port), str(prepared.pulumi)]
    done = subprocess.run(command, cwd=place.root, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"A preview failed: {done.stderr.strip()[-2000:]}", "mend what it names, then run it again.")
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    return sample


def _same_number(samples: dict[tuple[str, int], list[Sample]], count: int) -> None:
    """The peer registers the same number of resources; that they are the same ones is a unit test's."""
    ours, theirs = samples["fleet", count][0]["resources"], samples["bare", count][0]["resources"]
    if ours != theirs:
        raise SetupError(
            f"The two programs do not register the same: {ours:.0f} and {theirs:.0f} resources of {count} servers.",
            "bring devtools/bench/bare.py in step with infra/; figures of different things mean nothing.",
        )


def _print(console: Console, samples: dict[tuple[str, int], list[Sample]], runs: int) -> None:
    table = Table(title=f"Preview of a new stack, median of {runs}: the fleet | by hand")
    for title in ("servers", "resources", "preview s", "ratio", "program CPU s", "ratio", "memory MiB", "ratio"):
        table.add_column(title, justify="right")
    for count in SIZES:
        cells = [str(count), f"{samples['fleet', count][0]['resources']:.0f}"]
        for key, digits in (("seconds", 2), ("cpu", 2), ("memory", 0)):
            ours, theirs = (_median(samples[name, count], key) for name in ("fleet", "bare"))
            cells += [f"{ours:.{digits}f} | {theirs:.{digits}f}", f"{ours / theirs:.2f}"]
        table.add_row(*cells)
    console.print(table)
    least, most = SIZES[0], SIZES[-1]
    for key, unit in (("seconds", "preview"), ("cpu", "program CPU")):
        each = [
            (_median(samples[name, most], key) - _median(samples[name, least], key)) / (most - least) * 1000
            for name in ("fleet", "bare")
        ]
        console.print(f"{unit}, one server more: {each[0]:.1f} ms | {each[1]:.1f} ms, ratio {each[0] / each[1]:.2f}")


def _median(samples: list[Sample], key: str) -> float:
    return statistics.median(sample[key] for sample in samples)
