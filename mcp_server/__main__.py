"""`python -m mcp_server`: what the image runs."""

import logging
import signal
import sys
from types import FrameType
from typing import NoReturn

from mcp_server import logs
from mcp_server.settings import SettingsError, load_settings


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def main() -> int:
    """Read the environment and serve.

    Returns:
        The exit code: 0 after an orderly stop, 2 for a mistake in the environment.
    """
    # uvicorn raises the signal again after its drain: as a process without a handler of its own we would
    # end by it (143), as process 1 we would not end by it at all before uvicorn has its handler in place.
    signal.signal(signal.SIGTERM, _leave)
    logs.install()
    try:
        settings = load_settings()
    except SettingsError as error:
        for mistake in str(error).splitlines():
            logging.getLogger("mcp_server").critical("%s", mistake)
        return 2
    logs.install(settings.log_level, settings.project)

    # The SDK's import takes most of the start; a wrong environment is told before it.
    from mcp_server.app import build_server
    from mcp_server.hosting import serve

    serve(build_server(settings), settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
