"""`DockerDataPlane`: runs revisions as Docker containers, and leases the ingress an instance for each request."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

from docker.errors import DockerException
from starlette.types import ASGIApp

from mcpfleet_local_cloud.data_plane.addresses import Addresses
from mcpfleet_local_cloud.data_plane.archive import LogArchive
from mcpfleet_local_cloud.data_plane.cleanup import remove_docker_objects
from mcpfleet_local_cloud.data_plane.contract import InstanceData, OpenError, Revision, RolloutError
from mcpfleet_local_cloud.data_plane.engine import CloudContainers, ContainerStatus
from mcpfleet_local_cloud.data_plane.gateway import FrontEnd, Gateway
from mcpfleet_local_cloud.data_plane.images import Images
from mcpfleet_local_cloud.data_plane.instances import Lease, RevisionInstances, affinity_id, full_name
from mcpfleet_local_cloud.data_plane.pool import (
    IDLE_SECONDS,
    LONGEST_WAIT_SECONDS,
    NoInstanceError,
    NoRevisionError,
)
from mcpfleet_local_cloud.data_plane.spec import (
    IMAGE_LABEL,
    PROJECT_LABEL,
    REGION_LABEL,
    REVISION_LABEL,
    SERVICE_LABEL,
    CloudContext,
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

RevisionKey = tuple[str, str, str]
"""Project, region and name of a revision."""


class DockerDataPlane:
    """Implements `contract.DataPlane` with Docker.

    Call `open` before use, and at the end `close` (the containers keep running) or `destroy_all`.

    Args:
        settings: The settings of the local cloud.
        cloud_id: The id in the label of its Docker objects.
        store: Stores addresses and instance numbers.
        registry_token: Mints an access token of Cloud Run's service agent.
        sources: The secrets and buckets.
        upstream: See `Images`.
        idle_after: Seconds after which an idle instance may be stopped.
        engine: The Docker engine.
        listeners: The services' ports.
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
        idle_after: float = IDLE_SECONDS,
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
        self._trust_bundle: str | None = None
        self._running: dict[RevisionKey, RevisionInstances] = {}
        self._retiring: set[RevisionInstances] = set()
        self._routes: dict[str, RevisionInstances] = {}
        self._route_events: dict[str, asyncio.Event] = {}
        self._locks: dict[RevisionKey, asyncio.Lock] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, metadata: ASGIApp, front: FrontEnd | None = None, registry: ASGIApp | None = None) -> None:
        """Connect containers to *metadata*, and Docker to *registry*; start to watch containers.

        With *front*, containers can call services by their host names.

        Raises:
            OpenError: Docker can't be reached, or the gateway container does not start.
        """
        try:
            self._cpus = await self._engine.cpus()
            await self._gateway.open(metadata, front, registry)
        except NoEngineError as error:
            raise OpenError(str(error), error.next_step) from error
        except (DockerException, OSError) as reason:
            raise OpenError(
                f"Docker can't be reached ({reason}).", "check that `docker info` works, then start again."
            ) from reason
        self._trust_bundle = str(front.trust_bundle) if front is not None else None
        self._engine.watch(self._on_container_exit, self._on_watch_connect)
        self._ticker = asyncio.create_task(self._tick(), name="data-plane-ticker")

    async def publish(self, ingress: ASGIApp) -> None:
        """Serve *ingress* on the ports of all services, also of later ones."""
        await self._listeners.serve(ingress)

    async def close(self) -> None:
        """Stop listening and watching; the containers keep running, and `start` adopts them again."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        await self._listeners.close_all()
        for instances in [*self._running.values(), *self._retiring]:
            await instances.detach()
        await self._gateway.close()
        await self._engine.close()

    # The methods of `contract.DataPlane`.

    async def resolve(self, image: str) -> str:
        """See `DataPlane.resolve`."""
        reference, _ = await self._images.fetch(image)
        return reference

    async def start(self, revision: Revision) -> None:
        """See `DataPlane.start`; running containers of the same revision are adopted."""
        key = _key(revision)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if (running := self._running.get(key)) is not None:
                await running.resize(revision)
                return
            images, context = await asyncio.gather(self._fetch_images(revision), self._create_context(revision))
            counter = f"instance/{'/'.join(key)}"
            instances = RevisionInstances(
                revision,
                images,
                engine=self._engine,
                context=context,
                archive=self._archive,
                number=lambda: self._store.next_number(counter),
                files=self._settings.state / "mounts",
                dial=self._gateway.dial,
                base_image=self._settings.base_image,
                sources=self._sources,
                idle_after=self._idle_after,
            )
            self._running[key] = instances  # so that it gets the exit events of its containers
            try:
                await instances.start()
            except (RolloutError, DockerException, OSError) as reason:
                self._running.pop(key, None)
                await self._remove_images(instances)
                if isinstance(reason, RolloutError):
                    raise
                raise RolloutError(f"Docker failed while '{revision.name}' was started: {reason}") from reason
            except asyncio.CancelledError:
                # The cloud is being stopped: the next `start` adopts the running containers.
                self._running.pop(key, None)
                await instances.detach()
                raise

    async def route(self, service: str, revision: Revision) -> None:
        """See `DataPlane.route`."""
        instances = self._running.get(_key(revision))
        if instances is None:
            raise RolloutError(f"Revision '{revision.name}' is not running, so it can't take {service}'s requests.")
        self._routes[service] = instances
        self._route_event(service).set()

    async def retire(self, revision: Revision) -> None:
        """See `DataPlane.retire`."""
        key = _key(revision)
        instances = self._running.pop(key, None)
        if instances is None:  # a retirement was cancelled, or it is of an earlier process of this cloud
            instances = next((candidate for candidate in self._retiring if _key(candidate.revision) == key), None)
        if instances is None:
            await self._remove_containers(revision_labels(revision))
            for container in revision.containers:
                await self._images.remove(container.image, self._images_in_use)
            return
        self._unroute(instances)
        self._retiring.add(instances)
        await instances.retire()
        self._retiring.discard(instances)
        await self._remove_images(instances)

    async def remove(self, service: str) -> None:
        """See `DataPlane.remove`."""
        _, project, _, region, _, name = service.split("/")
        self._routes.pop(service, None)
        self._route_events.pop(service, None)
        port = self._addresses.forget(service)
        removed = [
            candidate for candidate in [*self._running.values(), *self._retiring] if candidate.service == service
        ]
        for instances in removed:
            self._running.pop(_key(instances.revision), None)
        await asyncio.gather(*(instances.destroy() for instances in removed))
        self._retiring.difference_update(removed)
        await self._remove_containers(service_labels(project, region, name))
        for instances in removed:
            await self._remove_images(instances)
        self._gateway.leave_network(service)
        if port is not None:
            await self._listeners.close(port)

    def address(self, service: str) -> str:
        """See `DataPlane.address`.

        Raises:
            RolloutError: Another program took the service's port while the cloud was stopped.
        """
        port = self._addresses.port(service)
        # The port is open from here on; a client that connects waits until the app is served.
        self._spawn(self._listeners.serve())
        return f"http://{self._settings.host}:{port}"

    # Methods for the ingress, the metadata server, the admin API and the composition root.

    @property
    def registry(self) -> str:
        """`host:port` of this cloud's registry, as Docker and the programs of this machine reach it."""
        return self._gateway.registry

    def find_service(self, port: int) -> str | None:
        """Find the full name of the service with the loopback port *port*."""
        return self._addresses.service(port)

    async def lease(self, service: str, affinity: str = "") -> Lease:
        """Lease an instance for one request to *service*: the one of the cookie value *affinity*, if it has room.

        Raises:
            NoInstanceError: None had room in time.
            NoRevisionError: No revision of the service is ready.
        """
        while True:
            instances = self._routes.get(service) or await self._wait_for_route(service)
            has_affinity = instances.revision.session_affinity
            try:
                slot = await instances.pool.acquire(
                    (lambda instance: affinity_id(instance) == affinity) if has_affinity and affinity else None
                )
            except NoInstanceError:
                if self._routes.get(service) is instances:
                    raise
                continue  # the revision was replaced meanwhile
            upstream = slot.instance.upstream
            if upstream is None:  # never happens: it is set before the instance is added to the pool
                raise NoInstanceError
            affinity_value = affinity_id(slot.instance) if has_affinity else ""
            return Lease(upstream, instances.revision.timeout, instances.pool, slot, affinity_value)

    def find_workload(self, ip: str) -> Workload | None:
        """Find the workload with the address *ip* on the cloud's network.

        Docker reuses an address as soon as its container has ended, which may be before the exit event arrives: so the
        most recently started container has it.
        """
        revisions = [*self._running.values(), *self._retiring]
        candidates = [
            (instance, instances.revision) for instances in revisions for instance in instances.find_by_address(ip)
        ]
        if not candidates:
            return None
        instance, revision = max(candidates, key=lambda candidate: candidate[0].started_at)
        return Workload(
            service_account=revision.service_account,
            project=revision.project,
            region=revision.region,
            instance_id=instance.main_status.id,
            is_internal=revision.vpc_all_traffic,
            network=revision.network,
            mesh=revision.mesh,
        )

    def refresh(self, secret: str) -> None:
        """Update mounted volumes after the versions of *secret* (its full name) have changed."""
        for instances in [*self._running.values(), *self._retiring]:
            instances.refresh(secret)

    async def logs(self, service: str, lines: int = 200) -> str:
        """Read the last log lines of *service* (its full name): of removed instances, then of running ones."""
        archived = await self._engine.call(self._archive.read, service)
        running = [each for each in self._running.values() if each.service == service]
        live = "".join(await asyncio.gather(*(instances.logs(lines) for instances in running)))
        return "".join(f"{line}\n" for line in (archived + live).splitlines()[-lines:])

    async def sweep(self, desired: Collection[Revision]) -> None:
        """Remove this cloud's containers that belong to none of the *desired* revisions."""
        kept_keys = {_key(revision) for revision in desired} | set(self._running)
        statuses = await self._engine.find({REVISION_LABEL: None})
        await asyncio.gather(
            *(self._discard(status) for status in statuses if _key_from_labels(status) not in kept_keys)
        )
        running = [instances.revision for instances in self._running.values()]
        await self._gateway.keep_only({full_name(revision) for revision in (*desired, *running)})

    async def destroy_all(self) -> list[str]:
        """Remove every container, network and image of this cloud from Docker; return a line for each one."""
        for instances in [*self._running.values(), *self._retiring]:
            await instances.detach()
        await self._gateway.close()  # otherwise it would restart the gateway container
        self._running.clear()
        self._retiring.clear()
        self._routes.clear()
        return await self._engine.call(remove_docker_objects, self._engine.cloud_id, self.registry)

    async def _fetch_images(self, revision: Revision) -> list[tuple[str, str]]:
        return [await self._images.fetch(container.image) for container in revision.containers]

    async def _create_context(self, revision: Revision) -> CloudContext:
        """Create the context of *revision*'s containers, and their network if it is missing."""
        if self._cpus is None:
            raise RolloutError("The data plane is not open.")
        try:
            network = await self._gateway.join_network(full_name(revision))
        except (DockerException, OSError, TunnelError, OpenError) as reason:
            raise RolloutError(f"Docker failed to create the network of '{revision.service}': {reason}") from reason
        return CloudContext(
            cloud_id=self._engine.cloud_id,
            network=network.name,
            gateway=network.addresses.gateway,
            trust=self._trust_bundle,
            cpus=self._cpus,
        )

    def _on_container_exit(self, container_id: str) -> None:
        self._gateway.on_container_exit(container_id)
        for instances in [*self._running.values(), *self._retiring]:
            instances.on_container_exit(container_id)

    def _on_watch_connect(self) -> None:
        self._spawn(self._gateway.recheck())
        for instances in list(self._running.values()):
            self._spawn(instances.recheck())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            for instances in [*self._running.values(), *self._retiring]:
                instances.pool.tick()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _unroute(self, instances: RevisionInstances) -> None:
        for service, routed in list(self._routes.items()):
            if routed is instances:
                del self._routes[service]
                self._route_event(service).clear()

    async def _remove_images(self, instances: RevisionInstances) -> None:
        for image, _ in instances.images:
            await self._images.remove(image, self._images_in_use)

    def _images_in_use(self) -> set[str]:
        revisions = [*self._running.values(), *self._retiring]
        return {image for instances in revisions for image, _ in instances.images}

    def _route_event(self, service: str) -> asyncio.Event:
        return self._route_events.setdefault(service, asyncio.Event())

    async def _wait_for_route(self, service: str) -> RevisionInstances:
        """Wait for the instances that serve *service*; after a restart of the cloud this takes a moment."""
        try:
            await asyncio.wait_for(self._route_event(service).wait(), LONGEST_WAIT_SECONDS)
        except TimeoutError:
            raise NoRevisionError(service) from None
        try:
            return self._routes[service]
        except KeyError:
            raise NoRevisionError(service) from None

    async def _remove_containers(self, labels: dict[str, str]) -> None:
        await asyncio.gather(*(self._discard(status) for status in await self._engine.find(labels)))

    async def _discard(self, status: ContainerStatus) -> None:
        await self._engine.stop(status.id)
        project, region, revision = _key_from_labels(status)
        service = f"projects/{project}/locations/{region}/services/{status.labels.get(SERVICE_LABEL, '')}"
        text = await self._engine.logs(status.id, 2000)
        await self._engine.call(self._archive.add, service, revision, text)
        await self._engine.remove(status.id)
        if image := status.labels.get(IMAGE_LABEL):
            await self._images.remove(image, self._images_in_use)


def _key(revision: Revision) -> RevisionKey:
    return revision.project, revision.region, revision.name


def _key_from_labels(status: ContainerStatus) -> RevisionKey:
    labels = status.labels
    return labels.get(PROJECT_LABEL, ""), labels.get(REGION_LABEL, ""), labels.get(REVISION_LABEL, "")
