"""Runs the bridge as an HTTP server that shuts down gracefully at SIGTERM and leaves no process behind."""

import gc
import logging
import socket
from typing import Any, Final

import uvicorn

from mcpfleet_bridge import orphans
from mcpfleet_bridge.edge import Bridge
from mcpfleet_bridge.process import ProcessSpec
from mcpfleet_bridge.settings import Settings
from mcpfleet_server.connection import create_uvicorn_config

logger = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 7
"""Seconds that calls in flight may still run after SIGTERM. Cloud Run kills the container after 10 seconds, and
stopping the processes takes up to 2 of them (`process.EOF_SECONDS` and `process.TERM_SECONDS`)."""


class _BridgeServer(uvicorn.Server):
    """A uvicorn server that starts the bridge's shutdown before its own."""

    def __init__(self, config: uvicorn.Config, bridge: Bridge) -> None:
        super().__init__(config)
        self._bridge = bridge
        self.exit_code = 0
        bridge.pool.on_failed_start = self._exit_on_failed_start

    def _exit_on_failed_start(self, reason: str) -> None:
        """Exit, so that the deployment fails at once and with the reason, not only after its probes time out."""
        logger.critical("The bridge exits because the MCP server can't be started: %s", reason)
        self.exit_code = 1
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, and let running calls finish."""
        logger.info("Shutting down: calls in progress have up to %d s", DRAIN_SECONDS)
        self._bridge.drain()
        await super().shutdown(sockets)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then shut down gracefully, stop every process, and return.

    Returns:
        The exit code: 0 after a graceful shutdown, 1 if the MCP server could never be started.
    """
    if settings.service and not settings.allowed_hosts:
        logger.warning(
            "MCP_ALLOWED_HOSTS is empty, so every request to the URL of %s gets 421; set it to the service's host",
            settings.service,
        )
    orphans.become_subreaper()
    bridge = Bridge(settings, ProcessSpec.from_settings(settings).start)
    # Cloud Run's contract forbids loopback.
    address: dict[str, Any] = {"host": "0.0.0.0", "port": settings.port, "backlog": 2048}  # noqa: S104
    uvicorn_config = create_uvicorn_config(
        bridge, settings.forwarded_allow_ips, DRAIN_SECONDS, date_header=False, **address
    )
    # Objects created so far live forever, so the collector does not need to scan them.
    gc.collect()
    gc.freeze()
    server = _BridgeServer(uvicorn_config, bridge)
    server.run()
    return server.exit_code
