"""Builds and installs the servers that `./dev bench server` compares."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from devtools.peers import find_go_program, find_node_packages, find_python_peers
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.setup import PreparedMachine
from mcpfleet_local_cloud.commands.setup.host import ThisHost

_BASE_PYTHON: Final = "3.13"
_PEERS: Final = Path(__file__).with_name("servers")
_IMAGE: Final = "mcpfleet-bench/reference"
OURS: Final = "ours, streams"
FASTMCP: Final = "FastMCP 4.1, streams"
_BOTH: Final = ("modern", "legacy")


@dataclass(frozen=True)
class Server:
    """A server that is ready to run.

    Attributes:
        title: The title in the tables.
        image: The image to run.
        command: The command in the container.
        mounts: The paths in the container of folders and files of this machine.
        environment: The environment variables.
        protocols: The protocol versions that it supports: `modern` (2026-07-28), `legacy` (2025-11-25).
        megabytes: The size that it adds to the base image.
    """

    title: str
    image: str
    command: tuple[str, ...]
    mounts: Mapping[Path, str]
    megabytes: float
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    protocols: tuple[str, ...] = _BOTH


def prepare_servers(phases: Phases, prepared: PreparedMachine) -> list[Server]:
    """Build and install all servers, in the cache.

    Raises:
        SetupError: A server can't be built or installed.
    """
    host, paths, base = ThisHost(), prepared.paths, prepared.base_image
    our_reference = our_server(prepared, paths.root)
    with phases.phase("Python peers"):
        python = find_python_peers(host, paths, _BASE_PYTHON)
        _compile(prepared, python)
    with phases.phase("TypeScript peers") as step:
        node = find_node_packages(host, paths, step)
    with phases.phase("Go peer") as step:
        go = find_go_program(host, paths, _PEERS / "go", step)
    package = {_PEERS: "/bench"}
    sizes = {
        "python": _megabytes(python),
        "node": _node_megabytes(node.folder, node.node),
        "go": go.stat().st_size / 1e6,
    }
    python_mounts = {_PEERS: "/bench", python: "/peer"}
    node_mounts = {_PEERS: "/bench", node.folder / "node_modules": "/node_modules", node.node: "/usr/local/bin/node"}
    python_environment = {"PYTHONPATH": "/peer", "PYTHONDONTWRITEBYTECODE": "1"}
    fastmcp_command = ("python3", "/bench/fast.py")
    sdk_command = ("python3", "/bench/sdk.py")
    json_only = {"MODE": "json"}
    return [
        our_reference,
        Server(
            "FastMCP on our hosting",
            our_reference.image,
            (our_reference.command[0], "/bench/fast.py"),
            {**package, python: "/peer"},
            our_reference.megabytes + sizes["python"],
            {"PYTHONPATH": "/app:/peer", "HOSTED": "1"},
        ),
        Server(FASTMCP, base, fastmcp_command, python_mounts, sizes["python"], python_environment),
        Server(
            "FastMCP 4.1, JSON alone",
            base,
            fastmcp_command,
            python_mounts,
            sizes["python"],
            {**python_environment, **json_only},
        ),
        Server(
            "official MCPServer 2.3, streams", base, sdk_command, python_mounts, sizes["python"], python_environment
        ),
        Server(
            "official MCPServer 2.3, JSON alone",
            base,
            sdk_command,
            python_mounts,
            sizes["python"],
            {**python_environment, **json_only},
        ),
        Server("TypeScript 2.4, streams", base, ("node", "/bench/typescript_v2.mjs"), node_mounts, sizes["node"]),
        Server(
            "TypeScript 2.4, JSON alone",
            base,
            ("node", "/bench/typescript_v2.mjs"),
            node_mounts,
            sizes["node"],
            json_only,
        ),
        Server(
            "TypeScript 1.32, JSON alone",
            base,
            ("node", "/bench/typescript_v1.mjs"),
            node_mounts,
            sizes["node"],
            json_only,
            ("legacy",),
        ),
        Server("Go 1.8, streams", base, ("/go",), {go: "/go"}, sizes["go"], {"GOMAXPROCS": "1"}),
        Server("Go 1.8, JSON alone", base, ("/go",), {go: "/go"}, sizes["go"], {"GOMAXPROCS": "1", **json_only}),
    ]


def our_server(prepared: PreparedMachine, root: Path, image: str = _IMAGE) -> Server:
    """The reference server's hosting layer of a checkout.

    Raises:
        SetupError: The image can't be built.
    """
    _build(prepared, root, image)
    command = ("/opt/venv/bin/python", "-m", "bench.ours")
    peers = root / "devtools" / "bench" / "servers"
    return Server(OURS, image, command, {peers: "/app/bench"}, _added_megabytes(prepared, image, prepared.base_image))


def _build(prepared: PreparedMachine, root: Path, image: str) -> None:
    build = ["docker", "build", "--quiet", "--network", "host", "--tag", image]
    build += ["--build-arg", f"BASE_IMAGE={prepared.base_image}"]
    build += ["--file", str(root / "mcp_server" / "Dockerfile"), str(root)]
    result = subprocess.run(build, env=prepared.environment(), check=False, capture_output=True, text=True)
    if result.returncode:
        raise SetupError(
            f"docker build failed: {result.stderr.strip()}", "fix what the message names, then run it again."
        )


def _compile(prepared: PreparedMachine, packages: Path) -> None:
    """Compile the packages to bytecode, as in an image, so that the start of a peer doesn't include compilation."""
    command = ["python3", "-m", "compileall", "-q", "-j", "2", "/peer"]
    volumes = {str(packages): {"bind": "/peer", "mode": "rw"}}
    prepared.docker.containers.run(prepared.base_image, command, remove=True, volumes=volumes, user="0")


def _added_megabytes(prepared: PreparedMachine, image: str, base: str) -> float:
    images: Any = prepared.docker.images
    return (images.get(image).attrs["Size"] - images.get(base).attrs["Size"]) / 1e6


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _node_megabytes(folder: Path, node: Path) -> float:
    packages = ["@modelcontextprotocol/server", "@modelcontextprotocol/node", "zod"]
    return sum(_megabytes(folder / "node_modules" / name) for name in packages) + node.stat().st_size / 1e6
