"""Runs a build on Cloud Build: uploads the source, shows the log, and returns the image's digest.

The request is the `Build` message of Cloud Build's API (cloudbuild.googleapis.com v1, projects.builds).
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pulumi_mcpfleet.cloud_build.archive import CONTEXT, ArchiveSource, content_hash, write_archive
from pulumi_mcpfleet.cloud_build.errors import BuildError, CancelledError
from pulumi_mcpfleet.cloud_build.google import GoogleApis, GoogleError

STEP: Final = "image"
"""The id of the build's only step; failure messages name it."""

DOCKER: Final = "gcr.io/cloud-builders/docker"
"""Google's builder image that runs docker."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """An image to build, and how.

    Attributes:
        project: The project of the build.
        location: Its region.
        bucket: The bucket for its source.
        account: The email address of the service account that runs the build.
        image: The image, without tag or digest.
        source: The source.
        build_args: Values of the Dockerfile's ARGs.
        labels: Labels of the image.
        platform: Docker's platform, such as `linux/amd64`; `native` for that of the building machine.
        machine: The machine type; empty for Cloud Build's default.
        timeout: The build's time limit in seconds.
        stage: The stage of the Dockerfile that becomes the image; empty for the last one.
    """

    project: str
    location: str
    bucket: str
    account: str
    image: str
    source: ArchiveSource
    build_args: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    platform: str = "linux/amd64"
    machine: str = ""
    timeout: int = 1200
    stage: str = ""

    @property
    def tag(self) -> str:
        """The image with the tag `latest`. It shows people the newest version; deployments use the digest."""
        return f"{self.image}:latest"


def build_request(job: Job, object_name: str, generation: str) -> dict[str, Any]:
    """Return the body of the request that starts the build of *job*.

    Args:
        job: What to build.
        object_name: The object in the bucket that has the source.
        generation: The object's generation.
    """
    flags = [
        f"--tag={job.tag}",
        f"--file={job.source.archived_dockerfile}",
        *([] if job.platform == "native" else [f"--platform={job.platform}"]),
        *([f"--target={job.stage}"] if job.stage else []),
        *(f"--build-arg={key}={value}" for key, value in sorted(job.build_args.items())),
        *(f"--label={key}={value}" for key, value in sorted(job.labels.items())),
    ]
    options: dict[str, Any] = {
        # A build with a service account of its own must name a destination for its log. With Cloud Logging, the
        # account needs no permission to write to a bucket.
        "logging": "CLOUD_LOGGING_ONLY",
        **({"machineType": job.machine} if job.machine else {}),
    }
    return {
        "source": {"storageSource": {"bucket": job.bucket, "object": object_name, "generation": generation}},
        "steps": [
            {
                "id": STEP,
                "name": DOCKER,
                "args": [_escape_variables(argument) for argument in ("build", *flags, CONTEXT)],
                "env": ["DOCKER_BUILDKIT=1"],
            }
        ],
        "images": [job.tag],
        "serviceAccount": f"projects/{job.project}/serviceAccounts/{job.account}",
        "timeout": f"{job.timeout}s",
        "tags": ["mcpfleet"],
        "options": options,
    }


def _escape_variables(text: str) -> str:
    """Escape *text* so that Cloud Build substitutes no variable in it."""
    return text.replace("$", "$$")


_TERMINAL_STATUSES: Final = frozenset({"SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"})
_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.5, 3.0
"""Seconds between two requests for a build's state, at first and later. Cloud Logging allows 60 reads a minute."""
_LINES_SHOWN: Final = 20
_LATE_LOG_POLLS: Final = 4
"""How often the rest of a failed build's log is requested: it arrives some seconds after the build's end."""
_MISSING_ROLE_FAILURES: Final = frozenset({"FETCH_SOURCE_FAILED", "PUSH_NOT_AUTHORIZED"})
"""Failures while a new account's roles are not yet effective (IAM: "typically 2 minutes, potentially 7")."""
_RETRY_SECONDS: Final = 30.0
_STEP_PREFIX: Final = re.compile(r'Step #\d+(?: - "[^"]*")?: ')
"""The prefix that Cloud Build gives each line of a step's log."""

Log = Callable[[str], None]
Wait = Callable[[float], None]


@dataclass(frozen=True)
class BuiltImage:
    """An image that Cloud Build has built.

    Attributes:
        digest: Its digest in the registry.
        build: The id of the build.
        log_url: The URL of the build's log.
    """

    digest: str
    build: str
    log_url: str


