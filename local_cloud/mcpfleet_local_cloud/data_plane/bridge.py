"""What containers reach at the gateway of the cloud's network: the metadata server, a name server, the front end."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp

from mcpfleet_local_cloud.data_plane.contract import RolloutError
from mcpfleet_local_cloud.data_plane.nameserver import NameServer, machine_servers
from mcpfleet_local_cloud.network.listeners import Listeners
from mcpfleet_local_cloud.state.store import Store

_METADATA_KIND: Final = "metadata-server"
_METADATA_PORTS: Final = (80, *range(18400, 18500))
_HTTP, _HTTPS = 80, 443
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """What containers reach at the gateway of the cloud's network, besides the metadata server."""

    app: ASGIApp
    """Answers on port 443."""
    tls: ssl.SSLContext
    named: Callable[[str, str], bool]
    """Whether a host name leads there for the container with an address."""
    trust: Path
    """The certificates that make a container trust it."""


class Bridge:
    """Serves at one address; `open` before use.

    Args:
        store: remembers the metadata server's port.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._metadata: Listeners | None = None
        self._front: Listeners | None = None
        self._names: NameServer | None = None

    async def open(self, address: str, metadata: ASGIApp, gateway: Gateway | None) -> tuple[int, tuple[str, ...]]:
        """Serve *metadata* at *address*, and with *gateway* services by their own names.

        *metadata* then answers on port 80, too: there it is what names of a service mesh lead to (`mesh.create_proxy`).

        Returns:
            The metadata server's port, and the name servers that containers are to ask; none: Docker's choice.

        Raises:
            RolloutError: the metadata server has no port.
        """
        self._metadata = Listeners(address)
        dns = await self._open_gateway(address, gateway) if gateway is not None else ()
        port = self._open_metadata(self._metadata)
        if gateway is not None and not self._metadata.open(_HTTP):
            _log.warning("port %d of %s cannot be had: names of a service mesh lead nowhere", _HTTP, address)
        await self._metadata.serve(metadata)
        return port, dns

    async def close(self) -> None:
        """Serve no more."""
        if self._names is not None:
            self._names.close()
        for listeners in (self._metadata, self._front):
            if listeners is not None:
                await listeners.close_all()

    async def _open_gateway(self, address: str, gateway: Gateway) -> tuple[str, ...]:
        """Serve *gateway*; the name servers that containers are to ask."""
        self._names = NameServer(address, gateway.named)
        self._front = Listeners(address, gateway.tls)
        if not self._front.open(_HTTPS):
            _log.warning("port %d of %s cannot be had: containers can't call other services by name", _HTTPS, address)
            return ()
        await self._front.serve(gateway.app)
        return (address, *machine_servers()) if await self._names.open() else ()

    def _open_metadata(self, listeners: Listeners) -> int:
        """Open the metadata server's port: the one before, 80 as on Google, or any of ours.

        Raises:
            RolloutError: there is none.
        """
        before = self._store.get(_METADATA_KIND, "port")
        for port in ([int(before["port"])] if before else []) + list(_METADATA_PORTS):
            if listeners.open(port):
                self._store.put(_METADATA_KIND, "port", {"port": port})
                return port
        raise RolloutError("The metadata server found no free port on the bridge of the cloud's network.")
