"""Connects this process with containers and Docker, in both directions, through the gateway container."""

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
from mcpfleet_local_cloud.network.listeners import AcceptedConnections
from mcpfleet_local_cloud.state.folder import Settings

_HTTP, _HTTPS = 80, 443
_SLOWEST_RETRY: Final = 30.0
_LOOK_SECONDS: Final = 0.5
_SEE_LOG: Final = "correct the cause, or report it: the container has only the base image and this package."
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """The front end through which containers call services by their host names."""

    app: ASGIApp
    """The app on port 443."""
    tls: ssl.SSLContext
    resolves: Callable[[str, str], bool]
    """Whether a host name resolves to this front end, for the container with an address."""
    trust_bundle: Path
    """The file with the certificates by which a container trusts it."""


class Gateway:
    """The connection between this process and the cloud's containers. Call `open` before use.

    Args:
        engine: The Docker engine.
        settings: The settings of the local cloud.
    """

    def __init__(self, engine: CloudContainers, settings: Settings) -> None:
        self._networks = Networks(engine)
        self._container = GatewayContainer(engine, self._networks, settings)
        self._apps: dict[int, AcceptedConnections] = {}
        self._resolves: Callable[[str, str], bool] = lambda _host, _ip: False
        self._tunnel = Tunnel(self._container.key, accept=self._accept, resolves=self._is_resolved)
        self._restart_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.dial: Final = self._tunnel.dial
        """Connects to a container."""

    @property
    def port_text(self) -> str:
        """The gateway container's ports, for messages."""
        return f"{self._container.ports.tunnel} (tunnel) and {self._container.ports.registry} (registry)"

    @property
    def registry(self) -> str:
        """`host:port` of this cloud's registry, as Docker and the programs of this machine reach it."""
        return f"127.0.0.1:{self._container.ports.registry}"

    async def open(self, metadata: ASGIApp, front_end: FrontEnd | None, registry: ASGIApp | None) -> None:
        """Start the gateway container, and serve its connections.

        *metadata* serves port 80 in every service's network: the metadata server, and the proxy of service meshes
        (`mesh.create_proxy`).

        Raises:
            OpenError: The gateway container can't run.
            DockerException: Docker can't be reached.
        """
        self._apps[_HTTP] = AcceptedConnections(metadata)
        if front_end is not None:
            self._apps[_HTTPS] = AcceptedConnections(front_end.app, front_end.tls)
            self._resolves = front_end.resolves
        if registry is not None:
            self._apps[REGISTRY_PORT] = AcceptedConnections(registry)
        await self._networks.open()
        await self._connect()

    async def join_network(self, service: str) -> Network:
        """Return the network of *service* (its full name); create it and attach the gateway container if needed."""
        ranges = self._networks.ranges
        network = await self._networks.ensure(service)
        if self._networks.ranges != ranges:
            await self._connect()  # it gets the ranges to which it may connect at its start
        else:
            await self._container.attach(network)
        return network

    def leave_network(self, service: str) -> None:
        """Remove the network of *service*, which no container uses any more."""
        self._spawn(self._remove(service))

    async def keep_only(self, services: Collection[str]) -> None:
        """Remove the networks of all services except these."""
        await asyncio.gather(
            *(self._remove(service) for service in list(self._networks.all) if service not in services)
        )

    def on_container_exit(self, container_id: str) -> None:
        """Restart the gateway container if it is the container that has ended."""
        if self._closed or container_id != self._container.id:
            return
        if self._restart_task is None or self._restart_task.done():
            self._restart_task = asyncio.create_task(self._restart())

    async def recheck(self) -> None:
        """Check whether the gateway container ended while the event stream was interrupted."""
        if not await self._container.is_running():
            self.on_container_exit(self._container.id)

    async def close(self) -> None:
        """Stop serving; the gateway container keeps running, and the next `open` adopts it."""
        self._closed = True
        if self._restart_task is not None:
            self._restart_task.cancel()
        await asyncio.gather(*self._tasks, *filter(None, [self._restart_task]), return_exceptions=True)
        await self._tunnel.close()
        await asyncio.gather(*(connections.close() for connections in self._apps.values()))

    async def _connect(self) -> None:
        """Start the gateway container if needed, and connect the tunnel to it.

        Raises:
            OpenError: It ends, or can't be reached.
            DockerException: Docker can't be reached.
        """
        opening = asyncio.create_task(self._tunnel.open(await self._container.ensure()))
        try:
            while not (await asyncio.wait({opening}, timeout=_LOOK_SECONDS))[0]:
                if not await self._container.is_running():
                    raise OpenError(await self._with_log("The gateway container ended during its start."), _SEE_LOG)
            opening.result()
        except TunnelError as error:
            raise OpenError(
                await self._with_log(f"The gateway container runs, but can't be reached: {error}."),
                f"check that this machine can reach ports that Docker publishes on 127.0.0.1: {self.port_text}.",
            ) from error
        finally:
            opening.cancel()

    async def _with_log(self, text: str) -> str:
        log = await self._container.read_last_lines()
        return f"{text} Its log:\n{log}" if log else text

    def _is_resolved(self, host: str, ip: str) -> bool:
        return self._resolves(host, ip)

    async def _remove(self, service: str) -> None:
        if (network := self._networks.all.get(service)) is not None:
            self._container.forget(network)
            await self._networks.remove(service)

    async def _accept(self, port: int, caller: tuple[str, int], connection: socket.socket) -> None:
        connections = self._apps.get(port)
        if connections is None:
            connection.close()
            return
        network = self._networks.find_by_address(caller[0])
        await connections.serve(connection, caller, (network.addresses.gateway if network else "127.0.0.1", port))

    async def _restart(self) -> None:
        """Restart the gateway container, and retry until that succeeds."""
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            try:
                log = await self._container.read_last_lines()
                _log.warning("the gateway container ended and is restarted%s", f"; its log:\n{log}" if log else "")
                await self._connect()
            except (OpenError, DockerException, OSError) as reason:
                pause = min(max(1.0, 2 * pause), _SLOWEST_RETRY)
                _log.warning("the gateway container does not start (%s); next attempt in %.0f s", reason, pause)
            else:
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
