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
from pulumi_mcpfleet.cloud_build.plugin import GLANCE, serve, stopped_by_signal

_WORKERS: Final = 64  # an operation blocks its thread; the engine starts as many as the machine has CPUs, times 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal or the end of who needs it; exit code 1 with one sentence when a port is taken."""
    parent = os.getppid()
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # one line for each request is the cloud's own log
    if options.directory:
        os.chdir(options.directory)
    try:
        gcp, gcp_port = serve(GcpProvider(), _WORKERS, options.gcp_port)
        docker_build, docker_build_port = serve(DockerBuildProvider(), _WORKERS, options.docker_build_port)
    except OSError as error:
        sys.exit(f"the emulated providers could not start: {error}")
    stop = stopped_by_signal()
    attach = f"gcp:{gcp_port},docker-build:{docker_build_port}"
    _announce(options.ready_file, {"pid": os.getpid(), "PULUMI_DEBUG_PROVIDERS": attach})
    while not stop.wait(GLANCE) and _needed(options.until, parent):
        pass
    for ended in [server.stop(grace=2) for server in (gcp, docker_build)]:
        ended.wait()
    options.ready_file.unlink(missing_ok=True)
    os._exit(0)  # not held up by an operation that goes on


def _needed(until: int | None, parent: int) -> bool:
    """Whether the process *until* lives; *parent* was this one's."""
    if until is None:
        return True
    if until == parent:  # one that has ended may be in the table for longer, as a zombie
        return os.getppid() == parent
    try:
        os.kill(until, 0)
    except OSError:  # gone, or its number is another user's by now
        return False
    return True


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mcpfleet_local_cloud.plugins", description=main.__doc__)
    parser.add_argument("--ready-file", type=_absolute, required=True, help="written once both servers answer (JSON)")
    parser.add_argument("--gcp-port", type=int, default=0)
    parser.add_argument("--docker-build-port", type=int, default=0)
    parser.add_argument("--until", type=int, metavar="PID", help="end when this process has ended")
    parser.add_argument("--directory", type=Path, help="what relative build contexts are relative to")
    return parser.parse_args(arguments)


def _absolute(path: str) -> Path:
    return Path(path).absolute()  # --directory changes what relative means


def _announce(path: Path, facts: dict[str, object]) -> None:
    """Write the ready file in one step, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(facts) + "\n")
    draft.replace(path)
