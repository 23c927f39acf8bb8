"""The bridge's endurance: many calls, a server that crashes, clients that vanish; and what is left afterwards.

Every call carries a text of its own and must come back with it, or with an error that says why. Before and
after, the bridge's processes, descriptors and memory are counted.
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
_KNOWN: Final = ("process ended before it answered", "Too many calls wait")


@dataclass(frozen=True)
class Footprint:
    """What a bridge holds.

    Attributes:
        children: Processes that descend from it.
        descriptors: Its open files.
        memory: Its resident memory, in KiB.
    """

    children: int
    descriptors: int
    memory: int


@dataclass
class Result:
    """What a soak came to."""

    calls: int = 0
    answered: int = 0
    vanished: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    """Answers that were not the call's own, and failures without a reason: there may be none."""


def footprint(process: int) -> Footprint:
    """Count what the process holds now."""
    status = Path(f"/proc/{process}/status").read_text()
    memory = int(status.partition("VmRSS:")[2].split()[0])
    return Footprint(len(descendants(process)), len(list(Path(f"/proc/{process}/fd").iterdir())), memory)


def descendants(process: int) -> list[int]:
    """Every process that descends from *process*, zombies included."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


async def soak(url: str, *, calls: int, clients: int = 16, crash_every: int = 100, vanish: int = 50) -> Result:
    """Make so many calls.

    Args:
        url: The bridge's MCP endpoint, before a server that has the tools of `devtools/bench/stdio_server.py`.
        calls: How many, in all.
        clients: How many at once; every second one speaks the newer revision.
        crash_every: Each so many calls, one makes the server crash.
        vanish: How many clients hang up in the middle of a call, spread over the whole.
    """
    result, numbers = Result(), iter(range(calls))
    hang_ups = {round((index + 0.5) * calls / vanish) for index in range(vanish)} if vanish else set[int]()
    began = time.monotonic()

    async def client(name: int) -> None:
        async with httpx2.AsyncClient(timeout=120, trust_env=False) as http:
            for number in numbers:
                result.calls += 1
                if number in hang_ups:
                    await _hang_up(url, name, number)
                    result.vanished += 1
                    continue
                tool = "crash" if number % crash_every == crash_every - 1 else "echo"
                await _one(http, url, name, number, tool, result)

    await asyncio.gather(*(client(name) for name in range(clients)))
    result.seconds = time.monotonic() - began
    return result


async def _one(http: httpx2.AsyncClient, url: str, name: int, number: int, tool: str, result: Result) -> None:
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
        if not any(known in reason for known in _KNOWN):
            result.wrong.append(f"{text}: {reason}")
    elif answer["result"]["content"][0]["text"] != text:
        result.wrong.append(f"{text}: the answer is {answer['result']['content'][0]['text']!r}")
    else:
        result.answered += 1


async def _hang_up(url: str, name: int, number: int) -> None:
    """Send a call that takes long, and close the connection without a word."""
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
    # Every client uses one and the same id all the time.
    message, headers = tool_call(tool, arguments, name, modern=bool(name % 2))
    return json.dumps(message).encode(), {**_HEADERS, **headers}
