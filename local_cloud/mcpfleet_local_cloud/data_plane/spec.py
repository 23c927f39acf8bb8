"""A revision's container, as Docker must make it (Cloud Run's container contract, docs/google-apis.md 5.2)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from docker.types import LogConfig
from docker.types import Mount as DockerMount

from mcpfleet_local_cloud.data_plane.cleanup import CLOUD_LABEL
from mcpfleet_local_cloud.data_plane.contract import TRUSTED, Container, Revision

SERVICE_LABEL: Final = "dev.mcpfleet.service"
REVISION_LABEL: Final = "dev.mcpfleet.revision"
PROJECT_LABEL: Final = "dev.mcpfleet.project"
REGION_LABEL: Final = "dev.mcpfleet.region"
IMAGE_LABEL: Final = "dev.mcpfleet.image"
"""The digest reference of the image, so that it can be removed with its last container."""
INSTANCE_LABEL: Final = "dev.mcpfleet.instance"
"""The number of the instance that the container belongs to."""
CONTAINER_LABEL: Final = "dev.mcpfleet.container"
"""Its place among the revision's containers, the ingress container being 0."""
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
_TRUST_VARIABLES: Final = (
    "SSL_CERT_FILE",  # OpenSSL, and so Python and Ruby; Go; rustls' native certificates
    "REQUESTS_CA_BUNDLE",  # Python's requests, which brings certificates of its own
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
_TMP: Final = "/tmp"  # noqa: S108  # the container's own
_TASKS: Final = 4096
"""Processes and threads of one container: a fork bomb ends there, and not with the machine's last process. Google names
no number for Cloud Run; this leaves four threads to each of the 1,000 requests that an instance may have at once."""
_LOG_LIMITS: Final = {"max-size": "5m", "max-file": "2"}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a container must know of the cloud that runs it."""

    cloud_id: str
    network: str
    """Its service's, in Docker."""
    gateway: str
    """The gateway container's address there: metadata server, name server, other services."""
    cpus: float
    trust: str | None = None
    """The file on this machine with the certificates that a container trusts."""

    @property
    def metadata(self) -> str:
        """The metadata server's `host:port`."""
        return f"{self.gateway}:80"


def service_labels(project: str, region: str, service: str) -> dict[str, str]:
    """The labels that find a service's containers; *service* is its short name."""
    return {PROJECT_LABEL: project, REGION_LABEL: region, SERVICE_LABEL: service}


def revision_labels(revision: Revision) -> dict[str, str]:
    """The labels that find a revision's containers."""
    return {
        **service_labels(revision.project, revision.region, revision.service),
        REVISION_LABEL: revision.name,
    }


def environment(revision: Revision, container: Container, around: Surroundings) -> dict[str, str]:
    """The user's variables and those that Cloud Run sets, which win; PORT is for the ingress container alone.

    google-auth asks `GCE_METADATA_HOST` for tokens but looks for the server at `GCE_METADATA_IP`, so both are set.
    """
    return {
        **(dict.fromkeys(_TRUST_VARIABLES, TRUSTED) if around.trust else {}),
        **dict(container.env),
        **({"PORT": str(container.port)} if container.port is not None else {}),
        "K_SERVICE": revision.service,
        "K_REVISION": revision.name,
        "K_CONFIGURATION": revision.service,
        "CLOUD_RUN_TIMEOUT_SECONDS": str(revision.timeout),
        "GCE_METADATA_HOST": around.metadata,
        "GCE_METADATA_IP": around.metadata,
    }


def fingerprint(revision: Revision, image_ids: Sequence[str], around: Surroundings) -> str:
    """Equal for two instances exactly when one may stand for the other; how many there are has no part in it."""
    same = replace(revision, min_instances=0, max_instances=0)
    told = (same, tuple(image_ids), around.network, around.gateway, around.trust, _TASKS)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """Which container of which instance is to be made.

    Attributes:
        index: its place in `Revision.containers`.
        number: the instance's number; never used twice.
        image: the image's digest reference, for the label.
        image_id: the image's id in Docker, which is what runs, so that a tag which moves changes nothing.
        spec: the instance's `fingerprint`.
        secrets: the values of its secret variables.
        mounts: Docker's mounts of its volumes.
        joins: the id of the container whose network it shares; None for the first one of an instance.
    """

    index: int
    number: int
    image: str
    image_id: str
    spec: str
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    mounts: Sequence[DockerMount] = ()
    joins: str | None = None


def container_spec(revision: Revision, place: ContainerPlan, around: Surroundings) -> Mapping[str, Any]:
    """The keyword arguments of `docker.containers.create`."""
    container = revision.containers[place.index]
    suffix = f"-{container.name or place.index}" if place.index else ""
    spec: dict[str, Any] = {
        "image": place.image_id,
        "name": f"mcpfleet-{around.cloud_id}-{revision.region}-{revision.name}-{place.number}{suffix}",
        "labels": {
            CLOUD_LABEL: around.cloud_id,
            **revision_labels(revision),
            IMAGE_LABEL: place.image,
            INSTANCE_LABEL: str(place.number),
            CONTAINER_LABEL: str(place.index),
            SPEC_LABEL: place.spec,
        },
        "environment": {**place.secrets, **environment(revision, container, around)},
        "mem_limit": container.memory_bytes,
        "memswap_limit": container.memory_bytes,  # no swap: beyond the limit is the end, as on Cloud Run
        # A limit above what the machine has limits nothing, and Docker refuses it.
        "nano_cpus": int(min(container.cpu, around.cpus) * 1e9),
        "pids_limit": _TASKS,
        "security_opt": ["no-new-privileges"],
        "cap_drop": ["ALL"],
        "cap_add": list(_CAPABILITIES),
        "stop_signal": "SIGTERM",  # whatever the image asks for
        "log_config": LogConfig(type=LogConfig.types.JSON, config=_LOG_LIMITS),
        **_network(place, around),
    }
    if not any(mount.path.rstrip("/") == _TMP for mount in container.mounts):
        spec["tmpfs"] = {_TMP: "rw,exec,nosuid,nodev,mode=1777"}  # in memory, counted against its limit
    mounts = list(place.mounts)
    if around.trust:
        mounts.append(DockerMount(TRUSTED, around.trust, type="bind", read_only=True))
    if mounts:
        spec["mounts"] = mounts
    if container.command:
        spec["entrypoint"] = list(container.command)
    if container.args:
        spec["command"] = list(container.args)
    return spec


def _network(place: ContainerPlan, around: Surroundings) -> dict[str, Any]:
    """The service's network for the first container of an instance; the others share its namespace, names and all."""
    if place.joins is not None:
        return {"network_mode": f"container:{place.joins}"}
    names = {"metadata.google.internal": around.gateway}
    return {"network": around.network, "extra_hosts": names, "dns": [around.gateway]}
