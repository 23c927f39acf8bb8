"""A Docker network for each service, and one for the gateway container alone.

Docker lets no packet pass from one of its networks to another, and so services cannot reach each other; the gateway
container is attached to all of them. Addresses are given explicitly: the gateway container's must outlast it, and of
the ranges from which Docker itself chooses there are about thirty on a machine. Docker chooses one range for the cloud,
and the networks are slices of it. What there is stands in the networks' labels.
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
from mcpfleet_local_cloud.data_plane.subnets import Slice, slices

RANGE_LABEL: Final = "dev.mcpfleet.range"
"""The range of which a network is a slice."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A network of this cloud.

    Attributes:
        name: Its name in Docker.
        addresses: Its slice.
    """

    name: str
    addresses: Slice


class Networks:
    """The networks of one local cloud; `open` before use.

    Args:
        engine: Docker.
    """

    def __init__(self, engine: CloudContainers) -> None:
        self._engine = engine
        self._own_name = f"mcpfleet-{engine.cloud_id}"
        self.gateway: Final = f"{self._own_name}-gateway"
        """The name of the gateway container."""
        self._own: Network | None = None
        self._of: dict[str, Network] = {}
        self._ranges: dict[IPv4Network, None] = {}
        self._taken: set[IPv4Network] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def own(self) -> Network:
        """The gateway container's own, which nothing else is in.

        Its name is a beginning of all others: of a container's networks Docker takes the first by name for the ports
        that it publishes (libnetwork's order of endpoints), and never moves them.
        """
        if self._own is None:
            raise RuntimeError("the networks are not open")
        return self._own

    @property
    def ranges(self) -> tuple[str, ...]:
        """Everything that is a slice is in one of these."""
        return tuple(map(str, self._ranges))

    @property
    def all(self) -> Mapping[str, Network]:
        """The network of each service, by its full name."""
        return self._of

    def at(self, ip: str) -> Network | None:
        """The service's network that has the address *ip*."""
        return next((each for each in self._of.values() if each.addresses.holds(ip)), None)

    async def open(self) -> None:
        """Find what there is, and make the gateway container's own network where it is missing.

        Raises:
            DockerException: Docker can't be reached.
        """
        for found in await self._engine.call(self._found):
            self._know(found)
        if self._own is None:
            self._own = await self._make(self._own_name, {})

    async def ensure(self, service: str) -> Network:
        """The network of *service* (its full name), made if it isn't there."""
        async with self._locks[service]:
            if service not in self._of:
                _, project, _, region, _, name = service.split("/")
                labels = service_labels(project, region, name)
                self._of[service] = await self._make(f"{self._own_name}-{region}-{name}", labels)
            return self._of[service]

    async def remove(self, service: str) -> None:
        """Remove the network of *service*, whatever is still attached to it."""
        async with self._locks[service]:
            network = self._of.pop(service, None)
            if network is None:
                return
            try:
                await self._engine.call(self._remove, network.name)
            except APIError as refusal:
                self._of[service] = network
                _log.warning("network %s stays: %s", network.name, refusal.explanation)
            else:
                self._taken.discard(network.addresses.subnet)

    def _know(self, found: DockerNetwork) -> None:
        labels: dict[str, str] = found.attrs["Labels"]
        network = Network(str(found.name), Slice(_subnet(found)))
        self._ranges[IPv4Network(labels[RANGE_LABEL])] = None
        self._taken.add(network.addresses.subnet)
        if found.name == self._own_name:
            self._own = network
        else:
            project, region, name = (labels[label] for label in (PROJECT_LABEL, REGION_LABEL, SERVICE_LABEL))
            self._of[f"projects/{project}/locations/{region}/services/{name}"] = network

    async def _make(self, name: str, labels: Mapping[str, str]) -> Network:
        while True:
            for whole, part in self._free():
                self._taken.add(part.subnet)  # also where it is another's: Docker would refuse it again
                marks = {CLOUD_LABEL: self._engine.cloud_id, RANGE_LABEL: str(whole), **labels}
                if await self._engine.call(self._create, name, part, marks):
                    return Network(name, part)
            chosen = await self._engine.call(self._choose_range)
            self._ranges[chosen] = None
            self._taken = {each for each in self._taken if not each.overlaps(chosen)}  # it has just been free

    def _free(self) -> Iterator[tuple[IPv4Network, Slice]]:
        for whole in list(self._ranges):
            for part in slices(whole):
                if part.subnet not in self._taken:
                    yield whole, part

    # What follows blocks.

    def _found(self) -> list[DockerNetwork]:
        """This cloud's networks; those of earlier versions and of interrupted starts are removed."""
        mine = {"label": f"{CLOUD_LABEL}={self._engine.cloud_id}"}
        every: list[DockerNetwork] = self._engine.client.networks.list(filters=mine)  # pyright: ignore[reportUnknownMemberType]
        for each in every:
            if RANGE_LABEL not in each.attrs["Labels"]:
                self._remove(str(each.name))
        return [each for each in every if RANGE_LABEL in each.attrs["Labels"]]

    def _create(self, name: str, part: Slice, labels: Mapping[str, str]) -> bool:
        """Make a network; False where some of its addresses are another network's."""
        pool = IPAMPool(subnet=str(part.subnet), gateway=part.router, iprange=str(part.instances))
        try:
            self._engine.client.networks.create(
                name, driver="bridge", ipam=IPAMConfig(pool_configs=[pool]), labels=dict(labels), check_duplicate=True
            )
        except APIError as refusal:
            if "overlap" in str(refusal.explanation).lower():
                return False
            raise
        return True

    def _choose_range(self) -> IPv4Network:
        """A range that is free, as Docker sees it: one that it gives to a network for a moment."""
        labels = {CLOUD_LABEL: self._engine.cloud_id}
        network = self._engine.client.networks.create(f"{self._own_name}-range", internal=True, labels=labels)
        try:
            network.reload()
            return _subnet(network)
        finally:
            network.remove()

    def _remove(self, name: str) -> None:
        try:
            network = self._engine.client.networks.get(name)
            running: dict[str, Any] = network.attrs.get("Containers") or {}
            for container in {*running, self.gateway}:  # which could not start again if it stayed attached
                with suppress(APIError):
                    network.disconnect(container, force=True)
            network.remove()
        except NotFound:
            return


def _subnet(network: DockerNetwork) -> IPv4Network:
    """Its IPv4 addresses: a Docker that is told so gives each network some of IPv6, too."""
    pools: list[dict[str, str]] = network.attrs["IPAM"]["Config"]
    return next(IPv4Network(pool["Subnet"]) for pool in pools if ":" not in pool["Subnet"])
