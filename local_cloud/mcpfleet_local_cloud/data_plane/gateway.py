"""What containers and Docker reach of this cloud, and the way to containers: through the gateway container."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from docker.errors import DockerException
from starlette.types import ASGIApp

from mcpfleet_local_cloud.data_plane.contract import OpenError
from mcpfleet_local_cloud.data_plane.engine import CloudContainers
from mcpfleet_local_cloud.data_plane.gateway_container import REGISTRY_PORT, GatewayContainer
from mcpfleet_local_cloud.data_plane.networks import Network, Networks
from mcpfleet_local_cloud.gateway.tunnel import Tunnel, TunnelError
from mcpfleet_local_cloud.network.listeners import Connections
from mcpfleet_local_cloud.state.folder import Settings

_HTTP, _HTTPS = 80, 443
_SLOWEST_RETRY: Final = 30.0
_LOOK_SECONDS: Final = 0.5
_SEE_LOG: Final = "correct what it says, or report it: it is made from nothing but the base image and this package."
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Front:
    """Where containers reach services by their own names."""

    app: ASGIApp
    """Answers on port 443."""
    tls: ssl.SSLContext
    named: Callable[[str, str], bool]
    """Whether a host name leads there for the container with an address."""
    trust: Path
    """The certificates that make a container trust it."""


class Gateway:
    """Everything between this process and the cloud's containers; `open` before use.

    Args:
        engine: Docker.
        settings: where the cloud lives.
    """

    def __init__(self, engine: CloudContainers, settings: Settings) -> None:
        self._networks = Networks(engine)
        self._container = GatewayContainer(engine, self._networks, settings)
        self._served: dict[int, Connections] = {}
        self._named: Callable[[str, str], bool] = lambda _host, _ip: False
        self._tunnel = Tunnel(self._container.key, accept=self._accept, named=self._leads_here)
        self._revival: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.dial: Final = self._tunnel.dial
        """Connects to a container."""

    @property
    def published(self) -> str:
        """Its ports, in words."""
        return f"{self._container.ports.tunnel} (tunnel) and {self._container.ports.registry} (registry)"

    @property
    def registry(self) -> str:
        """`host:port` of this cloud's registry, as Docker and the programs of this machine reach it."""
        return f"127.0.0.1:{self._container.ports.registry}"

    async def open(self, metadata: ASGIApp, front: Front | None, registry: ASGIApp | None) -> None:
        """Have the gateway container run, and answer what comes through it.

        *metadata* answers on port 80 of every service's network: the metadata server, and what names of a service mesh
        lead to (`mesh.create_proxy`).

        Raises:
            OpenError: it can't run.
            DockerException: Docker can't be reached.
        """
        self._served[_HTTP] = Connections(metadata)
        if front is not None:
            self._served[_HTTPS] = Connections(front.app, front.tls)
            self._named = front.named
        if registry is not None:
            self._served[REGISTRY_PORT] = Connections(registry)
        await self._networks.open()
        await self._connect()

    async def join(self, service: str) -> Network:
        """The network of *service* (its full name), made and attached to the gateway container."""
        ranges = self._networks.ranges
        network = await self._networks.ensure(service)
        if self._networks.ranges != ranges:
            await self._connect()  # it is told at its start to whom it may connect
        else:
            await self._container.attach(network)
        return network

    def leave(self, service: str) -> None:
        """Remove the network of *service*, which nothing uses any more."""
        self._spawn(self._remove(service))

    async def keep_only(self, services: Collection[str]) -> None:
        """Remove the networks of all services but these."""
        await asyncio.gather(*(self._remove(each) for each in list(self._networks.all) if each not in services))

    def ended(self, container_id: str) -> None:
        """Docker says that a container ended."""
        if self._closed or container_id != self._container.id:
            return
        if self._revival is None or self._revival.done():
            self._revival = asyncio.create_task(self._revive())

    async def recheck(self) -> None:
        """See whether it ended while nobody was watching."""
        if not await self._container.running():
            self.ended(self._container.id)

    async def close(self) -> None:
        """Answer no more; the gateway container runs on, and the next `open` takes it over."""
        self._closed = True
        if self._revival is not None:
            self._revival.cancel()
        await asyncio.gather(*self._tasks, *filter(None, [self._revival]), return_exceptions=True)
        await self._tunnel.close()
        await asyncio.gather(*(each.close() for each in self._served.values()))

    async def _connect(self) -> None:
        """Have the gateway container run, and the tunnel lead to it.

        Raises:
            OpenError: it ends, or can't be reached.
            DockerException: Docker can't be reached.
        """
        opening = asyncio.create_task(self._tunnel.open(await self._container.ensure()))
        try:
            while not (await asyncio.wait({opening}, timeout=_LOOK_SECONDS))[0]:
                if not await self._container.running():
                    raise OpenError(await self._with_last_words("The gateway container ended at its start."), _SEE_LOG)
            opening.result()
        except TunnelError as silent:
            raise OpenError(
                await self._with_last_words(f"The gateway container runs, and can't be reached: {silent}."),
                f"see that this machine reaches ports that Docker publishes on 127.0.0.1; they are {self.published}.",
            ) from silent
        finally:
            opening.cancel()

    async def _with_last_words(self, text: str) -> str:
        said = await self._container.last_words()
        return f"{text} It says:\n{said}" if said else text

    def _leads_here(self, host: str, ip: str) -> bool:
        return self._named(host, ip)

    async def _remove(self, service: str) -> None:
        if (network := self._networks.all.get(service)) is not None:
            self._container.detached(network)
            await self._networks.remove(service)

    async def _accept(self, port: int, caller: tuple[str, int], connection: socket.socket) -> None:
        served = self._served.get(port)
        if served is None:
            connection.close()
            return
        network = self._networks.at(caller[0])
        await served.serve(connection, caller, (network.addresses.gateway if network else "127.0.0.1", port))

    async def _revive(self) -> None:
        """Start it again, however often that fails."""
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            try:
                said = await self._container.last_words()
                _log.warning(
                    "the gateway container ended and is started again%s", f"; it said:\n{said}" if said else ""
                )
                await self._connect()
            except (OpenError, DockerException, OSError) as reason:
                pause = min(max(1.0, 2 * pause), _SLOWEST_RETRY)
                _log.warning("the gateway container does not start (%s); again in %.0f s", reason, pause)
            else:
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
