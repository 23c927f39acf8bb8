"""The instances of one revision: started, probed, watched, restarted, taken over, stopped.

What an instance is, and how it starts, is in `startup.py`.
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
from mcpfleet_local_cloud.data_plane.engine import GRACE, CloudContainers, Seen
from mcpfleet_local_cloud.data_plane.pool import IDLE_AFTER, InstancePool, Slot
from mcpfleet_local_cloud.data_plane.spec import (
    CONTAINER_LABEL,
    INSTANCE_LABEL,
    SPEC_LABEL,
    Surroundings,
    revision_labels,
)
from mcpfleet_local_cloud.data_plane.startup import Instance, Startup, Unit
from mcpfleet_local_cloud.data_plane.volumes import Volumes
from mcpfleet_local_cloud.network.dial import Dial
from mcpfleet_local_cloud.network.upstream import HttpUpstream, Upstream

_ARCHIVED_LINES: Final = 2000
_RETRY: Final = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lease:
    """An instance's promise to take one request."""

    upstream: Upstream
    timeout: float
    _pool: InstancePool[Instance]
    _slot: Slot[Instance]
    affinity: str = ""
    """What names the instance in the affinity cookie; empty where the service has none."""

    def release(self) -> None:
        """The request is over."""
        self._pool.release(self._slot)


