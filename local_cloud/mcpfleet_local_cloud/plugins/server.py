"""The process that serves both stand-in providers on loopback."""

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc
from pulumi.runtime.proto.provider_pb2_grpc import add_ResourceProviderServicer_to_server

from mcpfleet_local_cloud.plugins.docker_build.provider import DockerBuildProvider
from mcpfleet_local_cloud.plugins.gcp.provider import GcpProvider
from mcpfleet_local_cloud.plugins.servicer import Provider
from pulumi_mcpfleet.cloud_build import peers

_MESSAGE_BYTES: Final = 400 * 1024 * 1024  # as the engine's own limit
_WORKERS: Final = 64  # an operation blocks its thread; the engine starts as many as the machine has CPUs, times 4
_GLANCE: Final = 0.5
"""Seconds between two looks at whether the process that needs the providers lives."""


def serve(provider: Provider, port: int) -> tuple[grpc.Server, int]:
    """Start *provider* on loopback; port 0 means any free one.

    Returns:
        The running server and its port.

    Raises:
        OSError: the port is taken.
    """
    limits = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    server = peers.server(ThreadPoolExecutor(_WORKERS, provider.package), [*limits, ("grpc.so_reuseport", 0)])
    try:
        bound = server.add_insecure_port(f"{peers.HOST}:{port}")
    except RuntimeError as error:
        raise OSError(f"port {port} on {peers.HOST} is taken; choose another or leave the option out") from error
    add_ResourceProviderServicer_to_server(provider, server)
    server.start()
    return server, bound


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal or the end of who needs it; exit code 1 with one sentence when a port is taken."""
    parent = os.getppid()
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # one line for each request is the cloud's own log
    if options.directory:
        os.chdir(options.directory)
    try:
        gcp, gcp_port = serve(GcpProvider(), options.gcp_port)
        docker_build, docker_build_port = serve(DockerBuildProvider(), options.docker_build_port)
    except OSError as error:
        sys.exit(f"the stand-in providers could not start: {error}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    attach = f"gcp:{gcp_port},docker-build:{docker_build_port}"
    _announce(options.ready_file, {"pid": os.getpid(), "PULUMI_DEBUG_PROVIDERS": attach})
    while not stop.wait(_GLANCE) and _needed(options.until, parent):
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
