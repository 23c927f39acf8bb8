"""The program of the gateway container: passes connections between the cloud's containers and its process on the host.

Standard library only (see `protocol`). All that it accepts is limited, also per caller and per service, so that a
hostile container can't affect other services; messages only decide which connections are joined.
"""

import asyncio
import ipaddress
import json
import logging
import secrets
import signal
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mcpfleet_local_cloud.gateway import protocol
from mcpfleet_local_cloud.gateway.protocol import Outcome, ProtocolError, Purpose
from mcpfleet_local_cloud.gateway.relay import RelayedConnection
from mcpfleet_local_cloud.gateway.resolver import DnsServer

WEB_PORTS: Final = (80, 443)
"""The ports of metadata server and mesh, and of the front end."""
_BACKLOG: Final = 1024
_MAX_UNAUTHENTICATED: Final = 64
"""Connections to the tunnel port that have not proved the key. One more ends the oldest, so a flood blocks no host."""
_MAX_CONNECTIONS: Final = 2048
_MAX_PER_SERVICE: Final = 512
_MAX_PER_CALLER: Final = 256
_MAX_WAITING_PER_CALLER: Final = 64
_WAIT_SECONDS: Final = 10.0
"""Seconds that a container's connection waits for a connection of the host."""
_DIAL_SECONDS: Final = 4.0
_log = logging.getLogger("gateway")