class RevisionInstances:
    """What runs for one revision.

    Args:
        revision: the revision.
        images: digest reference and id in Docker of each container's image, in the order of `Revision.containers`.
        engine: Docker.
        around: the cloud.
        archive: keeps the logs of what is removed.
        number: gives the next instance's number.
        files: a private folder for files of secrets.
        dial: connects to a container.
        base_image: see `Startup`.
        sources: where secrets and buckets come from.
        idle_after: seconds after which an idle instance may be stopped.
    """

    def __init__(
        self,
        revision: Revision,
        images: Sequence[tuple[str, str]],
        *,
        engine: CloudContainers,
        around: Surroundings,
        archive: LogArchive,
        number: Callable[[], int],
        files: Path,
        dial: Dial,
        base_image: str,
        sources: InstanceData | None = None,
        idle_after: float = IDLE_AFTER,
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
            around=around,
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

    def at(self, ip: str) -> list[Instance]:
        """The instances whose container has the address *ip*, also those that are still starting or stopping."""
        alive = (one for one in self._instances if one.units and not one.exited.is_set())
        return [instance for instance in alive if instance.seen.ip == ip]

    async def start(self) -> None:
        """Take over what runs already, then start what is missing.

        Raises:
            RolloutError: an instance never served; nothing of the revision is left.
        """
        await self._adopt()
        try:
            await self.pool.warm()
        except RolloutError:
            await self.destroy()
            raise

    async def resize(self, revision: Revision) -> None:
        """Take over the instance bounds of *revision*, which is ours in all else.

        Raises:
            RolloutError: the minimum grew and an instance did not start; what ran before still does.
        """
        self.revision = revision
        self.pool.resize(revision.min_instances, revision.max_instances)
        await self.pool.warm()

    async def retire(self) -> None:
        """Let what was let in finish (at most the request timeout), then stop and remove everything."""
        await self.pool.drain(self.revision.timeout)
        await self.destroy()

    async def destroy(self) -> None:
        """Stop and remove every container now."""
        await self.pool.close()
        await asyncio.gather(*(self._stop(instance) for instance in list(self._instances)))
        leftovers = await self._engine.find(revision_labels(self.revision))
        await asyncio.gather(*(self._discard(seen) for seen in leftovers))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engine.call(self._volumes.destroy)

    async def let_go(self) -> None:
        """Stop looking after the containers; they run on, and `start` finds them again."""
        for instance in self._instances:
            self._end_watch(instance)
            if instance.upstream is not None:
                await instance.upstream.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ended(self, container_id: str) -> None:
        """Docker says that a container ended."""
        for instance in self._instances:
            unit = instance.unit(container_id)
            if unit is None or unit.exited.is_set():
                continue
            unit.exited.set()
            if instance.exited.is_set():
                return
            instance.exited.set()
            if not instance.stopping and instance in self.pool.instances:
                self.pool.lost(instance)
                self._spawn(self._bury(instance, unit))
            return

    async def recheck(self) -> None:
        """Look for containers that ended while nobody was watching."""
        for unit in [unit for instance in self._instances for unit in instance.units]:
            seen = await self._engine.inspect(unit.seen.id)
            if seen is None or not seen.running:
                self.ended(unit.seen.id)

    def refresh(self, secret: str) -> None:
        """The versions of *secret* have changed: show it in the volumes that have it."""
        self._volumes.refresh(secret)

    async def logs(self, lines: int) -> str:
        """The last *lines* of each running container."""
        units = [unit for instance in self._instances for unit in instance.units]
        return "".join(await asyncio.gather(*(self._logs(unit.seen, lines) for unit in units)))

    async def _logs(self, seen: Seen, lines: int) -> str:
        """What a container wrote; of several in an instance, each line says which."""
        text = await self._engine.logs(seen.id, lines)
        if len(self.revision.containers) == 1:
            return text
        index = int(seen.labels.get(CONTAINER_LABEL, "0"))
        known = self.revision.containers
        name = (known[index].name if index < len(known) else "") or str(index)
        return "".join(f"[{name}] {line}\n" for line in text.splitlines())

    async def _start(self) -> Instance:
        """An instance that can serve.

        Raises:
            RolloutError: it never could; nothing of it is left.
        """
        instance = Instance(self._number())
        self._instances.append(instance)
        try:
            await self._volumes.prepare(instance.number)
            await self._startup.bring_up(instance)
        except RolloutError:
            await self._stop(instance)
            raise
        return self._up(instance)

    def _up(self, instance: Instance) -> Instance:
        """Begin to look after an instance whose containers have started."""
        instance.upstream = HttpUpstream(instance.seen.ip, self.revision.main.port or 0, self._dial)
        for unit in instance.units:
            if unit.container.liveness_probe is not None:
                instance.watches.append(asyncio.create_task(self._watch_liveness(instance, unit)))
            if unit.container.readiness_probe is not None:
                instance.watches.append(asyncio.create_task(self._watch_readiness(instance, unit)))
        return instance

    async def _adopt(self) -> None:
        """Take over the instances that an earlier process of this cloud left running; remove what can't serve."""
        wanted = self._startup.fingerprint
        by_number: dict[int, list[Seen]] = {}
        for seen in await self._engine.find(revision_labels(self.revision)):
            by_number.setdefault(int(seen.labels.get(INSTANCE_LABEL, "0")), []).append(seen)

        async def adopt(number: int, found: list[Seen]) -> None:
            found.sort(key=lambda seen: not seen.ip)  # the one with the address holds the namespace
            places = sorted(int(seen.labels.get(CONTAINER_LABEL, "0")) for seen in found)
            whole = places == list(range(len(self.revision.containers)))
            good = all(seen.running and seen.labels.get(SPEC_LABEL) == wanted for seen in found)
            if not (whole and good and found[0].ip):
                await asyncio.gather(*(self._discard(seen) for seen in found))
                await self._volumes.release(number)
                return
            instance = Instance(number)
            containers = self.revision.containers
            instance.units = [Unit(containers[int(seen.labels[CONTAINER_LABEL])], seen) for seen in found]
            self._instances.append(instance)
            try:
                await asyncio.gather(*(self._startup.wait(instance, unit) for unit in instance.units))
            except RolloutError as reason:
                _log.warning("%s was not taken over: %s", instance.seen.name, reason)
                await self._stop(instance)
            else:
                self._volumes.rewrite()
                self.pool.adopt(self._up(instance))

        await asyncio.gather(*(adopt(number, found) for number, found in by_number.items()))

    async def _watch_liveness(self, instance: Instance, unit: Unit) -> None:
        probe = unit.container.liveness_probe
        if probe is None:
            return
        await asyncio.sleep(probe.initial_delay)
        failures = 0
        while failures < probe.failure_threshold:
            failures = 0 if await self._probed(instance, probe) else failures + 1
        _log.warning("%s: LIVENESS probe failed %d times; the instance is restarted", unit.seen.name, failures)
        instance.watches.remove(_this_task())
        self.pool.lost(instance)
        self._spawn(self._stop(instance))

    async def _watch_readiness(self, instance: Instance, unit: Unit) -> None:
        """Keep new requests from an instance whose readiness probe fails, until it succeeds again."""
        probe = unit.container.readiness_probe
        if probe is None:
            return
        failures, successes = 0, 0
        while True:
            good = await self._probed(instance, probe)
            failures, successes = (0, successes + 1) if good else (failures + 1, 0)
            if failures == probe.failure_threshold:
                _log.warning("%s: READINESS probe failed %d times; it gets no requests", unit.seen.name, failures)
                self.pool.set_ready(instance, ready=False)
            elif successes == probe.success_threshold:
                self.pool.set_ready(instance, ready=True)

    async def _probed(self, instance: Instance, probe: Probe) -> bool:
        await asyncio.sleep(probe.period)
        return await probes.succeeds(probe, instance.seen.ip, self._dial, probe.timeout)

    async def _bury(self, instance: Instance, unit: Unit) -> None:
        """An instance crashed: `_bury_now`, as soon as Docker answers; it may be what was started again."""
        while True:
            try:
                await self._bury_now(instance, unit)
            except (DockerException, OSError) as reason:
                _log.warning("%s has ended and is removed later: %s", unit.seen.name, reason)
                await asyncio.sleep(_RETRY)
            else:
                return

    async def _bury_now(self, instance: Instance, unit: Unit) -> None:
        """Say why it crashed, keep its logs, cut off what it was serving (503), remove it."""
        seen = await self._engine.inspect(unit.seen.id) or unit.seen
        words = diagnosis.crash_words(unit.container, seen.exit_code, out_of_memory=seen.out_of_memory)
        _log.warning("%s: %s", seen.name, words)
        await self._stop(instance)
        await self._engine.call(self._archive.add, self.service, self.revision.name, f"{words}\n")

    async def _stop(self, instance: Instance) -> None:
        """Stop and remove, once, however many ask for it and whoever of them is cancelled."""
        if instance.stop is None or _failed(instance.stop):
            instance.stopping = True
            instance.stop = asyncio.create_task(self._stop_now(instance))
        await asyncio.shield(instance.stop)

    async def _stop_now(self, instance: Instance) -> None:
        self._end_watch(instance)
        # All of them are told at once, and have ten seconds together.
        await asyncio.gather(*(self._engine.stop(unit.seen.id, GRACE) for unit in instance.units))
        if instance.upstream is not None:
            await instance.upstream.close()
        await asyncio.gather(*(self._discard(unit.seen) for unit in instance.units))
        await self._volumes.release(instance.number)
        if instance in self._instances:
            self._instances.remove(instance)

    async def _discard(self, seen: Seen) -> None:
        """Keep the container's logs and remove it, running or not."""
        text = await self._logs(seen, _ARCHIVED_LINES)
        await self._engine.call(self._archive.add, self.service, self.revision.name, text)
        await self._engine.remove(seen.id)

    def _end_watch(self, instance: Instance) -> None:
        for watch in instance.watches:
            watch.cancel()
        instance.watches.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def affinity_of(instance: Instance) -> str:
    """What names the instance in the affinity cookie."""
    return hashlib.sha256(instance.seen.id.encode()).hexdigest()[:32]


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only ever asked inside of one
    return task


def full_name(revision: Revision) -> str:
    """`projects/P/locations/L/services/S`."""
    return f"projects/{revision.project}/locations/{revision.region}/services/{revision.service}"
