"""`./dev bench connect`: what `mcpfleet connect` adds to a call, beside mcp-remote, mcp-proxy and the direct call.

One server (`python -m mcp_server`, on loopback, without a front end), one lean load generator, the same call through
each way, the ways one after the other and in turn. It prints; it asserts nothing.
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
WARM: Final = 200
CONCURRENCY: Final = 8
SOAK: Final = 100_000
MCP_PROXY: Final = "mcp-proxy==0.13.0"

_MODERN: Final = "2026-07-28"
_VERSION_META: Final = "io.modelcontextprotocol/protocolVersion"
_META: Final[Mapping[str, Any]] = {_VERSION_META: _MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
_SECONDS: Final = 60.0

Call = Callable[[int], Coroutine[Any, Any, None]]


@dataclass
class Figures:
    """What was measured of one way: milliseconds one by one, and calls a second side by side, each run's."""

    p50: list[float] = field(default_factory=list[float])
    p99: list[float] = field(default_factory=list[float])
    rate: list[float] = field(default_factory=list[float])


def bench_connect(phases: Phases, place: CloudFolder, runs: int) -> None:
    """Measure every way *runs* times, in turn, and print the medians; then the endurance of ours."""
    with phases.phase("MCP clients from npm and PyPI") as step:
        npm = find_node_packages(ThisHost(), Paths.from_environ(os.environ), step)
        mcp_proxy = _mcp_proxy(Paths.from_environ(os.environ))
    port, token = 18_099, place.state / "bench-token"
    place.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    token.write_text(_token(3600 * 24), encoding="utf-8")
    url = f"http://127.0.0.1:{port}/mcp"
    ours = [sys.executable, "-m", "mcpfleet.cli", "connect", "--url", url]
    remote = [*npm.script("mcp-remote/dist/proxy.js"), url, "--transport", "http-only", "--silent"]
    header = ["--header", f"X-Serverless-Authorization:Bearer {token.read_text(encoding='utf-8')}"]
    ways: dict[tuple[str, bool], list[str] | None] = {
        ("the server itself", False): None,
        ("mcpfleet connect", False): [*ours, "--token-file", str(token)],
        ("mcp-remote 0.15.1", False): [*remote, *header],
        ("mcp-proxy 0.13.0", False): [*mcp_proxy, "--transport", "streamablehttp", url],
        ("the server itself", True): None,
        ("mcpfleet connect", True): [*ours, "--token-file", str(token)],
        ("mcp-remote 0.15.1", True): [*remote, "--protocol", "auto", *header],
    }
    figures = {way: Figures() for way in ways}
    server = subprocess.Popen(
        [sys.executable, "-m", "mcp_server"],
        cwd=place.root,
        env={**os.environ, "PORT": str(port), "LOG_LEVEL": "ERROR"},
        stdout=subprocess.DEVNULL,
    )
    try:
        asyncio.run(_until_up(port))
        for number in range(runs):
            with phases.phase(f"Run {number + 1} of {runs}"):
                for way, command in ways.items():
                    asyncio.run(_measure(command, port, way[1], figures[way]))
        with phases.phase(f"{SOAK:,} calls through mcpfleet connect"):
            command = f"{sys.executable} -c '{_MINT}'"
            endurance = asyncio.run(_endure([*ours, "--token-command", command], port))
    finally:
        server.terminate()
        server.wait(20)
        token.unlink()
    _print(phases, figures, runs, endurance)


# --- the ways -------------------------------------------------------------------------------------------


def _mcp_proxy(paths: Paths) -> list[str]:
    """mcp-proxy in an environment of its own in the cache: it wants another line of the SDK than ours."""
    folder = paths.cache / "bench" / MCP_PROXY.replace("==", "-")
    if not (folder / "bin" / "mcp-proxy").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", MCP_PROXY], check=True)
    return [str(folder / "bin" / "mcp-proxy")]


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