@dataclass(frozen=True)
class Settings:
    """The settings of the gateway container's program."""

    networks: tuple[str, ...]
    """The address ranges of the cloud's networks; no address outside of them is dialed."""
    gateway_network: str
    """The gateway's own network, to which no other container is attached."""
    tunnel_port: int = 7300
    """The port for the host, inside of the container."""
    registry_port: int = 7301
    """The port for Docker's pulls and pushes, inside of the container."""
    resolver: tuple[str, int] = ("127.0.0.11", 53)
    """The DNS server for names that are not the cloud's: Docker's own."""
    dns_port: int = 53
    """The port for DNS, UDP and TCP."""
    web_ports: tuple[int, ...] = WEB_PORTS
    """The other ports for containers."""

    def to_json(self) -> str:
        """Format the settings file."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Settings":
        """Parse the settings file."""
        document: dict[str, Any] = json.loads(text)
        return Settings(
            networks=tuple(document["networks"]),
            gateway_network=document["gateway_network"],
            tunnel_port=document["tunnel_port"],
            registry_port=document["registry_port"],
            resolver=(document["resolver"][0], document["resolver"][1]),
            dns_port=document["dns_port"],
            web_ports=tuple(document["web_ports"]),
        )


class Gateway:
    """The gateway: accepts connections of the host and of containers, and joins them. Call `open` before use.

    Args:
        key: The cloud's key, `protocol.KEY_SIZE` bytes.
        settings: The settings.
    """

    def __init__(self, key: bytes, settings: Settings) -> None:
        self.key: Final = key
        self.settings: Final = settings
        self._networks = [ipaddress.IPv4Network(network) for network in settings.networks]
        self._gateway_network = ipaddress.IPv4Network(settings.gateway_network)
        self._unauthenticated: dict[_HostConnection, None] = {}
        self._ready: dict[_HostConnection, None] = {}
        self._waiting: deque[_CallerConnection] = deque()
        self._open_by_key: Counter[str] = Counter()
        self._connections = 0
        self._waiting_by_address: Counter[str] = Counter()
        self._dials: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.dns: Final = DnsServer(settings.resolver, self.is_container)

    async def open(self, host: str) -> None:
        """Listen on every port of the address *host*."""
        loop = asyncio.get_running_loop()

        async def listen(create_protocol: Callable[[], asyncio.BaseProtocol], port: int) -> None:
            self._servers.append(await loop.create_server(create_protocol, host, port, backlog=_BACKLOG))  # pyright: ignore[reportArgumentType]

        await listen(lambda: _HostConnection(self), self.settings.tunnel_port)
        for port in (self.settings.registry_port, *self.settings.web_ports):
            await listen(lambda port=port: _CallerConnection(self, port), port)
        await self.dns.open(host, self.settings.dns_port)

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()
        self.dns.close()

    def is_container(self, address: str) -> bool:
        """Return whether *address* belongs to a container of a service."""
        ip = ipaddress.IPv4Address(address)
        return ip not in self._gateway_network and any(ip in network for network in self._networks)

    # The host's connections.

    def add_unauthenticated(self, end: "_HostConnection") -> None:
        """Add *end*, a new connection that has not authenticated."""
        if len(self._unauthenticated) >= _MAX_UNAUTHENTICATED:
            next(iter(self._unauthenticated)).reset()
        self._unauthenticated[end] = None

    def remove(self, end: "_HostConnection") -> None:
        """Remove *end* from the unauthenticated and the ready connections."""
        self._unauthenticated.pop(end, None)
        self._ready.pop(end, None)

    def add_ready(self, end: "_HostConnection") -> None:
        """Add *end*, which is ready for the next connection of a container."""
        while self._waiting:
            caller = self._waiting.popleft()
            if caller.wait_timer is not None:
                self._hand_over(caller, end)
                return
        self._ready[end] = None

    def dial(self, end: "_HostConnection", address: protocol.Address) -> None:
        """Connect *end* to *address*."""
        task = asyncio.get_running_loop().create_task(self._dial(end, address))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, end: "_HostConnection", address: protocol.Address) -> None:
        ip = ipaddress.IPv4Address(address[0])
        if not any(ip in network for network in self._networks):
            end.refuse(Outcome.FORBIDDEN)
            return
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                loop = asyncio.get_running_loop()
                _, other = await loop.create_connection(_DialedConnection, *address)
        except ConnectionRefusedError:
            end.refuse(Outcome.REFUSED)
        except OSError:  # TimeoutError is one
            end.refuse(Outcome.UNREACHABLE)
        else:
            end.connect(other)

    # Containers' connections.

    def admit(self, caller: "_CallerConnection") -> bool:
        """Return whether *caller* is admitted; if so, it gets a connection of the host, or waits for one."""
        is_container = self.is_container(caller.address[0])
        if is_container == (caller.port == self.settings.registry_port):
            return False
        if is_container and any(self._open_by_key[key] >= limit for key, limit in caller.limits):
            return False
        if self._connections >= _MAX_CONNECTIONS:
            return False
        caller.is_counted = True
        self._connections += 1
        for key, _ in caller.limits:
            self._open_by_key[key] += 1
        if self._ready:
            end = next(iter(self._ready))
            del self._ready[end]
            self._hand_over(caller, end)
            return True
        if is_container and self._waiting_by_address[caller.address[0]] >= _MAX_WAITING_PER_CALLER:
            return False
        caller.wait_timer = asyncio.get_running_loop().call_later(_WAIT_SECONDS, caller.reset)
        self._waiting_by_address[caller.address[0]] += 1
        self._waiting.append(caller)
        return True

    def release(self, caller: "_CallerConnection") -> None:
        """Release the limits of *caller*, which has disconnected."""
        self._stop_waiting(caller)
        if caller.is_counted:
            self._connections -= 1
            for key, _ in caller.limits:
                self._open_by_key[key] -= 1
                if not self._open_by_key[key]:
                    del self._open_by_key[key]

    def _hand_over(self, caller: "_CallerConnection", end: "_HostConnection") -> None:
        self._stop_waiting(caller)
        end.transport.write(protocol.IncomingConnection(caller.port, caller.address).pack())
        end.pair(caller)
        caller.transport.resume_reading()

    def _stop_waiting(self, caller: "_CallerConnection") -> None:
        if caller.wait_timer is None:
            return
        caller.wait_timer.cancel()
        caller.wait_timer = None
        self._waiting_by_address[caller.address[0]] -= 1
        if not self._waiting_by_address[caller.address[0]]:
            del self._waiting_by_address[caller.address[0]]


class _HostConnection(RelayedConnection):
    """A connection to the tunnel port."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway
        self._pending = b""
        self._nonce = secrets.token_bytes(protocol.NONCE_SIZE)
        self._host_nonce = b""
        self._purpose: Purpose | None = None
        self._has_dialed = False
        self._deadline: asyncio.TimerHandle | None = None
        self._frames = protocol.FrameParser()

    def on_connect(self) -> None:
        if self._gateway.is_container(self.transport.get_extra_info("peername")[0]):
            self.reset()
            return
        self._deadline = asyncio.get_running_loop().call_later(protocol.HANDSHAKE_SECONDS, self.reset)
        self._gateway.add_unauthenticated(self)

    def on_disconnect(self) -> None:
        self._cancel_deadline()
        self._gateway.remove(self)
        self._gateway.dns.remove_host(self.transport)

    def on_data(self, data: bytes) -> None:
        if self._purpose is Purpose.NAMES:
            self._read_answers(data)
            return
        self._pending += data
        try:
            self._parse()
        except ProtocolError as error:
            _log.warning("a connection to the tunnel was refused: %s", error)
            self.reset()

    def _parse(self) -> None:
        if not self._host_nonce and len(self._pending) >= protocol.HELLO_SIZE:
            challenge, self._host_nonce = protocol.create_challenge(
                self._gateway.key, self._consume(protocol.HELLO_SIZE), self._nonce
            )
            self.transport.write(challenge)
        if self._purpose is None and self._host_nonce and len(self._pending) >= protocol.PROOF_SIZE:
            self._check_proof(self._consume(protocol.PROOF_SIZE))
        if self._purpose is Purpose.DIAL and not self._has_dialed and len(self._pending) >= protocol.ADDRESS_SIZE:
            self._has_dialed = True
            self._gateway.dial(self, protocol.unpack_address(self._consume(protocol.ADDRESS_SIZE)))
        # The host must not send ahead, or the data would have to be buffered.
        expected = (
            0 if self._purpose is Purpose.ACCEPT or self._has_dialed else max(protocol.HELLO_SIZE, protocol.PROOF_SIZE)
        )
        if len(self._pending) > expected:
            raise ProtocolError("the host sent more than expected")

    def _check_proof(self, proof: bytes) -> None:
        purpose = protocol.verify_proof(self._gateway.key, self._host_nonce, self._nonce, proof)
        self._cancel_deadline()
        self._gateway.remove(self)
        self._purpose = purpose
        if purpose is Purpose.ACCEPT:
            self._gateway.add_ready(self)
        elif purpose is Purpose.NAMES:
            self._gateway.dns.set_host(self.transport)
            self._read_answers(self._consume(len(self._pending)))

    def _read_answers(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._gateway.dns.on_answer(protocol.Answer.unpack(frame))
        except ProtocolError:
            self.reset()

    def refuse(self, outcome: Outcome) -> None:
        """Send why it could not be connected, and close."""
        self.transport.write(bytes([outcome]))
        self.transport.close()

    def connect(self, other: RelayedConnection) -> None:
        """Send that it is connected, and pass all further data to *other*."""
        if self.transport.is_closing():
            other.reset()
            return
        self.transport.write(bytes([Outcome.CONNECTED]))
        self.pair(other)
        other.transport.resume_reading()

    def _consume(self, size: int) -> bytes:
        part, self._pending = self._pending[:size], self._pending[size:]
        return part

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _DialedConnection(RelayedConnection):
    """A connection to a container."""

    def on_connect(self) -> None:
        self.transport.pause_reading()  # until it is paired


class _CallerConnection(RelayedConnection):
    """A connection of a container, or of Docker."""

    address: protocol.Address
    limits: tuple[tuple[str, int], ...]

    def __init__(self, gateway: Gateway, port: int) -> None:
        super().__init__()
        self._gateway = gateway
        self.port: Final = port
        self.wait_timer: asyncio.TimerHandle | None = None
        """The timer while it waits for a connection of the host; else None."""
        self.is_counted = False

    def on_connect(self) -> None:
        self.transport.pause_reading()
        self.address = self.transport.get_extra_info("peername")
        # The gateway has an address in each service's network, so its address identifies the caller's service.
        service: str = self.transport.get_extra_info("sockname")[0]
        self.limits = ((self.address[0], _MAX_PER_CALLER), (f"service {service}", _MAX_PER_SERVICE))
        if not self._gateway.admit(self):
            self.reset()

    def on_disconnect(self) -> None:
        self._gateway.release(self)


async def run(folder: Path) -> None:
    """Serve with the key and the settings in *folder* until SIGTERM."""
    gateway = Gateway(
        (folder / "key").read_bytes(), Settings.from_json((folder / "settings.json").read_text(encoding="utf-8"))
    )
    stopped = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopped.set)
    await gateway.open("0.0.0.0")  # noqa: S104 - in a container: callers are admitted by address
    _log.warning("gateway listens")
    await stopped.wait()
    gateway.close()


def main(folder: Path) -> None:
    """Run the gateway until SIGTERM."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    asyncio.run(run(folder))
