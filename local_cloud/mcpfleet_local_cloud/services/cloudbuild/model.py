"""Builds: they run as tasks of this process, so a restart of the cloud ends them."""

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
from mcpfleet_local_cloud.services.cloudbuild.validation import BuildRequest, StepRequest
from mcpfleet_local_cloud.services.cloudbuild.worker import Step, StepError, Worker
from mcpfleet_local_cloud.services.logging.model import LogEntries
from mcpfleet_local_cloud.services.storage.model import Storage
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "build"
FINAL_STATES: Final = frozenset({"SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"})
_MAX_BUILDS: Final = 100
"""The largest number of stored builds; Google keeps all."""
_MAX_SOURCE_BYTES: Final = 2 * 2**30
_log = logging.getLogger(__name__)

Allows = Callable[[str, str, str], bool]
"""Whether an account has a permission on a resource."""


class _BuildFailedError(Exception):
    """A build failed; *kind* is the `FailureInfo.type`."""

    def __init__(self, kind: str, detail: str, *, step: int | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.step = step


@dataclass(frozen=True)
class _Workspace:
    """The folder with a build's source, and the function that writes its log."""

    folder: Path
    log: Callable[[str], None]


class Builds:
    """All builds of this cloud.

    Args:
        store: Stores the records.
        storage: Contains the sources.
        entries: Stores the logs.
        worker: Runs the steps.
        allows: Whether an account has a permission on a resource.
        token: Creates an access token for an account.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        storage: Storage,
        entries: LogEntries,
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

    def start(
        self, project: Document, location: str, body: Document, build_request: BuildRequest, build_id: str
    ) -> Document:
        """Start a build; it is queued when this returns."""
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
            "timeout": f"{build_request.timeout:g}s",
            "logUrl": self._entries.url(build_id),
            "artifacts": {"images": list(build_request.images)},
        }
        self._store.put(KIND, name, record)
        self.forget_finished(parent, keep=_MAX_BUILDS)
        task = asyncio.create_task(self._finish(name, build_request), name=name)
        self._running[name] = task
        task.add_done_callback(lambda _: self._running.pop(name, None))
        return record

    def get(self, name: str) -> Document:
        """Return the build.

        Raises:
            GoogleError: NOT_FOUND.
        """
        build = self._store.get(KIND, name)
        if build is None:
            raise not_found(name)
        return build

    def list(self, parent: str) -> list[Document]:
        """List the builds below *parent*, the newest first."""
        builds = [build for _, build in self._store.list(KIND, f"{parent}/builds/")]
        return sorted(builds, key=lambda build: str(build["createTime"]), reverse=True)

    async def cancel(self, name: str) -> Document:
        """Cancel a build.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION: the build has already ended.
        """
        build = self.get(name)
        task = self._running.get(name)
        if build["status"] in FINAL_STATES or task is None:
            raise GoogleError("FAILED_PRECONDITION", "cannot cancel a build that has already finished")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self.get(name)

    def operation(self, name: str) -> Document:
        """Return the build with the full name *name* as a long-running operation.

        Raises:
            GoogleError: NOT_FOUND.
        """
        return operation_of(name, self.get(name))

    def recover(self) -> None:
        """Mark the builds of an earlier process as failed."""
        for name, record in self._store.list(KIND):
            if record["status"] not in FINAL_STATES and name not in self._running:
                detail = "the local cloud was stopped during the build"
                self._end(name, "INTERNAL_ERROR", {"statusDetail": detail})

    async def close(self) -> None:
        """Cancel all running builds."""
        tasks = [*self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(self, name: str, build_request: BuildRequest) -> None:
        build_id = name.rpartition("/")[2]
        is_logged = build_request.logs and self._has_permission(
            build_request.account, "logging.logEntries.create", name
        )
        log = self._entries.writer(name.split("/")[1], build_id) if is_logged else _NoLog()
        if build_request.logs and not is_logged:
            self._change(name, {"warnings": [{"priority": "WARNING", "text": _NO_LOGS.format(build_request.account)}]})
        try:
            try:
                with tempfile.TemporaryDirectory(prefix="mcpfleet-build-") as scratch:
                    workspace = _Workspace(Path(scratch), log)
                    async with asyncio.timeout(build_request.timeout):
                        results = await self._build(name, build_request, workspace)
            finally:
                # Before the build is reported as done: a deployment then pulls the image under the same names.
                await asyncio.shield(self._worker.remove(build_request.images))
            log.end("DONE")
            self._end(name, "SUCCESS", {"results": results})
        except _BuildFailedError as failed:
            log.end(f"ERROR: {failed}")
            self._end(name, "FAILURE", _failure(self.get(name), failed))
        except TimeoutError:
            log.end("TIMEOUT")
            log.end("ERROR: context deadline exceeded")
            self._end(
                name, "TIMEOUT", {"statusDetail": "build step exceeded its timeout", **_mark_timed_out(self.get(name))}
            )
        except asyncio.CancelledError:
            log.end("CANCELLED")
            log.end("ERROR: context canceled")
            self._end(name, "CANCELLED", {})
            raise
        except Exception as error:
            _log.exception("build %s failed", name)
            self._end(name, "INTERNAL_ERROR", {"statusDetail": f"{type(error).__name__}: {error}"})

    async def _build(self, name: str, build_request: BuildRequest, workspace: _Workspace) -> Document:
        log = workspace.log
        log(f'starting build "{name.rpartition("/")[2]}"')
        log("")
        self._change(name, {"status": "WORKING", "startTime": self._now()})
        log("FETCHSOURCE")
        if build_request.source is not None:
            await asyncio.to_thread(self._fetch_source, build_request, workspace)
        log("BUILD")
        for index, step_request in enumerate(build_request.steps):
            _refuse_links_out(workspace.folder, step_request)
            await self._run_step(
                name,
                index,
                Step(
                    arguments=step_request.arguments,
                    environment=step_request.environment,
                    folder=workspace.folder / step_request.folder,
                ),
                log,
                len(build_request.steps),
            )
        log("PUSH") if build_request.images else None
        pushed: list[Document] = []
        for image in build_request.images:
            log(f"Pushing {image}")
            try:
                digest = await self._worker.push(image, self._token(build_request.account), log)
            except StepError as failed:
                kind = "PUSH_NOT_AUTHORIZED" if failed.denied else "PUSH_FAILED"
                raise _BuildFailedError(kind, f"failed to push {image}: {failed}") from failed
            pushed.append({"name": image, "digest": digest})
        return {
            "images": pushed,
            "buildStepImages": [""] * len(build_request.steps),
            "buildStepOutputs": [""] * len(build_request.steps),
        }

    async def _run_step(self, name: str, index: int, step: Step, log: Callable[[str], None], count: int) -> None:
        record = self.get(name)
        step_document = record["steps"][index]
        title = f'Step #{index} - "{step_document["id"]}"' if step_document.get("id") else f"Step #{index}"
        prefix = f"{title}: " if count > 1 or step_document.get("id") else ""
        log(f"Starting {title}")
        self._set_step_status(name, index, "WORKING")
        try:
            await self._worker.run(step, lambda line: log(f"{prefix}{line}"))
        except StepError as failed:
            detail = (
                f'build step {index} "{step_document["name"]}" failed: step exited with non-zero status: {failed.code}'
            )
            raise _BuildFailedError("USER_BUILD_STEP", detail, step=index) from failed
        self._set_step_status(name, index, "SUCCESS")
        log(f"Finished {title}")

    def _fetch_source(self, build_request: BuildRequest, workspace: _Workspace) -> None:
        assert build_request.source is not None  # noqa: S101 - checked by the caller
        bucket, name, generation = build_request.source
        url = f"gs://{bucket}/{name}#{generation}" if generation else f"gs://{bucket}/{name}"
        workspace.log(f"Fetching storage object: {url}")
        try:
            allowed = self._allows(build_request.account, "storage.objects.get", self._storage.resource(bucket))
        except GoogleError as missing:
            raise _BuildFailedError("FETCH_SOURCE_FAILED", f"failed to fetch {url}: {missing.message}") from missing
        if not allowed:
            detail = (
                f"{build_request.account} does not have storage.objects.get access to the Google Cloud Storage object. "
                "Permission 'storage.objects.get' denied on resource (or it may not exist)."
            )
            raise _BuildFailedError("FETCH_SOURCE_FAILED", f"failed to fetch {url}: 403: {detail}")
        try:
            path, document = self._storage.object(bucket, name)
        except GoogleError as missing:
            raise _BuildFailedError("FETCH_SOURCE_FAILED", f"failed to fetch {url}: {missing.message}") from missing
        if generation not in ("", document["generation"]):
            raise _BuildFailedError("FETCH_SOURCE_FAILED", f"failed to fetch {url}: No such object")
        try:
            with tarfile.open(path, "r:gz") as archive:
                _unpack(archive, workspace.folder)
        except (tarfile.TarError, OSError, EOFError, ValueError) as broken:
            raise _BuildFailedError("FETCH_SOURCE_FAILED", f"failed to unpack {url}: {broken}") from broken

    def _has_permission(self, account: str, permission: str, name: str) -> bool:
        return self._allows(account, permission, f"projects/{name.split('/')[1]}")

    def _set_step_status(self, name: str, index: int, status: str) -> None:
        steps = self.get(name)["steps"]
        steps[index]["status"] = status
        self._change(name, {"steps": steps})

    def _change(self, name: str, fields: Document) -> None:
        build = self._store.get(KIND, name)
        if build is not None:
            self._store.put(KIND, name, {**build, **fields})

    def _end(self, name: str, status: str, fields: Document) -> None:
        self._change(name, {**fields, "status": status, "finishTime": self._now()})

    def forget_finished(self, parent: str = "", *, keep: int = 0) -> None:
        """Delete finished builds below *parent* (or all) with their logs, except the *keep* newest."""
        builds = self._store.list(KIND, f"{parent}/builds/" if parent else "")
        for name, old in sorted(builds, key=lambda entry: str(entry[1].get("createTime")), reverse=True)[keep:]:
            if old["status"] in FINAL_STATES:
                self._store.delete(KIND, name)
                self._entries.forget(str(old["id"]))

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock())


_NO_LOGS: Final = (
    "The service account running this build {} does not have permission to write logs to Cloud Logging. To fix this, "
    "grant the Logs Writer (roles/logging.logWriter) role to the service account."
)


def new_id() -> str:
    """Create a build's id."""
    return str(uuid4())


def operation_of(name: str, build: Document) -> Document:
    """Render a build as a long-running operation."""
    parent, _, build_id = name.rpartition("/builds/")
    operation_id = base64.urlsafe_b64encode(build_id.encode()).decode().rstrip("=")
    type_prefix = "type.googleapis.com/google.devtools.cloudbuild.v1"
    operation: Document = {
        "name": f"{parent}/operations/{operation_id}",
        "metadata": {"@type": f"{type_prefix}.BuildOperationMetadata", "build": build},
    }
    if build["status"] in FINAL_STATES:
        operation["done"] = True
        if build["status"] == "SUCCESS":
            operation["response"] = {"@type": f"{type_prefix}.Build", **build}
        else:
            code = {"CANCELLED": 1, "TIMEOUT": 4, "INTERNAL_ERROR": 13}.get(str(build["status"]), 2)
            reason: Any = build.get("failureInfo", {}).get("detail") or build.get("statusDetail") or build["status"]
            operation["error"] = {"code": code, "message": f"Build failed; check build logs for details: {reason}"}
    return operation


def build_id_of(operation: str) -> str:
    """The build id for an operation's id; empty if that is invalid.

    An operation's id is the build's id in base64, as on Google.
    """
    try:
        return base64.urlsafe_b64decode(operation + "=" * (-len(operation) % 4)).decode()
    except ValueError:
        return ""


def _refuse_links_out(workspace: Path, step_request: StepRequest) -> None:
    """Refuse links out of the workspace that docker itself would follow: docker can read every file of this machine."""
    root = workspace.resolve()
    for name in ("", *step_request.paths_read):
        path = workspace / step_request.folder / name
        try:
            resolved = path.resolve()
            is_inside = resolved.is_relative_to(root) and (
                not resolved.exists() or resolved.is_dir() or resolved.is_file()
            )
        except (OSError, RuntimeError):  # a loop of links
            is_inside = False
        if not is_inside:
            raise _BuildFailedError("USER_BUILD_STEP", f"{path.relative_to(workspace)} is a link out of the workspace")


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Extract *archive* into *folder*, and write nothing outside of it."""
    size = 0
    for entry in archive:
        size += entry.size
        if size > _MAX_SOURCE_BYTES:
            raise ValueError(f"it has more than {_MAX_SOURCE_BYTES} bytes")
        # Links may point out of the folder, as in Docker's own contexts: the builder never follows them, and where the
        # docker command would, `_refuse_links_out` stops it.
        if entry.issym() and not Path(entry.name).is_absolute() and ".." not in Path(entry.name).parts:
            target = folder / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.parent.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{entry.name} is outside of it")
            target.symlink_to(entry.linkname)
        else:
            archive.extract(entry, folder, filter="data")


def _failure(build: Document, error: _BuildFailedError) -> Document:
    fields: Document = {"failureInfo": {"type": error.kind, "detail": str(error)}, "statusDetail": str(error)}
    if error.step is not None:
        steps = build["steps"]
        steps[error.step]["status"] = "FAILURE"
        fields["steps"] = steps
    return fields


def _mark_timed_out(build: Document) -> Document:
    steps = build["steps"]
    for step in steps:
        if step.get("status") == "WORKING":
            step["status"] = "TIMEOUT"
    return {"steps": steps}


class _NoLog:
    """The log of a build whose account has no permission to write logs."""

    def __call__(self, _line: str) -> None:
        pass

    end = __call__