class BuildRunner:
    """Runs the builds of one Pulumi operation.

    Args:
        google: Google's APIs.
        log: Shows a message of one or more lines to the user.
        wait: Waits for a number of seconds, or raises `CancelledError`.
    """

    def __init__(self, google: GoogleApis, log: Log, wait: Wait) -> None:
        self._google = google
        self._log = log
        self._wait = wait

    def run(self, job: Job, expected: str) -> BuiltImage:
        """Build the image of *job*.

        Args:
            job: What to build.
            expected: The hash of its content when the update was planned (see `content_hash`).

        Raises:
            CancelledError: The user stopped the update; the build was cancelled.
            BuildError: The build failed or was refused, or the source has changed since the update was planned.
        """
        object_name, generation, is_new = self._upload(job, expected)
        try:
            build = self._run_and_retry(job, build_request(job, object_name, generation))
        except BuildError:
            if is_new:
                self._google.delete(job.bucket, object_name, generation)
            raise
        images: list[dict[str, Any]] = build.get("results", {}).get("images") or []
        digest = next((str(image["digest"]) for image in images if image.get("digest")), "")
        if not digest:
            raise BuildError(f"Cloud Build reports no digest for {job.tag}; run the update again")
        return BuiltImage(digest, str(build["id"]), str(build.get("logUrl", "")))

    def _run_and_retry(self, job: Job, request: dict[str, Any]) -> dict[str, Any]:
        result = self._run_once(job, request)
        if _failure_type(result) in _MISSING_ROLE_FAILURES:
            self._log(
                f"the account {job.account} has no access yet ({_failure_detail(result)}); new roles can take a few"
                f" minutes to take effect: trying once more in {_RETRY_SECONDS:.0f} s"
            )
            self._wait(_RETRY_SECONDS)
            result = self._run_once(job, request)
        if result["status"] != "SUCCESS":
            raise BuildError(_failure_message(job, result, result["log"]))
        return result

    def _upload(self, job: Job, expected: str) -> tuple[str, str, bool]:
        with tempfile.TemporaryDirectory(prefix="mcpfleet-source-") as scratch:
            file = Path(scratch) / "source.tar.gz"
            with file.open("wb") as target:
                digest = write_archive(job.source, target)
            if content_hash(digest, job.build_args, job.labels, job.stage) != expected:
                raise BuildError(f"{job.source.folder} has changed since the update was planned; run the update again")
            name = f"source/{digest}.tar.gz"
            self._log(f"source: {file.stat().st_size / 1024:.0f} KiB to gs://{job.bucket}/{name}")
            try:
                return name, *self._google.upload(job.bucket, name, file)
            except GoogleError as refusal:
                advice = (
                    f"; whoever deploys needs roles/storage.objectUser on gs://{job.bucket}"
                    if refusal.code == 403
                    else ""
                )
                raise BuildError(f"the source of {job.tag} can't be uploaded: {refusal}{advice}") from None

    def _run_once(self, job: Job, request: dict[str, Any]) -> dict[str, Any]:
        """Start a build and wait for its end. Return it with the last lines of its log under the key `log`."""
        parent = f"projects/{job.project}/locations/{job.location}"
        try:
            started = self._google.call("cloudbuild", "POST", f"{parent}/builds", request)["metadata"]["build"]
        except GoogleError as refusal:
            raise BuildError(
                f"Cloud Build refuses to build {job.tag}: {refusal}{_permission_advice(job, refusal)}"
            ) from None
        path = f"{parent}/builds/{started['id']}"
        self._log(f"build {started['id']}: {started.get('logUrl', 'no log yet')}")
        log = _LogReader(self._google, job.project, str(started["id"]), self._log)
        try:
            build, pause = started, _FIRST_POLL_SECONDS
            while build["status"] not in _TERMINAL_STATUSES:
                self._wait(pause)
                pause = min(pause * 1.5, _LAST_POLL_SECONDS)
                build = self._google.call("cloudbuild", "GET", path)
                log.show_new_lines()
            for _ in range(_LATE_LOG_POLLS if build["status"] != "SUCCESS" else 0):
                if log.is_complete:
                    break
                self._wait(_LAST_POLL_SECONDS)
                log.show_new_lines()
        except CancelledError:
            raise CancelledError(f"the update was stopped{self._cancel(job, path)}") from None
        return {**build, "log": log.last_lines}

    def _cancel(self, job: Job, path: str) -> str:
        """Cancel the build at *path*, and describe the outcome. Tries once: the engine ends this process in seconds."""
        build = path.rpartition("/")[2]
        try:
            self._google.call("cloudbuild", "POST", f"{path}:cancel", {})
        except BuildError as refusal:
            reason = "Cloud Build did not accept the request" if isinstance(refusal, CancelledError) else refusal
            return (
                f"; build {build} of {job.tag} could not be cancelled ({reason}). If it still runs, end it: gcloud"
                f" builds cancel {build} --project {job.project} --region {job.location}"
            )
        return f", and with it build {build} of {job.tag}"


