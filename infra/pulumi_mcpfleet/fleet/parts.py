"""Models of parts of a server: secrets, sidecars, probes and the VPC network. The module `volumes` has its volumes."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from pulumi_mcpfleet.fleet import identities, images, quantities, references, rules, values
from pulumi_mcpfleet.fleet.base import NO_REPEATS, NUMBER, PARENT, Mistake, Model, raise_if_any
from pulumi_mcpfleet.fleet.field_docs import FieldDoc
from pulumi_mcpfleet.fleet.values import Text

GRPC_SERVICE: Final = values.matching(
    r"[A-Za-z0-9_.-]*", "is not the name of a gRPC service; write it as acme.v1.Weather"
)

MAX_STARTUP: Final = 240
"""Seconds: the longest period of a startup probe, and the longest that it may take in all."""

MAX_READINESS: Final = 300
"""Seconds: the longest period of a readiness probe."""

MAX_LIVENESS: Final = 3600
"""Seconds: the longest period of a liveness probe (`Probe.period_seconds`, discovery document)."""


class SecretRef(Model):
    """A version of a secret in Secret Manager. The fleet never contains its value."""

    secret: identities.SecretName = Field(description="The secret.", examples=["toolbox-db"])
    version: identities.SecretVersion = Field(
        description=(
            "The version. To rotate a secret with a number, change the number, which creates a new "
            "revision. `latest` is read when an instance starts."
        ),
        examples=["3"],
    )


def _check_secret_target(value: str) -> str:
    if value.startswith("/"):
        # Cloud Run mounts the folder; the last part of the path is the file in it.
        values.check_mount_path(value)
        if value.count("/") < 2:
            raise ValueError(
                f"{value} would hide the container's whole root; write a file in a folder, such as /secrets/key"
            )
        values.check_mount_path(value.rpartition("/")[0])
        return value
    return values.check_environment_name(value)


SecretTarget = Annotated[
    str,
    AfterValidator(_check_secret_target),
    FieldDoc("variable or file", "variables or files", "a variable's name, or a file as `/secrets/key.json`"),
]


class Grpc(Model):
    """A health check by gRPC's health checking protocol."""

    service: Annotated[str, Field(max_length=255), GRPC_SERVICE] = Field(
        default="",
        description=(
            "The name of the service to check, as the server's health service knows it. Default: the server as a whole."
        ),
        examples=["acme.v1.Weather"],
    )


class Probe(Model):
    """A probe, with which Cloud Run checks that a container has started, is alive, or is ready."""

    path: values.UrlPath | None = Field(
        default=None,
        description=(
            "The path of an HTTP probe. Default: `health_path`. If neither is set, a startup probe "
            "only checks that the port accepts connections."
        ),
        examples=["/ready"],
    )
    grpc: Annotated[Grpc, FieldDoc("[gRPC](#probes)", "")] | None = Field(
        default=None,
        description=(
            "A gRPC probe instead of a path: Cloud Run calls gRPC's health checking protocol (`grpc.health.v1.Health`)."
        ),
        examples=[{"service": "acme.v1.Weather"}],
    )
    port: Annotated[int, NUMBER] | None = Field(
        default=None, ge=1, le=65_535, description="The port to probe. Default: the container's own.", examples=[9000]
    )
    initial_delay: Annotated[int, NUMBER] = Field(
        default=0, ge=0, le=MAX_LIVENESS, description="Seconds before the first probe.", examples=[5]
    )
    period: Annotated[int, NUMBER] = Field(
        default=10, ge=1, le=MAX_LIVENESS, description="Seconds between two probes.", examples=[2]
    )
    timeout: Annotated[int, NUMBER] = Field(
        default=1,
        ge=1,
        le=MAX_LIVENESS,
        description="Seconds after which a probe without a response counts as failed.",
        examples=[2],
    )
    failures: Annotated[int, NUMBER] = Field(
        default=3,
        ge=1,
        le=240,
        description="The number of consecutive failures after which the probe as a whole counts as failed.",
        examples=[5],
    )

    @field_validator("grpc", mode="after")
    @classmethod
    def _refuse_path_with_grpc(cls, value: Grpc | None, info: ValidationInfo) -> Grpc | None:
        if value is not None and info.data.get("path"):
            raise ValueError(f"can't be combined with path ({info.data['path']}): a probe uses one of them; keep one")
        return value

    @field_validator("timeout", mode="after")
    @classmethod
    def _check_timeout(cls, value: int, info: ValidationInfo) -> int:
        period = info.data.get("period")
        if period is not None and value > period:
            raise ValueError(f"{value} is above the period ({period}), which Cloud Run refuses; lower it")
        return value