@asynccontextmanager
async def _way(command: list[str] | None, port: int, *, modern: bool) -> AsyncGenerator[tuple[Call, int]]:
    """A way to call: what makes one call, and the process that it goes through (0: none)."""
    if command is None:
        async with _directly(port, modern=modern) as direct:
            yield direct, 0
        return
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 20,
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes were asked for
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
        stdin.write(_line(message))
        return await asyncio.wait_for(waiting[ident], _SECONDS)

    async def call(ident: int) -> None:
        _check(await ask(tool_call("add", {"a": 1, "b": 2}, ident, modern=modern)[0]))

    try:
        if modern:
            await ask({"jsonrpc": "2.0", "id": -1, "method": "server/discover", "params": {"_meta": _META}})
        else:
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "b", "version": "1"}}
            await ask({"jsonrpc": "2.0", "id": -1, "method": "initialize", "params": hello})
            stdin.write(_line({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        yield call, process.pid
    finally:
        reader.cancel()
        process.kill()
        await process.wait()


@asynccontextmanager
async def _directly(port: int, *, modern: bool) -> AsyncGenerator[Call]:
    """HTTP by hand, so that the generator is not what is measured: one kept connection for each call under way."""
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
        raise ValueError(f"a wrong answer: {answer}")


# --- measuring ------------------------------------------------------------------------------------------


async def _measure(command: list[str] | None, port: int, modern: bool, figures: Figures) -> None:
    async with _way(command, port, modern=modern) as (call, _pid):
        await _side_by_side(call, range(WARM))
        times: list[float] = []
        for ident in range(WARM, WARM + CALLS):
            began = time.perf_counter()
            await call(ident)
            times.append((time.perf_counter() - began) * 1000)
        times.sort()
        figures.p50.append(statistics.median(times))
        figures.p99.append(times[int(len(times) * 0.99)])
        began = time.perf_counter()
        await _side_by_side(call, range(WARM + CALLS, WARM + 3 * CALLS))
        figures.rate.append(2 * CALLS / (time.perf_counter() - began))


async def _side_by_side(call: Call, idents: range) -> None:
    left = iter(idents)

    async def work() -> None:
        for ident in left:
            await call(ident)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


async def _endure(command: list[str], port: int) -> str:
    """Many calls, with tokens that live for seconds: memory, and whether a refresh ever costs a call."""
    async with _way(command, port, modern=True) as (call, pid):
        await _side_by_side(call, range(SOAK // 10))
        early = footprint(pid).memory / 1024
        began = time.perf_counter()
        await _side_by_side(call, range(SOAK // 10, SOAK))
        seconds = time.perf_counter() - began
        late = footprint(pid).memory / 1024
    return (
        f"{SOAK:,} calls, none failed, with a token that is renewed every {_LIFE - 10} s: resident memory "
        f"{early:.1f} MiB after {SOAK // 10:,} calls, {late:.1f} MiB after all; {0.9 * SOAK / seconds:.0f} calls/s"
    )


async def _until_up(port: int) -> None:
    async with asyncio.timeout(_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


# The server of this benchmark asks for no token; these say what a token says, and are signed by nobody.
_LIFE: Final = 15
_MINT: Final = f"""
import base64, json, time
part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
print(part({{"alg": "none"}}) + "." + part({{"aud": "bench", "exp": int(time.time()) + {_LIFE}}}) + ".c2ln")
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
    for (name, modern), seen in figures.items():
        direct = figures["the server itself", modern]
        p50, p99, rate = (statistics.median(one) for one in (seen.p50, seen.p99, seen.rate))
        base50, base99, base = (statistics.median(one) for one in (direct.p50, direct.p99, direct.rate))
        own = seen is not direct
        table.add_row(
            name,
            _MODERN if modern else "2025-11-25",
            f"{p50:.2f}",
            f"{p50 - base50:+.2f}" if own else "",
            f"{p99:.2f}",
            f"{p99 - base99:+.2f}" if own else "",
            f"{rate:.0f}",
            f"{rate / base:.0%}" if own else "",
        )
    phases.console.print(table)
    phases.console.print("Goal: p50 added ≤ 1.5 ms.")
    phases.console.print(endurance)
