"""Calls Docker in threads, so that the event loop never waits for it."""

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
from mcpfleet_local_cloud.docker_engine import EngineFacts

GRACE_SECONDS: Final = 10
"""Seconds between SIGTERM and SIGKILL (Cloud Run's container contract)."""
_THREADS: Final = 16
_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ContainerStatus:
    """The state of a container, as Docker last reported it."""

    id: str
    name: str
    labels: Mapping[str, str]
    is_running: bool
    ip: str
    pid: int
    exit_code: int
    is_out_of_memory: bool


class StartError(Exception):
    """Docker could not start a container's program; the text is Docker's error, in one line."""


class CloudContainers:
    """The Docker containers of one local cloud.

    Args:
        cloud_id: The id in the label of each of the cloud's Docker objects.
        connect: Returns a Docker client; called when Docker is first needed.
    """

    def __init__(self, cloud_id: str, connect: Callable[[], docker.DockerClient] = docker_engine.create_client) -> None:
        self.cloud_id = cloud_id
        self._connect = connect
        self._client: docker.DockerClient | None = None
        self._facts: EngineFacts | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._stopped = threading.Event()
        self._events: Any = None

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client, for use inside `call`."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    @property
    def facts(self) -> EngineFacts:
        """The facts about the Docker engine, read once; for use inside `call`."""
        if self._facts is None:
            self._facts = docker_engine.read_facts(self.client)
        return self._facts

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *work*, which may block, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    async def platform(self) -> str:
        """The platform of the Docker engine's machine."""
        return (await self.call(lambda: self.facts)).platform

    async def cpus(self) -> float:
        """The number of CPUs that containers can use."""
        return (await self.call(lambda: self.facts)).cpus

    async def run(self, spec: Mapping[str, Any]) -> ContainerStatus:
        """Create and start a container from the keyword arguments of `containers.create`.

        Limits that this engine does not support are left out: rootless Docker supports none on cgroup v1.

        Raises:
            StartError: The program could not be started; the container was removed.
        """

        def run() -> ContainerStatus:
            container = self.client.containers.create(**self.facts.limits.without_unsupported(spec))
            try:
                container.start()
                container.reload()
            except APIError as error:
                container.remove(force=True, v=True)
                raise StartError(error_text(error)) from error
            return self._status(container)

        try:
            return await self.call(run)
        except APIError as error:
            raise StartError(error_text(error)) from error

    async def inspect(self, container_id: str) -> ContainerStatus | None:
        """The container's current state; None if it was removed."""

        def inspect() -> ContainerStatus | None:
            try:
                return self._status(self.client.containers.get(container_id))
            except NotFound:
                return None

        return await self.call(inspect)

    async def find(self, labels: Mapping[str, str | None]) -> list[ContainerStatus]:
        """Find this cloud's containers with *labels*, running or not; the value None matches any value."""
        all_labels = {CLOUD_LABEL: self.cloud_id, **labels}
        filters = [name if value is None else f"{name}={value}" for name, value in all_labels.items()]

        def find() -> list[ContainerStatus]:
            containers = self.client.containers.list(all=True, filters={"label": filters}, ignore_removed=True)
            return [self._status(container) for container in containers]

        return await self.call(find)

    async def logs(self, container_id: str, lines: int = 200) -> str:
        """The container's last *lines* of stdout and stderr; empty if it was removed."""

        def logs() -> str:
            try:
                output: bytes = self.client.containers.get(container_id).logs(tail=lines)
            except (NotFound, APIError):
                return ""
            return output.decode(errors="replace")

        return await self.call(logs)

    async def find_listening(self, container_id: str, image: str) -> tuple[tuple[str, int], ...]:
        """Find the addresses and ports on which the container's programs listen; empty if that is not possible.

        Args:
            container_id: The container. Nothing is executed in it.
            image: The image of the short-lived container that reads its socket tables.
        """
        spec: dict[str, Any] = {"network_mode": f"container:{container_id}", "user": "65534:65534"}

        def look() -> tuple[tuple[str, int], ...]:
            try:
                tables = self._run_helper(image, "cat /proc/net/tcp*", spec)
            except DockerException as reason:  # the container has ended, or there is no such image
                _log.warning("the listening ports of %s cannot be read: %s", container_id[:12], reason)
                return ()
            return tuple(parse_listening(tables.decode("ascii", "replace")))

        return await self.call(look)

    async def open_volume(self, volume: str, image: str) -> None:
        """Make the Docker volume *volume* writable for every user of a container; Docker creates it for root only.

        Args:
            volume: The volume's name.
            image: The image of the short-lived container that changes its mode.

        Raises:
            RolloutError: There is no such image.
        """
        spec: dict[str, Any] = {"network_mode": "none", "volumes": {volume: {"bind": "/v", "mode": "rw"}}}
        try:
            await self.call(self._run_helper, image, "chmod 1777 /v", spec)
        except DockerException as reason:
            raise RolloutError(f"A volume on disk cannot be created: {reason}") from reason

    def _run_helper(self, image: str, command: str, spec: Mapping[str, Any]) -> bytes:
        """Run *command* in a short-lived container with minimal privileges, and return its output."""
        full_spec: dict[str, Any] = {
            "image": image,
            "entrypoint": ["sh", "-c"],
            "command": [command],
            "labels": {CLOUD_LABEL: self.cloud_id},
            "remove": True,
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "pids_limit": 32,  # includes the threads of runc, which starts the command
            "mem_limit": "32m",
            **spec,
        }
        run: Any = self.client.containers.run  # its stubs have a different type for each result
        supported_spec = self.facts.limits.without_unsupported(full_spec)
        try:
            output: bytes = run(**supported_spec)
        except APIError as error:
            # Observed with Docker 20.10 on a busy machine, for a command that ends at once.
            if "cannot start a stopped process" not in str(error):
                raise
            output = run(**supported_spec)
        return output

    async def stop(self, container_id: str, grace: int = GRACE_SECONDS) -> None:
        """Send SIGTERM, and SIGKILL after *grace* seconds; the container stays for its logs."""

        def stop() -> None:
            try:
                container = self.client.containers.get(container_id)
                status = self._status(container)
                if status.is_running:
                    container.stop(timeout=grace if self._catches_sigterm(container, status) else 0)
            except NotFound:
                return

        await self.call(stop)

    async def remove(self, container_id: str) -> None:
        """Remove the container and its anonymous volumes, also while it runs."""

        def remove() -> None:
            try:
                self.client.containers.get(container_id).remove(force=True, v=True)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != 409:  # it is being removed already
                    raise

        await self.call(remove)

    def watch(self, on_exit: Callable[[str], None], on_connect: Callable[[], None]) -> None:
        """Start to report, in the event loop, each of this cloud's containers that ends.

        Args:
            on_exit: Called with the container's id.
            on_connect: Called each time that the event stream is (re)connected: earlier exits were not reported.
        """
        loop = asyncio.get_running_loop()
        filters = {"type": "container", "event": "die", "label": f"{CLOUD_LABEL}={self.cloud_id}"}

        def report(callback: Callable[..., None], *args: str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(callback, *args)

        def follow() -> None:
            while not self._stopped.is_set():
                try:
                    self._events = self.client.events(filters=filters, decode=True)
                    report(on_connect)
                    for event in self._events:
                        report(on_exit, event["id"])
                except (DockerException, OSError, ValueError) as reason:
                    _log.warning("Docker's events ended (%s); trying again", reason)
                self._stopped.wait(1.0)

        threading.Thread(target=follow, name="docker-events", daemon=True).start()

    async def close(self) -> None:
        """Close the connection to Docker; containers keep running."""
        self._stopped.set()
        events = self._events
        if events is not None:
            await self.call(events.close)
        if self._client is not None:
            await self.call(self._client.close)
        self._threads.shutdown(wait=False)

    def _catches_sigterm(self, container: Container, status: ContainerStatus) -> bool:
        """Return whether the container's first process handles SIGTERM; True if the engine's ps does not show it."""
        try:
            processes: Any = container.top(ps_args="-o pid,caught")
        except DockerException:
            return True
        caught = next((row[1] for row in processes["Processes"] if row[0].strip() == str(status.pid)), None)
        return caught is None or catches_sigterm(caught)

    def _status(self, container: Container) -> ContainerStatus:
        attrs: dict[str, Any] = container.attrs
        state: dict[str, Any] = attrs["State"]
        networks: dict[str, Any] = attrs["NetworkSettings"]["Networks"]
        return ContainerStatus(
            id=str(container.id),
            name=str(container.name),
            labels=attrs["Config"]["Labels"],
            is_running=bool(state["Running"]),
            ip=next((ip for network in networks.values() if (ip := str(network.get("IPAddress") or ""))), ""),
            pid=int(state["Pid"]),
            exit_code=int(state["ExitCode"]),
            is_out_of_memory=bool(state["OOMKilled"]),
        )


def error_text(error: APIError) -> str:
    """Docker's error message in one line, without the HTTP details."""
    return " ".join(str(error.explanation or error).split())
