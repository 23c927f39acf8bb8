"""One build from its beginning to its end: the source goes up, the log comes down, the digest comes back.

What Cloud Build is told is the `Build` message of its API (cloudbuild.googleapis.com v1, projects.builds).
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pulumi_mcpfleet.cloud_build.archive import CONTEXT, ArchiveSource, content_hash, write_archive
from pulumi_mcpfleet.cloud_build.errors import BuildError, CancelledError
from pulumi_mcpfleet.cloud_build.google import Google, GoogleError

STEP: Final = "image"
"""The step's id, by which a failure names it."""

DOCKER: Final = "gcr.io/cloud-builders/docker"
"""Google's image of the step that runs docker."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image to build.

    Attributes:
        project: The project of the build.
        location: Its region.
        bucket: Where its source goes.
        account: The address of the service account that builds.
        image: The image, without tag or digest.
        source: What it is built from.
        build_args: Values for the Dockerfile's ARGs.
        labels: Labels of the image.
        platform: For which machine, as docker has it; `native`: for the one that builds.
        machine: The kind of machine; empty: Cloud Build's own choice.
        timeout: Seconds that the build may take.
        stage: The stage of the Dockerfile that is the image; empty: the last.
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
        """The image under the tag that shows people the newest version; nothing is deployed by it."""
        return f"{self.image}:latest"


def build_of(job: Job, name: str, generation: str) -> dict[str, Any]:
    """The build of *job*.

    Args:
        job: What to build.
        name: The object that holds the source.
        generation: Which version of it.
    """
    flags = [
        f"--tag={job.tag}",
        f"--file={job.source.file}",
        *([] if job.platform == "native" else [f"--platform={job.platform}"]),
        *([f"--target={job.stage}"] if job.stage else []),
        *(f"--build-arg={key}={value}" for key, value in sorted(job.build_args.items())),
        *(f"--label={key}={value}" for key, value in sorted(job.labels.items())),
    ]
    options: dict[str, Any] = {
        # A build of an account's own has to say where its log goes. Cloud Logging, because the account then needs
        # no right to write to a bucket.
        "logging": "CLOUD_LOGGING_ONLY",
        **({"machineType": job.machine} if job.machine else {}),
    }
    return {
        "source": {"storageSource": {"bucket": job.bucket, "object": name, "generation": generation}},
        "steps": [
            {
                "id": STEP,
                "name": DOCKER,
                "args": [_literally(one) for one in ("build", *flags, CONTEXT)],
                "env": ["DOCKER_BUILDKIT=1"],
            }
        ],
        "images": [job.tag],
        "serviceAccount": f"projects/{job.project}/serviceAccounts/{job.account}",
        "timeout": f"{job.timeout}s",
        "tags": ["mcpfleet"],
        "options": options,
    }


def _literally(text: str) -> str:
    """*text* so that Cloud Build finds no variable in it."""
    return text.replace("$", "$$")


_ENDED: Final = frozenset({"SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"})
_FIRST_LOOK, _LAST_LOOK = 0.5, 3.0
"""Seconds between two looks at a build, at its beginning and later: Cloud Logging gives 60 reads a minute."""
_SHOWN: Final = 20
_LATE: Final = 4
"""How often the rest of a failed build's log is asked for: it arrives some seconds after the build's end."""
_NOT_YET: Final = frozenset({"FETCH_SOURCE_FAILED", "PUSH_NOT_AUTHORIZED"})
"""What fails when a new account's roles have not reached everywhere (IAM: "typically 2 minutes, potentially 7")."""
_PATIENCE: Final = 30.0
_STEP: Final = re.compile(r'Step #\d+(?: - "[^"]*")?: ')
"""What Cloud Build puts before each line of a step; there is one step."""

Log = Callable[[str], None]
Wait = Callable[[float], None]


@dataclass(frozen=True)
class Built:
    """An image.

    Attributes:
        digest: The digest under which the registry has it.
        build: The id of its build.
        log_url: Where its log can be read.
    """

    digest: str
    build: str
    log_url: str


