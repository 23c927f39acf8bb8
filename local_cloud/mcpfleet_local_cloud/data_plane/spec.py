"""Builds the Docker arguments of a revision's container (Cloud Run's container contract, docs/google-apis.md 5.2)."""

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
"""The label with the image's digest reference, so that the image can be removed with its last container."""
INSTANCE_LABEL: Final = "dev.mcpfleet.instance"
"""The label with the number of the container's instance."""
CONTAINER_LABEL: Final = "dev.mcpfleet.container"
"""The label with the container's index in the revision; the ingress container has 0."""
SPEC_LABEL: Final = "dev.mcpfleet.spec"
"""The label with a hash of the container's inputs: after a restart, only an identical container is adopted."""

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
"""The capabilities that ordinary images need to bind ports, drop root and own files; Docker's default has more."""
_TRUST_VARIABLES: Final = (
    "SSL_CERT_FILE",  # OpenSSL, and so Python and Ruby; Go; rustls' native certificates
    "REQUESTS_CA_BUNDLE",  # Python's requests, which brings certificates of its own
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
_TMP: Final = "/tmp"  # noqa: S108  # the container's own
_TASKS: Final = 4096
"""The limit of processes and threads of one container, against fork bombs. Google documents no number for Cloud Run;
this allows four threads for each of the 1,000 requests that an instance may have at once."""
_LOG_LIMITS: Final = {"max-size": "5m", "max-file": "2"}


@dataclass(frozen=True, kw_only=True)
class CloudContext:
    """The facts about the local cloud that a container's arguments depend on."""

    cloud_id: str
    network: str
    """The name of the service's network in Docker."""
    gateway: str
    """The gateway container's address in that network: metadata server, name server, other services."""
    cpus: float
    """The CPUs of the Docker engine."""
    trust: str | None = None
    """The file on this machine with the certificates that a container trusts."""

    @property
    def metadata(self) -> str:
        """The metadata server's `host:port`."""
        return f"{self.gateway}:80"


def service_labels(project: str, region: str, service: str) -> dict[str, str]:
    """The labels of a service's containers; *service* is its short name."""
    return {PROJECT_LABEL: project, REGION_LABEL: region, SERVICE_LABEL: service}


def revision_labels(revision: Revision) -> dict[str, str]:
    """The labels of a revision's containers."""
    return {
        **service_labels(revision.project, revision.region, revision.service),
        REVISION_LABEL: revision.name,
    }


def container_environment(revision: Revision, container: Container, context: CloudContext) -> dict[str, str]:
    """The user's variables and those that Cloud Run sets, which override them; only the ingress container has PORT.

    google-auth gets tokens from `GCE_METADATA_HOST` but detects the server at `GCE_METADATA_IP`, so both are set.
    """
    return {
        **(dict.fromkeys(_TRUST_VARIABLES, TRUSTED) if context.trust else {}),
        **dict(container.env),
        **({"PORT": str(container.port)} if container.port is not None else {}),
        "K_SERVICE": revision.service,
        "K_REVISION": revision.name,
        "K_CONFIGURATION": revision.service,
        "CLOUD_RUN_TIMEOUT_SECONDS": str(revision.timeout),
        "GCE_METADATA_HOST": context.metadata,
        "GCE_METADATA_IP": context.metadata,
    }


def fingerprint(revision: Revision, image_ids: Sequence[str], context: CloudContext) -> str:
    """A hash of an instance's inputs: equal if one instance can replace the other. It ignores the instance bounds."""
    scaled = replace(revision, min_instances=0, max_instances=0)
    inputs = (scaled, tuple(image_ids), context.network, context.gateway, context.trust, _TASKS)
    return hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """One container of one instance, before Docker creates it.

    Attributes:
        index: Its index in `Revision.containers`.
        number: The instance's number; never used twice.
        image: The image's digest reference, for the label.
        image_id: The image's id in Docker. The container runs this image, also if the tag is moved.
        spec: The instance's `fingerprint`.
        secrets: The values of its secret variables.
        mounts: The Docker mounts of its volumes.
        namespace_of: The id of the container whose network it shares; None for the first one of an instance.
    """

    index: int
    number: int
    image: str
    image_id: str
    spec: str
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    mounts: Sequence[DockerMount] = ()
    namespace_of: str | None = None


def container_spec(revision: Revision, plan: ContainerPlan, context: CloudContext) -> Mapping[str, Any]:
    """The keyword arguments of `docker.containers.create`."""
    container = revision.containers[plan.index]
    suffix = f"-{container.name or plan.index}" if plan.index else ""
    spec: dict[str, Any] = {
        "image": plan.image_id,
        "name": f"mcpfleet-{context.cloud_id}-{revision.region}-{revision.name}-{plan.number}{suffix}",
        "labels": {
            CLOUD_LABEL: context.cloud_id,
            **revision_labels(revision),
            IMAGE_LABEL: plan.image,
            INSTANCE_LABEL: str(plan.number),
            CONTAINER_LABEL: str(plan.index),
            SPEC_LABEL: plan.spec,
        },
        "environment": {**plan.secrets, **container_environment(revision, container, context)},
        "mem_limit": container.memory_bytes,
        "memswap_limit": container.memory_bytes,  # no swap: as on Cloud Run, a container beyond its limit is killed
        # Docker refuses a limit above the machine's CPUs.
        "nano_cpus": int(min(container.cpu, context.cpus) * 1e9),
        "pids_limit": _TASKS,
        "security_opt": ["no-new-privileges"],
        "cap_drop": ["ALL"],
        "cap_add": list(_CAPABILITIES),
        "stop_signal": "SIGTERM",  # overrides the image's
        "log_config": LogConfig(type=LogConfig.types.JSON, config=_LOG_LIMITS),
        **_network(plan, context),
    }
    if not any(mount.path.rstrip("/") == _TMP for mount in container.mounts):
        spec["tmpfs"] = {_TMP: "rw,exec,nosuid,nodev,mode=1777"}  # in memory, counted against its limit
    mounts = list(plan.mounts)
    if context.trust:
        mounts.append(DockerMount(TRUSTED, context.trust, type="bind", read_only=True))
    if mounts:
        spec["mounts"] = mounts
    if container.command:
        spec["entrypoint"] = list(container.command)
    if container.args:
        spec["command"] = list(container.args)
    return spec


def _network(plan: ContainerPlan, context: CloudContext) -> dict[str, Any]:
    """The network arguments: the service's network for an instance's first container, its namespace for the others."""
    if plan.namespace_of is not None:
        return {"network_mode": f"container:{plan.namespace_of}"}
    names = {"metadata.google.internal": context.gateway}
    return {"network": context.network, "extra_hosts": names, "dns": [context.gateway]}