def _startup_mistakes(probe: Probe) -> Iterator[Mistake]:
    """Find a startup probe above 240 s, Cloud Run's limit ("Configure container health checks")."""
    for key in ("initial_delay", "period"):
        value = getattr(probe, key)
        if value > MAX_STARTUP:
            yield (key,), f"{value} is too large; for a startup probe write {MAX_STARTUP} or less"
    seconds = probe.period * probe.failures
    if probe.period <= MAX_STARTUP < seconds:
        message = f"would wait {seconds} s (period x failures); Cloud Run waits at most {MAX_STARTUP} s for a container"
        yield (), f"{message}: lower one of the two"


def _running_mistakes(probe: Probe) -> Iterator[Mistake]:
    """Find a liveness or readiness probe whose timeout is too long (`Probe.timeout_seconds`, discovery document)."""
    if probe.timeout == probe.period:
        yield ("timeout",), f"{probe.timeout} is also the period, and Cloud Run requires a smaller timeout; lower it"


def _readiness_mistakes(probe: Probe) -> Iterator[Mistake]:
    yield from _running_mistakes(probe)
    if probe.initial_delay:
        yield ("initial_delay",), "is not for a readiness probe, which begins when the startup probe ends; remove it"
    if probe.period > MAX_READINESS:
        yield ("period",), f"{probe.period} is too large; for a readiness probe write {MAX_READINESS} or less"


class Probes(Model):
    """The probes of a server's main container, if the fleet's defaults are not suitable."""

    startup: Annotated[Probe, FieldDoc("[probe](#probes)", "")] | None = Field(
        default=None,
        description="An instance gets no requests until this probe succeeds.",
        examples=[{"period": 2, "failures": 30}],
    )
    liveness: Annotated[Probe, FieldDoc("[probe](#probes)", "")] | None = Field(
        default=None,
        description=(
            "If this probe fails, Cloud Run replaces the instance. It needs a `path`, `health_path` or `grpc`."
        ),
        examples=[{"path": "/health", "period": 60, "timeout": 5}],
    )
    readiness: Annotated[Probe, FieldDoc("[probe](#probes)", "")] | None = Field(
        default=None,
        description=(
            "While this probe fails, the instance gets no new requests, but is not replaced (a "
            "preview of Cloud Run). It needs a `path`, `health_path` or `grpc`."
        ),
        examples=[{"path": "/ready", "period": 5, "failures": 2}],
    )
    restart: bool = Field(
        default=True,
        description=(
            "Whether Cloud Run replaces an instance that stops responding. `false` removes the liveness probe."
        ),
        examples=[False],
    )

    @field_validator("startup", mode="after")
    @classmethod
    def _check_startup(cls, value: Probe | None) -> Probe | None:
        return value and raise_if_any(value, _startup_mistakes(value))

    @field_validator("liveness", mode="after")
    @classmethod
    def _check_liveness(cls, value: Probe | None) -> Probe | None:
        return value and raise_if_any(value, _running_mistakes(value))

    @field_validator("readiness", mode="after")
    @classmethod
    def _check_readiness(cls, value: Probe | None) -> Probe | None:
        return value and raise_if_any(value, _readiness_mistakes(value))


