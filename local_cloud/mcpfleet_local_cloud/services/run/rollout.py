"""Applies the stored services to the data plane: one rollout per service at a time; the newest wins.

Work is stored before it starts (`records`), and every step can be repeated. So after a crash at any moment, `recover`
repeats the unfinished work under its old operation's name, and starts the revisions that were serving.
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
from mcpfleet_local_cloud.services.run.locations import short_name
from mcpfleet_local_cloud.services.run.records import LIVE_STATES, REVISION, SERVICE, Clock, revisions_of
from mcpfleet_local_cloud.services.run.workload import build_workload, find_ingress_index
from mcpfleet_local_cloud.state.store import Document, Store

_log = logging.getLogger(__name__)


class Superseded(Exception):  # noqa: N818 - not an error: a newer change replaces this one
    """A newer change of the service, or its deletion, replaces this rollout."""


@dataclass
class PendingRollout:
    """The running work on a service, and its target revision (None: the service is being deleted)."""

    service: str
    generation: int
    target: str | None
    task: asyncio.Task[Document]
    stopped: bool = False
    """Whether the cloud stopped it, to continue it at the next start."""

    @property
    def superseded(self) -> bool:
        """Whether a newer rollout has replaced it."""
        return self.task.cancelled() or isinstance(self.task.exception(), Superseded)


class Rollouts:
    """Runs the rollouts; `model.RunModel` stores the desired state."""

    def __init__(
        self,
        store: Store,
        operations: Operations,
        data_plane: contract.DataPlane,
        policies: Policies,
        instance_data: contract.InstanceData,
        now: Clock,
    ) -> None:
        self._store = store
        self._operations = operations
        self._data_plane = data_plane
        self._policies = policies
        self._instance_data = instance_data
        self._now = now
        self._locks: dict[str, asyncio.Lock] = {}
        self._pending_rollouts: dict[str, PendingRollout] = {}
        self._retiring: dict[str, asyncio.Task[None]] = {}
        # The revisions that this process has started and routed to; empty after a restart.
        self._routed: dict[str, contract.Revision] = {}

    def deploy(self, record: Document, operation_parent: str) -> Document:
        """Start the rollout of *record*, which has `pending`; store the record and return the operation.

        Args:
            record: the desired state of the service.
            operation_parent: the operation's parent, `projects/P/locations/L`.
        """
        return self._start_operation(record, "pending", operation_parent)

    def remove(self, record: Document, operation_parent: str) -> Document:
        """Start to delete the service of *record*, which has `deleting`; store the record and return the operation."""
        return self._start_operation(record, "deleting", operation_parent)

    async def recover(self) -> None:
        """Continue the work of a killed process; wait until each service that was not being changed serves again."""
        restored: list[PendingRollout] = []
        resumed = set[str]()
        for _, record in self._store.list(SERVICE):
            rollout = self._start_rollout(record)
            step: Document = record.get("deleting") or record.get("pending") or {}
            if operation := str(step.get("operation", "")):
                resumed.add(operation)
                self._operations.resume(operation, partial(self._wait_for_outcome, rollout))
            else:
                restored.append(rollout)
        for name, operation in self._store.list(OPERATION):
            is_run_operation = operation["metadata"].get("@type") == render.SERVICE_TYPE
            if is_run_operation and not operation["done"] and name not in resumed:
                self._operations.resume(name, partial(self._find_outcome, operation["metadata"]))
        if restored:
            await asyncio.wait([rollout.task for rollout in restored])

    async def close(self) -> None:
        """Stop all work without finishing it; `recover` continues it."""
        tasks: list[asyncio.Task[Any]] = list(self._retiring.values())
        for rollout in self._pending_rollouts.values():
            rollout.stopped = not rollout.task.done()
            tasks.append(rollout.task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pending_rollouts.clear()
        self._routed.clear()

    async def wait_drained(self) -> None:
        """Wait until no replaced revision is running."""
        while self._retiring:
            await asyncio.wait(list(self._retiring.values()))

    # One rollout per service.

    def _start_operation(self, record: Document, step: str, operation_parent: str) -> Document:
        metadata = self._response(record)
        rollout = self._start_rollout(record)
        operation = self._operations.start(operation_parent, partial(self._wait_for_outcome, rollout), metadata)
        record[step]["operation"] = operation["name"]
        self._store.put(SERVICE, record["name"], record)
        return operation

    def _start_rollout(self, record: Document) -> PendingRollout:
        """Start the work for *record*, which replaces any older work on that service."""
        name, uid, generation = record["name"], record["uid"], record["generation"]
        if record.get("deleting"):
            target, work = None, partial(self._remove, name, uid)
        elif record.get("pending"):
            target, work = record["pending"]["revision"], partial(self._deploy, name, uid, generation)
        else:
            target, work = record.get("latestReadyRevision"), partial(self._restore, name, uid)
        task = asyncio.create_task(self._run_exclusively(name, work), name=f"{name}@{generation}")
        task.add_done_callback(_consume_exception)
        previous = self._pending_rollouts.get(name)
        rollout = PendingRollout(name, generation, target, task)
        self._pending_rollouts[name] = rollout
        if previous is not None:
            previous.task.cancel()
        return rollout

    async def _run_exclusively(self, name: str, work: Callable[[], Awaitable[Document]]) -> Document:
        # The older rollout has been cancelled; the lock is released when it has ended.
        async with self._locks.setdefault(name, asyncio.Lock()):
            return await work()

    async def _wait_for_outcome(self, rollout: PendingRollout) -> Document:
        """Wait for *rollout* and return the result of its operation.

        If a newer rollout with the same target revision has replaced it (for example, because labels changed), the
        result is that of the newer one.

        Raises:
            GoogleError: the revision cannot serve; ABORTED if a newer rollout has another target.
        """
        current = rollout
        try:
            await asyncio.wait([current.task])
            while current.superseded:
                if current.stopped:
                    raise asyncio.CancelledError  # the operation stays unfinished
                newer = self._pending_rollouts.get(rollout.service, current)
                if newer is current or newer.target != rollout.target:
                    raise _superseded_error(rollout.service, rollout.generation)
                current = newer
                await asyncio.wait([current.task])
        except asyncio.CancelledError:
            rollout.task.cancel()
            await asyncio.wait([rollout.task])
            raise
        return current.task.result()

    # Steps. Each may be repeated; the store determines the next step.

    async def _deploy(self, name: str, uid: str, generation: int) -> Document:
        record = self._current_record(name, uid, generation)
        self._retire_replaced(name)
        target: str = record["pending"]["revision"]
        serving = record.get("latestReadyRevision")
        if serving and serving != target and name not in self._routed:
            await self._restore_serving(record)
            self._current_record(name, uid, generation)
        try:
            await self._prepare(target, lambda: self._current_record(name, uid, generation))
            await self._serve(self._current_record(name, uid, generation), target)
        except contract.RolloutError as refusal:
            self._current_record(name, uid, generation)
            self._fail(name, target, str(refusal))
            raise GoogleError("FAILED_PRECONDITION", str(refusal)) from refusal
        except Superseded:
            raise
        except Exception as error:
            self._current_record(name, uid, generation)
            self._fail(name, target, f"The data plane failed ({type(error).__name__}: {error}).", conditions.UNKNOWN)
            raise
        self._current_record(name, uid, generation)
        return self._succeed(name, target)

    async def _prepare(self, revision_name: str, check_current: Callable[[], object]) -> None:
        """Pull the revision's images and store their digests permanently."""
        revision = self._find_revision(revision_name)
        if revision["state"] != "starting" and self._is_routed(revision_name):
            return
        images: list[str] = revision.get("digests") or [
            container["image"] for container in revision["template"]["containers"]
        ]
        if revision["state"] == "starting":
            self._instance_data.check(build_workload(revision, {}))
        digests = [await self._data_plane.resolve(image) for image in images]
        check_current()
        if "digests" not in revision:
            digest = digests[find_ingress_index(revision["template"])]
            self._store.put(REVISION, revision_name, {**revision, "digest": digest, "digests": digests})

    async def _serve(self, record: Document, revision_name: str) -> None:
        """Start the revision and route to it, unless this process has already done so with the same settings."""
        desired = build_workload(self._find_revision(revision_name), record["spec"].get("scaling", {}))
        if self._routed.get(record["name"]) == desired:
            return
        self._data_plane.address(record["name"])  # raises if no port is available
        await self._data_plane.start(desired)
        await self._data_plane.route(record["name"], desired)
        self._routed[record["name"]] = desired

    def _succeed(self, name: str, target: str) -> Document:
        with self._store.transaction():
            record, now = self._find_service(name), self._now()
            for revision in revisions_of(self._store, name):
                if revision["name"] == target:
                    revision["state"] = "ready"
                    conditions.set_revision_condition(revision, now, conditions.SUCCEEDED)
                elif revision["state"] in LIVE_STATES:
                    mark_retiring(revision, now)
                else:
                    continue
                self._store.put(REVISION, revision["name"], revision)
            record["latestReadyRevision"] = target
            record["observedGeneration"] = record["generation"]
            record["pending"] = None
            conditions.set_service_ready(record, now)
            self._store.put(SERVICE, name, record)
        self._retire_replaced(name)
        return self._response(record)

    def _fail(self, name: str, target: str, message: str, reason: Document | None = None) -> None:
        with self._store.transaction():
            record, revision, now = self._find_service(name), self._find_revision(target), self._now()
            if reason is None:
                reason = conditions.UNHEALTHY if revision.get("digest") else conditions.NO_IMAGE
            conditions.set_revision_condition(revision, now, conditions.FAILED, message, reason)
            if revision["state"] == "starting":
                revision["state"] = "failed"
            else:
                self._routed.pop(name, None)  # it was serving and has failed: the next rollout tries again
            self._store.put(REVISION, target, revision)
            record["pending"] = None
            conditions.set_service_failed(record, now, message)
            self._store.put(SERVICE, name, record)

    async def _restore(self, name: str, uid: str) -> Document:
        record = self._store.get(SERVICE, name)
        if record is None or record["uid"] != uid:
            raise Superseded
        self._retire_replaced(name)
        if record.get("latestReadyRevision"):
            await self._restore_serving(record)
        return self._response(record)

    async def _restore_serving(self, record: Document) -> None:
        """Start the revision that was serving before a restart; a failure is reported in the service's conditions."""
        name, serving = record["name"], record["latestReadyRevision"]
        try:
            await self._prepare(serving, lambda: None)
            await self._serve(record, serving)
        except Exception as error:
            _log.exception("could not start %s again", serving)
            if not record.get("pending"):
                self._fail(name, serving, str(error), conditions.UNKNOWN)
            return
        record = self._find_service(name)
        if not record.get("pending") and record.get("latestCreatedRevision") == serving:
            conditions.set_service_ready(record, self._now())
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
        self._routed.pop(name, None)
        with self._store.transaction():
            for revision in revisions_of(self._store, name):
                self._store.delete(REVISION, revision["name"])
            self._policies.delete(name)
            self._store.delete(SERVICE, name)
        return {"@type": render.SERVICE_TYPE, **render.render_service(record, "")}

    # Replaced revisions stop in the background: their last requests may take as long as the request timeout.

    def _retire_replaced(self, name: str) -> None:
        for revision in revisions_of(self._store, name):
            full_name = revision["name"]
            if revision["state"] == "retiring" and full_name not in self._retiring:
                task = asyncio.create_task(self._retire(revision), name=f"retire {full_name}")
                self._retiring[full_name] = task
                task.add_done_callback(lambda _, key=full_name: self._retiring.pop(key, None))

    async def _retire(self, revision: Document) -> None:
        try:
            await self._data_plane.retire(build_workload(revision, {}))
        except Exception:
            _log.exception("could not retire %s; the next change or restart tries again", revision["name"])
            return
        now = self._now()
        retired = {**revision, "state": "retired", "updateTime": now}
        conditions.set_revision_condition(retired, now, conditions.SUCCEEDED, "Revision retired.", conditions.RETIRED)
        self._store.put(REVISION, revision["name"], retired)

    # Reading.

    async def _find_outcome(self, metadata: Document) -> Document:
        """Find the result of an operation whose process was killed between its last step and its last write."""
        record = self._store.get(SERVICE, metadata["name"])
        is_same_service = record is not None and record["uid"] == metadata["uid"]
        if not is_same_service and metadata.get("deleteTime"):
            return metadata
        if record is not None and is_same_service and str(record["generation"]) == metadata["generation"]:
            if record["terminalCondition"]["state"] == conditions.SUCCEEDED:
                return self._response(record)
            raise GoogleError("FAILED_PRECONDITION", record["terminalCondition"].get("message", ""))
        raise _superseded_error(metadata["name"], int(metadata["generation"]))

    def _is_routed(self, revision_name: str) -> bool:
        routed = self._routed.get(revision_name.partition("/revisions/")[0])
        return routed is not None and routed.name == short_name(revision_name)

    def _current_record(self, name: str, uid: str, generation: int) -> Document:
        record = self._store.get(SERVICE, name)
        if record is None or record["uid"] != uid or record["generation"] != generation or record.get("deleting"):
            raise Superseded
        return record

    def _find_service(self, name: str) -> Document:
        record = self._store.get(SERVICE, name)
        if record is None:
            raise Superseded
        return record

    def _find_revision(self, name: str) -> Document:
        record = self._store.get(REVISION, name)
        if record is None:
            raise Superseded
        return record

    def _response(self, record: Document) -> Document:
        return {
            "@type": render.SERVICE_TYPE,
            **render.render_service(record, find_address(self._data_plane, record["name"])),
        }


def mark_retiring(revision: Document, now: str) -> None:
    """Mark *revision* as retiring; `Rollouts` stops it."""
    revision["state"] = "retiring"
    revision["updateTime"] = now
    conditions.set_revision_condition(
        revision, now, conditions.RECONCILING, "Retiring Revision.", {"revisionReason": "RETIRING"}
    )


def _superseded_error(service: str, generation: int) -> GoogleError:
    return GoogleError(
        "ABORTED",
        f"Generation {generation} of service '{short_name(service)}' was superseded by a newer change before it was "
        "ready; see the newest generation.",
    )


def _consume_exception(task: asyncio.Task[Document]) -> None:
    """Mark the task's exception as retrieved, because possibly nothing awaits the task."""
    if not task.cancelled():
        task.exception()


def find_address(data_plane: contract.DataPlane, service: str) -> str:
    """The address of *service* (its full name); "" if it has none because another program uses its port."""
    try:
        return data_plane.address(service)
    except contract.RolloutError:
        return ""
