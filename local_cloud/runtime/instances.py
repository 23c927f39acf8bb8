"""The instances of one revision: started, probed, watched, restarted, taken over, stopped.

An instance is one container or several that share a network namespace, as on Cloud Run: the first that starts gives the
namespace, the others join it; `dependsOn` decides the order. When one of them ends, the instance has ended.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from local_cloud.dataplane import Container, Probe, Revision, RolloutError, Sources
from local_cloud.runtime import diagnosis, probes
from local_cloud.runtime.archive import LogArchive
from local_cloud.runtime.engine import GRACE, Engine, RefusedError, Seen
from local_cloud.runtime.pool import IDLE_AFTER, InstancePool
from local_cloud.runtime.spec import (
    CONTAINER_LABEL,
    INSTANCE_LABEL,
    SPEC_LABEL,
    Place,
    Surroundings,
    container_spec,
    fingerprint,
    revision_labels,
)
from local_cloud.runtime.volumes import Volumes
from local_cloud.upstream import HttpUpstream

_ARCHIVED_LINES: Final = 2000
_HINT_SECONDS: Final = 10
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Unit:
    """One container of an instance, as Docker has it."""

    container: Container
    seen: Seen
    exited: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Instance:
    """What runs together."""

    number: int
    units: list[Unit] = field(default_factory=list[Unit])
    """The first one holds the network namespace."""
    upstream: HttpUpstream | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    """One of its containers has ended."""
    born: float = field(default_factory=time.monotonic)
    stopping: bool = False
    watches: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    stop: asyncio.Task[None] | None = None

    @property
    def seen(self) -> Seen:
        """The container that has the instance's address."""
        return self.units[0].seen

    def unit(self, container_id: str) -> Unit | None:
        """Its container of that id."""
        return next((unit for unit in self.units if unit.seen.id == container_id), None)


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
        sources: where secrets and buckets come from.
        idle_after: seconds after which an idle instance may be stopped.
    """

    def __init__(
        self,
        revision: Revision,
        images: Sequence[tuple[str, str]],
        *,
        engine: Engine,
        around: Surroundings,
        archive: LogArchive,
        number: Callable[[], int],
        files: Path,
        sources: Sources | None = None,
        idle_after: float = IDLE_AFTER,
    ) -> None:
        self.revision = revision
        self.images = images
        self._engine = engine
        self._around = around
        self._archive = archive
        self._number = number
        self._instances: list[Instance] = []  # also those that are still starting
        self._volumes = Volumes(revision, engine=engine, root=files, sources=sources)
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
        if not self.revision.sidecars:
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
            await self._bring_up(instance)
        except RolloutError:
            await self._stop(instance)
            raise
        return self._up(instance)

    def _up(self, instance: Instance) -> Instance:
        """Begin to look after an instance whose containers have started."""
        instance.upstream = HttpUpstream(instance.seen.ip, self.revision.port)
        for unit in instance.units:
            if unit.container.liveness_probe is not None:
                instance.watches.append(asyncio.create_task(self._watch_liveness(instance, unit)))
            if unit.container.readiness_probe is not None:
                instance.watches.append(asyncio.create_task(self._watch_readiness(instance, unit)))
        return instance

    async def _bring_up(self, instance: Instance) -> None:
        """Start the containers, each after those that it depends on."""
        containers = self.revision.containers
        started = {container.name: asyncio.Event() for container in containers}
        first = next(index for index, container in enumerate(containers) if not container.depends_on)

        async def start(index: int) -> None:
            container = containers[index]
            for name in container.depends_on:
                await started[name].wait()
            if index != first:
                await namespace.wait()
            unit = await self._launch(instance, index)
            namespace.set()
            await self._await_startup(instance, unit)
            started[container.name].set()

        namespace = asyncio.Event()
        tasks = [asyncio.create_task(start(index)) for index in range(len(containers))]
        crash = asyncio.create_task(self._crashed(instance))
        everything = asyncio.gather(*tasks)
        try:
            await asyncio.wait({everything, crash}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, crash):
                task.cancel()
            await asyncio.gather(*tasks, crash, return_exceptions=True)
            await asyncio.gather(everything, return_exceptions=True)  # so that its error counts as seen
        for task in (*tasks, crash):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _crashed(self, instance: Instance) -> None:
        """Wait for the end of a container that had started well, while others still start.

        Raises:
            RolloutError: always, when it comes.
        """
        await instance.exited.wait()
        unit = next(unit for unit in instance.units if unit.exited.is_set())
        raise RolloutError(await self._post_mortem(instance, unit))

    async def _launch(self, instance: Instance, index: int) -> Unit:
        """Make and start one container."""
        container = self.revision.containers[index]
        image, image_id = self.images[index]
        place = Place(
            index=index,
            number=instance.number,
            image=image,
            image_id=image_id,
            spec=self._fingerprint(),
            secrets=self._volumes.secrets_of(container),
            mounts=self._volumes.mounts(container, instance.number),
            joins=instance.seen.id if instance.units else None,
        )
        spec = container_spec(self.revision, place, self._around)
        running = asyncio.create_task(self._engine.run(spec))
        try:
            seen = await asyncio.shield(running)
        except asyncio.CancelledError:  # Docker goes on in its thread; what it makes must not stay behind
            with contextlib.suppress(RefusedError):
                await self._engine.remove((await running).id)
            raise
        except RefusedError as refusal:
            ending = diagnosis.Ending(refused=str(refusal))
            raise RolloutError(diagnosis.report(self.revision, ending, container)) from refusal
        unit = Unit(container, seen)
        instance.units.append(unit)
        if not seen.running:
            unit.exited.set()
        return unit

    def _fingerprint(self) -> str:
        return fingerprint(self.revision, [image_id for _, image_id in self.images], self._around)

    async def _await_startup(self, instance: Instance, unit: Unit) -> None:
        """Wait until the container's startup probe succeeded; the error tells why it did not."""
        probe = unit.container.startup_probe
        if probe is None or not self.revision.health_checked:
            if unit.exited.is_set():
                raise RolloutError(await self._post_mortem(instance, unit))
            return
        attempts = asyncio.create_task(probes.started(probe, instance.seen.ip, lambda: not unit.exited.is_set()))
        watch = asyncio.create_task(self._wait_for_exit(unit))
        try:
            await asyncio.wait({attempts, watch}, return_when=asyncio.FIRST_COMPLETED)
            good = attempts.done() and attempts.result() and not unit.exited.is_set()
        finally:
            attempts.cancel()
            watch.cancel()
        if not good:
            raise RolloutError(await self._post_mortem(instance, unit))

    async def _wait_for_exit(self, unit: Unit) -> None:
        """Return when the container has ended; Docker's event says so at once, a look each second if it got lost."""
        seconds = 0
        while not unit.exited.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(unit.exited.wait(), 1.0)
                return
            seconds += 1
            if seconds == _HINT_SECONDS:  # the probe's window may be minutes long
                found = diagnosis.Ending(listening=diagnosis.listening(unit.seen.pid))
                hint = diagnosis.diagnose(self.revision, found, unit.container)
                _log.warning("%s does not serve after %d s: %s", unit.seen.name, seconds, hint)
            seen = await self._engine.inspect(unit.seen.id)
            if seen is None or not seen.running:
                unit.exited.set()

    async def _post_mortem(self, instance: Instance, unit: Unit) -> str:
        instance.stopping = True
        container = unit.seen.id
        seen = await self._engine.inspect(container) or unit.seen
        ending = diagnosis.Ending(
            exit_code=None if seen.running else seen.exit_code,
            out_of_memory=seen.out_of_memory,
            listening=diagnosis.listening(seen.pid) if seen.running else (),
            logs=await self._engine.logs(container, diagnosis.LOG_LINES),
        )
        return diagnosis.report(self.revision, ending, unit.container)

    async def _adopt(self) -> None:
        """Take over the instances that an earlier process of this cloud left running; remove what can't serve."""
        wanted = self._fingerprint()
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
                await asyncio.gather(*(self._await_startup(instance, unit) for unit in instance.units))
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
        return await probes.succeeds(probe, instance.seen.ip, probe.timeout)

    async def _bury(self, instance: Instance, unit: Unit) -> None:
        """An instance crashed: say why, keep its logs, cut off what it was serving (503), remove it."""
        seen = await self._engine.inspect(unit.seen.id) or unit.seen
        words = diagnosis.crash_words(unit.container, seen.exit_code, out_of_memory=seen.out_of_memory)
        _log.warning("%s: %s", seen.name, words)
        await self._stop(instance)
        await self._engine.call(self._archive.add, self.service, self.revision.name, f"{words}\n")

    async def _stop(self, instance: Instance) -> None:
        """Stop and remove, once, however many ask for it and whoever of them is cancelled."""
        if instance.stop is None:
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


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only ever asked inside of one
    return task


def full_name(revision: Revision) -> str:
    """`projects/P/locations/L/services/S`."""
    return f"projects/{revision.project}/locations/{revision.region}/services/{revision.service}"
