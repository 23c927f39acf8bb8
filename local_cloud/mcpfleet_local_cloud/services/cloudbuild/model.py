"""Builds: what was asked for, what came of it, and its log. A build outlives no restart of the cloud."""

import asyncio
import base64
import logging
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, not_found
from mcpfleet_local_cloud.services.cloudbuild.validation import Order, Task
from mcpfleet_local_cloud.services.cloudbuild.worker import Step, StepError, Worker
from mcpfleet_local_cloud.services.logging.model import Entries
from mcpfleet_local_cloud.services.storage.model import Storage
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "build"
ENDED: Final = frozenset({"SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"})
_KEPT: Final = 100
"""So many builds are remembered; Google forgets none."""
_LARGEST: Final = 2 * 2**30
_log = logging.getLogger(__name__)

Allows = Callable[[str, str, str], bool]
"""Whether an account has a permission on a resource."""


class _FailedError(Exception):
    """A build ended; *kind* is the `FailureInfo.type`."""

    def __init__(self, kind: str, detail: str, *, step: int | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.step = step


@dataclass(frozen=True)
class _Place:
    """Where a build's source is unpacked, and how it is reported."""

    folder: Path
    say: Callable[[str], None]


class Builds:
    """Every build of this cloud.

    Args:
        store: Where records are kept.
        storage: Where sources are.
        entries: Where logs go.
        worker: Runs the steps.
        allows: Knows what an account may do.
        token: Makes an access token for an account.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        storage: Storage,
        entries: Entries,
        worker: Worker,
        *,
        allows: Allows,
        token: Callable[[str], str],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._storage = storage
        self._entries = entries
        self._worker = worker
        self._allows = allows
        self._token = token
        self._clock = clock
        self._running: dict[str, asyncio.Task[None]] = {}

    def start(self, project: Document, location: str, body: Document, order: Order, build_id: str) -> Document:
        """Begin a build; it is queued when this returns."""
        parent = f"projects/{project['projectId']}/locations/{location}"
        name = f"{parent}/builds/{build_id}"
        record: Document = {
            **body,
            "name": f"projects/{project['projectNumber']}/locations/{location}/builds/{build_id}",
            "id": build_id,
            "projectId": project["projectId"],
            "status": "QUEUED",
            "createTime": self._now(),
            "queueTtl": body.get("queueTtl", "3600s"),
            "timeout": f"{order.timeout:g}s",
            "logUrl": self._entries.url(build_id),
            "artifacts": {"images": list(order.images)},
        }
        self._store.put(KIND, name, record)
        self.forget_ended(parent, kept=_KEPT)
        task = asyncio.create_task(self._finish(name, order), name=name)
        self._running[name] = task
        task.add_done_callback(lambda _: self._running.pop(name, None))
        return record

    def get(self, name: str) -> Document:
        """The build.

        Raises:
            GoogleError: NOT_FOUND.
        """
        found = self._store.get(KIND, name)
        if found is None:
            raise not_found(name)
        return found

    def list(self, parent: str) -> list[Document]:
        """The builds below *parent*, the newest first."""
        found = [one for _, one in self._store.list(KIND, f"{parent}/builds/")]
        return sorted(found, key=lambda one: str(one["createTime"]), reverse=True)

    async def cancel(self, name: str) -> Document:
        """End a build.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION: it has ended already.
        """
        found = self.get(name)
        task = self._running.get(name)
        if found["status"] in ENDED or task is None:
            raise GoogleError("FAILED_PRECONDITION", "cannot cancel a build that has already finished")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self.get(name)

    def operation(self, name: str) -> Document:
        """The build as a long-running operation; *name* is the build's.

        Raises:
            GoogleError: NOT_FOUND.
        """
        return operation_of(name, self.get(name))

    def recover(self) -> None:
        """Take up what an earlier process left: its builds are lost."""
        for name, record in self._store.list(KIND):
            if record["status"] not in ENDED and name not in self._running:
                detail = "the local cloud was stopped while it built"
                self._ended(name, "INTERNAL_ERROR", {"statusDetail": detail})

    async def close(self) -> None:
        """Stop what runs."""
        tasks = [*self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(self, name: str, order: Order) -> None:
        build_id = name.rpartition("/")[2]
        may_log = order.logs and self._may(order.account, "logging.logEntries.create", name)
        say = self._entries.writer(name.split("/")[1], build_id) if may_log else _Silent()
        if order.logs and not may_log:
            self._change(name, {"warnings": [{"priority": "WARNING", "text": _NO_LOGS.format(order.account)}]})
        try:
            try:
                with tempfile.TemporaryDirectory(prefix="mcpfleet-build-") as scratch:
                    place = _Place(Path(scratch), say)
                    async with asyncio.timeout(order.timeout):
                        results = await self._built(name, order, place)
            finally:
                # Before the end is told: whoever deploys the image then fetches it under the same names.
                await asyncio.shield(self._worker.forget(order.images))
            say.end("DONE")
            self._ended(name, "SUCCESS", {"results": results})
        except _FailedError as failed:
            say.end(f"ERROR: {failed}")
            self._ended(name, "FAILURE", _failure(self.get(name), failed))
        except TimeoutError:
            say.end("TIMEOUT")
            say.end("ERROR: context deadline exceeded")
            self._ended(
                name, "TIMEOUT", {"statusDetail": "build step exceeded its timeout", **_timed_out(self.get(name))}
            )
        except asyncio.CancelledError:
            say.end("CANCELLED")
            say.end("ERROR: context canceled")
            self._ended(name, "CANCELLED", {})
            raise
        except Exception as broken:
            _log.exception("build %s broke", name)
            self._ended(name, "INTERNAL_ERROR", {"statusDetail": f"{type(broken).__name__}: {broken}"})

    async def _built(self, name: str, order: Order, place: _Place) -> Document:
        say = place.say
        say(f'starting build "{name.rpartition("/")[2]}"')
        say("")
        self._change(name, {"status": "WORKING", "startTime": self._now()})
        say("FETCHSOURCE")
        if order.source is not None:
            await asyncio.to_thread(self._fetched, order, place)
        say("BUILD")
        for index, task in enumerate(order.steps):
            _refuse_ways_out(place.folder, task)
            await self._stepped(
                name,
                index,
                Step(arguments=task.arguments, environment=task.environment, folder=place.folder / task.folder),
                say,
                len(order.steps),
            )
        say("PUSH") if order.images else None
        pushed: list[Document] = []
        for image in order.images:
            say(f"Pushing {image}")
            try:
                digest = await self._worker.push(image, self._token(order.account), say)
            except StepError as failed:
                kind = "PUSH_NOT_AUTHORIZED" if failed.denied else "PUSH_FAILED"
                raise _FailedError(kind, f"failed to push {image}: {failed}") from failed
            pushed.append({"name": image, "digest": digest})
        return {
            "images": pushed,
            "buildStepImages": [""] * len(order.steps),
            "buildStepOutputs": [""] * len(order.steps),
        }

    async def _stepped(self, name: str, index: int, step: Step, say: Callable[[str], None], count: int) -> None:
        record = self.get(name)
        said = record["steps"][index]
        title = f'Step #{index} - "{said["id"]}"' if said.get("id") else f"Step #{index}"
        prefix = f"{title}: " if count > 1 or said.get("id") else ""
        say(f"Starting {title}")
        self._step(name, index, "WORKING")
        try:
            await self._worker.run(step, lambda line: say(f"{prefix}{line}"))
        except StepError as failed:
            detail = f'build step {index} "{said["name"]}" failed: step exited with non-zero status: {failed.code}'
            raise _FailedError("USER_BUILD_STEP", detail, step=index) from failed
        self._step(name, index, "SUCCESS")
        say(f"Finished {title}")

    def _fetched(self, order: Order, place: _Place) -> None:
        assert order.source is not None  # noqa: S101 - asked before
        bucket, name, generation = order.source
        shown = f"gs://{bucket}/{name}#{generation}" if generation else f"gs://{bucket}/{name}"
        place.say(f"Fetching storage object: {shown}")
        try:
            allowed = self._allows(order.account, "storage.objects.get", self._storage.resource(bucket))
        except GoogleError as missing:
            raise _FailedError("FETCH_SOURCE_FAILED", f"failed to fetch {shown}: {missing.message}") from missing
        if not allowed:
            detail = (
                f"{order.account} does not have storage.objects.get access to the Google Cloud Storage object. "
                "Permission 'storage.objects.get' denied on resource (or it may not exist)."
            )
            raise _FailedError("FETCH_SOURCE_FAILED", f"failed to fetch {shown}: 403: {detail}")
        try:
            path, document = self._storage.object(bucket, name)
        except GoogleError as missing:
            raise _FailedError("FETCH_SOURCE_FAILED", f"failed to fetch {shown}: {missing.message}") from missing
        if generation not in ("", document["generation"]):
            raise _FailedError("FETCH_SOURCE_FAILED", f"failed to fetch {shown}: No such object")
        try:
            with tarfile.open(path, "r:gz") as archive:
                _unpack(archive, place.folder)
        except (tarfile.TarError, OSError, EOFError, ValueError) as broken:
            raise _FailedError("FETCH_SOURCE_FAILED", f"failed to unpack {shown}: {broken}") from broken

    def _may(self, account: str, permission: str, name: str) -> bool:
        return self._allows(account, permission, f"projects/{name.split('/')[1]}")

    def _step(self, name: str, index: int, status: str) -> None:
        steps = self.get(name)["steps"]
        steps[index]["status"] = status
        self._change(name, {"steps": steps})

    def _change(self, name: str, fields: Document) -> None:
        found = self._store.get(KIND, name)
        if found is not None:
            self._store.put(KIND, name, {**found, **fields})

    def _ended(self, name: str, status: str, fields: Document) -> None:
        self._change(name, {**fields, "status": status, "finishTime": self._now()})

    def forget_ended(self, parent: str = "", *, kept: int = 0) -> None:
        """Forget the builds below *parent*, or everywhere, that have ended, with their logs; not the *kept* newest."""
        found = self._store.list(KIND, f"{parent}/builds/" if parent else "")
        for name, old in sorted(found, key=lambda one: str(one[1].get("createTime")), reverse=True)[kept:]:
            if old["status"] in ENDED:
                self._store.delete(KIND, name)
                self._entries.forget(str(old["id"]))

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock())


_NO_LOGS: Final = (
    "The service account running this build {} does not have permission to write logs to Cloud Logging. To fix this, "
    "grant the Logs Writer (roles/logging.logWriter) role to the service account."
)


def new_id() -> str:
    """A build's id."""
    return str(uuid4())


def operation_of(name: str, build: Document) -> Document:
    """A build as a long-running operation."""
    parent, _, build_id = name.rpartition("/builds/")
    handle = base64.urlsafe_b64encode(build_id.encode()).decode().rstrip("=")
    kind = "type.googleapis.com/google.devtools.cloudbuild.v1"
    made: Document = {
        "name": f"{parent}/operations/{handle}",
        "metadata": {"@type": f"{kind}.BuildOperationMetadata", "build": build},
    }
    if build["status"] in ENDED:
        made["done"] = True
        if build["status"] == "SUCCESS":
            made["response"] = {"@type": f"{kind}.Build", **build}
        else:
            code = {"CANCELLED": 1, "TIMEOUT": 4, "INTERNAL_ERROR": 13}.get(str(build["status"]), 2)
            why: Any = build.get("failureInfo", {}).get("detail") or build.get("statusDetail") or build["status"]
            made["error"] = {"code": code, "message": f"Build failed; check build logs for details: {why}"}
    return made


def build_id_of(operation: str) -> str:
    """The build of an operation's id; empty where it is none.

    Google's ids of operations are the build's id in base64.
    """
    try:
        return base64.urlsafe_b64decode(operation + "=" * (-len(operation) % 4)).decode()
    except ValueError:
        return ""


def _refuse_ways_out(workspace: Path, task: Task) -> None:
    """Refuse links out of the workspace where docker itself would follow them: it can read all of this machine."""
    border = workspace.resolve()
    for name in ("", *task.reads):
        place = workspace / task.folder / name
        try:
            found = place.resolve()
            ours = found.is_relative_to(border) and (not found.exists() or found.is_dir() or found.is_file())
        except (OSError, RuntimeError):  # links in a ring
            ours = False
        if not ours:
            raise _FailedError("USER_BUILD_STEP", f"{place.relative_to(workspace)} leads out of the workspace")


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Everything in *archive*, below *folder* and nowhere else."""
    size = 0
    for entry in archive:
        size += entry.size
        if size > _LARGEST:
            raise ValueError(f"it holds more than {_LARGEST} bytes")
        # Links may lead out of the folder, as Docker's own contexts have them: the builder never follows one there, and
        # where the docker command would, `_refuse_ways_out` stops it.
        if entry.issym() and not Path(entry.name).is_absolute() and ".." not in Path(entry.name).parts:
            target = folder / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.parent.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{entry.name} is outside of it")
            target.symlink_to(entry.linkname)
        else:
            archive.extract(entry, folder, filter="data")


def _failure(build: Document, failed: _FailedError) -> Document:
    made: Document = {"failureInfo": {"type": failed.kind, "detail": str(failed)}, "statusDetail": str(failed)}
    if failed.step is not None:
        steps = build["steps"]
        steps[failed.step]["status"] = "FAILURE"
        made["steps"] = steps
    return made


def _timed_out(build: Document) -> Document:
    steps = build["steps"]
    for step in steps:
        if step.get("status") == "WORKING":
            step["status"] = "TIMEOUT"
    return {"steps": steps}


class _Silent:
    """The log of a build whose account may not write one."""

    def __call__(self, _line: str) -> None:
        pass

    end = __call__
