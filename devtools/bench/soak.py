"""The endurance test of the bridge: many calls, a server that crashes, and clients that hang up.

Every call has its own text, and must return it or an error with a reason. The test counts the bridge's processes,
descriptors and memory before and after.
"""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from devtools.bench.load import tool_call

_HEADERS: Final = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
_EXPECTED_REASONS: Final = ("process ended before it answered", "Too many calls wait")


@dataclass(frozen=True)
class Footprint:
    """The resources of a bridge.

    Attributes:
        children: The number of its descendant processes.
        descriptors: The number of its open files.
        memory: Its resident memory in KiB.
    """

    children: int
    descriptors: int
    memory: int


@dataclass
class Result:
    """The result of an endurance test."""

    calls: int = 0
    answered: int = 0
    vanished: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    """Responses of other calls, and failures without a reason; must be empty."""


def footprint(process: int) -> Footprint:
    """Count the current resources of the process."""
    status = Path(f"/proc/{process}/status").read_text()
    memory = int(status.partition("VmRSS:")[2].split()[0])
    return Footprint(len(descendants(process)), len(list(Path(f"/proc/{process}/fd").iterdir())), memory)


def descendants(process: int) -> list[int]:
    """The ids of all descendants of *process*, including zombies."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    pids = [process]
    for pid in pids:
        pids += [child for child, parent in parents.items() if parent == pid]
    return pids[1:]


async def soak(url: str, *, calls: int, clients: int = 16, crash_every: int = 100, hang_up_count: int = 50) -> Result:
    """Make *calls* calls.

    Args:
        url: The MCP endpoint of a bridge whose server has the tools of `devtools/bench/stdio_server.py`.
        calls: The number of calls of all clients.
        clients: The number of concurrent clients; every second one uses the newest protocol version.
        crash_every: The number of calls of which one crashes the server.
        hang_up_count: The number of hang-ups during a call, spread over the test.
    """
    result, numbers = Result(), iter(range(calls))
    hang_ups = (
        {round((index + 0.5) * calls / hang_up_count) for index in range(hang_up_count)}
        if hang_up_count
        else set[int]()
    )
    started = time.monotonic()

    async def run_client(name: int) -> None:
        async with httpx2.AsyncClient(timeout=120, trust_env=False) as http:
            for number in numbers:
                result.calls += 1
                if number in hang_ups:
                    await _hang_up(url, name, number)
                    result.vanished += 1
                    continue
                tool = "crash" if number % crash_every == crash_every - 1 else "echo"
                await _make_call(http, url, name, number, tool, result)

    await asyncio.gather(*(run_client(name) for name in range(clients)))
    result.seconds = time.monotonic() - started
    return result


async def _make_call(http: httpx2.AsyncClient, url: str, name: int, number: int, tool: str, result: Result) -> None:
    text = f"client {name} call {number}"
    message, headers = _request(name, tool, {} if tool == "crash" else {"text": text})
    try:
        response = await http.post(url, content=message, headers=headers)
    except httpx2.HTTPError as error:
        result.wrong.append(f"{text}: no answer: {error!r}")
        return
    try:
        answer = response.json()
    except ValueError:
        result.wrong.append(
            f"{text}: {response.status_code} {response.headers.get('content-type')} {response.text[:200]!r}"
        )
        return
    if answer.get("id") != name:
        result.wrong.append(f"{text}: the id is {answer.get('id')!r}")
    elif "error" in answer:
        reason = str(answer["error"]["message"])
        result.failures[reason] += 1
        if not any(expected in reason for expected in _EXPECTED_REASONS):
            result.wrong.append(f"{text}: {reason}")
    elif answer["result"]["content"][0]["text"] != text:
        result.wrong.append(f"{text}: the answer is {answer['result']['content'][0]['text']!r}")
    else:
        result.answered += 1


async def _hang_up(url: str, name: int, number: int) -> None:
    """Send a slow call, and abort the connection."""
    target = httpx2.URL(url)
    reader, writer = await asyncio.open_connection(target.host, target.port)
    message, headers = _request(name, "slow", {"seconds": 30, "text": f"vanished {number}"})
    lines = [f"POST {target.path} HTTP/1.1", f"host: {target.netloc.decode()}", f"content-length: {len(message)}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + message)
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()
    del reader


def _request(name: int, tool: str, arguments: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    # A client uses the same id for all its calls.
    message, headers = tool_call(tool, arguments, name, modern=bool(name % 2))
    return json.dumps(message).encode(), {**_HEADERS, **headers}
