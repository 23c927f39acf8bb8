"""Manages the instances of one revision: starts, probes, watches, restarts, adopts and stops them.

`startup.py` starts a single instance.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from docker.errors import DockerException

from mcpfleet_local_cloud.data_plane import diagnosis, probes
from mcpfleet_local_cloud.data_plane.archive import LogArchive
from mcpfleet_local_cloud.data_plane.contract import InstanceData, Probe, Revision, RolloutError
from mcpfleet_local_cloud.data_plane.engine import GRACE_SECONDS, CloudContainers, ContainerStatus
from mcpfleet_local_cloud.data_plane.pool import IDLE_SECONDS, InstancePool, Slot
from mcpfleet_local_cloud.data_plane.spec import (
    CONTAINER_LABEL,
    INSTANCE_LABEL,
    SPEC_LABEL,
    CloudContext,
    revision_labels,
)
from mcpfleet_local_cloud.data_plane.startup import Instance, InstanceContainer, Startup
from mcpfleet_local_cloud.data_plane.volumes import Volumes
from mcpfleet_local_cloud.network.dial import Dial
from mcpfleet_local_cloud.network.upstream import HttpUpstream, Upstream

_ARCHIVED_LINES: Final = 2000
_RETRY: Final = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lease:
    """An instance that is reserved for one request."""

    upstream: Upstream
    timeout: float
    _pool: InstancePool[Instance]
    _slot: Slot[Instance]
    affinity: str = ""
    """The value of the affinity cookie for the instance; empty if the service has no session affinity."""

    def release(self) -> None:
        """Release the instance after the request."""
        self._pool.release(self._slot)


class RevisionInstances:
    """The instances of one revision.

    Args:
        revision: The revision.
        images: Digest reference and id in Docker of each container's image, in the order of `Revision.containers`.
        engine: The Docker engine.
        context: The facts about the cloud.
        archive: Keeps the logs of removed containers.
        number: Returns the next instance's number.
        files: A private folder for files of secrets.
        dial: Connects to a container.
        base_image: See `Startup`.
        sources: The secrets and buckets.
        idle_after: Seconds after which an idle instance may be stopped.
    """

    def __init__(
        self,
        revision: Revision,
        images: Sequence[tuple[str, str]],
        *,
        engine: CloudContainers,
        context: CloudContext,
        archive: LogArchive,
        number: Callable[[], int],
        files: Path,
        dial: Dial,
        base_image: str,
        sources: InstanceData | None = None,
        idle_after: float = IDLE_SECONDS,
    ) -> None:
        self.revision = revision
        self.images = images
        self._engine = engine
        self._archive = archive
        self._number = number
        self._instances: list[Instance] = []  # also those that are still starting
        self._volumes = Volumes(revision, engine=engine, root=files, sources=sources, base_image=base_image)
        self._dial = dial
        self._startup = Startup(
            revision,
            images,
            engine=engine,
            context=context,
            volumes=self._volumes,
            dial=dial,
            base_image=base_image,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self.pool = InstancePool[Instance](
            start=self._start,
            stop=self._stop,
            concurrency=revision.concurrency,
            minimum=revision.min_instances,
            maximum=revision.max_instances,
            idle_after=idle_after,
        )

    @property
    def service(self) -> str:
        """The full name of the service."""
        return full_name(self.revision)

    def find_by_address(self, ip: str) -> list[Instance]:
        """Find the instances with the address *ip*, also those that are starting or stopping."""
        running = (one for one in self._instances if one.containers and not one.exited.is_set())
        return [instance for instance in running if instance.main_status.ip == ip]

    async def start(self) -> None:
        """Adopt the running instances, then start the missing ones.

        Raises:
            RolloutError: An instance did not start; no container of the revision is left.
        """
        await self._adopt()
        try:
            await self.pool.ensure_minimum()
        except RolloutError:
            await self.destroy()
            raise

    async def resize(self, revision: Revision) -> None:
        """Apply the instance bounds of *revision*, which must not differ otherwise.

        Raises:
            RolloutError: The minimum grew and an instance did not start; the other instances keep running.
        """
        self.revision = revision
        self.pool.resize(revision.min_instances, revision.max_instances)
        await self.pool.ensure_minimum()

    async def retire(self) -> None:
        """Let admitted requests finish (at most the request timeout), then stop and remove every container."""
        await self.pool.drain(self.revision.timeout)
        await self.destroy()

    async def destroy(self) -> None:
        """Stop and remove every container now."""
        await self.pool.close()
        await asyncio.gather(*(self._stop(instance) for instance in list(self._instances)))
        leftovers = await self._engine.find(revision_labels(self.revision))
        await asyncio.gather(*(self._discard(status) for status in leftovers))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engine.call(self._volumes.remove_files)

    async def detach(self) -> None:
        """Stop managing the containers; they keep running, and `start` adopts them again."""
        for instance in self._instances:
            self._cancel_probes(instance)
            if instance.upstream is not None:
                await instance.upstream.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def on_container_exit(self, container_id: str) -> None:
        """Handle Docker's event that a container has ended."""
        for instance in self._instances:
            unit = instance.find_container(container_id)
            if unit is None or unit.exited.is_set():
                continue
            unit.exited.set()
            if instance.exited.is_set():
                return
            instance.exited.set()
            if not instance.is_stopping and instance in self.pool.instances:
                self.pool.on_instance_exit(instance)
                self._spawn(self._remove_crashed(instance, unit))
            return

    async def recheck(self) -> None:
        """Handle containers that ended while the event stream was interrupted."""
        for unit in [unit for instance in self._instances for unit in instance.containers]:
            status = await self._engine.inspect(unit.status.id)
            if status is None or not status.is_running:
                self.on_container_exit(unit.status.id)

    def refresh(self, secret: str) -> None:
        """Update the volumes with *secret* after its versions have changed."""
        self._volumes.refresh(secret)

    async def logs(self, lines: int) -> str:
        """Read the last *lines* of each running container."""
        units = [unit for instance in self._instances for unit in instance.containers]
        return "".join(await asyncio.gather(*(self._read_logs(unit.status, lines) for unit in units)))

    async def _read_logs(self, status: ContainerStatus, lines: int) -> str:
        """Read a container's log; if the instance has several, each line is prefixed with the container's name."""
        text = await self._engine.logs(status.id, lines)
        if len(self.revision.containers) == 1:
            return text
        index = int(status.labels.get(CONTAINER_LABEL, "0"))
        containers = self.revision.containers
        name = (containers[index].name if index < len(containers) else "") or str(index)
        return "".join(f"[{name}] {line}\n" for line in text.splitlines())

    async def _start(self) -> Instance:
        """Start an instance.

        Raises:
            RolloutError: It did not start; none of its containers is left.
        """
        instance = Instance(self._number())
        self._instances.append(instance)
        try:
            await self._volumes.create(instance.number)
            await self._startup.start(instance)
        except RolloutError:
            await self._stop(instance)
            raise
        return self._start_probes(instance)

    def _start_probes(self, instance: Instance) -> Instance:
        """Start the liveness and readiness probes of an instance whose containers have started."""
        instance.upstream = HttpUpstream(instance.main_status.ip, self.revision.main.port or 0, self._dial)
        for unit in instance.containers:
            if unit.container.liveness_probe is not None:
                instance.probe_tasks.append(asyncio.create_task(self._watch_liveness(instance, unit)))
            if unit.container.readiness_probe is not None:
                instance.probe_tasks.append(asyncio.create_task(self._watch_readiness(instance, unit)))
        return instance

    async def _adopt(self) -> None:
        """Adopt the instances that an earlier process of this cloud left running; remove those that can't serve."""
        spec = self._startup.fingerprint
        by_number: dict[int, list[ContainerStatus]] = {}
        for status in await self._engine.find(revision_labels(self.revision)):
            by_number.setdefault(int(status.labels.get(INSTANCE_LABEL, "0")), []).append(status)

        async def adopt(number: int, statuses: list[ContainerStatus]) -> None:
            statuses.sort(key=lambda status: not status.ip)  # the one with the address owns the namespace
            indexes = sorted(int(status.labels.get(CONTAINER_LABEL, "0")) for status in statuses)
            is_complete = indexes == list(range(len(self.revision.containers)))
            is_current = all(status.is_running and status.labels.get(SPEC_LABEL) == spec for status in statuses)
            if not (is_complete and is_current and statuses[0].ip):
                await asyncio.gather(*(self._discard(status) for status in statuses))
                await self._volumes.remove(number)
                return
            instance = Instance(number)
            containers = self.revision.containers
            instance.containers = [
                InstanceContainer(containers[int(status.labels[CONTAINER_LABEL])], status) for status in statuses
            ]
            self._instances.append(instance)
            try:
                await asyncio.gather(*(self._startup.wait_until_ready(instance, unit) for unit in instance.containers))
            except RolloutError as reason:
                _log.warning("%s was not adopted: %s", instance.main_status.name, reason)
                await self._stop(instance)
            else:
                self._volumes.refresh_all()
                self.pool.adopt(self._start_probes(instance))

        await asyncio.gather(*(adopt(number, found) for number, found in by_number.items()))

    async def _watch_liveness(self, instance: Instance, unit: InstanceContainer) -> None:
        probe = unit.container.liveness_probe
        if probe is None:
            return
        await asyncio.sleep(probe.initial_delay)
        failures = 0
        while failures < probe.failure_threshold:
            failures = 0 if await self._run_probe(instance, probe) else failures + 1
        _log.warning("%s: LIVENESS probe failed %d times; the instance is restarted", unit.status.name, failures)
        instance.probe_tasks.remove(_this_task())
        self.pool.on_instance_exit(instance)
        self._spawn(self._stop(instance))

    async def _watch_readiness(self, instance: Instance, unit: InstanceContainer) -> None:
        """Send no new requests to an instance whose readiness probe fails, until it succeeds again."""
        probe = unit.container.readiness_probe
        if probe is None:
            return
        failures, successes = 0, 0
        while True:
            is_ready = await self._run_probe(instance, probe)
            failures, successes = (0, successes + 1) if is_ready else (failures + 1, 0)
            if failures == probe.failure_threshold:
                _log.warning("%s: READINESS probe failed %d times; it gets no requests", unit.status.name, failures)
                self.pool.set_ready(instance, ready=False)
            elif successes == probe.success_threshold:
                self.pool.set_ready(instance, ready=True)

    async def _run_probe(self, instance: Instance, probe: Probe) -> bool:
        await asyncio.sleep(probe.period)
        return await probes.run_probe(probe, instance.main_status.ip, self._dial, probe.timeout)

    async def _remove_crashed(self, instance: Instance, unit: InstanceContainer) -> None:
        """Remove a crashed instance as soon as Docker answers; Docker itself may be restarting."""
        while True:
            try:
                await self._remove_crashed_now(instance, unit)
            except (DockerException, OSError) as reason:
                _log.warning("%s has ended and is removed later: %s", unit.status.name, reason)
                await asyncio.sleep(_RETRY)
            else:
                return

    async def _remove_crashed_now(self, instance: Instance, unit: InstanceContainer) -> None:
        """Log the cause, archive the instance's logs, abort its requests (503), and remove it."""
        status = await self._engine.inspect(unit.status.id) or unit.status
        message = diagnosis.crash_message(unit.container, status.exit_code, out_of_memory=status.is_out_of_memory)
        _log.warning("%s: %s", status.name, message)
        await self._stop(instance)
        await self._engine.call(self._archive.add, self.service, self.revision.name, f"{message}\n")

    async def _stop(self, instance: Instance) -> None:
        """Stop and remove an instance once, however many callers there are, and even if one is cancelled."""
        if instance.stop_task is None or _failed(instance.stop_task):
            instance.is_stopping = True
            instance.stop_task = asyncio.create_task(self._stop_now(instance))
        await asyncio.shield(instance.stop_task)

    async def _stop_now(self, instance: Instance) -> None:
        self._cancel_probes(instance)
        # All containers get SIGTERM at the same time, and have ten seconds together.
        await asyncio.gather(*(self._engine.stop(unit.status.id, GRACE_SECONDS) for unit in instance.containers))
        if instance.upstream is not None:
            await instance.upstream.close()
        await asyncio.gather(*(self._discard(unit.status) for unit in instance.containers))
        await self._volumes.remove(instance.number)
        if instance in self._instances:
            self._instances.remove(instance)

    async def _discard(self, status: ContainerStatus) -> None:
        """Archive the container's logs and remove it, running or not."""
        text = await self._read_logs(status, _ARCHIVED_LINES)
        await self._engine.call(self._archive.add, self.service, self.revision.name, text)
        await self._engine.remove(status.id)

    def _cancel_probes(self, instance: Instance) -> None:
        for watch in instance.probe_tasks:
            watch.cancel()
        instance.probe_tasks.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def affinity_id(instance: Instance) -> str:
    """The value of the affinity cookie for the instance."""
    return hashlib.sha256(instance.main_status.id.encode()).hexdigest()[:32]


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only called within a task
    return task


def full_name(revision: Revision) -> str:
    """`projects/P/locations/L/services/S`."""
    return f"projects/{revision.project}/locations/{revision.region}/services/{revision.service}"
