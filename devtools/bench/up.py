"""`./dev bench up`: each phase of a deployment, beside what Docker alone needs for the same images.

Runs on a cloud of its own (`.mcpfleet/bench`, another port), so that a deployed stack is left alone. Caches are warm:
the images were built before, and the base image's layers are in the registry.
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


def copy_of(place: CloudFolder, name: str) -> Path:
    """A copy of *place*'s program, in a folder of its state for the measurement *name*."""
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
    """Measure *runs* whole cycles and print the medians, in seconds."""
    console = phases.console
    bench = replace(place, root=copy_of(place, "up"), state=place.state / "bench", port=place.port + 100)
    samples: Samples = {row: [] for row in _ROWS}
    quiet = Phases(Console(quiet=True))
    overhead = ""
    try:
        _cycle(quiet, bench, prepared, {row: [] for row in _ROWS}, last=False)  # warms every cache
        for number in range(runs):
            with phases.phase(f"Run {number + 1} of {runs}"):
                overhead = _cycle(quiet, bench, prepared, samples, last=number == runs - 1)
    finally:
        stack.destroy(quiet, bench, prepared, force=True)
        shutil.rmtree(bench.root)
    _print(console, samples, runs)
    console.print(f"\nThe local cloud's own share of a request, {overhead}")


def _cycle(phases: Phases, place: CloudFolder, prepared: PreparedMachine, samples: Samples, *, last: bool) -> str:
    with ExitStack() as deployment:
        with _timed(samples["cloud"]):
            engine = deployment.enter_context(stack.start_cloud(phases, place, prepared))
        stack.publish_base_image(phases, place, prepared)
        with _timed(samples["up"]):
            servers = stack.deploy(phases, engine).outputs["servers"]
        with _timed(samples["verify"]):
            stack.verify_servers(phases, place, servers)
        with _timed(samples["same"]):
            unchanged = stack.deploy(phases, engine)
        if unchanged.changed_urns:
            raise SetupError(
                f"A second up, with nothing edited, changed {', '.join(unchanged.changed_urns)}.",
                "find out why first: figures of such a stack mean nothing.",
            )
        overhead = measure_overhead(place, prepared, servers["reference"]) if last else ""
        source = place.root / "mcp_server" / "app.py"
        source.write_text(source.read_text(encoding="utf-8") + f"# {time.time_ns()}\n", encoding="utf-8")
        with _timed(samples["edit"]):
            stack.deploy(phases, engine)
    with _timed(samples["docker"]):
        _docker_alone(place, prepared)
    with _timed(samples["down"]):
        stack.destroy(phases, place, prepared)
    return overhead


def _docker_alone(place: CloudFolder, prepared: PreparedMachine) -> None:
    """What a person would type: build, push to the same registry, run, wait for an answer."""
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
        raise SetupError(f"docker build failed: {built.stderr.strip()}", "mend what it names, then run it again.")
    images: Any = prepared.docker.images  # the stubs leave `push` untyped
    images.push(reference, auth_config=stack.registry_credentials(place))
    environment = {"PORT": "8080"}
    container = prepared.docker.containers.run(reference, detach=True, environment=environment)
    try:
        container.reload()
        address = container.attrs["NetworkSettings"]["IPAddress"]
        _until(lambda: httpx2.get(f"http://{address}:8080/health", timeout=1, trust_env=False).is_success)
    finally:
        container.remove(force=True)
        prepared.docker.images.remove(reference, force=True)


def _until(answers: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if answers():
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.02)
    raise TimeoutError("the container did not answer")


@contextmanager
def _timed(samples: list[float]) -> Generator[None]:
    began = time.monotonic()
    yield
    samples.append(time.monotonic() - began)


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
    """Measure `GET /health` of *server* (its part of the stack's outputs) one by one, over kept connections."""
    cloud = find_running(place, "cloud") or {}
    labels = [f"dev.mcpfleet.cloud={cloud.get('id')}", f"dev.mcpfleet.service={server['service']}"]
    containers: list[Any] = prepared.docker.containers.list(filters={"label": labels})
    if not containers:
        raise SetupError(f"No container of {server['service']} runs.", "look at its log: ./dev logs SERVER.")
    (container, *_) = containers
    networks: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
    address = next(iter(networks.values()))["IPAddress"]
    auth = IdTokenAuth(str(server["audience"]), source_from_file(place.credentials / "ada.json"))
    direct = _times(f"http://{address}:8080/health", None)
    through = _times(f"{server['service_url']}/health", auth)
    direct_p50, through_p50 = statistics.median(direct), statistics.median(through)
    p99 = sorted(through)[int(len(through) * 0.99)] - sorted(direct)[int(len(direct) * 0.99)]
    return (
        f"GET /health, {_REQUESTS} requests one by one: p50 {(through_p50 - direct_p50) * 1000:.2f} ms "
        f"({through_p50 * 1000:.2f} through the ingress, {direct_p50 * 1000:.2f} to the container), "
        f"p99 {p99 * 1000:.2f} ms; goal: p50 ≤ 3 ms."
    )


def _times(url: str, auth: IdTokenAuth | None) -> list[float]:
    times: list[float] = []
    with httpx2.Client(auth=auth, trust_env=False, timeout=30) as client:
        for _ in range(_REQUESTS + 50):
            began = time.perf_counter()
            client.get(url).raise_for_status()
            times.append(time.perf_counter() - began)
    return times[50:]
