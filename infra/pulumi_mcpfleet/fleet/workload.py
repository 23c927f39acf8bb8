"""The common keys of servers and clients: the main container of a Cloud Run service, its account and its resources."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from pulumi_mcpfleet.fleet import quantities, references, rules, values
from pulumi_mcpfleet.fleet.access import Access, Iam, IamAccess, IapAccess, LoginAccess
from pulumi_mcpfleet.fleet.base import NO_REPEATS, NUMBER, PARENT, Mistake, raise_if_any
from pulumi_mcpfleet.fleet.built_source import BuiltSource
from pulumi_mcpfleet.fleet.field_docs import FieldDoc
from pulumi_mcpfleet.fleet.parts import SecretRef, SecretTarget, Sidecar, Vpc, WithEnvironment
from pulumi_mcpfleet.fleet.roles import Role
from pulumi_mcpfleet.fleet.sources import Source
from pulumi_mcpfleet.fleet.stdio import Registered, Stdio, missing_variables
from pulumi_mcpfleet.fleet.values import Text
from pulumi_mcpfleet.fleet.volumes import FileSystem, GcsVolume, NfsVolume, SecretVolume, Volume

BUILT_PORT: Final = 8080
"""The port of containers whose image is built here: Cloud Run's default, which it sets in the variable PORT."""

MAX_TIMEOUT: Final = 3600  # seconds; Cloud Run's longest request
MAX_CONCURRENCY: Final = 1000  # requests at once in one instance; Cloud Run's highest
SQL_VOLUME: Final = "cloudsql"
SQL_MOUNT: Final = "/cloudsql"
"""The name and the mount path of the volume with Cloud SQL's sockets, which Cloud Run fixes."""

MAX_INSTANCES: Final = 1000  # for more, a project needs an agreement with Google


