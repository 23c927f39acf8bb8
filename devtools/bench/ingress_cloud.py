"""The local cloud's front end in its own process, in front of one server, for `ingress.py`.

All parts are real except the data plane. It also runs with the code of an older commit, without a gateway.
"""

import asyncio
import io
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.data_plane.contract import Revision
from mcpfleet_local_cloud.data_plane.pool import InstancePool
from mcpfleet_local_cloud.front_end.ingress import create_ingress
from mcpfleet_local_cloud.network.listeners import Listeners
from mcpfleet_local_cloud.network.upstream import HttpUpstream
from mcpfleet_local_cloud.services.run.locations import Location
from mcpfleet_local_cloud.state.folder import Settings

_ACCOUNT = "deployer@mcpfleet-local.iam.gserviceaccount.com"


class _Plane:
    """A data plane with one service and one running instance."""

    def __init__(self, port: int, make: Callable[[], HttpUpstream]) -> None:
        self._port = port

        async def start() -> HttpUpstream:
            return make()

        async def stop(upstream: HttpUpstream) -> None:
            await upstream.close()

        self._pool = InstancePool[HttpUpstream](start=start, stop=stop, concurrency=1000, minimum=1, maximum=1)

    async def resolve(self, image: str) -> str:
        return f"{image}@sha256:{'0' * 64}"

    async def start(self, revision: Revision) -> None:
        await self._pool.ensure_minimum()

    async def route(self, service: str, revision: Revision) -> None: ...

    async def retire(self, revision: Revision) -> None: ...

    async def remove(self, service: str) -> None: ...

    def address(self, service: str) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def lease(self, service: str, affinity: str = "") -> Any:
        slot = await self._pool.acquire()
        return _Lease(slot.instance, lambda: self._pool.release(slot))


class _Lease:
    timeout = 300.0
    affinity = ""

    def __init__(self, upstream: HttpUpstream, release: Callable[[], None]) -> None:
        self.upstream = upstream
        self.release = release


async def _serve(folder: Path, port: int, server: tuple[str, int], gateway: str) -> None:
    make: Callable[[], HttpUpstream] = lambda: HttpUpstream(*server)  # noqa: E731
    if gateway:
        dial = await _start_gateway(folder, gateway)
        make = lambda: HttpUpstream(*server, dial=dial)  # noqa: E731
    listeners = Listeners()
    if not listeners.open(port):
        raise SystemExit(f"port {port} is taken")
    plane = _Plane(port, make)
    cloud = Cloud(Settings(state=folder / "state"), data_plane=plane)
    await cloud.start()
    place = Location(project=cloud.settings.project, region="europe-west1", number=cloud.settings.project_number)
    body = {"template": {"containers": [{"image": "docker.io/acme/echo", "env": [{"name": "A", "value": "b"}]}]}}
    operation = cloud.run.create(place, "echo", body, _ACCOUNT)
    await cloud.operations.wait(operation["name"], 30)
    name = place.service_name("echo")
    cloud.policies.set(name, {"bindings": [{"role": "roles/run.invoker", "members": [f"serviceAccount:{_ACCOUNT}"]}]})
    account = cloud.accounts.get(_ACCOUNT) or {}
    token = cloud.identity.mint_id_token(
        email=_ACCOUNT, subject=account["uniqueId"], audience=f"http://127.0.0.1:{port}"
    )
    app = create_ingress(
        lambda _: cloud.run.find_endpoint(name),
        cloud.identity,
        cloud.policies,
        plane,
        lambda claims: cloud.accounts.is_active(claims.email, claims.subject),
    )
    await listeners.serve(app)
    print(token, flush=True)
    await asyncio.Event().wait()


async def _start_gateway(folder: Path, python: str) -> Callable[[str, int], Awaitable[Any]]:
    """Start the gateway's program as a process on loopback; returns the function that connects through it."""
    from mcpfleet_local_cloud.gateway import program
    from mcpfleet_local_cloud.gateway.container import Settings as GatewaySettings
    from mcpfleet_local_cloud.gateway.tunnel import Tunnel

    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(5)]
        tunnel_port, registry, names, *web = (listener.getsockname()[1] for listener in sockets)
    settings = GatewaySettings(
        networks=("127.0.0.0/16",),
        gateway_network="127.0.0.1/32",
        tunnel_port=tunnel_port,
        registry_port=registry,
        dns_port=names,
        web_ports=tuple(web),
    )
    key = program.create_key()
    with tarfile.open(fileobj=io.BytesIO(program.create_archive(key, settings))) as tar:
        tar.extractall(folder / "gateway", filter="data")
    command = [python, *program.COMMAND[1:-1], str(folder / "gateway")]
    print(await asyncio.to_thread(_start_process, command), flush=True)

    async def accept(*_: object) -> None: ...

    def named(_name: str, _caller: str) -> bool:
        return False

    tunnel = Tunnel(key, accept=accept, resolves=named)
    await tunnel.open(("127.0.0.1", settings.tunnel_port))
    return tunnel.dial


def _start_process(command: list[str]) -> int:
    """Start the gateway; returns its process id when it listens."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    if process.stderr is not None:
        process.stderr.readline()
    return process.pid


if __name__ == "__main__":
    _, given, ip, server_port, through = sys.argv
    with tempfile.TemporaryDirectory() as made:
        uvloop.run(_serve(Path(made), int(given), (ip, int(server_port)), through))