class _LogReader:
    """A build's log in Cloud Logging, read while the build runs."""

    def __init__(self, google: GoogleApis, project: str, build: str, log: Log) -> None:
        self._google = google
        self._project = project
        self._filter = (
            f'logName="projects/{project}/logs/cloudbuild" AND resource.type="build" AND'
            f' resource.labels.build_id="{build}"'
        )
        self._log = log
        self._shown_ids: set[str] = set()
        self._since = ""
        self._is_readable = True
        self.last_lines: list[str] = []

    @property
    def is_complete(self) -> bool:
        """Whether the log has ended or can't be read."""
        return not self._is_readable or any(
            line.startswith(("ERROR", "DONE", "TIMEOUT")) for line in self.last_lines[-3:]
        )

    def show_new_lines(self) -> None:
        """Show the lines that are new since the last call."""
        if not self._is_readable:
            return
        request = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": self._filter + (f' AND timestamp>="{self._since}"' if self._since else ""),
            "orderBy": "timestamp asc",
            "pageSize": 1000,
        }
        try:
            entries: list[dict[str, Any]] = self._google.call("logging", "POST", "entries:list", request).get(
                "entries", []
            )
        except GoogleError as refusal:
            if refusal.code == 429:
                return
            # The build goes on even if the deployer may not read its log.
            self._is_readable = False
            self._log(f"can't read the build's log: {refusal} (you need roles/logging.viewer)")
            return
        new = [entry for entry in entries if entry["insertId"] not in self._shown_ids]
        self._shown_ids |= {entry["insertId"] for entry in new}
        self._since = str(entries[-1]["timestamp"]) if entries else self._since
        texts = (line for entry in new for line in str(entry.get("textPayload", "")).splitlines())
        lines = [line for line in (_STEP_PREFIX.sub("", entry) for entry in texts) if line.strip()]
        if lines:
            self.last_lines = [*self.last_lines, *lines][-_LINES_SHOWN * 10 :]
            self._log("\n".join(lines))


def _failure_type(build: dict[str, Any]) -> str:
    return str(build.get("failureInfo", {}).get("type", ""))


def _failure_detail(build: dict[str, Any]) -> str:
    detail = build.get("failureInfo", {}).get("detail") or build.get("statusDetail")
    return str(detail or f"it ended as {build['status']}")


def _failure_message(job: Job, build: dict[str, Any], log: Iterable[str]) -> str:
    """Return the message about a failed build: the step, the cause, the log's last lines and the next step."""
    step = next(
        (candidate for candidate in build.get("steps", []) if candidate.get("status") in {"FAILURE", "TIMEOUT"}), None
    )
    location = f" at step {step.get('id') or step['name']!r}" if step else ""
    lines = "".join(f"\n  {line}" for line in list(log)[-_LINES_SHOWN:])
    advice = {
        "PUSH_NOT_AUTHORIZED": f"grant {job.account} roles/artifactregistry.writer on the repository of {job.image}",
        "FETCH_SOURCE_FAILED": f"grant {job.account} roles/storage.objectViewer on gs://{job.bucket}",
    }.get(_failure_type(build), "correct what the log names, then run the update again")
    if build["status"] == "TIMEOUT":
        advice = f"it had {job.timeout} s: set cloud_build: {{timeout: …}} in the fleet, then run the update again"
    return (
        f"Cloud Build could not build {job.tag}{location}: {_failure_detail(build)}{lines}\n"
        f"The full log: {build.get('logUrl', '')}, or gcloud builds log {build['id']} --project {job.project}"
        f" --region {job.location}\n"
        f"{advice[0].upper()}{advice[1:]}."
    )


def _permission_advice(job: Job, refusal: GoogleError) -> str:
    message = str(refusal)
    if refusal.reason == "SERVICE_DISABLED":
        return ""
    if "act as" in message or "actAs" in message:
        return (
            f"; whoever deploys needs roles/iam.serviceAccountUser on it: gcloud iam service-accounts"
            f" add-iam-policy-binding {job.account} --project {job.project}"
            " --role roles/iam.serviceAccountUser --member user:YOU"
        )
    if "cloudbuild.builds.create" in message:
        return "; whoever deploys needs roles/cloudbuild.builds.editor on the project"
    return ""
