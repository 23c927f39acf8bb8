"""The interface between the control plane and the data plane.

`services/run` decides and stores; a data plane runs containers (`plane.py`: with Docker). Tests of the control plane
use a small fake. This module does not depend on HTTP, SQLite or Docker.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

TRUSTED: Final = "/etc/mcpfleet/ca.pem"
"""The file in a container with the certificates that it trusts: this machine's, and the cloud's own authority."""


class RolloutError(Exception):
    """A revision cannot serve. The text has Google's message, the last log lines, and what to change."""


class OpenError(Exception):
    """Containers can't run on this machine; the text has the cause, *next_step* what to do."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe of a container (Cloud Run v2 `Probe`); seconds. Without a path and a service it is a TCP connection."""

    port: int
    http_path: str | None = None
    grpc_service: str | None = None
    """The service of gRPC's health check; empty: the server as a whole. None: no gRPC probe."""
    http_headers: tuple[tuple[str, str], ...] = ()
    initial_delay: int = 0
    timeout: int = 1
    period: int = 10
    failure_threshold: int = 3
    success_threshold: int = 2
    """For a readiness probe: successes after which an instance gets requests again; API v2 has no field for it."""


@dataclass(frozen=True, kw_only=True)
class SecretRef:
    """A version of a secret."""

    secret: str
    """The full name, `projects/P/secrets/S`; P as the user wrote it."""
    version: str = "latest"


@dataclass(frozen=True, kw_only=True)
class EmptyDir:
    """A folder that lives as long as the instance (Cloud Run v2 `EmptyDirVolumeSource`)."""

    size_bytes: int
    """Its limit in memory; there is no limit on disk."""
    on_disk: bool = False


@dataclass(frozen=True, kw_only=True)
class SecretFile:
    """One file of a secret volume."""

    path: str
    """Relative to the volume."""
    version: str
    mode: int


@dataclass(frozen=True, kw_only=True)
class SecretFiles:
    """A folder with a secret's versions as files (`SecretVolumeSource`)."""

    secret: str
    files: tuple[SecretFile, ...]


@dataclass(frozen=True, kw_only=True)
class BucketFolder:
    """A bucket as a folder (`GCSVolumeSource`)."""

    bucket: str
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume that the containers of an instance can mount."""

    name: str
    source: EmptyDir | SecretFiles | BucketFolder


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume's path in a container."""

    volume: str
    path: str
    sub_path: str = ""


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container of a revision."""

    name: str
    """Empty if the user gave none."""
    image: str
    """The reference as the user wrote it, or its digest once that is known."""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    secret_env: tuple[tuple[str, SecretRef], ...] = ()
    """Variables whose values are read from secrets when an instance starts."""
    port: int | None = None
    """The port of the ingress container; None for a sidecar."""
    cpu: float = 1.0
    memory_bytes: int = 512 * 1024 * 1024
    startup_probe: Probe | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    depends_on: tuple[str, ...] = ()
    """Names of containers whose startup probe must have succeeded before this one starts."""
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One immutable revision of a service, complete with defaults, ready to run."""

    name: str
    """The revision's short name, `<service>-<5 digits>-<3 letters>`."""
    service: str
    """The service's short name."""
    project: str
    region: str
    containers: tuple[Container, ...]
    """The ingress container, which has a port and a startup probe, is the first."""
    service_account: str
    """The e-mail of the account whose identity the metadata server gives to its instances."""
    concurrency: int = 80
    timeout: int = 300
    min_instances: int = 0
    max_instances: int = 100
    volumes: tuple[Volume, ...] = ()
    health_checked: bool = True
    """False: an instance serves as soon as its containers run, without startup probes (`healthCheckDisabled`)."""
    session_affinity: bool = False
    """Whether a caller is sent to the instance that served it before, by a cookie."""
    vpc_all_traffic: bool = False
    """Whether all its outbound traffic goes through the project's VPC network, so that its requests are internal."""
    network: str = ""
    """The VPC network that its instances are in, `projects/P/global/networks/N`; empty without one."""
    mesh: str = ""
    """The service mesh of its instances, `projects/P/locations/global/meshes/M`; empty without one."""

    @property
    def main(self) -> Container:
        """The ingress container."""
        return self.containers[0]


class InstanceData(Protocol):
    """The secrets and buckets of instances, read with the permissions of their service account."""

    def check(self, revision: Revision) -> None:
        """Check that the revision's secrets and buckets exist and that its account may read them.

        Raises:
            RolloutError: They don't; the text is Google's.
        """
        ...

    def secret(self, ref: SecretRef, account: str) -> bytes:
        """The current value of a version.

        Raises:
            RolloutError: It can't be read; the text is Google's.
        """
        ...

    def folder(self, bucket: str) -> Path:
        """The folder with the bucket's objects."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServiceEndpoint:
    """The facts about a service by which the ingress admits requests (docs/google-apis.md 5.1)."""

    service: str
    """The full name, `projects/P/locations/L/services/S`."""
    audiences: frozenset[str]
    """Every audience that a token may have: each of the service's URLs and its custom audiences."""
    hosts: frozenset[str]
    """The host names that the real front end routes to this service (`S-NUMBER.REGION.run.app`)."""
    default_uri: bool = True
    """Whether it answers at its default URLs; if not, only through load balancers."""
    iap: bool = False
    """Whether Identity-Aware Proxy is in front of it."""
    invoker_iam_disabled: bool = False
    ingress: str = "INGRESS_TRAFFIC_ALL"


class DataPlane(Protocol):
    """Runs revisions. Every call can be repeated after a crash, with the same outcome."""

    async def resolve(self, image: str) -> str:
        """Pull *image*, and return its current digest reference (`…@sha256:…`).

        Raises:
            RolloutError: There is no such image, or no permission to read it.
        """
        ...

    async def start(self, revision: Revision) -> None:
        """Start the revision's instances, and wait until their startup probes succeed.

        If the revision runs already, only the instance bounds can differ; they apply from now on.

        Raises:
            RolloutError: A probe did not succeed; no container of the revision is left.
        """
        ...

    async def route(self, service: str, revision: Revision) -> None:
        """Send the service's new requests (*service* is its full name) to *revision* from now on."""
        ...

    async def retire(self, revision: Revision) -> None:
        """Let running requests finish (at most the request timeout), then stop and remove the revision's containers.

        A container gets SIGTERM, and SIGKILL after 10 s.
        """
        ...

    async def remove(self, service: str) -> None:
        """Remove all containers and networks of *service* (its full name), also those that a crash left behind."""
        ...

    def address(self, service: str) -> str:
        """The base URL at which *service* (its full name) answers: `http://127.0.0.1:PORT`, the same after restarts."""
        ...
