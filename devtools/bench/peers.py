"""The bridges to compare: how to install each, and how to start it with a stdio server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mcpfleet_local_cloud.commands.phases import SetupError

_FASTMCP: Final = """
import sys
import uvicorn
from fastmcp.server import create_proxy

command, *args = sys.argv[2:]
# Without mode="auto", the shared process is killed whenever clients with old and new protocol versions alternate.
proxy = create_proxy({"mcpServers": {"server": {"command": command, "args": args}}}, mode="auto")
app = proxy.http_app(path="/mcp", stateless_http=True)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
"""


@dataclass(frozen=True)
class Peer:
    """A bridge to measure.

    Attributes:
        name: The name in the table.
        command: Returns its command line for a port and a stdio server's command line.
        path: The path of its MCP endpoint.
        modern: Whether it supports protocol version 2026-07-28.
        stateful: Whether it is measured with a session for each client.
        environment: Returns its environment variables.
        directory: The folder to start it in.
    """

    name: str
    command: Callable[[int, Sequence[str]], Sequence[str]]
    path: str = "/mcp"
    modern: bool = True
    stateful: bool = False
    environment: Callable[[int, Sequence[str]], Mapping[str, str]] = field(default=lambda _port, _server: {})
    directory: Path | None = None


def our_bridge(root: Path, pool: int) -> Peer:
    """The bridge of a checkout, with the installed packages of this environment."""
    packages = root / "packages"
    return Peer(
        name=f"mcpfleet-bridge, {pool} process{'es' if pool > 1 else ''}",
        command=lambda _port, _server: [sys.executable, "-m", "mcpfleet_bridge"],
        environment=lambda port, server: {
            "PYTHONPATH": f"{packages / 'mcpfleet-bridge'}:{packages / 'mcpfleet-server'}",
            "PORT": str(port),
            "MCP_STDIO_COMMAND": json.dumps(list(server)),
            "MCP_STDIO_POOL": str(pool),
            "MCP_LOG_LEVEL": "WARNING",
        },
        directory=root,
    )


def install_peers(place: Path, uv: Path | str) -> list[Peer]:
    """Install the other bridges below *place*, unless they are there, in the versions of docs/benchmarks.md.

    Raises:
        SetupError: A bridge can't be installed.
    """
    place.mkdir(parents=True, exist_ok=True)
    proxy, fast, gateway = place / "mcp-proxy-0.13.0", place / "fastmcp-4.1.2", place / "supergateway-4.0.0"
    _install_python_packages(proxy, uv, ["mcp-proxy==0.13.0"])
    _install_python_packages(fast, uv, ["fastmcp==4.1.2", "uvicorn"])
    if not (gateway / "done").exists():
        if shutil.which("npm") is None:
            raise SetupError("supergateway needs npm, which is missing.", "install Node.js 20 or newer.")
        _run(["npm", "install", "--silent", "--no-audit", "--prefix", str(gateway), "supergateway@4.0.0"])
        (gateway / "done").touch()
    program = place / "fastmcp_proxy.py"
    program.write_text(_FASTMCP)
    gateway_program = str(gateway / "node_modules" / ".bin" / "supergateway")
    return [
        Peer(
            name="mcp-proxy 0.13.0 --stateless",
            command=lambda port, server: [
                *(str(proxy / "bin" / "mcp-proxy"), "--stateless", "--log-level", "ERROR"),
                *("--port", str(port), "--", *server),
            ],
            path="/mcp/",
            modern=False,
        ),
        Peer(
            name="supergateway 4.0.0 --stateful",
            command=lambda port, server: [
                *(gateway_program, "--stdio", " ".join(server), "--outputTransport", "streamableHttp"),
                *("--stateful", "--port", str(port), "--logLevel", "none"),
            ],
            modern=False,
            stateful=True,
        ),
        Peer(
            name='FastMCP 4.1.2 create_proxy(mode="auto")',
            command=lambda port, server: [str(fast / "bin" / "python"), str(program), str(port), *server],
            environment=lambda _port, _server: {"FASTMCP_CHECK_FOR_UPDATES": "off"},
        ),
    ]


def _install_python_packages(place: Path, uv: Path | str, packages: Sequence[str]) -> None:
    if not (place / "done").exists():
        _run([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(place)])
        _run([str(uv), "pip", "install", "--quiet", "--python", str(place / "bin" / "python"), *packages])
        (place / "done").touch()


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if result.returncode:
        raise SetupError(
            f"{' '.join(command)} failed:\n{result.stderr.strip()[-2000:]}",
            "check that the package registries can be reached, then run it again.",
        )
