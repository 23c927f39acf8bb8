"""The reference server as a process on its own port."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2

ROOT = Path(__file__).parents[2]


class Served:
    """A process that serves MCP."""

    def __init__(self, process, port, log) -> None:
        self.process, self.port, self.log = process, port, log
        self.base = f"http://127.0.0.1:{port}"
        self.url = f"{self.base}/mcp"

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self, seconds=15) -> int:
        return self.process.wait(seconds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(folder, module="mcp_server", argv=None, **environment):
    """Run a server and wait until it is ready."""
    port = free_port()
    log = folder / f"server-{port}.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MCP_", "K_", "OTEL_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv or [sys.executable, "-m", module],
            cwd=ROOT,
            env={**kept, "PORT": str(port), "MCP_WORKERS": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    served = Served(process, port, log)
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                if httpx2.get(f"{served.base}/ready", timeout=1, trust_env=False).is_success:
                    break
            except httpx2.HTTPError:
                time.sleep(0.02)
        yield served
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
