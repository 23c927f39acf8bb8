"""What runs in the gateway container: passes connections between the cloud's containers and its process on the host.

Standard library only (see `wire`). Everything that it takes in is bounded, per caller and per service as well, so that
one hostile container takes nobody else's service away; what it is told decides nothing but whom it connects.
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
from mcpfleet_local_cloud.gateway.protocol import Outcome, Purpose, WireError
from mcpfleet_local_cloud.gateway.relay import End
from mcpfleet_local_cloud.gateway.resolver import Names

WEB_PORTS: Final = (80, 443)
"""Metadata server and mesh; front end."""
_BACKLOG: Final = 1024
_STRANGERS: Final = 64
"""Connections to the tunnel port that have not shown the key. One more ends the oldest: a flood keeps nobody out."""
_CONNECTIONS: Final = 2048
_PER_SERVICE: Final = 512
_PER_CALLER: Final = 256
_WAITING_PER_CALLER: Final = 64
_WAIT_SECONDS: Final = 10.0
"""How long a container's connection waits for one of the host's."""
_DIAL_SECONDS: Final = 4.0
_log = logging.getLogger("gateway")


@dataclass(frozen=True)
class Settings:
    """What the gateway is told when it is made."""

    networks: tuple[str, ...]
    """The ranges that the cloud's networks are in; nothing outside of them is dialed."""
    own: str
    """The gateway's own network, which no other container is in."""
    tunnel: int = 7300
    """The port for the host, inside of the container."""
    registry: int = 7301
    """The port for the engine's pulls and pushes, inside of the container."""
    resolver: tuple[str, int] = ("127.0.0.11", 53)
    """Who answers for names that are not the cloud's: Docker's own."""
    names: int = 53
    """The port for DNS, UDP and TCP."""
    web: tuple[int, ...] = WEB_PORTS
    """The other ports for containers."""

    def to_json(self) -> str:
        """Its file."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Settings":
        """The settings in a file."""
        found: dict[str, Any] = json.loads(text)
        return Settings(
            networks=tuple(found["networks"]),
            own=found["own"],
            tunnel=found["tunnel"],
            registry=found["registry"],
            resolver=(found["resolver"][0], found["resolver"][1]),
            names=found["names"],
            web=tuple(found["web"]),
        )


class Gateway:
    """See the module; `open` before use.

    Args:
        key: of `protocol.KEY_SIZE` bytes.
        settings: where what is.
    """

    def __init__(self, key: bytes, settings: Settings) -> None:
        self.key: Final = key
        self.settings: Final = settings
        self._networks = [ipaddress.IPv4Network(each) for each in settings.networks]
        self._own = ipaddress.IPv4Network(settings.own)
        self._strangers: dict[_HostEnd, None] = {}
        self._ready: dict[_HostEnd, None] = {}
        self._waiting: deque[_CallerEnd] = deque()
        self._open: Counter[str] = Counter()
        self._connections = 0
        self._waits: Counter[str] = Counter()
        self._dials: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.names: Final = Names(settings.resolver, self.is_container)

    async def open(self, host: str) -> None:
        """Listen at *host* on every port."""
        loop = asyncio.get_running_loop()

        async def listen(make: Callable[[], asyncio.BaseProtocol], port: int) -> None:
            self._servers.append(await loop.create_server(make, host, port, backlog=_BACKLOG))  # pyright: ignore[reportArgumentType]

        await listen(lambda: _HostEnd(self), self.settings.tunnel)
        for port in (self.settings.registry, *self.settings.web):
            await listen(lambda port=port: _CallerEnd(self, port), port)
        await self.names.open(host, self.settings.names)

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        self.names.close()

    def is_container(self, address: str) -> bool:
        """Whether a container of a service has *address*."""
        ip = ipaddress.IPv4Address(address)
        return ip not in self._own and any(ip in network for network in self._networks)

    # The host's connections.

    def stranger(self, end: "_HostEnd") -> None:
        """*end* has just come and has shown nothing."""
        if len(self._strangers) >= _STRANGERS:
            next(iter(self._strangers)).reset()
        self._strangers[end] = None

    def forget(self, end: "_HostEnd") -> None:
        """*end* is a stranger no more, or is gone."""
        self._strangers.pop(end, None)
        self._ready.pop(end, None)

    def ready(self, end: "_HostEnd") -> None:
        """*end* is there for whichever container connects next."""
        while self._waiting:
            caller = self._waiting.popleft()
            if caller.wait is not None:
                self._give(caller, end)
                return
        self._ready[end] = None

    def dial(self, end: "_HostEnd", address: protocol.Address) -> None:
        """Connect *end* to *address*."""
        task = asyncio.get_running_loop().create_task(self._dial(end, address))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, end: "_HostEnd", address: protocol.Address) -> None:
        ip = ipaddress.IPv4Address(address[0])
        if not any(ip in network for network in self._networks):
            end.refuse(Outcome.FORBIDDEN)
            return
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                loop = asyncio.get_running_loop()
                _, other = await loop.create_connection(_DialedEnd, *address)
        except ConnectionRefusedError:
            end.refuse(Outcome.REFUSED)
        except OSError:  # TimeoutError is one
            end.refuse(Outcome.UNREACHABLE)
        else:
            end.connect(other)

    # Containers' connections.

    def arrived(self, caller: "_CallerEnd") -> bool:
        """Whether *caller* may stay; then it has a connection of the host's, or waits for one."""
        container = self.is_container(caller.address[0])
        if container == (caller.port == self.settings.registry):
            return False
        if container and any(self._open[key] >= most for key, most in caller.limits):
            return False
        if self._connections >= _CONNECTIONS:
            return False
        caller.counted = True
        self._connections += 1
        for key, _ in caller.limits:
            self._open[key] += 1
        if self._ready:
            end = next(iter(self._ready))
            del self._ready[end]
            self._give(caller, end)
            return True
        if container and self._waits[caller.address[0]] >= _WAITING_PER_CALLER:
            return False
        caller.wait = asyncio.get_running_loop().call_later(_WAIT_SECONDS, caller.reset)
        self._waits[caller.address[0]] += 1
        self._waiting.append(caller)
        return True

    def left(self, caller: "_CallerEnd") -> None:
        """*caller* is gone."""
        self._waited(caller)
        if caller.counted:
            self._connections -= 1
            for key, _ in caller.limits:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]

    def _give(self, caller: "_CallerEnd", end: "_HostEnd") -> None:
        self._waited(caller)
        end.transport.write(protocol.Arrival(caller.port, caller.address).pack())
        end.join(caller)
        caller.transport.resume_reading()

    def _waited(self, caller: "_CallerEnd") -> None:
        if caller.wait is None:
            return
        caller.wait.cancel()
        caller.wait = None
        self._waits[caller.address[0]] -= 1
        if not self._waits[caller.address[0]]:
            del self._waits[caller.address[0]]


