"""Creates, adopts and restarts the gateway container, and attaches it to the services' networks.

It is the only connection between this cloud's containers and its process, and has no privileges: it runs as an ordinary
user, without capabilities, on a read-only file system, with limits of memory and tasks. It runs `gateway.program`.
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
from mcpfleet_local_cloud.data_plane.engine import CloudContainers, error_text
from mcpfleet_local_cloud.data_plane.networks import Network, Networks
from mcpfleet_local_cloud.data_plane.spec import SPEC_LABEL
from mcpfleet_local_cloud.gateway import container as program
from mcpfleet_local_cloud.gateway.program import COMMAND, FOLDER, create_archive, create_key
from mcpfleet_local_cloud.gateway.protocol import KEY_SIZE
from mcpfleet_local_cloud.state.folder import Settings, write_private

A = TypeVar("A")

ROLE_LABEL: Final = "dev.mcpfleet.role"
REGISTRY_PORT: Final = program.Settings.registry_port
"""The port in the container through which Docker reaches the registry."""
_ROLE: Final = "gateway"
_FIRST_PORT: Final = 18300
_PAIRS: Final = 100
_HOST: Final = "127.0.0.1"
_LOG_LINES: Final = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The gateway container's published ports, on this machine's loopback or relayed to it."""

    tunnel: int
    registry: int
    """Part of the names of this cloud's images, so it stays the same as long as the state exists."""


class PortAllocator:
    """Chooses the ports, and stores them in a file.

    Args:
        file: The file.
        cloud_id: Decides the first choice, so that two clouds on a machine rarely choose the same ports.

    Raises:
        OpenError: The file is damaged.
    """

    def __init__(self, file: Path, cloud_id: str) -> None:
        self._file = file
        self._stored = _read_stored(file, _parse_ports)
        self._start = int.from_bytes(hashlib.sha256(cloud_id.encode()).digest()[:4], "big")
        self._unavailable: set[int] = set()

    @property
    def ports(self) -> Ports:
        """The ports to use.

        Raises:
            OpenError: Another program has the registry's port, which must not change, or all ports are in use.
        """
        stored = self._stored
        if stored is not None and stored.registry in self._unavailable:
            raise OpenError(
                f"Port {stored.registry} of {_HOST}, which is in the names of this cloud's images, is used by another "
                "program.",
                f"end that program (ss -ltnp 'sport = :{stored.registry}', or lsof -i :{stored.registry}, names it), "
                "then start again.",
            )
        registry = stored.registry if stored is not None else self._find_free(0)
        tunnel = stored.tunnel if stored is not None and stored.tunnel not in self._unavailable else self._find_free(1)
        return Ports(tunnel=tunnel, registry=registry)

    def exclude(self, port: int) -> None:
        """Do not use *port*: another program has it."""
        self._unavailable.add(port)

    def store(self, ports: Ports) -> None:
        """Store the ports, which the container has got; reset the excluded ports."""
        self._unavailable.clear()
        if ports != self._stored:
            write_private(self._file, json.dumps(asdict(ports)) + "\n")
            self._stored = ports

    def _find_free(self, offset: int) -> int:
        candidates = (_FIRST_PORT + 2 * ((self._start + step) % _PAIRS) + offset for step in range(_PAIRS))
        free_port = next((port for port in candidates if port not in self._unavailable), None)
        if free_port is None:
            raise OpenError(
                f"All ports from {_FIRST_PORT} to {_FIRST_PORT + 2 * _PAIRS - 1} of {_HOST} are in use.",
                "end some of the programs that use them, then start again.",
            )
        return free_port


