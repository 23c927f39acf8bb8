"""What Cloud Build is told to do: the `Build` message of its API (cloudbuild.googleapis.com v1, projects.builds)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pulumi_mcpfleet.cloud_build.archive import CONTEXT, Source

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
        machine: The kind of machine; empty: Cloud Build's own choice.
        timeout: Seconds that the build may take.
    """

    project: str
    location: str
    bucket: str
    account: str
    image: str
    source: Source
    build_args: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    machine: str = ""
    timeout: int = 1200

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
        "--platform=linux/amd64",  # the only one that Cloud Run runs
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
