"""`./dev bench up`: measures each phase of a deployment, compared with Docker alone for the same image.

It uses a separate local cloud (`.mcpfleet/bench`, another port), so that it doesn't touch a deployed stack. Caches are
warm: the images were built before, and the base image's layers are in the registry.
"""

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx2
from rich.console import Console
from rich.table import Table

from mcpfleet.auth import IdTokenAuth
from mcpfleet.token_sources import source_from_file
from mcpfleet_local_cloud.commands import stack
from mcpfleet_local_cloud.commands.background import CloudFolder, find_running
from mcpfleet_local_cloud.commands.leftovers import inventory
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.setup import PreparedMachine
from mcpfleet_local_cloud.commands.verify import verify


def copy_program(place: CloudFolder, name: str) -> Path:
    """Copy the program of *place* into a folder of its state for the benchmark *name*."""
    root = place.state / f"bench-{name}-program"
    shutil.rmtree(root, ignore_errors=True)
    leave_out = shutil.ignore_patterns(".git", ".venv", ".mcpfleet", "__pycache__", ".*_cache", ".hypothesis", "tests")
    shutil.copytree(place.root, root, ignore=leave_out)
    return root


Samples = dict[str, list[float]]

_ROWS = {
    "cloud": ("start the local cloud and its plugins", None),
    "up": ("pulumi up, from nothing deployed", 20.0),
    "verify": ("verify every server", None),
    "same": ("pulumi up, nothing to change", 6.0),
    "edit": ("pulumi up, one file of one server edited", None),
    "down": ("pulumi destroy and the proof", 10.0),
    "docker": ("Docker alone: build, push, run until it answers", None),
}


def bench_up(phases: Phases, place: CloudFolder, prepared: PreparedMachine, runs: int) -> None:
    """Measure *runs* complete cycles, and print the medians in seconds."""
    console = phases.console
    bench = replace(place, root=copy_program(place, "up"), state=place.state / "bench", port=place.port + 100)
    samples: Samples = {row: [] for row in _ROWS}
    quiet = Phases(Console(quiet=True))
    overhead = ""
    try:
        _run_cycle(quiet, bench, prepared, {row: [] for row in _ROWS}, last=False)  # warms every cache
        for number in range(runs):
            with phases.phase(f"Run {number + 1} of {runs}"):
                overhead = _run_cycle(quiet, bench, prepared, samples, last=number == runs - 1)
    finally:
        stack.destroy(quiet, bench, prepared, force=True)
        shutil.rmtree(bench.root)
    _print(console, samples, runs)
    console.print(f"\nThe local cloud's own share of a request, {overhead}")


def _run_cycle(phases: Phases, place: CloudFolder, prepared: PreparedMachine, samples: Samples, *, last: bool) -> str:
    with ExitStack() as deployment:
        with _record_seconds(samples["cloud"]):
            engine = deployment.enter_context(stack.start_cloud(phases, place, prepared))
        stack.publish_base_image(phases, place, prepared)
        with _record_seconds(samples["up"]):
            servers = stack.deploy(phases, engine).outputs["servers"]
        with _record_seconds(samples["verify"]):
            verify(phases, place, servers)
        with _record_seconds(samples["same"]):
            unchanged = stack.deploy(phases, engine)
        if unchanged.changed_urns:
            raise SetupError(
                f"A second up, with nothing edited, changed {', '.join(unchanged.changed_urns)}.",
                "find out why first; the figures of such a stack can't be compared.",
            )
        overhead = measure_overhead(place, prepared, servers["reference"]) if last else ""
        source = place.root / "mcp_server" / "app.py"
        source.write_text(source.read_text(encoding="utf-8") + f"# {time.time_ns()}\n", encoding="utf-8")
        with _record_seconds(samples["edit"]):
            stack.deploy(phases, engine)
    with _record_seconds(samples["docker"]):
        _run_with_docker_alone(place, prepared)
    with _record_seconds(samples["down"]):
        stack.destroy(phases, place, prepared)
    return overhead


