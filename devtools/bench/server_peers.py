"""The servers that `./dev bench server` compares, made ready to run."""

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
    """One server, ready to run.

    Attributes:
        title: What it is.
        image: The image that it runs in.
        command: What runs in it.
        mounts: Folders and files of this machine, and where the container sees them.
        environment: Its variables.
        eras: The eras of the protocol that it speaks.
        megabytes: What it adds to the base image.
    """

    title: str
    image: str
    command: tuple[str, ...]
    mounts: Mapping[Path, str]
    megabytes: float
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    eras: tuple[str, ...] = _BOTH


def gather(phases: Phases, prepared: PreparedMachine) -> list[Server]:
    """Build and install what is needed; it stays in the cache.

    Raises:
        SetupError: Something can't be had here.
    """
    host, paths, base = ThisHost(), prepared.paths, prepared.base_image
    ours = ours_of(prepared, paths.root)
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
    on_python = {_PEERS: "/bench", python: "/peer"}
    on_node = {_PEERS: "/bench", node.folder / "node_modules": "/node_modules", node.node: "/usr/local/bin/node"}
    paths_of = {"PYTHONPATH": "/peer", "PYTHONDONTWRITEBYTECODE": "1"}
    fast = ("python3", "/bench/fast.py")
    sdk = ("python3", "/bench/sdk.py")
    json_alone = {"MODE": "json"}
    return [
        ours,
        Server(
            "FastMCP on our hosting",
            ours.image,
            (ours.command[0], "/bench/fast.py"),
            {**package, python: "/peer"},
            ours.megabytes + sizes["python"],
            {"PYTHONPATH": "/app:/peer", "HOSTED": "1"},
        ),
        Server(FASTMCP, base, fast, on_python, sizes["python"], paths_of),
        Server("FastMCP 4.1, JSON alone", base, fast, on_python, sizes["python"], {**paths_of, **json_alone}),
        Server("official MCPServer 2.3, streams", base, sdk, on_python, sizes["python"], paths_of),
        Server("official MCPServer 2.3, JSON alone", base, sdk, on_python, sizes["python"], {**paths_of, **json_alone}),
        Server("TypeScript 2.4, streams", base, ("node", "/bench/typescript_v2.mjs"), on_node, sizes["node"]),
        Server(
            "TypeScript 2.4, JSON alone", base, ("node", "/bench/typescript_v2.mjs"), on_node, sizes["node"], json_alone
        ),
        Server(
            "TypeScript 1.32, JSON alone",
            base,
            ("node", "/bench/typescript_v1.mjs"),
            on_node,
            sizes["node"],
            json_alone,
            ("legacy",),
        ),
        Server("Go 1.8, streams", base, ("/go",), {go: "/go"}, sizes["go"], {"GOMAXPROCS": "1"}),
        Server("Go 1.8, JSON alone", base, ("/go",), {go: "/go"}, sizes["go"], {"GOMAXPROCS": "1", **json_alone}),
    ]


def ours_of(prepared: PreparedMachine, root: Path, image: str = _IMAGE) -> Server:
    """The reference server's hosting layer as it is in a checkout.

    Raises:
        SetupError: Its image can't be built.
    """
    _build(prepared, root, image)
    command = ("/opt/venv/bin/python", "-m", "bench.ours")
    peers = root / "devtools" / "bench" / "servers"
    return Server(OURS, image, command, {peers: "/app/bench"}, _added(prepared, image, prepared.base_image))


def _build(prepared: PreparedMachine, root: Path, image: str) -> None:
    build = ["docker", "build", "--quiet", "--network", "host", "--tag", image]
    build += ["--build-arg", f"BASE_IMAGE={prepared.base_image}"]
    build += ["--file", str(root / "mcp_server" / "Dockerfile"), str(root)]
    done = subprocess.run(build, env=prepared.environment(), check=False, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"docker build failed: {done.stderr.strip()}", "mend what it names, then run it again.")


def _compile(prepared: PreparedMachine, packages: Path) -> None:
    """Compile as an image would; otherwise a peer's start would be that of its compiler."""
    command = ["python3", "-m", "compileall", "-q", "-j", "2", "/peer"]
    volumes = {str(packages): {"bind": "/peer", "mode": "rw"}}
    prepared.docker.containers.run(prepared.base_image, command, remove=True, volumes=volumes, user="0")


def _added(prepared: PreparedMachine, image: str, base: str) -> float:
    images: Any = prepared.docker.images
    return (images.get(image).attrs["Size"] - images.get(base).attrs["Size"]) / 1e6


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _node_megabytes(folder: Path, node: Path) -> float:
    packages = ["@modelcontextprotocol/server", "@modelcontextprotocol/node", "zod"]
    return sum(_megabytes(folder / "node_modules" / name) for name in packages) + node.stat().st_size / 1e6
