"""`DockerDataPlane`: runs revisions as containers and gives the ingress an instance for each request."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

from docker.errors import DockerException
from starlette.types import ASGIApp

from mcpfleet_local_cloud.data_plane.addresses import Addresses
from mcpfleet_local_cloud.data_plane.archive import LogArchive
from mcpfleet_local_cloud.data_plane.cleanup import remove_docker_objects
from mcpfleet_local_cloud.data_plane.contract import InstanceData, OpenError, Revision, RolloutError
from mcpfleet_local_cloud.data_plane.engine import CloudContainers, Seen
from mcpfleet_local_cloud.data_plane.gateway import Front, Gateway
from mcpfleet_local_cloud.data_plane.images import Images
from mcpfleet_local_cloud.data_plane.instances import Lease, RevisionInstances, affinity_of, full_name
from mcpfleet_local_cloud.data_plane.pool import (
    IDLE_AFTER,
    LONGEST_WAIT,
    NoInstanceError,
    NoRevisionError,
)
from mcpfleet_local_cloud.data_plane.spec import (
    IMAGE_LABEL,
    PROJECT_LABEL,
    REGION_LABEL,
    REVISION_LABEL,
    SERVICE_LABEL,
    Surroundings,
    revision_labels,
    service_labels,
)
from mcpfleet_local_cloud.docker_engine import NoEngineError
from mcpfleet_local_cloud.gateway.tunnel import TunnelError
from mcpfleet_local_cloud.identity.metadata import Workload
from mcpfleet_local_cloud.network.listeners import Listeners
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Store

_TICK: Final = 1.0

Key = tuple[str, str, str]
"""Project, region and name of a revision."""


class DockerDataPlane:
    """See `contract.DataPlane`; `open` before use, `close` (containers run on) or `destroy_all` at the end.

    Args:
        settings: where the cloud lives.
        cloud_id: marks its Docker objects.
        store: remembers addresses and container numbers.
        registry_token: mints an access token of Cloud Run's service agent.
        sources: where secrets and buckets come from.
        upstream: see `Images`.
        idle_after: seconds after which an idle instance may be stopped.
        listeners: the services' ports.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        cloud_id: str,
        store: Store,
        registry_token: Callable[[], str],
        sources: InstanceData | None = None,
        upstream: Callable[[str], str | None] = lambda _: None,
        idle_after: float = IDLE_AFTER,
        engine: CloudContainers | None = None,
        listeners: Listeners | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine or CloudContainers(cloud_id)
        self._listeners = listeners or Listeners()
        self._gateway = Gateway(self._engine, settings)
        self._addresses = Addresses(store, self._listeners, cloud_id)
        self._archive = LogArchive(settings.state / "logs")
        self._images = Images(
            self._engine,
            registry=lambda: self.registry,
            access_token=registry_token,
            service_agent=f"service-{settings.project_number}@serverless-robot-prod.iam.gserviceaccount.com",
            upstream=upstream,
        )
        self._sources = sources
        self._idle_after = idle_after
        self._cpus: float | None = None
        self._trust: str | None = None
        self._running: dict[Key, RevisionInstances] = {}
        self._leaving: set[RevisionInstances] = set()
        self._routes: dict[str, RevisionInstances] = {}
        self._routings: dict[str, asyncio.Event] = {}
        self._locks: dict[Key, asyncio.Lock] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, metadata: ASGIApp, front: Front | None = None, registry: ASGIApp | None = None) -> None:
        """Have containers reach *metadata*, and Docker *registry*; begin to watch containers.

        With *front*, services are reached from containers by their own names as well.

        Raises:
            OpenError: Docker can't be reached, or the gateway container does not start.
        """
        try:
            self._cpus = await self._engine.cpus()
            await self._gateway.open(metadata, front, registry)
        except NoEngineError as none:
            raise OpenError(str(none), none.next_step) from none
        except (DockerException, OSError) as reason:
            raise OpenError(
                f"Docker can't be reached ({reason}).", "see that `docker info` answers, then start again."
            ) from reason
        self._trust = str(front.trust) if front is not None else None
        self._engine.watch(self._ended, self._watch_connected)
        self._ticker = asyncio.create_task(self._tick(), name="data-plane-ticker")

    async def publish(self, ingress: ASGIApp) -> None:
        """Let *ingress* answer on the address of every service, now and later."""
        await self._listeners.serve(ingress)

    async def close(self) -> None:
        """Stop listening and watching; the containers run on, and `start` takes them over again."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        await self._listeners.close_all()
        for instances in [*self._running.values(), *self._leaving]:
            await instances.let_go()
        await self._gateway.close()
        await self._engine.close()

    # What `contract.DataPlane` promises.

    async def resolve(self, image: str) -> str:
        """See `DataPlane.resolve`."""
        reference, _ = await self._images.fetch(image)
        return reference

    async def start(self, revision: Revision) -> None:
        """See `DataPlane.start`; containers of the same revision that run already are taken over."""
        key = _key(revision)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if (running := self._running.get(key)) is not None:
                await running.resize(revision)
                return
            images, around = await asyncio.gather(self._fetched(revision), self._surroundings(revision))
            counter = f"instance/{'/'.join(key)}"
            instances = RevisionInstances(
                revision,
                images,
                engine=self._engine,
                around=around,
                archive=self._archive,
                number=lambda: self._store.next_number(counter),
                files=self._settings.state / "mounts",
                dial=self._gateway.dial,
                base_image=self._settings.base_image,
                sources=self._sources,
                idle_after=self._idle_after,
            )
            self._running[key] = instances  # so that ends of its containers are reported to it
            try:
                await instances.start()
            except (RolloutError, DockerException, OSError) as reason:
                self._running.pop(key, None)
                await self._forget_image(instances)
                if isinstance(reason, RolloutError):
                    raise
                raise RolloutError(f"Docker failed while '{revision.name}' was started: {reason}") from reason
            except asyncio.CancelledError:
                # The cloud is being stopped: what runs is taken over by the next `start`.
                self._running.pop(key, None)
                await instances.let_go()
                raise

    async def route(self, service: str, revision: Revision) -> None:
        """See `DataPlane.route`."""
        instances = self._running.get(_key(revision))
        if instances is None:
            raise RolloutError(f"Revision '{revision.name}' is not running, so it can't take {service}'s requests.")
        self._routes[service] = instances
        self._routed(service).set()

    async def retire(self, revision: Revision) -> None:
        """See `DataPlane.retire`."""
        key = _key(revision)
        instances = self._running.pop(key, None)
        if instances is None:  # begun before and cancelled, or of an earlier process of this cloud
            instances = next((each for each in self._leaving if _key(each.revision) == key), None)
        if instances is None:
            await self._remove_found(revision_labels(revision))
            for container in revision.containers:
                await self._images.forget(container.image, self._images_in_use)
            return
        self._unroute(instances)
        self._leaving.add(instances)
        await instances.retire()
        self._leaving.discard(instances)
        await self._forget_image(instances)

    async def remove(self, service: str) -> None:
        """See `DataPlane.remove`."""
        _, project, _, region, _, name = service.split("/")
        self._routes.pop(service, None)
        self._routings.pop(service, None)
        port = self._addresses.forget(service)
        gone = [each for each in [*self._running.values(), *self._leaving] if each.service == service]
        for instances in gone:
            self._running.pop(_key(instances.revision), None)
        await asyncio.gather(*(instances.destroy() for instances in gone))
        self._leaving.difference_update(gone)
        await self._remove_found(service_labels(project, region, name))
        for instances in gone:
            await self._forget_image(instances)
        self._gateway.leave(service)
        if port is not None:
            await self._listeners.close(port)

    def address(self, service: str) -> str:
        """See `DataPlane.address`.

        Raises:
            RolloutError: another program took the service's port while the cloud was down.
        """
        port = self._addresses.port(service)
        # The port is open from here on; who connects waits until it is answered.
        self._spawn(self._listeners.serve())
        return f"http://{self._settings.host}:{port}"

    # For the ingress, the metadata server, the admin API and the composition root.

    @property
    def registry(self) -> str:
        """`host:port` of this cloud's registry, as Docker and the programs of this machine reach it."""
        return self._gateway.registry

    def service_at(self, port: int) -> str | None:
        """The full name of the service whose address is *port*."""
        return self._addresses.service(port)

    async def lease(self, service: str, affinity: str = "") -> Lease:
        """An instance for one request to *service*; the one that the cookie value *affinity* names, where it has room.

        Raises:
            NoInstanceError: none has room in time.
            NoRevisionError: no revision of the service is ready.
        """
        while True:
            instances = self._routes.get(service) or await self._wait_for_route(service)
            sticky = instances.revision.session_affinity
            try:
                slot = await instances.pool.acquire(
                    (lambda instance: affinity_of(instance) == affinity) if sticky and affinity else None
                )
            except NoInstanceError:
                if self._routes.get(service) is instances:
                    raise
                continue  # the revision was replaced meanwhile
            upstream = slot.instance.upstream
            if upstream is None:  # never: it is given before the instance is taken into the pool
                raise NoInstanceError
            named = affinity_of(slot.instance) if sticky else ""
            return Lease(upstream, instances.revision.timeout, instances.pool, slot, named)

    def workload(self, ip: str) -> Workload | None:
        """Who runs at *ip* on the cloud's network.

        Docker gives an address away again as soon as its container has ended, which may be before we have heard of the
        end: the youngest container has it.
        """
        every = [*self._running.values(), *self._leaving]
        found = [(instance, instances.revision) for instances in every for instance in instances.at(ip)]
        if not found:
            return None
        instance, revision = max(found, key=lambda one: one[0].born)
        return Workload(
            service_account=revision.service_account,
            project=revision.project,
            region=revision.region,
            instance_id=instance.seen.id,
            inside=revision.vpc_all_traffic,
            network=revision.network,
            mesh=revision.mesh,
        )

    def refresh(self, secret: str) -> None:
        """The versions of *secret* (its full name) have changed: show it where it is mounted."""
        for instances in [*self._running.values(), *self._leaving]:
            instances.refresh(secret)

    async def logs(self, service: str, lines: int = 200) -> str:
        """The last lines of *service* (its full name): of instances that are gone, then of those that run."""
        kept = await self._engine.call(self._archive.read, service)
        alive = [each for each in self._running.values() if each.service == service]
        live = "".join(await asyncio.gather(*(instances.logs(lines) for instances in alive)))
        return "".join(f"{line}\n" for line in (kept + live).splitlines()[-lines:])

    async def sweep(self, wanted: Collection[Revision]) -> None:
        """Remove this cloud's containers that belong to none of the *wanted* revisions."""
        keep = {_key(revision) for revision in wanted} | set(self._running)
        found = await self._engine.find({REVISION_LABEL: None})
        await asyncio.gather(*(self._discard(seen) for seen in found if _key_of(seen) not in keep))
        running = [each.revision for each in self._running.values()]
        await self._gateway.keep_only({full_name(revision) for revision in (*wanted, *running)})

    async def destroy_all(self) -> list[str]:
        """Remove every container, network and image of this cloud from Docker; returns what was removed."""
        for instances in [*self._running.values(), *self._leaving]:
            await instances.let_go()
        await self._gateway.close()  # or it would be started again
        self._running.clear()
        self._leaving.clear()
        self._routes.clear()
        return await self._engine.call(remove_docker_objects, self._engine.cloud_id, self.registry)

    async def _fetched(self, revision: Revision) -> list[tuple[str, str]]:
        return [await self._images.fetch(container.image) for container in revision.containers]

    async def _surroundings(self, revision: Revision) -> Surroundings:
        """What the containers of *revision* are told, with a network to be in."""
        if self._cpus is None:
            raise RolloutError("The data plane is not open.")
        try:
            network = await self._gateway.join(full_name(revision))
        except (DockerException, OSError, TunnelError, OpenError) as reason:
            raise RolloutError(f"Docker failed to make the network of '{revision.service}': {reason}") from reason
        return Surroundings(
            cloud_id=self._engine.cloud_id,
            network=network.name,
            gateway=network.addresses.gateway,
            trust=self._trust,
            cpus=self._cpus,
        )

    def _ended(self, container_id: str) -> None:
        self._gateway.ended(container_id)
        for instances in [*self._running.values(), *self._leaving]:
            instances.ended(container_id)

    def _watch_connected(self) -> None:
        self._spawn(self._gateway.recheck())
        for instances in list(self._running.values()):
            self._spawn(instances.recheck())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            for instances in [*self._running.values(), *self._leaving]:
                instances.pool.tick()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _unroute(self, instances: RevisionInstances) -> None:
        for service, routed in list(self._routes.items()):
            if routed is instances:
                del self._routes[service]
                self._routed(service).clear()

    async def _forget_image(self, instances: RevisionInstances) -> None:
        for image, _ in instances.images:
            await self._images.forget(image, self._images_in_use)

    def _images_in_use(self) -> set[str]:
        every = [*self._running.values(), *self._leaving]
        return {image for instances in every for image, _ in instances.images}

    def _routed(self, service: str) -> asyncio.Event:
        return self._routings.setdefault(service, asyncio.Event())

    async def _wait_for_route(self, service: str) -> RevisionInstances:
        """What serves *service*; after a restart of the cloud that takes a moment."""
        try:
            await asyncio.wait_for(self._routed(service).wait(), LONGEST_WAIT)
        except TimeoutError:
            raise NoRevisionError(service) from None
        try:
            return self._routes[service]
        except KeyError:
            raise NoRevisionError(service) from None

    async def _remove_found(self, labels: dict[str, str]) -> None:
        await asyncio.gather(*(self._discard(seen) for seen in await self._engine.find(labels)))

    async def _discard(self, seen: Seen) -> None:
        await self._engine.stop(seen.id)
        project, region, revision = _key_of(seen)
        service = f"projects/{project}/locations/{region}/services/{seen.labels.get(SERVICE_LABEL, '')}"
        text = await self._engine.logs(seen.id, 2000)
        await self._engine.call(self._archive.add, service, revision, text)
        await self._engine.remove(seen.id)
        if image := seen.labels.get(IMAGE_LABEL):
            await self._images.forget(image, self._images_in_use)


def _key(revision: Revision) -> Key:
    return revision.project, revision.region, revision.name


def _key_of(seen: Seen) -> Key:
    labels = seen.labels
    return labels.get(PROJECT_LABEL, ""), labels.get(REGION_LABEL, ""), labels.get(REVISION_LABEL, "")
