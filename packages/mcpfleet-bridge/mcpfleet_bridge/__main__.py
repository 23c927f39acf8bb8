"""`python -m mcpfleet_bridge`: what the image runs."""

import logging
import signal
import sys
from types import FrameType
from typing import NoReturn

from mcpfleet_bridge.settings import SettingsError, load_settings
from mcpfleet_server import logs


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def main() -> int:
    """Read the environment and serve.

    Returns:
        The exit code: 0 after an orderly stop, 2 for a mistake in the environment.
    """
    # uvicorn raises the signal again after its drain: as process 1 we would not end by it without a handler.
    signal.signal(signal.SIGTERM, _leave)
    logs.install()
    try:
        settings = load_settings()
    except SettingsError as error:
        for mistake in str(error).splitlines():
            logging.getLogger("mcpfleet_bridge").critical("%s", mistake)
        return 2
    logs.install(settings.log_level, settings.project)

    from mcpfleet_bridge.hosting import serve

    serve(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
