"""The runner: an HTTP server that stops taking requests at SIGTERM, lets calls finish, and leaves no process behind."""

import gc
import logging
import socket
from types import FrameType
from typing import Final

import uvicorn

from mcpfleet_bridge import orphans
from mcpfleet_bridge.edge import Bridge
from mcpfleet_bridge.process import Recipe
from mcpfleet_bridge.settings import Settings
from mcpfleet_server.connection import Connection

logger = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 7
"""How long calls in flight may still run after SIGTERM. Cloud Run kills the container after 10 seconds, of which
the processes need up to 2 to end (`process.EOF_SECONDS` and `process.TERM_SECONDS`)."""


class _Server(uvicorn.Server):
    """uvicorn, which tells the bridge of the end as soon as it hears of it."""

    def __init__(self, config: uvicorn.Config, bridge: Bridge) -> None:
        super().__init__(config)
        self._bridge = bridge

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT has come."""
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let calls finish; streams that have no end get one."""
        logger.info("Draining: up to %d s for the calls that are under way", DRAIN_SECONDS)
        self._bridge.drain()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then stop accepting, finish what runs, end every process, and return."""
    if settings.service and not settings.allowed_hosts:
        logger.warning(
            "MCP_ALLOWED_HOSTS is empty: every request to %s by its URL will be answered 421", settings.service
        )
    orphans.adopt()
    bridge = Bridge(settings, Recipe.of(settings).start)
    config = uvicorn.Config(
        bridge,
        host="0.0.0.0",  # noqa: S104  # Cloud Run's contract: not loopback
        port=settings.port,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        backlog=2048,
    )
    # What was made up to here lives for ever; the collector need not walk it again.
    gc.collect()
    gc.freeze()
    _Server(config, bridge).run()