class Builds:
    """The builds of one engine's run.

    Args:
        google: The APIs.
        log: Takes what the user is to see, a few lines at a time.
        wait: Pauses for so many seconds, or raises `CancelledError`.
    """

    def __init__(self, google: Google, log: Log, wait: Wait) -> None:
        self._google = google
        self._log = log
        self._wait = wait

    def run(self, job: Job, expected: str) -> Built:
        """Build the image of *job*, and give it by its digest.

        Args:
            job: What to build.
            expected: The hash that its content had when the update was planned.

        Raises:
            CancelledError: The user stopped the update; the build was cancelled.
            BuildError: It failed, or was refused.
        """
        name, generation, new = self._uploaded(job, expected)
        try:
            ended = self._ended(job, build_of(job, name, generation))
        except BuildError:
            if new:
                self._google.delete(job.bucket, name, generation)
            raise
        images: list[dict[str, Any]] = ended.get("results", {}).get("images") or []
        digest = next((str(one["digest"]) for one in images if one.get("digest")), "")
        if not digest:
            raise BuildError(f"Cloud Build says that {job.tag} is built, but not its digest; run it again")
        return Built(digest, str(ended["id"]), str(ended.get("logUrl", "")))

    def _ended(self, job: Job, build: dict[str, Any]) -> dict[str, Any]:
        ended = self._followed(job, build)
        if _kind_of_failure(ended) in _NOT_YET:
            self._log(
                f"the account {job.account} was not let in ({_why(ended)}); if its roles are new, they may need a"
                f" moment: trying once more in {_PATIENCE:.0f} s"
            )
            self._wait(_PATIENCE)
            ended = self._followed(job, build)
        if ended["status"] != "SUCCESS":
            raise BuildError(_failure(job, ended, ended["log"]))
        return ended

    def _uploaded(self, job: Job, expected: str) -> tuple[str, str, bool]:
        with tempfile.TemporaryDirectory(prefix="mcpfleet-source-") as scratch:
            file = Path(scratch) / "source.tar.gz"
            with file.open("wb") as target:
                found = write_archive(job.source, target)
            if content_hash(found, job.build_args, job.labels, job.stage) != expected:
                raise BuildError(f"{job.source.folder} has changed since the update was planned; run it again")
            name = f"source/{found}.tar.gz"
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

    def _followed(self, job: Job, build: dict[str, Any]) -> dict[str, Any]:
        """The build once it has ended, with the last lines of its log under `log`."""
        parent = f"projects/{job.project}/locations/{job.location}"
        try:
            begun = self._google.call("cloudbuild", "POST", f"{parent}/builds", build)["metadata"]["build"]
        except GoogleError as refusal:
            raise BuildError(f"Cloud Build refuses to build {job.tag}: {refusal}{_advice(job, refusal)}") from None
        path = f"{parent}/builds/{begun['id']}"
        self._log(f"build {begun['id']}: {begun.get('logUrl', 'no log yet')}")
        lines = _Lines(self._google, job.project, str(begun["id"]), self._log)
        try:
            found, pause = begun, _FIRST_LOOK
            while found["status"] not in _ENDED:
                self._wait(pause)
                pause = min(pause * 1.5, _LAST_LOOK)
                found = self._google.call("cloudbuild", "GET", path)
                lines.fetch()
            for _ in range(_LATE if found["status"] != "SUCCESS" else 0):
                if lines.complete:
                    break
                self._wait(_LAST_LOOK)
                lines.fetch()
        except CancelledError:
            raise CancelledError(f"the update was stopped{self._cancelled(job, path)}") from None
        return {**found, "log": lines.last}

    def _cancelled(self, job: Job, path: str) -> str:
        """Cancel the build at *path*, and say what became of it. Only once: the engine ends this process in seconds."""
        build = path.rpartition("/")[2]
        try:
            self._google.call("cloudbuild", "POST", f"{path}:cancel", {})
        except BuildError as refusal:
            why = "Cloud Build did not take the request" if isinstance(refusal, CancelledError) else refusal
            return (
                f"; build {build} of {job.tag} could not be cancelled ({why}). If it still runs, end it: gcloud"
                f" builds cancel {build} --project {job.project} --region {job.location}"
            )
        return f", and with it build {build} of {job.tag}"


