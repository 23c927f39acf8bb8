"""The command `mcpfleet-login`, which the image runs."""

import signal
import sys
from types import FrameType
from typing import NoReturn

from mcpfleet_login.settings import load_settings
from mcpfleet_server.environment import initialize


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def main() -> int:
    """Read the environment and serve.

    Returns:
        The exit code: 0 after a graceful shutdown, 2 for a mistake in the environment.
    """
    # uvicorn raises the signal again after its drain. Process 1 ignores signals that have no handler.
    signal.signal(signal.SIGTERM, _leave)
    settings = initialize(load_settings, "mcpfleet_login")
    if settings is None:
        return 2
    from mcpfleet_server.hosting.lazy_import import import_sdk

    import_sdk()
    from mcpfleet_login.hosting import serve

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
