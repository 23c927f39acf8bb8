"""The gateway container: made, taken over, attached to the services' networks, started again.

It is the only thing between this cloud's containers and its process, and has no right of its own: another user than
root, no capability, a file system that it can't change, bounds of memory and tasks. What it runs is `gateway.program`.
"""

import asyncio
import hashlib
import json
import logging
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import LogConfig, Ulimit
from docker.types import Mount as DockerMount

from mcpfleet_local_cloud.data_plane.cleanup import CLOUD_LABEL
from mcpfleet_local_cloud.data_plane.contract import OpenError
from mcpfleet_local_cloud.data_plane.engine import CloudContainers, one_line
from mcpfleet_local_cloud.data_plane.networks import Network, Networks
from mcpfleet_local_cloud.data_plane.spec import SPEC_LABEL
from mcpfleet_local_cloud.gateway import container as program
from mcpfleet_local_cloud.gateway.program import COMMAND, FOLDER, archive, new_key
from mcpfleet_local_cloud.gateway.protocol import KEY_SIZE
from mcpfleet_local_cloud.state.folder import Settings, write_private

A = TypeVar("A")

ROLE_LABEL: Final = "dev.mcpfleet.role"
REGISTRY_PORT: Final = program.Settings.registry
"""The port in the container at which Docker reaches the registry."""
_ROLE: Final = "gateway"
_FIRST_PORT: Final = 18300
_PAIRS: Final = 100
_HOST: Final = "127.0.0.1"
_LOG_LINES: Final = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the gateway container is reached on Docker's loopback: this machine's, or relayed to it."""

    tunnel: int
    registry: int
    """Part of the names of this cloud's images, and so the same for as long as its state lives."""


class PortBook:
    """Chooses the ports, and remembers them in *file*.

    Args:
        file: Where.
        cloud_id: From which the first choice follows, so that two clouds on a machine rarely want the same.

    Raises:
        OpenError: the file is damaged.
    """

    def __init__(self, file: Path, cloud_id: str) -> None:
        self._file = file
        self._kept = _stored(file, _ports)
        self._start = int.from_bytes(hashlib.sha256(cloud_id.encode()).digest()[:4], "big")
        self._refused: set[int] = set()

    @property
    def ports(self) -> Ports:
        """Those to take.

        Raises:
            OpenError: another program has the port that must stay as it is, or every one.
        """
        kept = self._kept
        if kept is not None and kept.registry in self._refused:
            raise OpenError(
                f"Port {kept.registry} of {_HOST}, which is in the names of this cloud's images, is used by another "
                "program.",
                f"end that program (ss -ltnp 'sport = :{kept.registry}', or lsof -i :{kept.registry}, names it), then "
                "start again.",
            )
        registry = kept.registry if kept is not None else self._free(0)
        tunnel = kept.tunnel if kept is not None and kept.tunnel not in self._refused else self._free(1)
        return Ports(tunnel=tunnel, registry=registry)

    def refuse(self, port: int) -> None:
        """Another program has *port*."""
        self._refused.add(port)

    def keep(self, ports: Ports) -> None:
        """They were had; begin anew with what was refused."""
        self._refused.clear()
        if ports != self._kept:
            write_private(self._file, json.dumps(asdict(ports)) + "\n")
            self._kept = ports

    def _free(self, offset: int) -> int:
        every = (_FIRST_PORT + 2 * ((self._start + step) % _PAIRS) + offset for step in range(_PAIRS))
        found = next((port for port in every if port not in self._refused), None)
        if found is None:
            raise OpenError(
                f"All ports from {_FIRST_PORT} to {_FIRST_PORT + 2 * _PAIRS - 1} of {_HOST} are in use.",
                "end some of the programs that have them, then start again.",
            )
        return found


