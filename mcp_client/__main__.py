"""`python -m mcp_client`, the command of the image."""

import logging
import sys

from mcp_client.settings import load_settings
from mcpfleet_server.environment import initialize

DRAIN_SECONDS = 8
"""The seconds that calls may continue after SIGTERM; Cloud Run kills the container after 10 seconds."""


def main() -> int:
    """Read the environment and serve.

    Returns:
        The exit code: 0 after a graceful shutdown, 2 for a mistake in the environment.
    """
    settings = initialize(load_settings, "mcp_client")
    if settings is None:
        return 2
    # The log entry of each question has the SDK's errors already, without a traceback.
    logging.getLogger("mcp.client.streamable_http").setLevel(logging.CRITICAL)

    # The SDK is slow to import, so the environment is checked first.
    import uvicorn

    from mcp_client.app import build_app
    from mcp_client.calls import Fleet
    from mcpfleet.same_origin import MAX_CONCURRENT_REQUESTS

    uvicorn.run(
        build_app(Fleet(settings.servers, settings.timeout), settings.origins),
        host="0.0.0.0",  # noqa: S104  # Cloud Run's contract: not loopback
        port=settings.port,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONCURRENT_REQUESTS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
