"""What servers and clients have in common: a container of their own on Cloud Run, and an account that it runs as."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from pulumi_mcpfleet.fleet import quantities, rules, values
from pulumi_mcpfleet.fleet.access import Access, Iam, IamAccess, IapAccess
from pulumi_mcpfleet.fleet.base import NO_REPEATS, NUMBER, without
from pulumi_mcpfleet.fleet.parts import (
    GcsVolume,
    SecretPlace,
    SecretRef,
    SecretVolume,
    Sidecar,
    Volume,
    Vpc,
    WithEnvironment,
)
from pulumi_mcpfleet.fleet.roles import Role
from pulumi_mcpfleet.fleet.sources import ExistingImage, Source
from pulumi_mcpfleet.fleet.values import Text
from pulumi_mcpfleet.fleet.words import Kind

BUILT_PORT: Final = 8080
"""Where a container listens whose image is built here: Cloud Run's default, which it gets in PORT."""

MAX_TIMEOUT: Final = 3600  # seconds; Cloud Run's longest request
MAX_CONCURRENCY: Final = 1000  # requests at once in one instance; Cloud Run's highest
MAX_INSTANCES: Final = 1000  # above this a project needs a quota by agreement with Google


class Workload(WithEnvironment):
    """A service of the fleet, be it a server or a client of servers."""

    source: Source = Field(description="Where the image comes from.", examples=[{"build": "./my_server"}])
    access: Access = Field(
        default=IamAccess(iam=Iam()),
        description="Who may call. By default nobody.",
        examples=[{"iam": {"invokers": ["group:mcp-users@acme.dev"]}}],
    )
    health_path: values.UrlPath | None = Field(
        default=None,
        description="What probes ask by HTTP; by default only that its port accepts connections.",
        examples=["/ready"],
    )
    timeout: Annotated[int, NUMBER] = Field(
        default=300, ge=1, le=MAX_TIMEOUT, description="The longest request, in seconds.", examples=[900]
    )
    cpu: quantities.Cpu = Field(default="1", description="CPUs of its own container.", examples=["2"])
    memory: quantities.Memory = Field(
        default="512Mi", description="Memory of its own container, its files in /tmp included.", examples=["1Gi"]
    )
    concurrency: Annotated[int, NUMBER] = Field(
        default=80, ge=1, le=MAX_CONCURRENCY, description="Requests that one instance takes at once.", examples=[20]
    )
    max_instances: Annotated[int, NUMBER] = Field(
        default=3, ge=1, le=MAX_INSTANCES, description="The most instances; also the bound of the bill.", examples=[10]
    )
    env: Mapping[values.EnvironmentName, Text] = Field(
        default={},
        max_length=900,  # Cloud Run has 1000, and the fleet sets some itself
        description="Further environment variables; plain text that everyone with access can read, so no secrets.",
        examples=[{"BIGQUERY_PROJECT": "acme-mcp-dev"}],
    )
    secrets: Mapping[SecretPlace, Annotated[SecretRef, Kind("", "[versions of secrets](#secrets)")]] = Field(
        default={},
        max_length=100,
        description="Secrets of Secret Manager, as environment variables or as files. Its account may read just these.",
        examples=[{"DB_PASSWORD": {"secret": "toolbox-db", "version": "3"}}],
    )
    volumes: Mapping[values.VolumeName, Volume] = Field(
        default={},
        max_length=10,
        description="Folders of memory, buckets and secrets, by name.",
        examples=[{"cache": {"memory": "64Mi", "mount": "/cache"}}],
    )
    roles: Annotated[tuple[Role, ...], NO_REPEATS] = Field(
        default=(),
        max_length=50,
        description="Roles on the project that its account gets.",
        examples=[["roles/bigquery.user"]],
    )
    vpc: Annotated[Vpc, Kind("[vpc](#vpc)", "")] | None = Field(
        default=None,
        description="Direct VPC egress: its requests leave through your network.",
        examples=[{"network": "default", "subnetwork": "mcp", "all_traffic": True}],
    )
    description: str = Field(
        default="",
        max_length=512,
        description="A sentence for the people who see the service.",
        examples=["Weather for the field teams"],
    )
    deletion_protection: bool = Field(
        default=False,
        description="Refuse to delete the service; by default on in profile prod.",
        examples=[True],
    )

    @property
    def port(self) -> int:
        """Where its own container listens."""
        return self.source.port if isinstance(self.source, ExistingImage) else BUILT_PORT

    @property
    def beside(self) -> Mapping[str, Sidecar]:
        """Further containers of each instance, by name."""
        return {}

    @property
    def sandbox(self) -> Literal["gen1", "gen2"] | None:
        """The execution environment: the second generation where a bucket is mounted, which needs it."""
        return "gen2" if self.buckets else None

    @property
    def all_secrets(self) -> tuple[str, ...]:
        """The secrets that its identity reads, each once."""
        volumes = [one.secret for one in self.volumes.values() if isinstance(one, SecretVolume)]
        sidecars = [ref.secret for one in self.beside.values() for ref in one.secrets.values()]
        return tuple(dict.fromkeys([*(ref.secret for ref in self.secrets.values()), *volumes, *sidecars]))

    @property
    def buckets(self) -> Mapping[str, bool]:
        """The buckets that its identity uses, and whether it only reads them."""
        found: dict[str, bool] = {}
        for one in self.volumes.values():
            if isinstance(one, GcsVolume):
                found[one.gcs.bucket] = found.get(one.gcs.bucket, True) and one.gcs.read_only
        return found

    @property
    def invokers(self) -> tuple[str, ...]:
        """The principals that may call; none where Cloud Run asks nobody's name."""
        match self.access:
            case IamAccess(iam=iam):
                return iam.invokers
            case IapAccess(iap=iap):
                return iap.members
            case _:
                return ()

    @field_validator("memory", mode="after")
    @classmethod
    def _memory_goes_with_cpu(cls, value: str, info: ValidationInfo) -> str:
        mistake = quantities.memory_mistake(info.data["cpu"], value) if "cpu" in info.data else None
        if mistake:
            raise ValueError(mistake)
        return value

    @field_validator("concurrency", mode="after")
    @classmethod
    def _concurrency_goes_with_cpu(cls, value: int, info: ValidationInfo) -> int:
        cpu = info.data.get("cpu")
        if cpu is not None and quantities.cpus(cpu) < 1 and value > 1:
            raise ValueError(f"{value} needs a whole CPU and cpu is {cpu}; write concurrency: 1, or cpu: 1")
        return value

    @field_validator("volumes", mode="after")
    @classmethod
    def _volumes_have_their_own_places(cls, value: Mapping[str, Volume], info: ValidationInfo) -> Mapping[str, Volume]:
        return without(value, rules.mounts(value, info.data.get("secrets", {})))
