"""`./dev bench fleet`: measures the cost of the fleet's checks and components, compared with a program without them.

Each figure is the preview of a new stack with 1, 10, 50 or 200 servers by the real engine; nothing is deployed. Both
programs run in turn, each time in a new process.
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

from devtools.bench.up import copy_program
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


def example_fleet(count: int) -> dict[str, Any]:
    """A fleet of *count* servers with an existing image, each with one invoker."""
    server = {
        "source": {"image": "docker.io/acme/toolbox:1", "port": 5000},
        "access": {"iam": {"invokers": ["user:ada@mcpfleet.test"]}},
    }
    return {"region": "europe-west1", "servers": {f"server-{number:03}": server for number in range(count)}}


def bench_fleet(phases: Phases, place: CloudFolder, prepared: PreparedMachine, runs: int) -> None:
    """Measure *runs* previews of each size and program, and print the medians."""
    bench = replace(place, root=copy_program(place, "fleet"), state=place.state / "bench-fleet", port=place.port + 101)
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
                        _write_project(bench.root, name, count)
                        sample = _run_preview(bench, prepared, environment)
                        samples.setdefault((name, count), []).append(sample)
                _check_same_number(samples, count)
    finally:
        background.stop_all(bench)
        shutil.rmtree(bench.root)
        shutil.rmtree(bench.state)
    _print(phases.console, samples, runs)


def _write_project(root: Path, name: str, count: int) -> None:
    """Write the project of one program and size to *root*."""
    config = {
        "gcp:project": "mcpfleet-local",
        "gcp:universeDomain": "mcpfleet.test",
        "mcpfleet:fleet": example_fleet(count),
    }
    (root / "Pulumi.local.yaml").write_text(yaml.safe_dump({"config": config}), encoding="utf-8")
    program = Path(__file__).resolve().parents[2] / "__main__.py"
    main = program.read_text(encoding="utf-8") if name == "fleet" else _BARE_MAIN
    (root / "__main__.py").write_text(main, encoding="utf-8")


def _run_preview(place: CloudFolder, prepared: PreparedMachine, environment: dict[str, str]) -> Sample:
    shutil.rmtree(place.state / "pulumi", ignore_errors=True)
    command = [sys.executable, "-m", "devtools.bench.preview"]
    command += [str(place.root), str(place.state), str(place.port), str(prepared.pulumi)]
    result = subprocess.run(command, cwd=place.root, env=environment, check=False, capture_output=True, text=True)
    if result.returncode:
        raise SetupError(
            f"A preview failed: {result.stderr.strip()[-2000:]}", "fix what the message names, then run it again."
        )
    sample: Sample = json.loads(result.stdout.splitlines()[-1])
    return sample


def _check_same_number(samples: dict[tuple[str, int], list[Sample]], count: int) -> None:
    """Check that both programs register the same number of resources; a unit test compares the resources."""
    fleet_count, bare_count = samples["fleet", count][0]["resources"], samples["bare", count][0]["resources"]
    if fleet_count != bare_count:
        raise SetupError(
            f"The two programs do not register the same resources: {fleet_count:.0f} and {bare_count:.0f} for {count} "
            "servers.",
            "update devtools/bench/bare.py to match infra/; otherwise the figures can't be compared.",
        )


def _print(console: Console, samples: dict[tuple[str, int], list[Sample]], runs: int) -> None:
    table = Table(title=f"Preview of a new stack, median of {runs}: the fleet | by hand")
    for title in ("servers", "resources", "preview s", "ratio", "program CPU s", "ratio", "memory MiB", "ratio"):
        table.add_column(title, justify="right")
    for count in SIZES:
        cells = [str(count), f"{samples['fleet', count][0]['resources']:.0f}"]
        for key, digits in (("seconds", 2), ("cpu", 2), ("memory", 0)):
            fleet_value, bare_value = (_median(samples[name, count], key) for name in ("fleet", "bare"))
            cells += [f"{fleet_value:.{digits}f} | {bare_value:.{digits}f}", f"{fleet_value / bare_value:.2f}"]
        table.add_row(*cells)
    console.print(table)
    smallest, largest = SIZES[0], SIZES[-1]
    for key, unit in (("seconds", "preview"), ("cpu", "program CPU")):
        slopes = [
            (_median(samples[name, largest], key) - _median(samples[name, smallest], key)) / (largest - smallest) * 1000
            for name in ("fleet", "bare")
        ]
        console.print(
            f"{unit}, one server more: {slopes[0]:.1f} ms | {slopes[1]:.1f} ms, ratio {slopes[0] / slopes[1]:.2f}"
        )


def _median(samples: list[Sample], key: str) -> float:
    return statistics.median(sample[key] for sample in samples)