class WithEnvironment(Model):
    """The rules of a container's `env` and `secrets`; subclasses declare the two keys in this order."""

    @field_validator("env", mode="after", check_fields=False)
    @classmethod
    def _refuse_secrets_in_env(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        return raise_if_any(value, rules.plain_secret_mistakes(value))

    @field_validator("secrets", mode="after", check_fields=False)
    @classmethod
    def _check_secret_targets(cls, value: Mapping[str, SecretRef], info: ValidationInfo) -> Mapping[str, SecretRef]:
        return raise_if_any(
            value,
            (*rules.duplicate_variable_mistakes(value, info.data.get("env", {})), *rules.secret_folder_mistakes(value)),
        )


class Sidecar(WithEnvironment):
    """A further container of each instance; the main container reaches it at localhost."""

    image: images.ImageUrl = Field(description="The sidecar's image.", examples=["docker.io/library/redis:7"])
    args: rules.Words = Field(
        default=(), max_length=1000, description="Arguments that replace the image's CMD.", examples=[["--save", ""]]
    )
    command: rules.Words = Field(
        default=(),
        max_length=1000,
        description="The program that replaces the image's ENTRYPOINT.",
        examples=[["redis"]],
    )
    env: Mapping[values.EnvironmentName, Text] = Field(
        default={},
        max_length=1000,
        description="The sidecar's environment variables; plain text, so don't put secrets here.",
        examples=[{"LOG_LEVEL": "info"}],
    )
    secrets: Mapping[SecretTarget, Annotated[SecretRef, FieldDoc("", "[versions of secrets](#secrets)")]] = Field(
        default={},
        max_length=100,
        description="Secrets, as environment variables or files of the sidecar.",
        examples=[{"REDIS_PASSWORD": {"secret": "redis", "version": "1"}}],
    )
    mounts: Mapping[values.VolumeName, values.MountPath] = Field(
        default={},
        description="Volumes of the server to mount into the sidecar: the volume's name, and the path.",
        examples=[{"cache": "/cache"}],
    )
    cpu: quantities.Cpu = Field(default="1", description="The sidecar's CPUs.", examples=["0.5"])
    memory: quantities.Memory = Field(default="512Mi", description="The sidecar's memory.", examples=["256Mi"])
    startup: Annotated[Probe, FieldDoc("[probe](#probes)", "")] | None = Field(
        default=None,
        description=(
            "The probe that tells when the sidecar has started. Containers that depend on it wait "
            "for this. The probe must name a `port`."
        ),
        examples=[{"port": 6379, "period": 1, "failures": 30}],
    )
    depends_on: Annotated[tuple[values.ContainerName, ...], NO_REPEATS] = Field(
        default=(), description="Sidecars that must have started before this one.", examples=[["database"]]
    )

    @field_validator("memory", mode="after")
    @classmethod
    def _check_memory(cls, value: str, info: ValidationInfo) -> str:
        mistake = quantities.memory_mistake(info.data["cpu"], value) if "cpu" in info.data else None
        if mistake:
            raise ValueError(mistake)
        return value

    @field_validator("startup", mode="after")
    @classmethod
    def _require_startup_port(cls, value: Probe | None) -> Probe | None:
        if value is not None and value.port is None:
            raise ValueError("has no port, and a sidecar has no default; add port: NUMBER")
        return value and raise_if_any(value, _startup_mistakes(value))


class Vpc(Model):
    """Egress into a VPC network: directly, with addresses of the network for the instances, or through a connector."""

    network: values.Network | None = Field(
        default=None,
        description=(
            "The network. Default: the subnetwork's network. If you change to a subnetwork of "
            "another network, set `network` as well."
        ),
        examples=["default"],
    )
    subnetwork: values.Network | None = Field(
        default=None,
        description="The subnetwork, in the server's region. Set `network`, `subnetwork` or `connector`.",
        examples=["mcp-europe-west1"],
    )
    tags: Annotated[tuple[values.NetworkTag, ...], NO_REPEATS] = Field(
        default=(), max_length=64, description="Network tags, for firewall rules.", examples=[["mcp-server"]]
    )
    connector: references.Connector | None = Field(
        default=None,
        description=("A Serverless VPC Access connector instead of a network. It must exist in the server's region."),
        examples=["mcp-connector"],
    )
    all_traffic: bool = Field(
        default=False,
        description=(
            "Whether all requests go through the network, and not only those to private addresses. "
            "To call a service with `ingress: internal`, set it to `true`."
        ),
        examples=[True],
    )

    @field_validator("connector", mode="after")
    @classmethod
    def _check_connector(cls, value: str | None, info: ValidationInfo) -> str | None:
        keys = [key for key in ("network", "subnetwork", "tags") if info.data.get(key)]
        mistakes: list[Mistake] = []
        if value is not None and keys:
            mistakes.append(((), f"can't be combined with {keys[0]}: a connector has a network of its own; keep one"))
        if value is None and keys in ([], ["tags"]) and {"network", "subnetwork"} <= info.data.keys():
            mistakes.append(
                ((PARENT, "subnetwork"), "missing, and network too; write one of them, such as network: default")
            )
        return raise_if_any(value, mistakes)
