"""The containers of one revision: started, probed, watched, restarted, taken over, stopped."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from local_cloud.dataplane import Revision, RolloutError
from local_cloud.runtime import diagnosis, probes
from local_cloud.runtime.archive import LogArchive
from local_cloud.runtime.engine import GRACE, Engine, RefusedError, Seen
from local_cloud.runtime.pool import IDLE_AFTER, InstancePool
from local_cloud.runtime.spec import SPEC_LABEL, Surroundings, container_spec, fingerprint, revision_labels
from local_cloud.upstream import HttpUpstream

_ARCHIVED_LINES: Final = 2000
_HINT_SECONDS: Final = 10
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Instance:
    """One running container of a revision."""

    seen: Seen
    upstream: HttpUpstream
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    born: float = field(default_factory=time.monotonic)
    stopping: bool = False
    liveness: asyncio.Task[None] | None = None
    stop: asyncio.Task[None] | None = None


class RevisionInstances:
    """What runs for one revision.

    Args:
        revision: the revision.
        image: its digest reference, and `image_id` that image's id in Docker.
        engine: Docker.
        around: the cloud.
        archive: keeps the logs of what is removed.
        number: gives the next container's number.
        idle_after: seconds after which an idle instance may be stopped.
    """

    def __init__(
        self,
        revision: Revision,
        image: str,
        image_id: str,
        *,
        engine: Engine,
        around: Surroundings,
        archive: LogArchive,
        number: Callable[[], int],
        idle_after: float = IDLE_AFTER,
    ) -> None:
        self.revision = revision
        self.image = image
        self._image_id = image_id
        self._engine = engine
        self._around = around
        self._archive = archive
        self._number = number
        self._containers: dict[str, Instance] = {}  # by id; also those that are still starting
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
        alive = (instance for instance in self._containers.values() if not instance.exited.is_set())
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
        await asyncio.gather(*(self._stop(instance) for instance in list(self._containers.values())))
        leftovers = await self._engine.find(revision_labels(self.revision))
        await asyncio.gather(*(self._discard(seen) for seen in leftovers))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def let_go(self) -> None:
        """Stop looking after the containers; they run on, and `start` finds them again."""
        for instance in self._containers.values():
            self._end_watch(instance)
            await instance.upstream.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ended(self, container_id: str) -> None:
        """Docker says that a container ended."""
        instance = self._containers.get(container_id)
        if instance is None or instance.exited.is_set():
            return
        instance.exited.set()
        if not instance.stopping and instance in self.pool.instances:
            self.pool.lost(instance)
            self._spawn(self._bury(instance))

    async def recheck(self) -> None:
        """Look for containers that ended while nobody was watching."""
        for instance in list(self._containers.values()):
            seen = await self._engine.inspect(instance.seen.id)
            if seen is None or not seen.running:
                self.ended(instance.seen.id)

    async def logs(self, lines: int) -> str:
        """The last *lines* of each running container."""
        instances = [instance.seen.id for instance in self._containers.values()]
        return "".join(await asyncio.gather(*(self._engine.logs(each, lines) for each in instances)))

    async def _start(self) -> Instance:
        spec = container_spec(self.revision, self.image, self._image_id, self._number(), self._around)
        running = asyncio.create_task(self._engine.run(spec))
        try:
            seen = await asyncio.shield(running)
        except asyncio.CancelledError:  # Docker goes on in its thread; what it makes must not stay behind
            with contextlib.suppress(RefusedError):
                await self._engine.remove((await running).id)
            raise
        except RefusedError as refusal:
            ending = diagnosis.Ending(refused=str(refusal))
            raise RolloutError(diagnosis.report(self.revision, ending)) from refusal
        return await self._await_startup(seen)

    async def _await_startup(self, seen: Seen) -> Instance:
        """The instance once its startup probe succeeded; else its container is removed and the error tells why."""
        instance = Instance(seen, HttpUpstream(seen.ip, self.revision.port))
        self._containers[seen.id] = instance
        if not seen.running:
            instance.exited.set()
        probe = asyncio.create_task(
            probes.started(self.revision.startup_probe, seen.ip, lambda: not instance.exited.is_set())
        )
        watch = asyncio.create_task(self._wait_for_exit(instance))
        try:
            await asyncio.wait({probe, watch}, return_when=asyncio.FIRST_COMPLETED)
            good = probe.done() and probe.result() and not instance.exited.is_set()
        finally:
            probe.cancel()
            watch.cancel()
        if not good:
            raise RolloutError(await self._post_mortem(instance))
        if self.revision.liveness_probe is not None:
            instance.liveness = asyncio.create_task(self._watch_liveness(instance))
        return instance

    async def _wait_for_exit(self, instance: Instance) -> None:
        """Return when the container has ended; Docker's event says so at once, a look each second if it got lost."""
        seconds = 0
        while not instance.exited.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(instance.exited.wait(), 1.0)
                return
            seconds += 1
            if seconds == _HINT_SECONDS:  # the probe's window may be minutes long
                found = diagnosis.Ending(listening=diagnosis.listening(instance.seen.pid))
                hint = diagnosis.diagnose(self.revision, found)
                _log.warning("%s does not serve after %d s: %s", instance.seen.name, seconds, hint)
            seen = await self._engine.inspect(instance.seen.id)
            if seen is None or not seen.running:
                instance.exited.set()

    async def _post_mortem(self, instance: Instance) -> str:
        instance.stopping = True
        container = instance.seen.id
        seen = await self._engine.inspect(container) or instance.seen
        ending = diagnosis.Ending(
            exit_code=None if seen.running else seen.exit_code,
            out_of_memory=seen.out_of_memory,
            listening=diagnosis.listening(seen.pid) if seen.running else (),
            logs=await self._engine.logs(container, diagnosis.LOG_LINES),
        )
        await self._stop(instance)
        return diagnosis.report(self.revision, ending)

    async def _adopt(self) -> None:
        """Take over the containers that an earlier process of this cloud left running; remove what can't serve."""
        wanted = fingerprint(self.revision, self._image_id, self._around)

        async def adopt(seen: Seen) -> None:
            if not seen.running or not seen.ip or seen.labels.get(SPEC_LABEL) != wanted:
                await self._discard(seen)
                return
            try:
                self.pool.adopt(await self._await_startup(seen))
            except RolloutError as reason:
                _log.warning("%s was not taken over: %s", seen.name, reason)

        await asyncio.gather(*(adopt(seen) for seen in await self._engine.find(revision_labels(self.revision))))

    async def _watch_liveness(self, instance: Instance) -> None:
        probe = self.revision.liveness_probe
        if probe is None:
            return
        await asyncio.sleep(probe.initial_delay)
        failures = 0
        while failures < probe.failure_threshold:
            await asyncio.sleep(probe.period)
            alive = await probes.succeeds(probe, instance.seen.ip, probe.timeout)
            failures = 0 if alive else failures + 1
        _log.warning("%s: LIVENESS probe failed %d times; the instance is restarted", instance.seen.name, failures)
        instance.liveness = None
        self.pool.lost(instance)
        self._spawn(self._stop(instance))

    async def _bury(self, instance: Instance) -> None:
        """An instance crashed: say why, keep its logs, cut off what it was serving (503), remove it."""
        seen = await self._engine.inspect(instance.seen.id) or instance.seen
        words = diagnosis.crash_words(self.revision, seen.exit_code, out_of_memory=seen.out_of_memory)
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
        await self._engine.stop(instance.seen.id, GRACE)
        await instance.upstream.close()
        await self._discard(instance.seen)
        self._containers.pop(instance.seen.id, None)

    async def _discard(self, seen: Seen) -> None:
        """Keep the container's logs and remove it, running or not."""
        text = await self._engine.logs(seen.id, _ARCHIVED_LINES)
        await self._engine.call(self._archive.add, self.service, self.revision.name, text)
        await self._engine.remove(seen.id)

    def _end_watch(self, instance: Instance) -> None:
        if instance.liveness is not None:
            instance.liveness.cancel()
            instance.liveness = None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def full_name(revision: Revision) -> str:
    """`projects/P/locations/L/services/S`."""
    return f"projects/{revision.project}/locations/{revision.region}/services/{revision.service}"
