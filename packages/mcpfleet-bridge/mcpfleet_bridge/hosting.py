"""The runner: an HTTP server that stops taking requests at SIGTERM, lets calls finish, and leaves no process behind."""

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
"""How long calls in flight may still run after SIGTERM. Cloud Run kills the container after 10 seconds, of which
the processes need up to 2 to end (`process.EOF_SECONDS` and `process.TERM_SECONDS`)."""


class _Server(uvicorn.Server):
    """uvicorn, which tells the bridge of the end as soon as it hears of it."""

    def __init__(self, config: uvicorn.Config, bridge: Bridge) -> None:
        super().__init__(config)
        self._bridge = bridge
        self.code = 0
        bridge.pool.on_hopeless = self._give_up

    def _give_up(self, reason: str) -> None:
        """End, as a container that cannot serve does: whoever waits for its probes learns of it at once, and why."""
        logger.critical("The MCP server cannot be started, so the bridge ends: %s", reason)
        self.code = 1
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let calls finish; streams that have no end get one."""
        logger.info("Draining: up to %d s for the calls that are under way", DRAIN_SECONDS)
        self._bridge.drain()
        await super().shutdown(sockets)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; then stop accepting, finish what runs, end every process, and return.

    Returns:
        The exit code: 0 after an orderly stop, 1 where the MCP server could not be started even once.
    """
    if settings.service and not settings.allowed_hosts:
        logger.warning(
            "MCP_ALLOWED_HOSTS is empty: every request to %s by its URL will be answered 421", settings.service
        )
    orphans.adopt()
    bridge = Bridge(settings, ProcessSpec.of(settings).start)
    # Cloud Run's contract: not loopback.
    place: dict[str, Any] = {"host": "0.0.0.0", "port": settings.port, "backlog": 2048}  # noqa: S104
    how = create_uvicorn_config(bridge, settings.forwarded_allow_ips, DRAIN_SECONDS, date_header=False, **place)
    # What was made up to here lives for ever; the collector need not walk it again.
    gc.collect()
    gc.freeze()
    server = _Server(how, bridge)
    server.run()
    return server.code