class _HostEnd(End):
    """A connection to the tunnel port."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway
        self._held = b""
        self._nonce = secrets.token_bytes(protocol.NONCE_SIZE)
        self._host_nonce = b""
        self._purpose: Purpose | None = None
        self._dialed = False
        self._deadline: asyncio.TimerHandle | None = None
        self._frames = protocol.Frames()

    def made(self) -> None:
        if self._gateway.is_container(self.transport.get_extra_info("peername")[0]):
            self.reset()
            return
        self._deadline = asyncio.get_running_loop().call_later(protocol.SECONDS, self.reset)
        self._gateway.stranger(self)

    def lost(self) -> None:
        self._done()
        self._gateway.forget(self)
        self._gateway.names.lost(self.transport)

    def received(self, data: bytes) -> None:
        if self._purpose is Purpose.NAMES:
            self._answers(data)
            return
        self._held += data
        try:
            self._take()
        except WireError as wrong:
            _log.warning("a connection to the tunnel was refused: %s", wrong)
            self.reset()

    def _take(self) -> None:
        if not self._host_nonce and len(self._held) >= protocol.HELLO_SIZE:
            said, self._host_nonce = protocol.challenge(self._gateway.key, self._part(protocol.HELLO_SIZE), self._nonce)
            self.transport.write(said)
        if self._purpose is None and self._host_nonce and len(self._held) >= protocol.PROOF_SIZE:
            self._prove(self._part(protocol.PROOF_SIZE))
        if self._purpose is Purpose.DIAL and not self._dialed and len(self._held) >= protocol.ADDRESS_SIZE:
            self._dialed = True
            self._gateway.dial(self, protocol.unpack_address(self._part(protocol.ADDRESS_SIZE)))
        # Nothing may be said ahead, or it would have to be held.
        expected = (
            0 if self._purpose is Purpose.ACCEPT or self._dialed else max(protocol.HELLO_SIZE, protocol.PROOF_SIZE)
        )
        if len(self._held) > expected:
            raise WireError("more was said than was asked for")

    def _prove(self, said: bytes) -> None:
        purpose = protocol.purpose_of(self._gateway.key, self._host_nonce, self._nonce, said)
        self._done()
        self._gateway.forget(self)
        self._purpose = purpose
        if purpose is Purpose.ACCEPT:
            self._gateway.ready(self)
        elif purpose is Purpose.NAMES:
            self._gateway.names.found(self.transport)
            self._answers(self._part(len(self._held)))

    def _answers(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._gateway.names.answered(protocol.Answer.unpack(frame))
        except WireError:
            self.reset()

    def refuse(self, outcome: Outcome) -> None:
        """Say why it could not be connected."""
        self.transport.write(bytes([outcome]))
        self.transport.close()

    def connect(self, other: End) -> None:
        """Say that it is, and pass everything to *other* from now on."""
        if self.transport.is_closing():
            other.reset()
            return
        self.transport.write(bytes([Outcome.CONNECTED]))
        self.join(other)
        other.transport.resume_reading()

    def _part(self, size: int) -> bytes:
        part, self._held = self._held[:size], self._held[size:]
        return part

    def _done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _DialedEnd(End):
    """A connection to a container."""

    def made(self) -> None:
        self.transport.pause_reading()  # until there is whom to pass it to


class _CallerEnd(End):
    """A container's connection, or the engine's."""

    address: protocol.Address
    limits: tuple[tuple[str, int], ...]

    def __init__(self, gateway: Gateway, port: int) -> None:
        super().__init__()
        self._gateway = gateway
        self.port: Final = port
        self.wait: asyncio.TimerHandle | None = None
        """Until when it waits for a connection of the host's; None: it does not."""
        self.counted = False

    def made(self) -> None:
        self.transport.pause_reading()
        self.address = self.transport.get_extra_info("peername")
        # The gateway has an address in each service's network, so that says of which service the caller is.
        service: str = self.transport.get_extra_info("sockname")[0]
        self.limits = ((self.address[0], _PER_CALLER), (f"service {service}", _PER_SERVICE))
        if not self._gateway.arrived(self):
            self.reset()

    def lost(self) -> None:
        self._gateway.left(self)


async def run(folder: Path) -> None:
    """Serve with key and settings in *folder* until SIGTERM."""
    gateway = Gateway(
        (folder / "key").read_bytes(), Settings.from_json((folder / "settings.json").read_text(encoding="utf-8"))
    )
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await gateway.open("0.0.0.0")  # noqa: S104 - in a container: who may come is decided by address
    _log.warning("gateway listens")
    await stopped.wait()
    gateway.close()


def main(folder: Path) -> None:
    """Run; ends by SIGTERM."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    asyncio.run(run(folder))