class _Lines:
    """A build's log, read from Cloud Logging while it grows."""

    def __init__(self, google: Google, project: str, build: str, log: Log) -> None:
        self._google = google
        self._project = project
        self._filter = (
            f'logName="projects/{project}/logs/cloudbuild" AND resource.type="build" AND'
            f' resource.labels.build_id="{build}"'
        )
        self._log = log
        self._seen: set[str] = set()
        self._since = ""
        self._readable = True
        self.last: list[str] = []

    @property
    def complete(self) -> bool:
        """Whether no more is to come."""
        return not self._readable or any(line.startswith(("ERROR", "DONE", "TIMEOUT")) for line in self.last[-3:])

    def fetch(self) -> None:
        """Show what is new."""
        if not self._readable:
            return
        asked = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": self._filter + (f' AND timestamp>="{self._since}"' if self._since else ""),
            "orderBy": "timestamp asc",
            "pageSize": 1000,
        }
        try:
            entries: list[dict[str, Any]] = self._google.call("logging", "POST", "entries:list", asked).get(
                "entries", []
            )
        except GoogleError as refusal:
            if refusal.code == 429:
                return
            # The build does not depend on who may read its log.
            self._readable = False
            self._log(f"its log can't be read here: {refusal} (roles/logging.viewer lets you read it)")
            return
        new = [one for one in entries if one["insertId"] not in self._seen]
        self._seen |= {one["insertId"] for one in new}
        self._since = str(entries[-1]["timestamp"]) if entries else self._since
        said = (line for one in new for line in str(one.get("textPayload", "")).splitlines())
        lines = [line for line in (_STEP.sub("", one) for one in said) if line.strip()]
        if lines:
            self.last = [*self.last, *lines][-_SHOWN * 10 :]
            self._log("\n".join(lines))


def _kind_of_failure(build: dict[str, Any]) -> str:
    return str(build.get("failureInfo", {}).get("type", ""))


def _why(build: dict[str, Any]) -> str:
    said = build.get("failureInfo", {}).get("detail") or build.get("statusDetail")
    return str(said or f"it ended as {build['status']}")


def _failure(job: Job, build: dict[str, Any], log: Iterable[str]) -> str:
    """One message: what failed at which step, the log's end, where the rest is, and what to type."""
    step = next((one for one in build.get("steps", []) if one.get("status") in {"FAILURE", "TIMEOUT"}), None)
    where = f" at step {step.get('id') or step['name']!r}" if step else ""
    lines = "".join(f"\n  {line}" for line in list(log)[-_SHOWN:])
    advice = {
        "PUSH_NOT_AUTHORIZED": f"grant {job.account} roles/artifactregistry.writer on the repository of {job.image}",
        "FETCH_SOURCE_FAILED": f"grant {job.account} roles/storage.objectViewer on gs://{job.bucket}",
    }.get(_kind_of_failure(build), "mend what it names, then run the update again")
    if build["status"] == "TIMEOUT":
        advice = f"it had {job.timeout} s: set cloud_build: {{timeout: …}} in the fleet, then run the update again"
    return (
        f"Cloud Build could not build {job.tag}{where}: {_why(build)}{lines}\n"
        f"The whole log: {build.get('logUrl', '')}, or gcloud builds log {build['id']} --project {job.project}"
        f" --region {job.location}\n"
        f"{advice[0].upper()}{advice[1:]}."
    )


def _advice(job: Job, refusal: GoogleError) -> str:
    said = str(refusal)
    if refusal.reason == "SERVICE_DISABLED":
        return ""
    if "act as" in said or "actAs" in said:
        return (
            f"; whoever deploys needs roles/iam.serviceAccountUser on it: gcloud iam service-accounts"
            f" add-iam-policy-binding {job.account} --project {job.project}"
            " --role roles/iam.serviceAccountUser --member user:YOU"
        )
    if "cloudbuild.builds.create" in said:
        return "; whoever deploys needs roles/cloudbuild.builds.editor on the project"
    return ""
