"""Startup, liveness and readiness probes of a container (Cloud Run v2 `Probe`).

Cloud Run probes once every `period`. We ask much more often inside the same window: a container that is ready early is
found early, and one that is not ready when the last attempt's `timeout` ends has failed, at the same moment as there.

Not on an HTTP client: of an answer only the status line counts, however the server goes on.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from mcpfleet_local_cloud.data_plane import grpc_health
from mcpfleet_local_cloud.data_plane.contract import Probe
from mcpfleet_local_cloud.network.dial import Dial

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
_SHOWN: Final = 4096
"""Bytes of an answer that are read to be shown."""


def window(probe: Probe) -> float:
    """Seconds from the container's start to the end of the last attempt."""
    return probe.initial_delay + (probe.failure_threshold - 1) * probe.period + probe.timeout


async def started(probe: Probe, host: str, dial: Dial, running: Callable[[], bool]) -> bool:
    """Wait until *probe* succeeds at *host*.

    Args:
        probe: what to ask.
        host: the container's address.
        dial: connects to it.
        running: asked between attempts; once false, there is nothing to wait for.

    Returns:
        False when the window closed, or the container stopped running, before an attempt succeeded.
    """
    began = time.monotonic()
    await asyncio.sleep(probe.initial_delay)
    pause = _FIRST_PAUSE
    while running():
        left = began + window(probe) - time.monotonic()
        if left <= 0:
            return False
        # An attempt that hangs must not use up the window: a fresh one may find the server that came meanwhile.
        if await succeeds(probe, host, dial, min(float(probe.timeout), left, 5.0)):
            return running()
        await asyncio.sleep(min(pause, max(left, 0.0)))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    return False


async def succeeds(probe: Probe, host: str, dial: Dial, seconds: float) -> bool:
    """One attempt of at most *seconds*: a TCP connection, a GET that is answered 2xx or 3xx, or gRPC's health check."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(sock=await dial(host, probe.port))
            try:
                if probe.grpc_service is not None:
                    return await grpc_health.serving(probe.grpc_service, f"{host}:{probe.port}", reader, writer)
                return probe.http_path is None or await _get(probe, host, reader, writer)
            finally:
                writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
        return False


async def answer(probe: Probe, host: str, dial: Dial, seconds: float) -> str:
    """The answer to a probe by HTTP: status, and on further lines the beginning of its body; empty where none comes."""
    if probe.http_path is None:
        return ""
    read = b""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(sock=await dial(host, probe.port))
            try:
                _ask(probe, host, writer)
                while len(read) < _SHOWN and (piece := await reader.read(_SHOWN)):
                    read += piece
            finally:
                writer.close()
    except OSError:  # what has come is shown
        pass
    head, _, body = read[:_SHOWN].decode("utf-8", "replace").partition("\r\n\r\n")
    status = head.partition("\r\n")[0].partition(" ")[2]
    return f"{status}\n{body}" if status else ""


async def _get(probe: Probe, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    _ask(probe, host, writer)
    version, status, *_ = (await reader.readline()).split()
    return version.startswith(b"HTTP/1.") and 200 <= int(status) < 400


def _ask(probe: Probe, host: str, writer: asyncio.StreamWriter) -> None:
    headers = {"host": f"{host}:{probe.port}", "user-agent": "mcpfleet-probe", "connection": "close"}
    headers.update({name.lower(): value for name, value in probe.http_headers})
    lines = [f"GET {probe.http_path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
