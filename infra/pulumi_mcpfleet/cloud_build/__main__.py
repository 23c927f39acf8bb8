"""Serves the provider until the engine ends it: `pulumi-resource-mcpfleet-build ENGINE-ADDRESS`."""

import argparse
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pulumi.runtime.proto.provider_pb2_grpc import add_ResourceProviderServicer_to_server

from pulumi_mcpfleet.cloud_build import peers
from pulumi_mcpfleet.cloud_build.servicer import Provider

_WORKERS: Final = 32  # a build blocks its thread
_MESSAGE_BYTES: Final = 400 * 1024 * 1024  # as the engine's own limit
_GLANCE: Final = 0.5
"""Seconds between two looks at whether the engine lives: what it started here acts by the deployer's credentials."""


def main() -> None:
    """Serve until a signal or the end of the engine, which waits for the port on standard output."""
    engine_process = os.getppid()
    parser = argparse.ArgumentParser(prog="pulumi-resource-mcpfleet-build", description=__doc__)
    parser.add_argument("engine", nargs="?", default="", help="where the engine takes messages")
    engine = parser.parse_known_args()[0].engine
    provider = Provider(engine)
    limits = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    server = peers.server(ThreadPoolExecutor(_WORKERS), limits)
    port = server.add_insecure_port(f"{peers.HOST}:0")
    add_ResourceProviderServicer_to_server(provider, server)
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    while os.getppid() == engine_process and not ended.wait(_GLANCE):
        pass  # an engine that was killed sends no signal
    # A build that is under way is cancelled; the engine gives five seconds for that.
    provider.stop()
    server.stop(grace=4).wait()
    os._exit(0)  # not held up by a call that goes on


if __name__ == "__main__":
    main()
