"""Serves the provider until the engine ends it: `pulumi-resource-mcpfleet-build ENGINE-ADDRESS`."""

import argparse
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
from pulumi.runtime.proto.provider_pb2_grpc import add_ResourceProviderServicer_to_server

from cloud_build.servicer import Provider

_WORKERS: Final = 32  # a build blocks its thread
_MESSAGE_BYTES: Final = 400 * 1024 * 1024  # as the engine's own limit


def main() -> None:
    """Serve; the port goes to standard output, where the engine waits for it."""
    parser = argparse.ArgumentParser(prog="pulumi-resource-mcpfleet-build", description=__doc__)
    parser.add_argument("engine", nargs="?", default="", help="where the engine takes messages")
    engine = parser.parse_known_args()[0].engine
    provider = Provider(engine)
    limits = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    server = grpc.server(ThreadPoolExecutor(_WORKERS), options=limits)
    add_ResourceProviderServicer_to_server(provider, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    ended.wait()
    # A build that is under way is cancelled; the engine gives five seconds for that.
    provider.stop()
    server.stop(grace=4).wait()


if __name__ == "__main__":
    main()
