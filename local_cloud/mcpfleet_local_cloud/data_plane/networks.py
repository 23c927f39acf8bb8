"""A Docker network for each service, and one for the gateway container alone.

Docker passes no packet from one of its networks to another, so services cannot reach each other; the gateway container
is attached to all of them. Addresses are assigned explicitly: the gateway container's must not change when it is
replaced, and a machine has only about thirty of the ranges from which Docker itself chooses. Docker chooses one range
for the cloud, and the networks are slices of it. The networks' labels store the assignment.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, Final

from docker.errors import APIError, NotFound
from docker.models.networks import Network as DockerNetwork
from docker.types import IPAMConfig, IPAMPool

from mcpfleet_local_cloud.data_plane.cleanup import CLOUD_LABEL
from mcpfleet_local_cloud.data_plane.engine import CloudContainers
from mcpfleet_local_cloud.data_plane.spec import PROJECT_LABEL, REGION_LABEL, SERVICE_LABEL, service_labels
from mcpfleet_local_cloud.data_plane.subnets import Slice, split_range

RANGE_LABEL: Final = "dev.mcpfleet.range"
"""The label with the range of which a network is a slice."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A network of this cloud.

    Attributes:
        name: Its name in Docker.
        addresses: Its addresses.
    """

    name: str
    addresses: Slice


class Networks:
    """The networks of one local cloud; `open` before use.

    Args:
        engine: The Docker engine.
    """

    def __init__(self, engine: CloudContainers) -> None:
        self._engine = engine
        self._prefix = f"mcpfleet-{engine.cloud_id}"
        self.gateway: Final = f"{self._prefix}-gateway"
        """The name of the gateway container."""
        self._gateway_network: Network | None = None
        self._by_service: dict[str, Network] = {}
        self._ranges: dict[IPv4Network, None] = {}
        self._used_subnets: set[IPv4Network] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def gateway_network(self) -> Network:
        """The gateway container's own network, to which no other container is attached.

        Its name is a prefix of all others, so that it sorts first: Docker publishes a container's ports on the first of
        its networks by name (libnetwork's order of endpoints), and never moves them.
        """
        if self._gateway_network is None:
            raise RuntimeError("the networks are not open")
        return self._gateway_network

    @property
    def ranges(self) -> tuple[str, ...]:
        """The ranges that contain all of the networks' addresses."""
        return tuple(map(str, self._ranges))

    @property
    def all(self) -> Mapping[str, Network]:
        """The services' networks, by the service's full name."""
        return self._by_service

    def find_by_address(self, ip: str) -> Network | None:
        """Find the service's network that contains the address *ip*."""
        return next((network for network in self._by_service.values() if network.addresses.contains(ip)), None)

    async def open(self) -> None:
        """Find the existing networks, and create the gateway container's own network if it is missing.

        Raises:
            DockerException: Docker can't be reached.
        """
        for network in await self._engine.call(self._list_networks):
            self._register(network)
        if self._gateway_network is None:
            self._gateway_network = await self._create_network(self._prefix, {})

    async def ensure(self, service: str) -> Network:
        """Return the network of *service* (its full name); create it if it is missing."""
        async with self._locks[service]:
            if service not in self._by_service:
                _, project, _, region, _, name = service.split("/")
                labels = service_labels(project, region, name)
                self._by_service[service] = await self._create_network(f"{self._prefix}-{region}-{name}", labels)
            return self._by_service[service]

    async def remove(self, service: str) -> None:
        """Remove the network of *service*, even if containers are attached to it."""
        async with self._locks[service]:
            network = self._by_service.pop(service, None)
            if network is None:
                return
            try:
                await self._engine.call(self._remove, network.name)
            except APIError as error:
                self._by_service[service] = network
                _log.warning("network %s stays: %s", network.name, error.explanation)
            else:
                self._used_subnets.discard(network.addresses.subnet)

    def _register(self, docker_network: DockerNetwork) -> None:
        labels: dict[str, str] = docker_network.attrs["Labels"]
        network = Network(str(docker_network.name), Slice(_ipv4_subnet(docker_network)))
        self._ranges[IPv4Network(labels[RANGE_LABEL])] = None
        self._used_subnets.add(network.addresses.subnet)
        if docker_network.name == self._prefix:
            self._gateway_network = network
        else:
            project, region, name = (labels[label] for label in (PROJECT_LABEL, REGION_LABEL, SERVICE_LABEL))
            self._by_service[f"projects/{project}/locations/{region}/services/{name}"] = network

    async def _create_network(self, name: str, labels: Mapping[str, str]) -> Network:
        while True:
            for address_range, addresses in self._find_free():
                self._used_subnets.add(addresses.subnet)  # also if another network has it: Docker would refuse it again
                all_labels = {CLOUD_LABEL: self._engine.cloud_id, RANGE_LABEL: str(address_range), **labels}
                if await self._engine.call(self._create, name, addresses, all_labels):
                    return Network(name, addresses)
            new_range = await self._engine.call(self._choose_range)
            self._ranges[new_range] = None
            self._used_subnets = {
                subnet for subnet in self._used_subnets if not subnet.overlaps(new_range)
            }  # it is free, as Docker chose it

    def _find_free(self) -> Iterator[tuple[IPv4Network, Slice]]:
        for address_range in list(self._ranges):
            for addresses in split_range(address_range):
                if addresses.subnet not in self._used_subnets:
                    yield address_range, addresses

    # The methods below block.

    def _list_networks(self) -> list[DockerNetwork]:
        """List this cloud's networks; remove those of earlier versions and of interrupted starts."""
        filters = {"label": f"{CLOUD_LABEL}={self._engine.cloud_id}"}
        networks: list[DockerNetwork] = self._engine.client.networks.list(filters=filters)  # pyright: ignore[reportUnknownMemberType]
        for network in networks:
            if RANGE_LABEL not in network.attrs["Labels"]:
                self._remove(str(network.name))
        return [network for network in networks if RANGE_LABEL in network.attrs["Labels"]]

    def _create(self, name: str, addresses: Slice, labels: Mapping[str, str]) -> bool:
        """Create a network; return False if it overlaps with another network."""
        pool = IPAMPool(subnet=str(addresses.subnet), gateway=addresses.router, iprange=str(addresses.instances))
        try:
            self._engine.client.networks.create(
                name, driver="bridge", ipam=IPAMConfig(pool_configs=[pool]), labels=dict(labels), check_duplicate=True
            )
        except APIError as error:
            if "overlap" in str(error.explanation).lower():
                return False
            raise
        return True

    def _choose_range(self) -> IPv4Network:
        """Find a free address range: let Docker choose one for a temporary network."""
        labels = {CLOUD_LABEL: self._engine.cloud_id}
        network = self._engine.client.networks.create(f"{self._prefix}-range", internal=True, labels=labels)
        try:
            network.reload()
            return _ipv4_subnet(network)
        finally:
            network.remove()

    def _remove(self, name: str) -> None:
        try:
            network = self._engine.client.networks.get(name)
            running: dict[str, Any] = network.attrs.get("Containers") or {}
            for container in {
                *running,
                self.gateway,
            }:  # which could not start again while attached to a removed network
                with suppress(APIError):
                    network.disconnect(container, force=True)
            network.remove()
        except NotFound:
            return


def _ipv4_subnet(network: DockerNetwork) -> IPv4Network:
    """The network's IPv4 subnet; Docker may be configured to assign IPv6 subnets as well."""
    pools: list[dict[str, str]] = network.attrs["IPAM"]["Config"]
    return next(IPv4Network(pool["Subnet"]) for pool in pools if ":" not in pool["Subnet"])
