"""The command `python -m mcpfleet_bridge`, which the image runs."""

import signal
import sys
from types import FrameType
from typing import NoReturn

from mcpfleet_bridge.settings import load_settings
from mcpfleet_server.environment import initialize


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def main() -> int:
    """Read the environment and serve.

    Returns:
        The exit code: 0 after a graceful shutdown, 1 if the MCP server can't be started, 2 for a mistake in the
        environment.
    """
    # uvicorn raises the signal again after its drain. Process 1 ignores signals that have no handler.
    signal.signal(signal.SIGTERM, _leave)
    settings = initialize(load_settings, "mcpfleet_bridge")
    if settings is None:
        return 2

    from mcpfleet_bridge.hosting import serve

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