class Workload(WithEnvironment):
    """A service of the fleet: a server, or a client of servers."""

    source: Source = Field(description="Where the image comes from.", examples=[{"build": "./my_server"}])
    access: Access = Field(
        default=IamAccess(iam=Iam()),
        description="Who can call the server. By default, nobody can.",
        examples=[{"iam": {"invokers": ["group:mcp-users@acme.dev"]}}],
    )
    health_path: values.UrlPath | None = Field(
        default=None,
        description=("The path of HTTP probes. By default, Cloud Run only checks that the port accepts connections."),
        examples=["/ready"],
    )
    timeout: Annotated[int, NUMBER] = Field(
        default=300, ge=1, le=MAX_TIMEOUT, description="The maximum duration of a request, in seconds.", examples=[900]
    )
    cpu: quantities.OwnCpu = Field(
        default="1", description="CPUs of the main container, without sidecars.", examples=["2"]
    )
    memory: quantities.OwnMemory = Field(
        default="512Mi",
        description="Memory of the main container, without sidecars. Files in `/tmp` count.",
        examples=["1Gi"],
    )
    cpu_throttling: bool = Field(
        default=True,
        description=(
            "Whether an instance has CPU, and you pay for it, only during requests. `false`: as "
            "long as the instance runs, for work between requests."
        ),
        examples=[False],
    )
    gpu: Literal["nvidia-l4", "nvidia-rtx-pro-6000"] | None = Field(
        default=None,
        description=(
            "A GPU for the main container. It needs `cpu_throttling: false`, a quota of the "
            "project, and 4 CPUs and `16Gi` (`nvidia-l4`), or 20 CPUs and `80Gi` "
            "(`nvidia-rtx-pro-6000`, a preview of Cloud Run)."
        ),
        examples=["nvidia-l4"],
    )
    gpu_zonal_redundancy: bool = Field(
        default=True,
        description=("Whether Cloud Run reserves GPUs in a second zone. `false` costs less, and needs another quota."),
        examples=[False],
    )
    concurrency: Annotated[int, NUMBER] = Field(
        default=80,
        ge=1,
        le=MAX_CONCURRENCY,
        description="The maximum number of concurrent requests for each instance.",
        examples=[20],
    )
    max_instances: Annotated[int, NUMBER] = Field(
        default=3,
        ge=1,
        le=MAX_INSTANCES,
        description="The maximum number of instances. It also limits your costs.",
        examples=[10],
    )
    env: Mapping[values.EnvironmentName, Text] = Field(
        default={},
        max_length=900,  # Cloud Run has 1000, and the fleet sets some itself
        description=(
            "Further environment variables. They are plain text in the config and in Cloud Run: don't put secrets here."
        ),
        examples=[{"BIGQUERY_PROJECT": "acme-mcp-dev"}],
    )
    secrets: Mapping[SecretTarget, Annotated[SecretRef, FieldDoc("", "[versions of secrets](#secrets)")]] = Field(
        default={},
        max_length=100,
        description=(
            "Secrets of Secret Manager, as environment variables or as files. mcpfleet gives the "
            "service's account read access to them."
        ),
        examples=[{"DB_PASSWORD": {"secret": "toolbox-db", "version": "3"}}],
    )
    volumes: Mapping[values.VolumeName, Volume] = Field(
        default={},
        max_length=10,
        description="Volumes by name: memory, disks, buckets, secrets and NFS exports.",
        examples=[{"cache": {"memory": "64Mi", "mount": "/cache"}}],
    )
    roles: Annotated[tuple[Role, ...], NO_REPEATS] = Field(
        default=(),
        max_length=50,
        description="Roles on the project for the service's account.",
        examples=[["roles/bigquery.user"]],
    )
    vpc: Annotated[Vpc, FieldDoc("[vpc](#vpc)", "")] | None = Field(
        default=None,
        description="VPC egress: the server's requests leave through your network.",
        examples=[{"network": "default", "subnetwork": "mcp", "all_traffic": True}],
    )
    cloudsql_instances: Annotated[tuple[references.SqlInstance, ...], NO_REPEATS] = Field(
        default=(),
        max_length=100,
        description=(
            "Cloud SQL instances. Each one has a socket at `/cloudsql/PROJECT:REGION:INSTANCE`. The"
            " service's account gets `roles/cloudsql.client`."
        ),
        examples=[["acme-mcp-dev:europe-west1:tools"]],
    )
    session_affinity: bool = Field(
        default=False,
        description=(
            "Whether Cloud Run sends a caller that keeps cookies to the same instance again. MCP "
            "clients keep no cookies."
        ),
        examples=[True],
    )
    use_http2: bool = Field(
        default=False,
        description=(
            "Whether Cloud Run sends requests to the container as HTTP/2 without TLS (h2c). You "
            "can't combine it with HTTP probes."
        ),
        examples=[True],
    )
    encryption_key: references.EncryptionKey | None = Field(
        default=None,
        description=(
            "A Cloud KMS key, in the service's region, which encrypts Cloud Run's copy of the "
            "image. Cloud Run's service agent needs `roles/cloudkms.cryptoKeyEncrypterDecrypter` on"
            " the key."
        ),
        examples=["projects/acme-mcp-dev/locations/europe-west1/keyRings/mcp/cryptoKeys/run"],
    )
    binary_authorization: references.BinaryPolicy | None = Field(
        default=None,
        description="The Binary Authorization policy that the images must meet.",
        examples=["default"],
    )
    labels: Annotated[Mapping[values.LabelKey, values.LabelValue], Field(max_length=60)] = Field(
        default={},
        description=(
            "Labels for this service's resources, in addition to the fleet's `labels`. If both have"
            " the same key, this value applies."
        ),
        examples=[{"team": "weather"}],
    )
    annotations: Annotated[Mapping[references.AnnotationKey, Text], Field(max_length=60)] = Field(
        default={},
        description="Annotations of the Cloud Run service, for tools that read them.",
        examples=[{"acme.dev/owner": "weather@acme.dev"}],
    )
    service_name: values.ServiceName | None = Field(
        default=None,
        description=(
            "The name of the Cloud Run service. Default: `mcp-NAME`. The account, image and load "
            "balancer keep their names. If you change it, Pulumi creates a second service with "
            "another URL, and then deletes the first one."
        ),
        examples=["weather-tools"],
    )
    description: str = Field(
        default="",
        max_length=512,
        description="The description of the Cloud Run service.",
        examples=["Weather for the field teams"],
    )
    deletion_protection: bool = Field(
        default=False,
        description="Whether the service can't be deleted. Default in profile `prod`: `true`.",
        examples=[True],
    )

    @property
    def port(self) -> int:
        """The port on which the main container listens."""
        return BUILT_PORT if isinstance(self.source, Stdio | Registered) else self.source.port

    @property
    def all_sidecars(self) -> Mapping[str, Sidecar]:
        """Further containers of each instance, by name."""
        return {}

    @property
    def sandbox(self) -> Literal["gen1", "gen2"] | None:
        """The execution environment that the volumes need: file systems need the second generation."""
        return "gen2" if any(isinstance(volume, FileSystem) for volume in self.volumes.values()) else None

    @property
    def writable(self) -> tuple[str, ...]:
        """The folders of the image that are mounted in memory, so that the container can write there."""
        return self.source.writable if isinstance(self.source, BuiltSource | Stdio) else ()

    @property
    def needs_beta(self) -> bool:
        """True if the service uses features that Cloud Run accepts only in launch stage BETA."""
        return self.gpu == quantities.LARGE_GPU

    @property
    def all_secrets(self) -> tuple[str, ...]:
        """The secrets that the service's account reads, without duplicates."""
        volumes = [item.secret for item in self.volumes.values() if isinstance(item, SecretVolume)]
        sidecars = [ref.secret for item in self.all_sidecars.values() for ref in item.secrets.values()]
        access = self.access
        login = [access.login.client.secret, access.login.key.secret] if isinstance(access, LoginAccess) else []
        return tuple(dict.fromkeys([*(ref.secret for ref in self.secrets.values()), *volumes, *sidecars, *login]))

    @property
    def buckets(self) -> Mapping[str, bool]:
        """The buckets that the service's account uses; true for those that it only reads."""
        read_only_by_bucket: dict[str, bool] = {}
        for volume in self.volumes.values():
            if isinstance(volume, GcsVolume):
                read_only_by_bucket[volume.gcs.bucket] = (
                    read_only_by_bucket.get(volume.gcs.bucket, True) and volume.gcs.read_only
                )
        return read_only_by_bucket

    @property
    def exports(self) -> tuple[NfsVolume, ...]:
        """The volumes that are NFS exports."""
        return tuple(volume for volume in self.volumes.values() if isinstance(volume, NfsVolume))

    @property
    def invokers(self) -> tuple[str, ...]:
        """The principals that can call; empty if Google does not check the caller's identity."""
        match self.access:
            case IamAccess(iam=iam):
                return iam.invokers
            case IapAccess(iap=iap):
                return iap.members
            case _:
                return ()

    @field_validator("secrets", mode="after")
    @classmethod
    def _require_declared_variables(
        cls, value: Mapping[str, SecretRef], info: ValidationInfo
    ) -> Mapping[str, SecretRef]:
        return raise_if_any(value, missing_variables(info.data.get("source"), info.data.get("env", {}), value))

    @field_validator("memory", mode="after")
    @classmethod
    def _check_memory(cls, value: str, info: ValidationInfo) -> str:
        mistake = quantities.memory_mistake(info.data["cpu"], value) if "cpu" in info.data else None
        if mistake:
            raise ValueError(mistake)
        return value

    @field_validator("concurrency", mode="after")
    @classmethod
    def _check_concurrency(cls, value: int, info: ValidationInfo) -> int:
        cpu = info.data.get("cpu")
        if cpu is not None and quantities.cpus(cpu) < 1 and value > 1:
            raise ValueError(f"{value} needs a whole CPU and cpu is {cpu}; write concurrency: 1, or cpu: 1")
        return value

    @field_validator("cpu_throttling", mode="after")
    @classmethod
    def _check_cpu_throttling(cls, value: bool, info: ValidationInfo) -> bool:
        cpu, memory = info.data.get("cpu"), info.data.get("memory")
        if not value and cpu is not None and quantities.cpus(cpu) < 1:
            raise ValueError(f"false needs a whole CPU and cpu is {cpu}; write cpu: 1, or remove it")
        if not value and memory is not None and quantities.mebibytes(memory) < 512:
            raise ValueError(f"false needs at least 512Mi and memory is {memory}; raise it, or remove cpu_throttling")
        return value

    @field_validator("gpu", mode="after")
    @classmethod
    def _check_gpu(cls, value: str | None, info: ValidationInfo) -> str | None:
        mistakes = [*quantities.gpu_mistakes(value, info.data.get("cpu"), info.data.get("memory"))]
        if value is not None and info.data.get("cpu_throttling") is True:
            mistakes.append(((), f"{value} needs CPU all the time; add cpu_throttling: false"))
        return raise_if_any(value, mistakes)

    @field_validator("gpu_zonal_redundancy", mode="after")
    @classmethod
    def _check_gpu_zonal_redundancy(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and "gpu" in info.data and info.data["gpu"] is None:
            raise ValueError("false applies only to a GPU, and there is none; add gpu: nvidia-l4, or remove it")
        return value

    @field_validator("cloudsql_instances", mode="after")
    @classmethod
    def _check_cloudsql_instances(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value:
            return value
        volumes: Mapping[str, Volume] = info.data.get("volumes", {})
        used = {name: volume.mount for name, volume in volumes.items()} | rules.secret_files(
            info.data.get("secrets", {})
        )
        mistakes: list[Mistake] = [
            ((), f"are seen in {SQL_MOUNT}, where {name} is already; write another path for it")
            for name, mount in used.items()
            if f"{mount}/".startswith(f"{SQL_MOUNT}/")
        ]
        if SQL_VOLUME in volumes:
            mistakes.append(
                ((PARENT, "volumes", SQL_VOLUME), "is Cloud Run's name for cloudsql_instances; write another")
            )
        return raise_if_any(value, mistakes)

    @field_validator("vpc", mode="after")
    @classmethod
    def _check_vpc(cls, value: Vpc | None, info: ValidationInfo) -> Vpc | None:
        mistakes: list[Mistake] = [
            ((PARENT, "volumes", name), "needs vpc to reach its server; add vpc: {network: default}")
            for name, volume in info.data.get("volumes", {}).items()
            if value is None and isinstance(volume, NfsVolume)
        ]
        return raise_if_any(value, mistakes)

    @field_validator("use_http2", mode="after")
    @classmethod
    def _check_use_http2(cls, value: bool, info: ValidationInfo) -> bool:
        path = info.data.get("health_path")
        if value and isinstance(info.data.get("access"), LoginAccess):
            raise ValueError("can't be combined with access: login, whose container speaks HTTP/1; remove it")
        if value and path is not None:
            raise ValueError(
                f"can't be combined with health_path ({path}): Cloud Run's HTTP probes speak HTTP/1; leave health_path"
                " out, and of what is built here write the source as folder"
            )
        return value

    @field_validator("volumes", mode="after")
    @classmethod
    def _check_volumes(cls, value: Mapping[str, Volume], info: ValidationInfo) -> Mapping[str, Volume]:
        writable = getattr(info.data.get("source"), "writable", ())
        mistakes = [*rules.volume_mistakes(value, info.data.get("secrets", {}), writable)]
        memory = info.data.get("memory")
        # Cloud Run, "Memory limits": the second generation needs at least 512 MiB.
        if memory is not None and quantities.mebibytes(memory) < 512:
            file_system = next((name for name, volume in value.items() if isinstance(volume, FileSystem)), None)
            message = f"{memory} is too little for the volume {file_system}, which gen2 mounts; write 512Mi or more"
            mistakes += [((PARENT, "memory"), message)] if file_system else []
        return raise_if_any(value, mistakes)
