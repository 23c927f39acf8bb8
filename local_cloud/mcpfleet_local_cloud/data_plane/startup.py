"""How an instance starts: its containers one after the other, until each one's startup probe has succeeded.

An instance is one container or several that share a network namespace, as on Cloud Run: the first that starts gives the
namespace, the others join it; `dependsOn` decides the order. When one of them ends, the instance has ended.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mcpfleet_local_cloud.data_plane import diagnosis, probes
from mcpfleet_local_cloud.data_plane.contract import Container, Revision, RolloutError
from mcpfleet_local_cloud.data_plane.engine import CloudContainers, RefusedError, Seen
from mcpfleet_local_cloud.data_plane.spec import ContainerPlan, Surroundings, container_spec, fingerprint
from mcpfleet_local_cloud.data_plane.volumes import Volumes
from mcpfleet_local_cloud.network.dial import Dial
from mcpfleet_local_cloud.network.upstream import HttpUpstream

_HINT_SECONDS: Final = 10
_ANSWER_SECONDS: Final = 2
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


class Startup:
    """Starts instances of one revision.

    Args:
        revision: the revision.
        images: digest reference and id in Docker of each container's image, in the order of `Revision.containers`.
        engine: Docker.
        around: the cloud.
        volumes: the revision's volumes.
        dial: connects to a container.
        base_image: of the container that looks where another one listens.
    """

    def __init__(
        self,
        revision: Revision,
        images: Sequence[tuple[str, str]],
        *,
        engine: CloudContainers,
        around: Surroundings,
        volumes: Volumes,
        dial: Dial,
        base_image: str,
    ) -> None:
        self._revision = revision
        self._images = images
        self._engine = engine
        self._around = around
        self._volumes = volumes
        self._dial = dial
        self._base_image = base_image

    async def bring_up(self, instance: Instance) -> None:
        """Start the containers, each after those that it depends on.

        Raises:
            RolloutError: one of them cannot start, or ended.
        """
        containers = self._revision.containers
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
            await self.wait(instance, unit)
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
        container = self._revision.containers[index]
        image, image_id = self._images[index]
        place = ContainerPlan(
            index=index,
            number=instance.number,
            image=image,
            image_id=image_id,
            spec=self.fingerprint,
            secrets=self._volumes.secrets_of(container),
            mounts=self._volumes.mounts(container, instance.number),
            joins=instance.seen.id if instance.units else None,
        )
        spec = container_spec(self._revision, place, self._around)
        running = asyncio.create_task(self._engine.run(spec))
        try:
            seen = await asyncio.shield(running)
        except asyncio.CancelledError:  # Docker goes on in its thread; what it makes must not stay behind
            with contextlib.suppress(RefusedError):
                await self._engine.remove((await running).id)
            raise
        except RefusedError as refusal:
            ending = diagnosis.Ending(refused=str(refusal), platform=await self._engine.platform())
            raise RolloutError(diagnosis.report(self._revision, ending, container)) from refusal
        unit = Unit(container, seen)
        instance.units.append(unit)
        if not seen.running:
            unit.exited.set()
        return unit

    @property
    def fingerprint(self) -> str:
        """Of every instance that is started now."""
        return fingerprint(self._revision, [image_id for _, image_id in self._images], self._around)

    async def wait(self, instance: Instance, unit: Unit) -> None:
        """Wait until the container's startup probe succeeded.

        Raises:
            RolloutError: it did not; the text tells why.
        """
        probe = unit.container.startup_probe
        if probe is None or not self._revision.health_checked:
            if unit.exited.is_set():
                raise RolloutError(await self._post_mortem(instance, unit))
            return
        attempts = asyncio.create_task(
            probes.started(probe, instance.seen.ip, self._dial, lambda: not unit.exited.is_set())
        )
        watch = asyncio.create_task(self._wait_for_exit(instance, unit))
        try:
            await asyncio.wait({attempts, watch}, return_when=asyncio.FIRST_COMPLETED)
            good = attempts.done() and attempts.result() and not unit.exited.is_set()
        finally:
            attempts.cancel()
            watch.cancel()
        if not good:
            raise RolloutError(await self._post_mortem(instance, unit))

    async def _wait_for_exit(self, instance: Instance, unit: Unit) -> None:
        """Return when the container has ended; Docker's event says so at once, a look each second if it got lost."""
        seconds = 0
        while not unit.exited.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(unit.exited.wait(), 1.0)
                return
            seconds += 1
            if seconds == _HINT_SECONDS:  # the probe's window may be minutes long
                found = diagnosis.Ending(listening=await self._listening(instance))
                hint = diagnosis.diagnose(self._revision, found, unit.container)
                _log.warning("%s does not serve after %d s: %s", unit.seen.name, seconds, hint)
            seen = await self._engine.inspect(unit.seen.id)
            if seen is None or not seen.running:
                unit.exited.set()

    async def _post_mortem(self, instance: Instance, unit: Unit) -> str:
        instance.stopping = True
        container = unit.seen.id
        seen = await self._engine.inspect(container) or unit.seen
        probe = unit.container.startup_probe
        answered = ""
        if seen.running and probe is not None:
            answered = await probes.answer(probe, instance.seen.ip, self._dial, _ANSWER_SECONDS)
        ending = diagnosis.Ending(
            exit_code=None if seen.running else seen.exit_code,
            out_of_memory=seen.out_of_memory,
            listening=await self._listening(instance) if seen.running else (),
            answered=answered,
            logs=await self._engine.logs(container, diagnosis.READ_LINES),
            platform=await self._engine.platform(),
        )
        return diagnosis.report(self._revision, ending, unit.container)

    async def _listening(self, instance: Instance) -> tuple[tuple[str, int], ...]:
        return await self._engine.listening(instance.seen.id, self._base_image)