class GatewayContainer:
    """The gateway container of one local cloud.

    Args:
        engine: The Docker engine.
        networks: The cloud's networks, opened.
        settings: The settings of the local cloud.
    """

    def __init__(self, engine: CloudContainers, networks: Networks, settings: Settings) -> None:
        self._engine = engine
        self._networks = networks
        self._image = settings.base_image
        self._allocator = PortAllocator(settings.state / "gateway" / "ports.json", engine.cloud_id)
        self._key_file = settings.state / "keys" / "gateway"
        self._lock = asyncio.Lock()
        self._attached: set[str] = set()
        self.id = ""
        """The container's id; empty before `ensure`."""

    @property
    def key(self) -> bytes:
        """The secret key by which the container and this cloud authenticate each other; created at first use.

        Raises:
            OpenError: The key's file is damaged.
        """
        key = _read_stored(self._key_file, _parse_key)
        if key is None:
            key = create_key()
            write_private(self._key_file, key.hex() + "\n")
        return key

    @property
    def ports(self) -> Ports:
        """The container's published ports."""
        return self._allocator.ports

    async def ensure(self) -> tuple[str, int]:
        """Start the container, attached to every network; return the address of its tunnel port.

        An existing container with the same inputs is adopted.

        Raises:
            OpenError: It can't be created, or does not start.
            DockerException: Docker can't be reached.
        """
        async with self._lock:
            networks = tuple(self._networks.all.values())
            self.id = await self._engine.call(self._ensure, networks)
            self._attached = {network.name for network in networks}
            return _HOST, self.ports.tunnel

    async def attach(self, network: Network) -> None:
        """Attach the container to *network*."""
        async with self._lock:
            if network.name not in self._attached:
                await self._engine.call(self._attach, network)
                self._attached.add(network.name)

    def forget(self, network: Network) -> None:
        """Forget *network*, which is being removed."""
        self._attached.discard(network.name)

    async def is_running(self) -> bool:
        """Return whether the container runs."""
        status = await self._engine.inspect(self.id)
        return status is not None and status.is_running

    async def read_last_lines(self) -> str:
        """Read the container's last log lines."""
        return await self._engine.logs(self.id, _LOG_LINES)

    # The methods below block.

    def _ensure(self, networks: Sequence[Network]) -> str:
        container_settings = program.Settings(
            networks=self._networks.ranges, gateway_network=str(self._networks.gateway_network.addresses.subnet)
        )
        try:
            image_id = str(self._engine.client.images.get(self._image).id)
        except ImageNotFound:
            raise OpenError(
                f"Docker lacks the image {self._image}, which the gateway container needs.", "type: ./dev setup"
            ) from None
        files = create_archive(self.key, container_settings)
        while True:
            ports = self.ports
            spec = self._spec(image_id, container_settings, ports)
            # The files contain the key: the hash depends on it, but does not reveal it.
            spec["labels"][SPEC_LABEL] = hashlib.sha256(files + repr(spec).encode()).hexdigest()[:16]
            container = self._adopt(spec["labels"][SPEC_LABEL], networks) or self._create(spec, files, networks)
            try:
                container.start()  # does nothing if it runs already
            except APIError as error:
                reason = error_text(error)
                container.remove(force=True, v=True)
                port = next(
                    (candidate for candidate in (ports.tunnel, ports.registry) if _is_port_conflict(reason, candidate)),
                    None,
                )
                if port is None:
                    raise OpenError(
                        f"The gateway container does not start: {reason}", "correct that, then start again."
                    ) from error
                self._allocator.exclude(port)
            else:
                self._allocator.store(ports)
                return str(container.id)

    def _adopt(self, spec: str, networks: Sequence[Network]) -> Container | None:
        """Find the existing container with the label *spec*, and attach it to new networks; remove all others."""
        filters = [f"{CLOUD_LABEL}={self._engine.cloud_id}", f"{ROLE_LABEL}={_ROLE}"]
        adopted: Container | None = None
        for container in self._engine.client.containers.list(all=True, filters={"label": filters}, ignore_removed=True):
            if container.labels.get(SPEC_LABEL) == spec and adopted is None:
                adopted = container
            else:
                container.remove(force=True, v=True)
        if adopted is not None:
            attached = adopted.attrs["NetworkSettings"]["Networks"]
            for network in networks:
                if network.name not in attached:
                    self._attach(network)
        return adopted

    def _create(self, spec: dict[str, Any], files: bytes, networks: Sequence[Network]) -> Container:
        container = self._engine.client.containers.create(**self._engine.facts.limits.without_unsupported(spec))
        container.put_archive(FOLDER, files)  # pyright: ignore[reportUnknownMemberType]
        for network in networks:
            self._attach(network)
        return container

    def _spec(self, image_id: str, container_settings: program.Settings, ports: Ports) -> dict[str, Any]:
        """The keyword arguments of `docker.containers.create`."""
        gateway_network = self._networks.gateway_network
        cloud_label = {CLOUD_LABEL: self._engine.cloud_id}
        endpoint: Any = self._engine.client.api.create_endpoint_config(  # pyright: ignore[reportUnknownMemberType]
            ipv4_address=gateway_network.addresses.gateway
        )
        return {
            "image": image_id,
            "entrypoint": [COMMAND[0]],
            "command": list(COMMAND[1:]),
            "name": self._networks.gateway,
            "labels": {**cloud_label, ROLE_LABEL: _ROLE},
            "user": "65534:65534",
            "network": gateway_network.name,
            "networking_config": {gateway_network.name: endpoint},
            "ports": {
                f"{container_settings.tunnel_port}/tcp": (_HOST, ports.tunnel),
                f"{container_settings.registry_port}/tcp": (_HOST, ports.registry),
            },
            "mounts": [DockerMount(FOLDER, None, type="volume", no_copy=True, labels=cloud_label)],
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
        except NotFound as error:  # the network was removed meanwhile
            _log.warning("the gateway container is not attached to %s: %s", network.name, error_text(error))
        except APIError as error:
            if "already exists in network" not in str(error.explanation):
                raise


def _read_stored(file: Path, read: Callable[[str], A]) -> A | None:
    """Read *file* and parse its text with *read*; None if there is no file."""
    try:
        return read(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise OpenError(
            f"{file} can't be read ({error}).",
            f"remove it (rm {shlex.quote(str(file))}), then start again. It is created again: with the same ports, "
            "unless other programs use them, or with another key.",
        ) from error


def _parse_ports(text: str) -> Ports:
    values: dict[str, object] = json.loads(text)
    if not all(isinstance(port, int) and 0 < port < 1 << 16 for port in values.values()):
        raise ValueError("a value is not a port")
    return Ports(**values)  # pyright: ignore[reportArgumentType] - has just been checked


def _parse_key(text: str) -> bytes:
    key = bytes.fromhex(text.strip())
    if len(key) != KEY_SIZE:
        raise ValueError(f"a key has {KEY_SIZE} bytes")
    return key


def _is_port_conflict(reason: str, port: int) -> bool:
    """Return whether Docker's error *reason* means that another program has *port*."""
    phrases = ("already allocated", "already in use", "not available")
    return any(word in reason for word in phrases) and re.search(rf":{port}\b", reason) is not None