def _run_with_docker_alone(place: CloudFolder, prepared: PreparedMachine) -> None:
    """Build with Docker, push to the same registry, run the image, and wait for a response."""
    reference = f"{inventory(place)['registry']}/us/mcpfleet-public/images/docker-alone:{time.time_ns()}"
    source = place.root / "mcp_server" / "app.py"
    source.write_text(source.read_text(encoding="utf-8") + f"# {time.time_ns()}\n", encoding="utf-8")
    build = ["docker", "build", "--quiet", "--tag", reference, "--build-arg", f"BASE_IMAGE={prepared.base_image}"]
    built = subprocess.run(
        [*build, "--file", str(source.parent / "Dockerfile"), str(place.root)],
        env=prepared.environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    if built.returncode:
        raise SetupError(
            f"docker build failed: {built.stderr.strip()}", "fix what the message names, then run it again."
        )
    images: Any = prepared.docker.images  # the stubs have no types for `push`
    images.push(reference, auth_config=stack.registry_credentials(place))
    environment = {"PORT": "8080"}
    container = prepared.docker.containers.run(reference, detach=True, environment=environment)
    try:
        container.reload()
        address = container.attrs["NetworkSettings"]["IPAddress"]
        _wait_until(lambda: httpx2.get(f"http://{address}:8080/health", timeout=1, trust_env=False).is_success)
    finally:
        container.remove(force=True)
        prepared.docker.images.remove(reference, force=True)


def _wait_until(has_answered: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if has_answered():
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.02)
    raise TimeoutError("the container did not answer")


@contextmanager
def _record_seconds(samples: list[float]) -> Generator[None]:
    started = time.monotonic()
    yield
    samples.append(time.monotonic() - started)


def _print(console: Console, samples: Samples, runs: int) -> None:
    table = Table("phase", "median", "min", "max", "goal", title=f"./dev bench up, seconds, {runs} runs, warm caches")
    for row, (title, goal) in _ROWS.items():
        figures = samples[row]
        cells = [f"{figure:.2f}" for figure in (statistics.median(figures), min(figures), max(figures))]
        table.add_row(title, *cells, "" if goal is None else f"≤ {goal:.0f}")
    console.print(table)
    ratio = statistics.median(samples["up"]) / statistics.median(samples["docker"])
    console.print(f"pulumi up of the whole fleet takes {ratio:.2f} times what Docker alone needs for one server.")


_REQUESTS: Final = 500


def measure_overhead(place: CloudFolder, prepared: PreparedMachine, server: Mapping[str, Any]) -> str:
    """Measure sequential `GET /health` requests to *server*, its part of the stack's outputs, over one connection."""
    cloud = find_running(place, "cloud") or {}
    labels = [f"dev.mcpfleet.cloud={cloud.get('id')}", f"dev.mcpfleet.service={server['service']}"]
    containers: list[Any] = prepared.docker.containers.list(filters={"label": labels})
    if not containers:
        raise SetupError(f"No container of {server['service']} runs.", "see its log: ./dev logs SERVER.")
    (container, *_) = containers
    networks: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
    address = next(iter(networks.values()))["IPAddress"]
    auth = IdTokenAuth(str(server["audience"]), source_from_file(place.credentials / "ada.json"))
    direct = _measure_times(f"http://{address}:8080/health", None)
    through = _measure_times(f"{server['service_url']}/health", auth)
    direct_p50, through_p50 = statistics.median(direct), statistics.median(through)
    p99 = sorted(through)[int(len(through) * 0.99)] - sorted(direct)[int(len(direct) * 0.99)]
    return (
        f"GET /health, {_REQUESTS} requests one by one: p50 {(through_p50 - direct_p50) * 1000:.2f} ms "
        f"({through_p50 * 1000:.2f} through the ingress, {direct_p50 * 1000:.2f} to the container), "
        f"p99 {p99 * 1000:.2f} ms; goal: p50 ≤ 3 ms."
    )


def _measure_times(url: str, auth: IdTokenAuth | None) -> list[float]:
    times: list[float] = []
    with httpx2.Client(auth=auth, trust_env=False, timeout=30) as client:
        for _ in range(_REQUESTS + 50):
            started = time.perf_counter()
            client.get(url).raise_for_status()
            times.append(time.perf_counter() - started)
    return times[50:]
