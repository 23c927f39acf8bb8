"""`./dev bench connect`: measures what `mcpfleet connect`, mcp-remote and mcp-proxy add to a direct call.

It runs one server (`python -m mcp_server` on loopback, without a front end) and one small load generator, and makes the
same calls on each route, one route after the other. It prints figures, and asserts nothing.
"""

import asyncio
import base64
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from rich.table import Table

from devtools.bench.load import Client, tool_call
from devtools.bench.soak import footprint
from devtools.peers import find_node_packages
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases
from mcpfleet_local_cloud.commands.setup.host import ThisHost

CALLS: Final = 2_000
WARM_UP_CALLS: Final = 200
CONCURRENCY: Final = 8
SOAK_CALLS: Final = 100_000
MCP_PROXY: Final = "mcp-proxy==0.13.0"

_MODERN: Final = "2026-07-28"
_VERSION_META: Final = "io.modelcontextprotocol/protocolVersion"
_META: Final[Mapping[str, Any]] = {_VERSION_META: _MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
_SECONDS: Final = 60.0

Call = Callable[[int], Coroutine[Any, Any, None]]


@dataclass
class Figures:
    """The figures of one route, for each run: milliseconds of sequential calls, and concurrent calls per second."""

    p50: list[float] = field(default_factory=list[float])
    p99: list[float] = field(default_factory=list[float])
    rate: list[float] = field(default_factory=list[float])


def bench_connect(phases: Phases, place: CloudFolder, runs: int) -> None:
    """Measure each route *runs* times in turn, and print the medians, then the endurance of `mcpfleet connect`."""
    with phases.phase("MCP clients from npm and PyPI") as step:
        npm = find_node_packages(ThisHost(), Paths.from_environ(os.environ), step)
        mcp_proxy = _mcp_proxy(Paths.from_environ(os.environ))
    port, token = 18_099, place.state / "bench-token"
    place.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    token.write_text(_token(3600 * 24), encoding="utf-8")
    url = f"http://127.0.0.1:{port}/mcp"
    connect_command = [sys.executable, "-m", "mcpfleet.cli", "connect", "--url", url]
    remote = [*npm.script("mcp-remote/dist/proxy.js"), url, "--transport", "http-only", "--silent"]
    header = ["--header", f"X-Serverless-Authorization:Bearer {token.read_text(encoding='utf-8')}"]
    routes: dict[tuple[str, bool], list[str] | None] = {
        ("the server itself", False): None,
        ("mcpfleet connect", False): [*connect_command, "--token-file", str(token)],
        ("mcp-remote 0.15.1", False): [*remote, *header],
        ("mcp-proxy 0.13.0", False): [*mcp_proxy, "--transport", "streamablehttp", url],
        ("the server itself", True): None,
        ("mcpfleet connect", True): [*connect_command, "--token-file", str(token)],
        ("mcp-remote 0.15.1", True): [*remote, "--protocol", "auto", *header],
    }
    figures = {route: Figures() for route in routes}
    server = subprocess.Popen(
        [sys.executable, "-m", "mcp_server"],
        cwd=place.root,
        env={**os.environ, "PORT": str(port), "LOG_LEVEL": "ERROR"},
        stdout=subprocess.DEVNULL,
    )
    try:
        asyncio.run(_wait_until_up(port))
        for number in range(runs):
            with phases.phase(f"Run {number + 1} of {runs}"):
                for route, command in routes.items():
                    asyncio.run(_measure(command, port, route[1], figures[route]))
        with phases.phase(f"{SOAK_CALLS:,} calls through mcpfleet connect"):
            command = f"{sys.executable} -c '{_MINT}'"
            endurance = asyncio.run(_measure_endurance([*connect_command, "--token-command", command], port))
    finally:
        server.terminate()
        server.wait(20)
        token.unlink()
    _print(phases, figures, runs, endurance)


# --- routes ---------------------------------------------------------------------------------------------


def _mcp_proxy(paths: Paths) -> list[str]:
    """mcp-proxy in a separate environment in the cache, because it needs another version of the SDK."""
    folder = paths.cache / "bench" / MCP_PROXY.replace("==", "-")
    if not (folder / "bin" / "mcp-proxy").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", MCP_PROXY], check=True)
    return [str(folder / "bin" / "mcp-proxy")]


def _encode_line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


@asynccontextmanager
async def _open_route(command: list[str] | None, port: int, *, modern: bool) -> AsyncGenerator[tuple[Call, int]]:
    """Open a route: yields a function that makes one call, and the id of the route's process (0: none)."""
    if command is None:
        async with _open_direct_route(port, modern=modern) as direct:
            yield direct, 0
        return
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 20,
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
    stdin, stdout = process.stdin, process.stdout
    waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read() -> None:
        while line := await stdout.readline():
            if line.startswith(b"{"):
                answer = json.loads(line)
                if answer.get("id") in waiting:
                    waiting.pop(answer["id"]).set_result(answer)

    reader = asyncio.ensure_future(read())

    async def ask(message: Mapping[str, Any]) -> dict[str, Any]:
        ident = message["id"]
        waiting[ident] = asyncio.get_running_loop().create_future()
        stdin.write(_encode_line(message))
        return await asyncio.wait_for(waiting[ident], _SECONDS)

    async def call(ident: int) -> None:
        _check(await ask(tool_call("add", {"a": 1, "b": 2}, ident, modern=modern)[0]))

    try:
        if modern:
            await ask({"jsonrpc": "2.0", "id": -1, "method": "server/discover", "params": {"_meta": _META}})
        else:
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "b", "version": "1"}}
            await ask({"jsonrpc": "2.0", "id": -1, "method": "initialize", "params": hello})
            stdin.write(_encode_line({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        yield call, process.pid
    finally:
        reader.cancel()
        process.kill()
        await process.wait()


@asynccontextmanager
async def _open_direct_route(port: int, *, modern: bool) -> AsyncGenerator[Call]:
    """Open the direct route with a minimal HTTP client, with one persistent connection for each concurrent call."""
    free: list[Client] = []

    async def call(ident: int) -> None:
        client = free.pop() if free else Client(f"http://127.0.0.1:{port}/mcp", modern=modern)
        answer = await client.call("add", {"a": 1, "b": 2}, ident)
        free.append(client)
        _check(answer.message or {})

    yield call
    for client in free:
        await client.close()


def _check(answer: Mapping[str, Any]) -> None:
    if answer.get("result", {}).get("structuredContent") != {"result": 3}:
        raise ValueError(f"wrong response: {answer}")


# --- measuring ------------------------------------------------------------------------------------------


async def _measure(command: list[str] | None, port: int, modern: bool, figures: Figures) -> None:
    async with _open_route(command, port, modern=modern) as (call, _pid):
        await _run_concurrently(call, range(WARM_UP_CALLS))
        times: list[float] = []
        for ident in range(WARM_UP_CALLS, WARM_UP_CALLS + CALLS):
            started = time.perf_counter()
            await call(ident)
            times.append((time.perf_counter() - started) * 1000)
        times.sort()
        figures.p50.append(statistics.median(times))
        figures.p99.append(times[int(len(times) * 0.99)])
        started = time.perf_counter()
        await _run_concurrently(call, range(WARM_UP_CALLS + CALLS, WARM_UP_CALLS + 3 * CALLS))
        figures.rate.append(2 * CALLS / (time.perf_counter() - started))


async def _run_concurrently(call: Call, idents: range) -> None:
    remaining = iter(idents)

    async def work() -> None:
        for ident in remaining:
            await call(ident)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


async def _measure_endurance(command: list[str], port: int) -> str:
    """Make many calls with short-lived tokens, and report the memory; raises an error if a call fails."""
    async with _open_route(command, port, modern=True) as (call, pid):
        await _run_concurrently(call, range(SOAK_CALLS // 10))
        memory_before = footprint(pid).memory / 1024
        started = time.perf_counter()
        await _run_concurrently(call, range(SOAK_CALLS // 10, SOAK_CALLS))
        seconds = time.perf_counter() - started
        memory_after = footprint(pid).memory / 1024
    return (
        f"{SOAK_CALLS:,} calls, none failed, with a token that is renewed every {_TOKEN_SECONDS - 10} s: resident "
        f"memory {memory_before:.1f} MiB after {SOAK_CALLS // 10:,} calls, {memory_after:.1f} MiB after all; "
        f"{0.9 * SOAK_CALLS / seconds:.0f} calls/s"
    )


async def _wait_until_up(port: int) -> None:
    async with asyncio.timeout(_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


# The benchmark's server needs no token; these have the claims of a token, without a valid signature.
_TOKEN_SECONDS: Final = 15
_MINT: Final = f"""
import base64, json, time
part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
print(part({{"alg": "none"}}) + "." + part({{"aud": "bench", "exp": int(time.time()) + {_TOKEN_SECONDS}}}) + ".c2ln")
"""


def _token(lifetime: int) -> str:
    def part(value: Mapping[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part({'aud': 'bench', 'exp': int(time.time()) + lifetime})}.c2ln"


def _print(phases: Phases, figures: Mapping[tuple[str, bool], Figures], runs: int, endurance: str) -> None:
    title = f"./dev bench connect: tools/call add, medians of {runs} runs"
    table = Table(
        "way", "revision", "p50 ms", "added", "p99 ms", "added", f"calls/s at {CONCURRENCY}", "of direct", title=title
    )
    for (name, modern), measured in figures.items():
        direct = figures["the server itself", modern]
        p50, p99, rate = (statistics.median(values) for values in (measured.p50, measured.p99, measured.rate))
        base50, base99, base = (statistics.median(values) for values in (direct.p50, direct.p99, direct.rate))
        is_added = measured is not direct
        table.add_row(
            name,
            _MODERN if modern else "2025-11-25",
            f"{p50:.2f}",
            f"{p50 - base50:+.2f}" if is_added else "",
            f"{p99:.2f}",
            f"{p99 - base99:+.2f}" if is_added else "",
            f"{rate:.0f}",
            f"{rate / base:.0%}" if is_added else "",
        )
    phases.console.print(table)
    phases.console.print("Goal: p50 added ≤ 1.5 ms.")
    phases.console.print(endurance)
