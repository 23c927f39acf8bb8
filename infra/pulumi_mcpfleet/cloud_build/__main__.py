"""Serves the provider until the engine ends it: `pulumi-resource-mcpfleet-build ENGINE-ADDRESS`."""

import argparse
import os
import sys
from typing import Final

from pulumi_mcpfleet.cloud_build.plugin import GLANCE, serve, stopped_by_signal
from pulumi_mcpfleet.cloud_build.servicer import Provider

_WORKERS: Final = 32  # a build blocks its thread


def main() -> None:
    """Serve until a signal or the end of the engine, which waits for the port on standard output."""
    engine_process = os.getppid()
    parser = argparse.ArgumentParser(prog="pulumi-resource-mcpfleet-build", description=__doc__)
    parser.add_argument("engine", nargs="?", default="", help="where the engine takes messages")
    engine = parser.parse_known_args()[0].engine
    provider = Provider(engine)
    server, port = serve(provider, _WORKERS)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    ended = stopped_by_signal()
    # An engine that was killed sends no signal, and what it started here acts by the deployer's credentials.
    while os.getppid() == engine_process and not ended.wait(GLANCE):
        pass
    # A build that is under way is cancelled; the engine gives five seconds for that.
    provider.stop()
    server.stop(grace=4).wait()
    os._exit(0)  # not held up by a call that goes on


if __name__ == "__main__":
    main()
