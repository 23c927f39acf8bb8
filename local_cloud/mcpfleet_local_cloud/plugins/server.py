"""The process that serves both emulated providers on loopback."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mcpfleet_local_cloud.plugins.docker_build.image import DockerBuildProvider
from mcpfleet_local_cloud.plugins.gcp.provider import GcpProvider
from pulumi_mcpfleet.cloud_build.plugin import POLL_SECONDS, serve, stop_on_signals

_WORKERS: Final = 64  # an operation blocks its thread; the engine starts as many as the machine has CPUs, times 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal arrives or the process --until ends; exit with code 1 and an error if a port is in use."""
    parent = os.getppid()
    options = _parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the local cloud logs each request itself
    if options.directory:
        os.chdir(options.directory)
    try:
        gcp, gcp_port = serve(GcpProvider(), _WORKERS, options.gcp_port)
        docker_build, docker_build_port = serve(DockerBuildProvider(), _WORKERS, options.docker_build_port)
    except OSError as error:
        sys.exit(f"the emulated providers could not start: {error}")
    stop = stop_on_signals()
    attach = f"gcp:{gcp_port},docker-build:{docker_build_port}"
    _write_ready_file(options.ready_file, {"pid": os.getpid(), "PULUMI_DEBUG_PROVIDERS": attach})
    while not stop.wait(POLL_SECONDS) and _is_running(options.until, parent):
        pass
    for stopped in [server.stop(grace=2) for server in (gcp, docker_build)]:
        stopped.wait()
    options.ready_file.unlink(missing_ok=True)
    os._exit(0)  # doesn't wait for running operations


def _is_running(pid: int | None, parent: int) -> bool:
    """Whether the process *pid* is running (None: always); *parent* was this process's parent at its start."""
    if pid is None:
        return True
    if pid == parent:  # an ended parent may stay in the process table as a zombie
        return os.getppid() == parent
    try:
        os.kill(pid, 0)
    except OSError:  # ended, or another user's process has the number now
        return False
    return True


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mcpfleet_local_cloud.plugins", description=main.__doc__)
    parser.add_argument(
        "--ready-file", type=_absolute_path, required=True, help="the JSON file to write when both servers accept calls"
    )
    parser.add_argument("--gcp-port", type=int, default=0)
    parser.add_argument("--docker-build-port", type=int, default=0)
    parser.add_argument("--until", type=int, metavar="PID", help="stop when this process ends")
    parser.add_argument("--directory", type=Path, help="the folder that relative build contexts are relative to")
    return parser.parse_args(arguments)


def _absolute_path(path: str) -> Path:
    return Path(path).absolute()  # before --directory changes the working directory


def _write_ready_file(path: Path, content: dict[str, object]) -> None:
    """Write the ready file atomically, so that readers never see a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content) + "\n")
    temporary.replace(path)
