"""Startup, liveness and readiness probes of a container (Cloud Run v2 `Probe`).

Cloud Run probes once every `period`. Here a startup probe is tried much more often within the same window: a container
that is ready early is detected early, and one that is not ready at the end of the last attempt's `timeout` fails at the
same moment as on Cloud Run.

This module does not use an HTTP client, because only the status line of a response counts, whatever follows it.
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
_SHOWN_BYTES: Final = 4096
"""Bytes of a response that are read for an error message."""


def startup_window(probe: Probe) -> float:
    """Seconds from the container's start to the end of the last attempt."""
    return probe.initial_delay + (probe.failure_threshold - 1) * probe.period + probe.timeout


async def wait_until_started(probe: Probe, host: str, dial: Dial, is_running: Callable[[], bool]) -> bool:
    """Wait until *probe* succeeds at *host*.

    Args:
        probe: The startup probe.
        host: The container's address.
        dial: Connects to it.
        is_running: Called between attempts; once it returns False, the wait ends.

    Returns:
        False if the window ended, or the container stopped, before an attempt succeeded.
    """
    start = time.monotonic()
    await asyncio.sleep(probe.initial_delay)
    pause = _FIRST_PAUSE
    while is_running():
        remaining = start + startup_window(probe) - time.monotonic()
        if remaining <= 0:
            return False
        # A hanging attempt must not use up the window: a new one may reach a server that has started meanwhile.
        if await run_probe(probe, host, dial, min(float(probe.timeout), remaining, 5.0)):
            return is_running()
        await asyncio.sleep(min(pause, max(remaining, 0.0)))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    return False


async def run_probe(probe: Probe, host: str, dial: Dial, seconds: float) -> bool:
    """Try once, for at most *seconds*: a TCP connection, a GET with a 2xx or 3xx response, or gRPC's health check."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(sock=await dial(host, probe.port))
            try:
                if probe.grpc_service is not None:
                    return await grpc_health.is_serving(probe.grpc_service, f"{host}:{probe.port}", reader, writer)
                return probe.http_path is None or await _get(probe, host, reader, writer)
            finally:
                writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
        return False


async def read_response(probe: Probe, host: str, dial: Dial, seconds: float) -> str:
    """Read the response to an HTTP probe: the status, and on further lines the start of the body; empty without one."""
    if probe.http_path is None:
        return ""
    received = b""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(sock=await dial(host, probe.port))
            try:
                _send_request(probe, host, writer)
                while len(received) < _SHOWN_BYTES and (piece := await reader.read(_SHOWN_BYTES)):
                    received += piece
            finally:
                writer.close()
    except OSError:  # show the part that was received
        pass
    head, _, body = received[:_SHOWN_BYTES].decode("utf-8", "replace").partition("\r\n\r\n")
    status = head.partition("\r\n")[0].partition(" ")[2]
    return f"{status}\n{body}" if status else ""


async def _get(probe: Probe, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    _send_request(probe, host, writer)
    version, status, *_ = (await reader.readline()).split()
    return version.startswith(b"HTTP/1.") and 200 <= int(status) < 400


def _send_request(probe: Probe, host: str, writer: asyncio.StreamWriter) -> None:
    headers = {"host": f"{host}:{probe.port}", "user-agent": "mcpfleet-probe", "connection": "close"}
    headers.update({name.lower(): value for name, value in probe.http_headers})
    lines = [f"GET {probe.http_path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
