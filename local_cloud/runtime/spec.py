"""A revision's container, as Docker must make it (Cloud Run's container contract, google-apis.md 5.2)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from docker.types import LogConfig

from local_cloud.dataplane import Revision
from local_cloud.runtime.cleanup import CLOUD_LABEL

SERVICE_LABEL: Final = "dev.mcpfleet.service"
REVISION_LABEL: Final = "dev.mcpfleet.revision"
PROJECT_LABEL: Final = "dev.mcpfleet.project"
REGION_LABEL: Final = "dev.mcpfleet.region"
IMAGE_LABEL: Final = "dev.mcpfleet.image"
"""The digest reference of the image, so that it can be removed with its last container."""
SPEC_LABEL: Final = "dev.mcpfleet.spec"
"""A hash of all that the container was made from: only an identical one is taken over after a restart."""

_CAPABILITIES: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETUID",
    "SYS_CHROOT",
)
"""What ordinary images need to take a port, drop root and own their files; Docker's default has more."""
_LOG_LIMITS: Final = {"max-size": "5m", "max-file": "2"}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a container must know of the cloud that runs it."""

    cloud_id: str
    network: str
    gateway: str
    metadata_port: int
    cpus: float

    @property
    def metadata(self) -> str:
        """The metadata server's `host:port`."""
        return f"{self.gateway}:{self.metadata_port}"


def service_labels(project: str, region: str, service: str) -> dict[str, str]:
    """The labels that find a service's containers; *service* is its short name."""
    return {PROJECT_LABEL: project, REGION_LABEL: region, SERVICE_LABEL: service}


def revision_labels(revision: Revision) -> dict[str, str]:
    """The labels that find a revision's containers."""
    return {
        **service_labels(revision.project, revision.region, revision.service),
        REVISION_LABEL: revision.name,
    }


def environment(revision: Revision, around: Surroundings) -> dict[str, str]:
    """The user's variables and those that Cloud Run sets, which win.

    google-auth asks `GCE_METADATA_HOST` for tokens but looks for the server at `GCE_METADATA_IP`, so both are set.
    """
    return {
        **dict(revision.env),
        "PORT": str(revision.port),
        "K_SERVICE": revision.service,
        "K_REVISION": revision.name,
        "K_CONFIGURATION": revision.service,
        "CLOUD_RUN_TIMEOUT_SECONDS": str(revision.timeout),
        "GCE_METADATA_HOST": around.metadata,
        "GCE_METADATA_IP": around.metadata,
    }


def fingerprint(revision: Revision, image_id: str, around: Surroundings) -> str:
    """Equal for two containers exactly when one may stand for the other; how many there are has no part in it."""
    same = replace(revision, min_instances=0, max_instances=0)
    return hashlib.sha256(repr((same, image_id, around.network, around.metadata)).encode()).hexdigest()[:16]


def container_spec(
    revision: Revision, image: str, image_id: str, number: int, around: Surroundings
) -> Mapping[str, Any]:
    """The keyword arguments of `docker.containers.create`.

    Args:
        revision: what to run.
        image: the image's digest reference, for the label.
        image_id: the image's id in Docker, which is what runs, so that a tag which moves changes nothing.
        number: makes the name unique; never used twice.
        around: the cloud.
    """
    spec: dict[str, Any] = {
        "image": image_id,
        "name": f"mcpfleet-{around.cloud_id}-{revision.name}-{number}",
        "labels": {
            CLOUD_LABEL: around.cloud_id,
            **revision_labels(revision),
            IMAGE_LABEL: image,
            SPEC_LABEL: fingerprint(revision, image_id, around),
        },
        "environment": environment(revision, around),
        "network": around.network,
        "extra_hosts": {"metadata.google.internal": around.gateway},
        "mem_limit": revision.memory_bytes,
        "memswap_limit": revision.memory_bytes,  # no swap: beyond the limit is the end, as on Cloud Run
        # A limit above what the machine has limits nothing, and Docker refuses it.
        "nano_cpus": int(min(revision.cpu, around.cpus) * 1e9),
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},  # noqa: S108  # in memory, counted against its limit
        "security_opt": ["no-new-privileges"],
        "cap_drop": ["ALL"],
        "cap_add": list(_CAPABILITIES),
        "stop_signal": "SIGTERM",  # whatever the image asks for
        "log_config": LogConfig(type=LogConfig.types.JSON, config=_LOG_LIMITS),
    }
    if revision.command:
        spec["entrypoint"] = list(revision.command)
    if revision.args:
        spec["command"] = list(revision.args)
    return spec
