"""Serves the provider until the engine ends it: `pulumi-resource-mcpfleet-build ENGINE-ADDRESS`."""

import argparse
import os
import sys
from typing import Final

from pulumi_mcpfleet.cloud_build.plugin import POLL_SECONDS, serve, stop_on_signals
from pulumi_mcpfleet.cloud_build.servicer import Provider

_WORKERS: Final = 32  # a build blocks its thread


def main() -> None:
    """Serve until a signal, or until the engine ends. The engine reads the port from standard output."""
    engine_process = os.getppid()
    parser = argparse.ArgumentParser(prog="pulumi-resource-mcpfleet-build", description=__doc__)
    parser.add_argument("engine", nargs="?", default="", help="the address at which the engine receives messages")
    engine = parser.parse_known_args()[0].engine
    provider = Provider(engine)
    server, port = serve(provider, _WORKERS)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    stopped = stop_on_signals()
    # An engine that was killed sends no signal, and this process acts with the deployer's credentials.
    while os.getppid() == engine_process and not stopped.wait(POLL_SECONDS):
        pass
    # A build that is under way is cancelled; the engine gives five seconds for that.
    provider.stop()
    server.stop(grace=4).wait()
    os._exit(0)  # doesn't wait for a call that is still running


if __name__ == "__main__":
    main()
