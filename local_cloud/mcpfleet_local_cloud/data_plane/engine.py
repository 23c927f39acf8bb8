"""Docker, asked in threads so that the event loop never waits for it."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from mcpfleet_local_cloud import docker_engine
from mcpfleet_local_cloud.data_plane.cleanup import CLOUD_LABEL
from mcpfleet_local_cloud.data_plane.contract import RolloutError
from mcpfleet_local_cloud.data_plane.diagnosis import catches_sigterm, parse_listening
from mcpfleet_local_cloud.docker_engine import Facts

GRACE: Final = 10
"""Seconds between SIGTERM and SIGKILL (Cloud Run's container contract)."""
_THREADS: Final = 16
_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A container as Docker last described it."""

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool
    ip: str
    pid: int
    exit_code: int
    out_of_memory: bool


class RefusedError(Exception):
    """Docker could not start a container's program; the text is Docker's reason, in one line."""


class CloudContainers:
    """One local cloud's view of Docker: its containers.

    Args:
        cloud_id: goes into the label of every object.
        connect: gives a Docker client; called when Docker is first needed.
    """

    def __init__(self, cloud_id: str, connect: Callable[[], docker.DockerClient] = docker_engine.client) -> None:
        self.cloud_id = cloud_id
        self._connect = connect
        self._client: docker.DockerClient | None = None
        self._facts: Facts | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._watching = threading.Event()
        self._events: Any = None

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client, for use inside `call`."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    @property
    def facts(self) -> Facts:
        """What Docker says of itself, asked once; for use inside `call`."""
        if self._facts is None:
            self._facts = docker_engine.facts_of(self.client)
        return self._facts

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do *work*, which may block, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    async def platform(self) -> str:
        """The platform of this Docker's machine."""
        return (await self.call(lambda: self.facts)).platform

    async def cpus(self) -> float:
        """How many CPUs Docker has to give."""
        return (await self.call(lambda: self.facts)).cpus

    async def run(self, spec: Mapping[str, Any]) -> Seen:
        """Create and start a container from the keyword arguments of `containers.create`.

        It goes without a limit that this Docker cannot hold: rootless Docker has none on cgroup v1.

        Raises:
            RefusedError: the program could not be started; the container is gone again.
        """

        def run() -> Seen:
            container = self.client.containers.create(**self.facts.limits.kept(spec))
            try:
                container.start()
                container.reload()
            except APIError as refusal:
                container.remove(force=True, v=True)
                raise RefusedError(one_line(refusal)) from refusal
            return self._seen(container)

        try:
            return await self.call(run)
        except APIError as refusal:
            raise RefusedError(one_line(refusal)) from refusal

    async def inspect(self, container_id: str) -> Seen | None:
        """The container as it is now; None when it is gone."""

        def inspect() -> Seen | None:
            try:
                return self._seen(self.client.containers.get(container_id))
            except NotFound:
                return None

        return await self.call(inspect)

    async def find(self, labels: Mapping[str, str | None]) -> list[Seen]:
        """This cloud's containers that carry *labels*, running or not; None stands for any value."""
        every = {CLOUD_LABEL: self.cloud_id, **labels}
        wanted = [name if value is None else f"{name}={value}" for name, value in every.items()]

        def find() -> list[Seen]:
            found = self.client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True)
            return [self._seen(container) for container in found]

        return await self.call(find)

    async def logs(self, container_id: str, lines: int = 200) -> str:
        """The container's last *lines* of stdout and stderr; empty when it is gone."""

        def logs() -> str:
            try:
                output: bytes = self.client.containers.get(container_id).logs(tail=lines)
            except (NotFound, APIError):
                return ""
            return output.decode(errors="replace")

        return await self.call(logs)

    async def listening(self, container_id: str, image: str) -> tuple[tuple[str, int], ...]:
        """Where programs in the container's network listen; empty where that can't be seen.

        Args:
            container_id: the container.
            image: of the short-lived container that looks; nothing is executed in the other one.
        """
        spec: dict[str, Any] = {"network_mode": f"container:{container_id}", "user": "65534:65534"}

        def look() -> tuple[tuple[str, int], ...]:
            try:
                tables = self._helper(image, "cat /proc/net/tcp*", spec)
            except DockerException as reason:  # the container has ended, or there is no such image
                _log.warning("nobody can look into the network of %s: %s", container_id[:12], reason)
                return ()
            return tuple(parse_listening(tables.decode("ascii", "replace")))

        return await self.call(look)

    async def let_in(self, volume: str, image: str) -> None:
        """Let every user of a container write into the Docker volume *volume*, which Docker makes for root alone.

        Args:
            volume: the volume's name.
            image: of the short-lived container that does it.

        Raises:
            RolloutError: there is no such image.
        """
        spec: dict[str, Any] = {"network_mode": "none", "volumes": {volume: {"bind": "/v", "mode": "rw"}}}
        try:
            await self.call(self._helper, image, "chmod 1777 /v", spec)
        except DockerException as reason:
            raise RolloutError(f"A volume on disk cannot be made: {reason}") from reason

    def _helper(self, image: str, command: str, spec: Mapping[str, Any]) -> bytes:
        """Run *command* in a short-lived container with hardly a right, and give back what it says."""
        whole: dict[str, Any] = {
            "image": image,
            "entrypoint": ["sh", "-c"],
            "command": [command],
            "labels": {CLOUD_LABEL: self.cloud_id},
            "remove": True,
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "pids_limit": 32,  # runc, which starts the command, has threads of its own
            "mem_limit": "32m",
            **spec,
        }
        run: Any = self.client.containers.run  # its stubs have another type for each answer
        kept = self.facts.limits.kept(whole)
        try:
            said: bytes = run(**kept)
        except APIError as refusal:
            # Seen with Docker 20.10 on a busy machine, of a command that ends at once.
            if "cannot start a stopped process" not in str(refusal):
                raise
            said = run(**kept)
        return said

    async def stop(self, container_id: str, grace: int = GRACE) -> None:
        """SIGTERM, *grace* seconds, SIGKILL; the container stays for its logs."""

        def stop() -> None:
            try:
                container = self.client.containers.get(container_id)
                seen = self._seen(container)
                if seen.running:
                    container.stop(timeout=grace if self._catches_sigterm(container, seen) else 0)
            except NotFound:
                return

        await self.call(stop)

    async def remove(self, container_id: str) -> None:
        """Remove the container and its anonymous volumes, whatever it does."""

        def remove() -> None:
            try:
                self.client.containers.get(container_id).remove(force=True, v=True)
            except NotFound:
                return
            except APIError as refusal:
                if refusal.status_code != 409:  # its removal is in progress already
                    raise

        await self.call(remove)

    def watch(self, ended: Callable[[str], None], connected: Callable[[], None]) -> None:
        """Report from now on, in the event loop, each of this cloud's containers that ends.

        Args:
            ended: gets the container's id.
            connected: called each time that the watch begins (again): whatever ended before was not reported.
        """
        loop = asyncio.get_running_loop()
        filters = {"type": "container", "event": "die", "label": f"{CLOUD_LABEL}={self.cloud_id}"}

        def report(callback: Callable[..., None], *args: str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(callback, *args)

        def follow() -> None:
            while not self._watching.is_set():
                try:
                    self._events = self.client.events(filters=filters, decode=True)
                    report(connected)
                    for event in self._events:
                        report(ended, event["id"])
                except (DockerException, OSError, ValueError) as reason:
                    _log.warning("Docker's events ended (%s); trying again", reason)
                self._watching.wait(1.0)

        threading.Thread(target=follow, name="docker-events", daemon=True).start()

    async def close(self) -> None:
        """Let go of Docker; containers run on."""
        self._watching.set()
        events = self._events
        if events is not None:
            await self.call(events.close)
        if self._client is not None:
            await self.call(self._client.close)
        self._threads.shutdown(wait=False)

    def _catches_sigterm(self, container: Container, seen: Seen) -> bool:
        """Whether its first process would notice a SIGTERM; true where the engine has no ps that tells it."""
        try:
            told: Any = container.top(ps_args="-o pid,caught")
        except DockerException:
            return True
        caught = next((row[1] for row in told["Processes"] if row[0].strip() == str(seen.pid)), None)
        return caught is None or catches_sigterm(caught)

    def _seen(self, container: Container) -> Seen:
        attrs: dict[str, Any] = container.attrs
        state: dict[str, Any] = attrs["State"]
        networks: dict[str, Any] = attrs["NetworkSettings"]["Networks"]
        return Seen(
            id=str(container.id),
            name=str(container.name),
            labels=attrs["Config"]["Labels"],
            running=bool(state["Running"]),
            ip=next((ip for each in networks.values() if (ip := str(each.get("IPAddress") or ""))), ""),
            pid=int(state["Pid"]),
            exit_code=int(state["ExitCode"]),
            out_of_memory=bool(state["OOMKilled"]),
        )


def one_line(refusal: APIError) -> str:
    """Docker's reason without the HTTP around it."""
    return " ".join(str(refusal.explanation or refusal).split())
