"""Other people's Python servers and clients (devtools/python_peers), and programs in Go, in the user's cache."""

import hashlib
from collections.abc import Callable
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


def find_python_peers(host: Host, paths: Paths, python: str) -> Path:
    """Return a folder that holds the packages of devtools/python_peers/uv.lock for a version of Python, such as "3.13".

    Put it on PYTHONPATH. Bytecode is for whoever runs it to compile.

    Raises:
        SetupError: The registry did not give them.
    """
    project = paths.root / "devtools" / "python_peers"
    lock = project / "uv.lock"
    uv = find_uv(host, paths)

    def make(folder: Path) -> None:
        wanted = folder.parent / f".{folder.name}.txt"
        export = [
            uv,
            "export",
            "--frozen",
            "--no-emit-project",
            "--project",
            project,
            "--output-file",
            wanted,
            "--quiet",
        ]
        _run(host, export, "the packages of devtools/python_peers could not be read")
        install: list[str | Path] = [uv, "pip", "install", "--quiet", "--require-hashes", "--target", folder]
        platform = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]
        _run(
            host,
            [*install, *platform, "--requirements", wanted],
            "the packages of devtools/python_peers could not be installed",
        )
        wanted.unlink()

    return _cached(paths, f"python{python}", lock.read_bytes(), make)


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


def _run(host: Host, argv: list[str | Path], failure: str) -> None:
    done = host.run(argv, timeout=600)
    if done.code != 0:
        raise SetupError(f"{failure}:\n{done.tail()}", "check the network and proxy settings, then run it again.")
