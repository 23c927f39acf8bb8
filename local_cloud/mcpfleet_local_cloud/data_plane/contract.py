"""What the control plane asks of whatever runs containers, and what it tells it.

`services/run` decides and remembers; a data plane (`plane.py`: Docker) runs. Tests of the control plane put a small
one in its place. Nothing here knows HTTP, SQLite or Docker.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

TRUSTED: Final = "/etc/mcpfleet/ca.pem"
"""Where a container finds the certificates that it trusts: this machine's, and the cloud's own authority."""


class RolloutError(Exception):
    """A revision cannot serve. The text is Google's wording, then the last log lines, then what to change."""


class OpenError(Exception):
    """Nothing can be run on this machine; the text says why, *next_step* what to do."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe of a container (Cloud Run v2 `Probe`); seconds. Without a path and a service it is a TCP connection."""

    port: int
    http_path: str | None = None
    grpc_service: str | None = None
    """What gRPC's health check is asked about; empty: the server as a whole."""
    http_headers: tuple[tuple[str, str], ...] = ()
    initial_delay: int = 0
    timeout: int = 1
    period: int = 10
    failure_threshold: int = 3
    success_threshold: int = 2
    """Of a readiness probe: successes after which an instance gets requests again; API v2 has no field for it."""


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
    """Its bound in memory; on disk nothing holds it."""
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
    """What containers of an instance can mount."""

    name: str
    source: EmptyDir | SecretFiles | BucketFolder


@dataclass(frozen=True, kw_only=True)
class Mount:
    """Where a container finds a volume."""

    volume: str
    path: str
    sub_path: str = ""


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container of a revision."""

    name: str
    """"" where the user gave none."""
    image: str
    """The reference as the user wrote it, or its digest once that is known."""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    secret_env: tuple[tuple[str, SecretRef], ...] = ()
    """Variables whose value is read when an instance starts."""
    port: int | None = None
    """Where the ingress container is called; None for a sidecar."""
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
    """The ingress container first: the one that has a port and a startup probe."""
    service_account: str
    """The e-mail whose identity the metadata server gives to its instances."""
    concurrency: int = 80
    timeout: int = 300
    min_instances: int = 0
    max_instances: int = 100
    volumes: tuple[Volume, ...] = ()
    health_checked: bool = True
    """False: an instance serves as soon as its containers run, without a startup probe (`healthCheckDisabled`)."""
    session_affinity: bool = False
    """Whether a caller is sent to the instance that served it before, by a cookie."""
    vpc_all_traffic: bool = False
    """Whether all that it sends goes through the project's VPC network, so that it is inside for other services."""
    network: str = ""
    """The VPC network that its instances are in, `projects/P/global/networks/N`; empty without one."""
    mesh: str = ""
    """The service mesh that it is in, `projects/P/locations/global/meshes/M`; empty without one."""

    @property
    def main(self) -> Container:
        """The ingress container."""
        return self.containers[0]


class InstanceData(Protocol):
    """Where an instance's secrets and buckets come from, asked in the name of its service account."""

    def check(self, revision: Revision) -> None:
        """Refuse a revision that names what is not there or what its account may not read.

        Raises:
            RolloutError: in Google's words.
        """
        ...

    def secret(self, ref: SecretRef, account: str) -> bytes:
        """The value of a version, as it is now.

        Raises:
            RolloutError: in Google's words.
        """
        ...

    def folder(self, bucket: str) -> Path:
        """The folder that holds the bucket's objects."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServiceEndpoint:
    """What the ingress must know of a service to let a request in (docs/google-apis.md 5.1)."""

    service: str
    """The full name, `projects/P/locations/L/services/S`."""
    audiences: frozenset[str]
    """Every audience that a token may carry: each of the service's URLs and its custom audiences."""
    hosts: frozenset[str]
    """The host names that the real front end routes to this service (`S-NUMBER.REGION.run.app`)."""
    default_uri: bool = True
    """Whether it answers at its default URLs; False leaves load balancers alone."""
    iap: bool = False
    """Whether Identity-Aware Proxy is in front of it."""
    invoker_iam_disabled: bool = False
    ingress: str = "INGRESS_TRAFFIC_ALL"


class DataPlane(Protocol):
    """Runs revisions. Every call may be repeated after a crash with the same outcome."""

    async def resolve(self, image: str) -> str:
        """The digest reference (`…@sha256:…`) that *image* stands for now, fetched so that it can run.

        Raises:
            RolloutError: no such image, or no right to it.
        """
        ...

    async def start(self, revision: Revision) -> None:
        """Bring up the revision's instances until the startup probe succeeds.

        Of a revision that runs already, only the instance bounds can differ: they hold from now on.

        Raises:
            RolloutError: it never did; nothing of the revision is left running.
        """
        ...

    async def route(self, service: str, revision: Revision) -> None:
        """Send the service's new requests (*service* is its full name) to *revision* from now on."""
        ...

    async def retire(self, revision: Revision) -> None:
        """Let running requests finish (at most the request timeout), SIGTERM, 10 s, SIGKILL, remove."""
        ...

    async def remove(self, service: str) -> None:
        """Remove everything that ever ran for *service* (its full name), also what a crash left."""
        ...

    def address(self, service: str) -> str:
        """The base URL at which *service* (its full name) answers: `http://127.0.0.1:PORT`, the same after restarts."""
        ...
