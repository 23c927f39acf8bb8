"""Starts an instance: its containers in the order of their dependencies, until every startup probe has succeeded.

An instance is one container or several that share a network namespace, as on Cloud Run: the first one that starts owns
the namespace, the others join it; `dependsOn` decides the order. When one of them ends, the instance has ended.
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
from mcpfleet_local_cloud.data_plane.engine import CloudContainers, ContainerStatus, StartError
from mcpfleet_local_cloud.data_plane.spec import CloudContext, ContainerPlan, container_spec, fingerprint
from mcpfleet_local_cloud.data_plane.volumes import Volumes
from mcpfleet_local_cloud.network.dial import Dial
from mcpfleet_local_cloud.network.upstream import HttpUpstream

_HINT_SECONDS: Final = 10
_ANSWER_SECONDS: Final = 2
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class InstanceContainer:
    """One running container of an instance."""

    container: Container
    status: ContainerStatus
    exited: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Instance:
    """The containers that run and are stopped together."""

    number: int
    containers: list[InstanceContainer] = field(default_factory=list[InstanceContainer])
    """The first one owns the network namespace."""
    upstream: HttpUpstream | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when one of its containers has ended."""
    started_at: float = field(default_factory=time.monotonic)
    is_stopping: bool = False
    probe_tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    stop_task: asyncio.Task[None] | None = None

    @property
    def main_status(self) -> ContainerStatus:
        """The state of the container that has the instance's address."""
        return self.containers[0].status

    def find_container(self, container_id: str) -> InstanceContainer | None:
        """Find its container with this id."""
        return next((container for container in self.containers if container.status.id == container_id), None)


class Startup:
    """Starts instances of one revision.

    Args:
        revision: The revision.
        images: Digest reference and id in Docker of each container's image, in the order of `Revision.containers`.
        engine: The Docker engine.
        context: The facts about the cloud.
        volumes: The revision's volumes.
        dial: Connects to a container.
        base_image: The image of the container that reads another one's listening ports.
    """

    def __init__(
        self,
        revision: Revision,
        images: Sequence[tuple[str, str]],
        *,
        engine: CloudContainers,
        context: CloudContext,
        volumes: Volumes,
        dial: Dial,
        base_image: str,
    ) -> None:
        self._revision = revision
        self._images = images
        self._engine = engine
        self._context = context
        self._volumes = volumes
        self._dial = dial
        self._base_image = base_image

    async def start(self, instance: Instance) -> None:
        """Start the containers, each after its dependencies.

        Raises:
            RolloutError: One of them can't start, or has ended.
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
            unit = await self._start_container(instance, index)
            namespace.set()
            await self.wait_until_ready(instance, unit)
            started[container.name].set()

        namespace = asyncio.Event()
        tasks = [asyncio.create_task(start(index)) for index in range(len(containers))]
        crash = asyncio.create_task(self._raise_on_exit(instance))
        everything = asyncio.gather(*tasks)
        try:
            await asyncio.wait({everything, crash}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, crash):
                task.cancel()
            await asyncio.gather(*tasks, crash, return_exceptions=True)
            await asyncio.gather(
                everything, return_exceptions=True
            )  # retrieves its error, so that asyncio does not log it
        for task in (*tasks, crash):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _raise_on_exit(self, instance: Instance) -> None:
        """Wait until a container that had started successfully ends, while others are still starting.

        Raises:
            RolloutError: A container has ended.
        """
        await instance.exited.wait()
        unit = next(unit for unit in instance.containers if unit.exited.is_set())
        raise RolloutError(await self._describe_failure(instance, unit))

    async def _start_container(self, instance: Instance, index: int) -> InstanceContainer:
        """Create and start one container."""
        container = self._revision.containers[index]
        image, image_id = self._images[index]
        plan = ContainerPlan(
            index=index,
            number=instance.number,
            image=image,
            image_id=image_id,
            spec=self.fingerprint,
            secrets=self._volumes.read_secrets(container),
            mounts=self._volumes.mounts(container, instance.number),
            namespace_of=instance.main_status.id if instance.containers else None,
        )
        spec = container_spec(self._revision, plan, self._context)
        starting = asyncio.create_task(self._engine.run(spec))
        try:
            status = await asyncio.shield(starting)
        except asyncio.CancelledError:  # Docker continues in its thread; its container must not be left behind
            with contextlib.suppress(StartError):
                await self._engine.remove((await starting).id)
            raise
        except StartError as error:
            details = diagnosis.FailureDetails(start_error=str(error), platform=await self._engine.platform())
            raise RolloutError(diagnosis.describe_failure(self._revision, details, container)) from error
        unit = InstanceContainer(container, status)
        instance.containers.append(unit)
        if not status.is_running:
            unit.exited.set()
        return unit

    @property
    def fingerprint(self) -> str:
        """The fingerprint of instances that are started now."""
        return fingerprint(self._revision, [image_id for _, image_id in self._images], self._context)

    async def wait_until_ready(self, instance: Instance, unit: InstanceContainer) -> None:
        """Wait until the container's startup probe has succeeded.

        Raises:
            RolloutError: It did not succeed; the text has the cause.
        """
        probe = unit.container.startup_probe
        if probe is None or not self._revision.health_checked:
            if unit.exited.is_set():
                raise RolloutError(await self._describe_failure(instance, unit))
            return
        attempts = asyncio.create_task(
            probes.wait_until_started(probe, instance.main_status.ip, self._dial, lambda: not unit.exited.is_set())
        )
        watch = asyncio.create_task(self._wait_for_exit(instance, unit))
        try:
            await asyncio.wait({attempts, watch}, return_when=asyncio.FIRST_COMPLETED)
            has_succeeded = attempts.done() and attempts.result() and not unit.exited.is_set()
        finally:
            attempts.cancel()
            watch.cancel()
        if not has_succeeded:
            raise RolloutError(await self._describe_failure(instance, unit))

    async def _wait_for_exit(self, instance: Instance, unit: InstanceContainer) -> None:
        """Wait until the container has ended: by Docker's event, or by polling each second if the event was lost."""
        seconds = 0
        while not unit.exited.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(unit.exited.wait(), 1.0)
                return
            seconds += 1
            if seconds == _HINT_SECONDS:  # the probe's window may be minutes long
                details = diagnosis.FailureDetails(listening_on=await self._find_listening(instance))
                hint = diagnosis.diagnose(self._revision, details, unit.container)
                _log.warning("%s does not serve after %d s: %s", unit.status.name, seconds, hint)
            status = await self._engine.inspect(unit.status.id)
            if status is None or not status.is_running:
                unit.exited.set()

    async def _describe_failure(self, instance: Instance, unit: InstanceContainer) -> str:
        instance.is_stopping = True
        container = unit.status.id
        status = await self._engine.inspect(container) or unit.status
        probe = unit.container.startup_probe
        response = ""
        if status.is_running and probe is not None:
            response = await probes.read_response(probe, instance.main_status.ip, self._dial, _ANSWER_SECONDS)
        details = diagnosis.FailureDetails(
            exit_code=None if status.is_running else status.exit_code,
            out_of_memory=status.is_out_of_memory,
            listening_on=await self._find_listening(instance) if status.is_running else (),
            probe_response=response,
            logs=await self._engine.logs(container, diagnosis.READ_LINES),
            platform=await self._engine.platform(),
        )
        return diagnosis.describe_failure(self._revision, details, unit.container)

    async def _find_listening(self, instance: Instance) -> tuple[tuple[str, int], ...]:
        return await self._engine.find_listening(instance.main_status.id, self._base_image)
