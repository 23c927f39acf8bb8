"""Makes the remembered services real: one rollout per service at a time, the newest wins.

Whatever is about to be done was written first (`records`), and every step may be repeated. So a crash at any moment is
answered by doing the same again: `recover` takes up what is unfinished under its old operation's name and brings up
what was serving.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mcpfleet_local_cloud.data_plane import contract
from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.operations import KIND as OPERATION
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.services.run import conditions, render
from mcpfleet_local_cloud.services.run.places import short
from mcpfleet_local_cloud.services.run.records import LIVE, REVISION, SERVICE, Clock, revisions_of
from mcpfleet_local_cloud.services.run.workload import ingress_container, workload
from mcpfleet_local_cloud.state.store import Document, Store

_log = logging.getLogger(__name__)


class Superseded(Exception):  # noqa: N818 - not an error: somebody wants something newer
    """A newer change of the service, or its deletion, came first."""


@dataclass
class PendingRollout:
    """One piece of work on a service, and the revision that it wants to serve (None: no more service)."""

    service: str
    generation: int
    wants: str | None
    task: asyncio.Task[Document]
    stopped: bool = False
    """Whether the cloud ended it, to take it up at its next start."""

    @property
    def superseded(self) -> bool:
        """Whether it was ended in favour of a newer one."""
        return self.task.cancelled() or isinstance(self.task.exception(), Superseded)


class Rollouts:
    """The work on services; `model.RunModel` decides what is wanted."""

    def __init__(
        self,
        store: Store,
        operations: Operations,
        data_plane: contract.DataPlane,
        policies: Policies,
        sources: contract.InstanceData,
        now: Clock,
    ) -> None:
        self._store = store
        self._operations = operations
        self._data_plane = data_plane
        self._policies = policies
        self._sources = sources
        self._now = now
        self._locks: dict[str, asyncio.Lock] = {}
        self._flights: dict[str, PendingRollout] = {}
        self._retiring: dict[str, asyncio.Task[None]] = {}
        # What this process has started and routed; after a restart it knows of nothing.
        self._applied: dict[str, contract.Revision] = {}

    def deploy(self, record: Document, operation_of: str) -> Document:
        """Begin to make *record*, which has its `pending`, real; writes it. Returns the operation.

        Args:
            record: the service as it is wanted.
            operation_of: the operation's parent, `projects/P/locations/L`.
        """
        return self._launch(record, "pending", operation_of)

    def remove(self, record: Document, operation_of: str) -> Document:
        """Begin to remove the service of *record*, which has its `deleting`; writes it. Returns the operation."""
        return self._launch(record, "deleting", operation_of)

    async def recover(self) -> None:
        """Finish what a killed process left; waits until each service that nobody was changing serves again."""
        restored: list[PendingRollout] = []
        resumed = set[str]()
        for _, record in self._store.list(SERVICE):
            flight = self._begin(record)
            step: Document = record.get("deleting") or record.get("pending") or {}
            if operation := str(step.get("operation", "")):
                resumed.add(operation)
                self._operations.resume(operation, partial(self._landed, flight))
            else:
                restored.append(flight)
        for name, operation in self._store.list(OPERATION):
            ours = operation["metadata"].get("@type") == render.SERVICE_TYPE
            if ours and not operation["done"] and name not in resumed:
                self._operations.resume(name, partial(self._outcome, operation["metadata"]))
        if restored:
            await asyncio.wait([flight.task for flight in restored])

    async def close(self) -> None:
        """Stop all work without finishing it, and forget what runs; `recover` takes it up again."""
        tasks: list[asyncio.Task[Any]] = list(self._retiring.values())
        for flight in self._flights.values():
            flight.stopped = not flight.task.done()
            tasks.append(flight.task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._flights.clear()
        self._applied.clear()

    async def drained(self) -> None:
        """Wait until no replaced revision is left running."""
        while self._retiring:
            await asyncio.wait(list(self._retiring.values()))

    # One flight per service.

    def _launch(self, record: Document, step: str, operation_of: str) -> Document:
        metadata = self._response(record)
        flight = self._begin(record)
        operation = self._operations.start(operation_of, partial(self._landed, flight), metadata)
        record[step]["operation"] = operation["name"]
        self._store.put(SERVICE, record["name"], record)
        return operation

    def _begin(self, record: Document) -> PendingRollout:
        """Start the work that *record* asks for, in the place of any older one on that service."""
        name, uid, generation = record["name"], record["uid"], record["generation"]
        if record.get("deleting"):
            wants, work = None, partial(self._remove, name, uid)
        elif record.get("pending"):
            wants, work = record["pending"]["revision"], partial(self._deploy, name, uid, generation)
        else:
            wants, work = record.get("latestReadyRevision"), partial(self._restore, name, uid)
        task = asyncio.create_task(self._alone(name, work), name=f"{name}@{generation}")
        task.add_done_callback(_seen)
        before = self._flights.get(name)
        flight = PendingRollout(name, generation, wants, task)
        self._flights[name] = flight
        if before is not None:
            before.task.cancel()
        return flight

    async def _alone(self, name: str, work: Callable[[], Awaitable[Document]]) -> Document:
        # The older flight has been cancelled; the lock is free once it has really ended.
        async with self._locks.setdefault(name, asyncio.Lock()):
            return await work()

    async def _landed(self, flight: PendingRollout) -> Document:
        """What the operation of *flight* ends with.

        A newer flight that wants the same revision (only labels changed meanwhile, say) speaks for this one too.

        Raises:
            GoogleError: why the revision cannot serve; ABORTED where somebody wanted another one meanwhile.
        """
        current = flight
        try:
            await asyncio.wait([current.task])
            while current.superseded:
                if current.stopped:
                    raise asyncio.CancelledError  # the operation stays unfinished
                newer = self._flights.get(flight.service, current)
                if newer is current or newer.wants != flight.wants:
                    raise _superseded(flight.service, flight.generation)
                current = newer
                await asyncio.wait([current.task])
        except asyncio.CancelledError:
            flight.task.cancel()
            await asyncio.wait([flight.task])
            raise
        return current.task.result()

    # Steps. Each may be repeated; what is next is read from the store.

    async def _deploy(self, name: str, uid: str, generation: int) -> Document:
        record = self._mine(name, uid, generation)
        self._retire_replaced(name)
        target: str = record["pending"]["revision"]
        serving = record.get("latestReadyRevision")
        if serving and serving != target and name not in self._applied:
            await self._bring_back(record)
            self._mine(name, uid, generation)
        try:
            await self._prepare(target, lambda: self._mine(name, uid, generation))
            await self._serve(self._mine(name, uid, generation), target)
        except contract.RolloutError as refusal:
            self._mine(name, uid, generation)
            self._fail(name, target, str(refusal))
            raise GoogleError("FAILED_PRECONDITION", str(refusal)) from refusal
        except Superseded:
            raise
        except Exception as broken:
            self._mine(name, uid, generation)
            self._fail(name, target, f"The data plane failed ({type(broken).__name__}: {broken}).", conditions.BROKEN)
            raise
        self._mine(name, uid, generation)
        return self._succeed(name, target)

    async def _prepare(self, revision_name: str, still_wanted: Callable[[], object]) -> None:
        """Fetch the revision's images and remember which digests they are, once and for all."""
        revision = self._revision(revision_name)
        if revision["state"] != "starting" and self._is_up(revision_name):
            return
        images: list[str] = revision.get("digests") or [one["image"] for one in revision["template"]["containers"]]
        if revision["state"] == "starting":
            self._sources.check(workload(revision, {}))
        digests = [await self._data_plane.resolve(image) for image in images]
        still_wanted()
        if "digests" not in revision:
            digest = digests[ingress_container(revision["template"])]
            self._store.put(REVISION, revision_name, {**revision, "digest": digest, "digests": digests})

    async def _serve(self, record: Document, revision_name: str) -> None:
        """Have the revision run and route to it, unless this process has done so with the very same settings."""
        wanted = workload(self._revision(revision_name), record["spec"].get("scaling", {}))
        if self._applied.get(record["name"]) == wanted:
            return
        self._data_plane.address(record["name"])  # refuses where no port can be had
        await self._data_plane.start(wanted)
        await self._data_plane.route(record["name"], wanted)
        self._applied[record["name"]] = wanted

    def _succeed(self, name: str, target: str) -> Document:
        with self._store.transaction():
            record, now = self._service(name), self._now()
            for revision in revisions_of(self._store, name):
                if revision["name"] == target:
                    revision["state"] = "ready"
                    conditions.revision(revision, now, conditions.SUCCEEDED)
                elif revision["state"] in LIVE:
                    mark_retiring(revision, now)
                else:
                    continue
                self._store.put(REVISION, revision["name"], revision)
            record["latestReadyRevision"] = target
            record["observedGeneration"] = record["generation"]
            record["pending"] = None
            conditions.service_ready(record, now)
            self._store.put(SERVICE, name, record)
        self._retire_replaced(name)
        return self._response(record)

    def _fail(self, name: str, target: str, message: str, reason: Document | None = None) -> None:
        with self._store.transaction():
            record, revision, now = self._service(name), self._revision(target), self._now()
            if reason is None:
                reason = conditions.UNHEALTHY if revision.get("digest") else conditions.NO_IMAGE
            conditions.revision(revision, now, conditions.FAILED, message, reason)
            if revision["state"] == "starting":
                revision["state"] = "failed"
            else:
                self._applied.pop(name, None)  # it served, and does not any more: try again at the next chance
            self._store.put(REVISION, target, revision)
            record["pending"] = None
            conditions.service_failed(record, now, message)
            self._store.put(SERVICE, name, record)

    async def _restore(self, name: str, uid: str) -> Document:
        record = self._store.get(SERVICE, name)
        if record is None or record["uid"] != uid:
            raise Superseded
        self._retire_replaced(name)
        if record.get("latestReadyRevision"):
            await self._bring_back(record)
        return self._response(record)

    async def _bring_back(self, record: Document) -> None:
        """After a restart: the revision that was serving, again. A failure is shown in the service's conditions."""
        name, serving = record["name"], record["latestReadyRevision"]
        try:
            await self._prepare(serving, lambda: None)
            await self._serve(record, serving)
        except Exception as broken:
            _log.exception("%s could not be brought up again", serving)
            if not record.get("pending"):
                self._fail(name, serving, str(broken), conditions.BROKEN)
            return
        record = self._service(name)
        if not record.get("pending") and record.get("latestCreatedRevision") == serving:
            conditions.service_ready(record, self._now())
            self._store.put(SERVICE, name, record)

    async def _remove(self, name: str, uid: str) -> Document:
        record = self._store.get(SERVICE, name)
        if record is None or record["uid"] != uid:
            raise Superseded
        retiring = [task for revision, task in self._retiring.items() if revision.startswith(f"{name}/")]
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await self._data_plane.remove(name)
        self._applied.pop(name, None)
        with self._store.transaction():
            for revision in revisions_of(self._store, name):
                self._store.delete(REVISION, revision["name"])
            self._policies.delete(name)
            self._store.delete(SERVICE, name)
        return {"@type": render.SERVICE_TYPE, **render.service(record, "")}

    # Replaced revisions leave in the background: their last requests may take as long as the request timeout.

    def _retire_replaced(self, name: str) -> None:
        for revision in revisions_of(self._store, name):
            full_name = revision["name"]
            if revision["state"] == "retiring" and full_name not in self._retiring:
                task = asyncio.create_task(self._retire(revision), name=f"retire {full_name}")
                self._retiring[full_name] = task
                task.add_done_callback(lambda _, key=full_name: self._retiring.pop(key, None))

    async def _retire(self, revision: Document) -> None:
        try:
            await self._data_plane.retire(workload(revision, {}))
        except Exception:
            _log.exception("%s could not be retired; the next change or restart tries again", revision["name"])
            return
        now = self._now()
        retired = {**revision, "state": "retired", "updateTime": now}
        conditions.revision(retired, now, conditions.SUCCEEDED, "Revision retired.", conditions.RETIRED)
        self._store.put(REVISION, revision["name"], retired)

    # Reading.

    async def _outcome(self, metadata: Document) -> Document:
        """How an operation ended whose process was killed between its last step and its last write."""
        record = self._store.get(SERVICE, metadata["name"])
        same = record is not None and record["uid"] == metadata["uid"]
        if not same and metadata.get("deleteTime"):
            return metadata
        if record is not None and same and str(record["generation"]) == metadata["generation"]:
            if record["terminalCondition"]["state"] == conditions.SUCCEEDED:
                return self._response(record)
            raise GoogleError("FAILED_PRECONDITION", record["terminalCondition"].get("message", ""))
        raise _superseded(metadata["name"], int(metadata["generation"]))

    def _is_up(self, revision_name: str) -> bool:
        applied = self._applied.get(revision_name.partition("/revisions/")[0])
        return applied is not None and applied.name == short(revision_name)

    def _mine(self, name: str, uid: str, generation: int) -> Document:
        record = self._store.get(SERVICE, name)
        if record is None or record["uid"] != uid or record["generation"] != generation or record.get("deleting"):
            raise Superseded
        return record

    def _service(self, name: str) -> Document:
        record = self._store.get(SERVICE, name)
        if record is None:
            raise Superseded
        return record

    def _revision(self, name: str) -> Document:
        record = self._store.get(REVISION, name)
        if record is None:
            raise Superseded
        return record

    def _response(self, record: Document) -> Document:
        return {"@type": render.SERVICE_TYPE, **render.service(record, address(self._data_plane, record["name"]))}


def mark_retiring(revision: Document, now: str) -> None:
    """Note that *revision* is to leave; `Rollouts` sees to it."""
    revision["state"] = "retiring"
    revision["updateTime"] = now
    conditions.revision(revision, now, conditions.RECONCILING, "Retiring Revision.", {"revisionReason": "RETIRING"})


def _superseded(service: str, generation: int) -> GoogleError:
    return GoogleError(
        "ABORTED",
        f"Generation {generation} of service '{short(service)}' was superseded by a newer change before it was "
        "ready; look at the newest one.",
    )


def _seen(task: asyncio.Task[Document]) -> None:
    """Whoever waits for the task reads its error; nobody need."""
    if not task.cancelled():
        task.exception()


def address(data_plane: contract.DataPlane, service: str) -> str:
    """Where *service* (its full name) answers; "" where it has no address: its port was taken by another program."""
    try:
        return data_plane.address(service)
    except contract.RolloutError:
        return ""