class GatewayContainer:
    """The gateway container of one local cloud.

    Args:
        engine: Docker.
        networks: The cloud's, open.
        settings: Where the cloud lives.
    """

    def __init__(self, engine: CloudContainers, networks: Networks, settings: Settings) -> None:
        self._engine = engine
        self._networks = networks
        self._image = settings.base_image
        self._book = PortBook(settings.state / "gateway" / "ports.json", engine.cloud_id)
        self._key_file = settings.state / "keys" / "gateway"
        self._lock = asyncio.Lock()
        self._attached: set[str] = set()
        self.id = ""
        """The container's, once there is one."""

    @property
    def key(self) -> bytes:
        """What it and this cloud know each other by; made at first use.

        Raises:
            OpenError: its file is damaged.
        """
        key = _stored(self._key_file, _key)
        if key is None:
            key = new_key()
            write_private(self._key_file, key.hex() + "\n")
        return key

    @property
    def ports(self) -> Ports:
        """Where it is reached, or will be."""
        return self._book.ports

    async def ensure(self) -> tuple[str, int]:
        """Have it run, attached to every network; the address of its tunnel.

        One that is there and was made from the same things is taken over.

        Raises:
            OpenError: it can't be made or does not start.
            DockerException: Docker can't be reached.
        """
        async with self._lock:
            networks = tuple(self._networks.all.values())
            self.id = await self._engine.call(self._ensure, networks)
            self._attached = {each.name for each in networks}
            return _HOST, self.ports.tunnel

    async def attach(self, network: Network) -> None:
        """Give it its address in *network*."""
        async with self._lock:
            if network.name not in self._attached:
                await self._engine.call(self._attach, network)
                self._attached.add(network.name)

    def detached(self, network: Network) -> None:
        """*network* is no more."""
        self._attached.discard(network.name)

    async def running(self) -> bool:
        """Whether it runs."""
        seen = await self._engine.inspect(self.id)
        return seen is not None and seen.running

    async def last_words(self) -> str:
        """The last lines that it logged."""
        return await self._engine.logs(self.id, _LOG_LINES)

    # What follows blocks.

    def _ensure(self, networks: Sequence[Network]) -> str:
        told = program.Settings(networks=self._networks.ranges, own=str(self._networks.own.addresses.subnet))
        try:
            image_id = str(self._engine.client.images.get(self._image).id)
        except ImageNotFound:
            raise OpenError(
                f"Docker has no image {self._image}, from which the gateway container is made.", "type: ./dev setup"
            ) from None
        files = archive(self.key, told)
        while True:
            ports = self.ports
            spec = self._spec(image_id, told, ports)
            # The key is in its files: it has a part in what is compared, and none in what others can read.
            spec["labels"][SPEC_LABEL] = hashlib.sha256(files + repr(spec).encode()).hexdigest()[:16]
            found = self._taken_over(spec["labels"][SPEC_LABEL], networks) or self._create(spec, files, networks)
            try:
                found.start()  # nothing where it runs already
            except APIError as refusal:
                reason = one_line(refusal)
                found.remove(force=True, v=True)
                port = next((each for each in (ports.tunnel, ports.registry) if _refuses(reason, each)), None)
                if port is None:
                    raise OpenError(
                        f"The gateway container does not start: {reason}", "correct that, then start again."
                    ) from refusal
                self._book.refuse(port)
            else:
                self._book.keep(ports)
                return str(found.id)

    def _taken_over(self, spec: str, networks: Sequence[Network]) -> Container | None:
        """The one that is there, attached to what has come since; any other of this cloud's is removed."""
        wanted = [f"{CLOUD_LABEL}={self._engine.cloud_id}", f"{ROLE_LABEL}={_ROLE}"]
        kept: Container | None = None
        for each in self._engine.client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True):
            if each.labels.get(SPEC_LABEL) == spec and kept is None:
                kept = each
            else:
                each.remove(force=True, v=True)
        if kept is not None:
            attached = kept.attrs["NetworkSettings"]["Networks"]
            for network in networks:
                if network.name not in attached:
                    self._attach(network)
        return kept

    def _create(self, spec: dict[str, Any], files: bytes, networks: Sequence[Network]) -> Container:
        container = self._engine.client.containers.create(**self._engine.facts.limits.kept(spec))
        container.put_archive(FOLDER, files)  # pyright: ignore[reportUnknownMemberType]
        for network in networks:
            self._attach(network)
        return container

    def _spec(self, image_id: str, told: program.Settings, ports: Ports) -> dict[str, Any]:
        """The keyword arguments of `docker.containers.create`."""
        own = self._networks.own
        mine = {CLOUD_LABEL: self._engine.cloud_id}
        endpoint: Any = self._engine.client.api.create_endpoint_config(  # pyright: ignore[reportUnknownMemberType]
            ipv4_address=own.addresses.gateway
        )
        return {
            "image": image_id,
            "entrypoint": [COMMAND[0]],
            "command": list(COMMAND[1:]),
            "name": self._networks.gateway,
            "labels": {**mine, ROLE_LABEL: _ROLE},
            "user": "65534:65534",
            "network": own.name,
            "networking_config": {own.name: endpoint},
            "ports": {
                f"{told.tunnel}/tcp": (_HOST, ports.tunnel),
                f"{told.registry}/tcp": (_HOST, ports.registry),
            },
            "mounts": [DockerMount(FOLDER, None, type="volume", no_copy=True, labels=mine)],
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "ulimits": [Ulimit(name="nofile", soft=8192, hard=8192)],
            "mem_limit": "256m",
            "memswap_limit": "256m",
            "pids_limit": 16,
            "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "1m", "max-file": "2"}),
        }

    def _attach(self, network: Network) -> None:
        try:
            docker_network = self._engine.client.networks.get(network.name)
            docker_network.connect(  # pyright: ignore[reportUnknownMemberType]
                self._networks.gateway, ipv4_address=network.addresses.gateway
            )
        except NotFound as gone:  # made again together with what it is attached to
            _log.warning("the gateway container is not attached to %s: %s", network.name, one_line(gone))
        except APIError as refusal:
            if "already exists in network" not in str(refusal.explanation):
                raise


def _stored(file: Path, read: Callable[[str], A]) -> A | None:
    """What *read* makes of the *file*; None where there is none."""
    try:
        return read(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as damage:
        raise OpenError(
            f"{file} can't be read ({damage}).",
            f"remove it (rm {shlex.quote(str(file))}), then start again. It is made anew: the same ports, unless other "
            "programs have them, or another key.",
        ) from damage


def _ports(text: str) -> Ports:
    found: dict[str, object] = json.loads(text)
    if not all(isinstance(port, int) and 0 < port < 1 << 16 for port in found.values()):
        raise ValueError("these are no ports")
    return Ports(**found)  # pyright: ignore[reportArgumentType] - has just been checked


def _key(text: str) -> bytes:
    key = bytes.fromhex(text.strip())
    if len(key) != KEY_SIZE:
        raise ValueError(f"a key has {KEY_SIZE} bytes")
    return key


def _refuses(reason: str, port: int) -> bool:
    """Whether Docker's *reason* is that another program has *port*."""
    words = ("already allocated", "already in use", "not available")
    return any(word in reason for word in words) and re.search(rf":{port}\b", reason) is not None
