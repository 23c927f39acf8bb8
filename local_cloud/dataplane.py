"""What the control plane asks of whatever runs containers, and what it tells it.

`services/run` decides and remembers; a data plane (`runtime.py`: Docker) runs. Tests of the control plane put a small
one in its place. Nothing here knows HTTP, SQLite or Docker.
"""

from dataclasses import dataclass, field
from typing import Protocol


class RolloutError(Exception):
    """A revision cannot serve. The text is Google's wording, then the last log lines, then what to change."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A startup or liveness probe (Cloud Run v2 `Probe`); seconds. Exactly one of *http_path* and *tcp* acts."""

    port: int
    http_path: str | None = None
    http_headers: tuple[tuple[str, str], ...] = ()
    initial_delay: int = 0
    timeout: int = 1
    period: int = 10
    failure_threshold: int = 3


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One immutable revision of a service, complete with defaults, ready to run."""

    name: str
    """The revision's short name, `<service>-<5 digits>-<3 letters>`."""
    service: str
    """The service's short name."""
    project: str
    region: str
    image: str
    """The reference as the user wrote it."""
    service_account: str
    """The e-mail whose identity the metadata server gives to its instances."""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    port: int = 8080
    cpu: float = 1.0
    memory_bytes: int = 512 * 1024 * 1024
    concurrency: int = 80
    timeout: int = 300
    min_instances: int = 0
    max_instances: int = 100
    startup_probe: Probe = field(default_factory=lambda: Probe(port=8080, timeout=240, period=240, failure_threshold=1))
    liveness_probe: Probe | None = None


@dataclass(frozen=True, kw_only=True)
class FrontDoor:
    """What the ingress must know of a service to let a request in (google-apis.md 5.1)."""

    service: str
    """The full name, `projects/P/locations/L/services/S`."""
    audiences: frozenset[str]
    """Every audience that a token may carry: each of the service's URLs and its custom audiences."""
    hosts: frozenset[str]
    """The host names that the real front end routes to this service (`S-NUMBER.REGION.run.app`)."""
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
