"""One MCP server: every key with its default, limit and meaning, and the rules between its keys.

Rules between two keys stand at the later one as field validators, not as model validators, so that they report
even when another key is wrong.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from pulumi_mcpfleet.fleet import containers, identities, quantities, rules, values
from pulumi_mcpfleet.fleet.access import Access, Iam, IamAccess, IapAccess, OauthAccess
from pulumi_mcpfleet.fleet.base import NO_REPEATS, NOT_EMPTY, NUMBER, Model, without
from pulumi_mcpfleet.fleet.kinds import Kind
from pulumi_mcpfleet.fleet.made import is_bridged
from pulumi_mcpfleet.fleet.parts import GcsVolume, Probes, SecretPlace, SecretRef, SecretVolume, Sidecar, Volume, Vpc
from pulumi_mcpfleet.fleet.roles import Role
from pulumi_mcpfleet.fleet.sources import Build, Source
from pulumi_mcpfleet.fleet.values import Text

DEFAULT_HEALTH_PATH: Final = "/health"
"""Answered by the reference server. Never /healthz: Google's front end keeps that one for itself."""

SSE_PATH: Final = "/sse"
"""Where the legacy transport's streams begin, in the official SDK and in FastMCP."""

MAX_TIMEOUT: Final = 3600  # seconds; Cloud Run's longest request
MAX_CONCURRENCY: Final = 1000  # requests at once in one instance; Cloud Run's highest
MAX_INSTANCES: Final = 1000  # above this a project needs a quota by agreement with Google


class Server(Model):
    """One MCP server."""

    source: Source = Field(description="Where the image comes from.", examples=[{"build": "./my_server"}])
    access: Access = Field(
        default=IamAccess(iam=Iam()),
        description="Who may call. By default nobody.",
        examples=[{"iam": {"invokers": ["group:mcp-users@acme.dev"]}}],
    )
    path: values.UrlPath = Field(default="/mcp", description="The path of the MCP endpoint.", examples=["/tools/mcp"])
    transports: Annotated[tuple[Literal["streamable-http", "sse"], ...], NO_REPEATS, NOT_EMPTY] = Field(
        default=("streamable-http",),
        description="What it speaks. `sse` is MCP's deprecated transport, at /sse; it needs `max_instances: 1`.",
        examples=[["streamable-http", "sse"]],
    )
    sessions: Literal["stateless", "stateful"] = Field(
        default="stateless",
        description="Whether any instance can answer any request. `stateful` keeps sessions in one instance: they end"
        " when it does, and it needs `max_instances: 1`.",
        examples=["stateful"],
    )
    health_path: values.UrlPath | None = Field(
        default=None,
        description="What probes ask by HTTP: /health where we build the image (`build`) or put the bridge before"
        " it; for any other, whose path we cannot know, only that the port accepts connections is probed unless a path"
        " is given.",
        examples=["/ready"],
    )
    timeout: Annotated[int, NUMBER] = Field(
        default=3600,
        ge=1,
        le=MAX_TIMEOUT,
        description="The longest request, streams included, in seconds.",
        examples=[900],
    )
    cpu: quantities.Cpu = Field(default="1", description="CPUs of one instance.", examples=["2"])
    memory: quantities.Memory = Field(
        default="512Mi", description="Memory of one instance, its files in /tmp included.", examples=["1Gi"]
    )
    concurrency: Annotated[int, NUMBER] = Field(
        default=80, ge=1, le=MAX_CONCURRENCY, description="Requests that one instance takes at once.", examples=[20]
    )
    min_instances: Annotated[int, NUMBER] = Field(
        default=0,
        ge=0,
        le=MAX_INSTANCES,
        description="Instances kept warm, and paid for, without requests; by default 1 in profile prod.",
        examples=[1],
    )
    max_instances: Annotated[int, NUMBER] = Field(
        default=3, ge=1, le=MAX_INSTANCES, description="The most instances; also the bound of the bill.", examples=[10]
    )
    startup_boost: bool = Field(default=True, description="More CPU while an instance starts.", examples=[False])
    execution_environment: Literal["gen1", "gen2"] | None = Field(
        default=None,
        description="The sandbox: `gen1` starts faster, `gen2` is a whole Linux; by default Cloud Run chooses.",
        examples=["gen2"],
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
        description="Secrets of Secret Manager, as environment variables or as files. The server's identity may read"
        " just these.",
        examples=[{"DB_PASSWORD": {"secret": "toolbox-db", "version": "3"}}],
    )
    volumes: Mapping[values.VolumeName, Volume] = Field(
        default={},
        max_length=10,
        description="Folders of memory, buckets and secrets, by name.",
        examples=[{"cache": {"memory": "64Mi", "mount": "/cache"}}],
    )
    sidecars: Mapping[values.ContainerName, Annotated[Sidecar, Kind("", "[sidecars](#sidecars)")]] = Field(
        default={},
        max_length=9,
        description="Further containers of each instance, by name. None of them gets requests.",
        examples=[{"redis": {"image": "docker.io/library/redis:7"}}],
    )
    depends_on: Annotated[tuple[values.ContainerName, ...], NO_REPEATS] = Field(
        default=(), description="Sidecars that have to have started before the server.", examples=[["redis"]]
    )
    probes: Annotated[Probes, Kind("[probes](#probes)", "")] = Field(
        default=Probes(),
        description="When an instance may serve and when it is started anew, where the fleet's probes do not fit.",
        examples=[{"startup": {"period": 2, "failures": 60}}],
    )
    service_account: identities.Account | None = Field(
        default=None,
        description="An existing account to run as; by default one that is created for this server.",
        examples=["toolbox@acme-mcp-dev.iam.gserviceaccount.com"],
    )
    roles: Annotated[tuple[Role, ...], NO_REPEATS] = Field(
        default=(),
        max_length=50,
        description="Roles on the project that the server's identity gets.",
        examples=[["roles/bigquery.user"]],
    )
    ingress: Literal["all", "internal", "internal-and-lb"] = Field(
        default="all",
        description="From where requests may come: the internet, the project's networks, or these and a load balancer."
        " Who may call is IAM's question still.",
        examples=["internal"],
    )
    vpc: Annotated[Vpc, Kind("[vpc](#vpc)", "")] | None = Field(
        default=None,
        description="Direct VPC egress: requests of the server leave through your network.",
        examples=[{"network": "default", "subnetwork": "mcp", "all_traffic": True}],
    )
    domain: values.Domain | None = Field(
        default=None,
        description="A domain of yours, through a global load balancer with a managed certificate; it becomes an"
        " audience and an allowed host by itself.",
        examples=["mcp.acme.dev"],
    )
    default_url: bool = Field(
        default=True, description="Whether the run.app URL answers, too; off needs a `domain`.", examples=[False]
    )
    audiences: Annotated[tuple[values.Audience, ...], NO_REPEATS] = Field(
        default=(),
        max_length=50,
        description="Audiences that tokens may carry beside the service's URL.",
        examples=[["https://mcp.acme.dev"]],
    )
    allowed_origins: Annotated[tuple[values.Origin, ...], NO_REPEATS] = Field(
        default=(),
        max_length=50,
        description="Web origins whose pages may call; by default none.",
        examples=[["https://app.acme.dev"]],
    )
    agent_registry: Literal["functional-type", "entry"] | None = Field(
        default=None,
        description="How agents find it. `functional-type` declares the service an MCP server to Cloud Run (beta): it"
        " can never be changed or unset, so taking the key away deletes the service and creates it anew. `entry` is a"
        " record of its own in Agent Registry.",
        examples=["entry"],
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
    def all_secrets(self) -> tuple[str, ...]:
        """The secrets that the server's identity reads, each once."""
        volumes = [one.secret for one in self.volumes.values() if isinstance(one, SecretVolume)]
        sidecars = [ref.secret for one in self.sidecars.values() for ref in one.secrets.values()]
        return tuple(dict.fromkeys([*(ref.secret for ref in self.secrets.values()), *volumes, *sidecars]))

    @property
    def buckets(self) -> Mapping[str, bool]:
        """The buckets that the server's identity uses, and whether it only reads them."""
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

    @property
    def reached(self) -> Literal["proxy", "url", "network"]:
        """How a person's client reaches it: through an authenticated proxy, by its URL, or from the network only."""
        if self.ingress == "internal":
            return "network"
        return "proxy" if isinstance(self.access, IamAccess) else "url"

    @field_validator("access", mode="after")
    @classmethod
    def _somebody_checks_the_caller(cls, value: Access, info: ValidationInfo) -> Access:
        if isinstance(value, OauthAccess) and is_bridged(info.data.get("source")):
            raise ValueError(
                "oauth leaves the check of tokens to the server, and a stdio server behind the bridge checks none:"
                " everybody could call; write iam or iap"
            )
        return value

    @field_validator("health_path", mode="after")
    @classmethod
    def _health_path_of_a_built_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and (isinstance(info.data.get("source"), Build) or is_bridged(info.data.get("source"))):
            value = DEFAULT_HEALTH_PATH
        if value is not None and value == info.data.get("path"):
            raise ValueError(f"{value} is the MCP endpoint already; give one of the two another path")
        return value

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

    @field_validator("max_instances", mode="after")
    @classmethod
    def _max_instances_go_with_the_rest(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("min_instances")
        if least is not None and value < least:
            raise ValueError(f"{value} is below min_instances ({least}); raise it or lower min_instances")
        if value > 1 and info.data.get("sessions") == "stateful":
            raise ValueError(
                f"{value} instances do not know each other's sessions, and MCP clients do not keep the cookie that"
                " would bring them back: calls would fail with 404; write max_instances: 1, or sessions: stateless"
            )
        if value > 1 and "sse" in info.data.get("transports", ()):
            raise ValueError(
                f"{value} instances cannot serve sse: a message would reach an instance that has not its stream;"
                " write max_instances: 1, or leave sse out of transports"
            )
        return value

    @field_validator("execution_environment", mode="after")
    @classmethod
    def _gen2_has_room(cls, value: str | None, info: ValidationInfo) -> str | None:
        memory = info.data.get("memory")
        # Cloud Run, "Memory limits": the second generation needs at least 512 MiB.
        if value == "gen2" and memory is not None and quantities.mebibytes(memory) < 512:
            raise ValueError(f"gen2 needs at least 512Mi and memory is {memory}; raise it, or write gen1")
        return value

    @field_validator("env", mode="after")
    @classmethod
    def _env_holds_no_secret(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        return without(value, rules.secrets_in_the_clear(value))

    @field_validator("secrets", mode="after")
    @classmethod
    def _secrets_have_their_own_places(
        cls, value: Mapping[str, SecretRef], info: ValidationInfo
    ) -> Mapping[str, SecretRef]:
        return without(value, (*rules.set_twice(value, info.data.get("env", {})), *rules.hidden_secrets(value)))

    @field_validator("volumes", mode="after")
    @classmethod
    def _volumes_have_their_own_places(cls, value: Mapping[str, Volume], info: ValidationInfo) -> Mapping[str, Volume]:
        buckets = [name for name, volume in value.items() if isinstance(volume, GcsVolume)]
        gen1 = info.data.get("execution_environment") == "gen1"
        found = [
            ((name,), "needs execution_environment: gen2, which mounts buckets; gen1 does not") for name in buckets
        ]
        return without(value, (*rules.mounts(value, info.data.get("secrets", {})), *(found if gen1 else ())))

    @field_validator("sidecars", mode="after")
    @classmethod
    def _sidecars_fit_together(cls, value: Mapping[str, Sidecar], info: ValidationInfo) -> Mapping[str, Sidecar]:
        return without(value, containers.beside(info.data, value))

    @field_validator("depends_on", mode="after")
    @classmethod
    def _depends_on_sidecars(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return without(value, containers.unknown(value, info.data.get("sidecars", value)))

    @field_validator("ingress", mode="after")
    @classmethod
    def _people_come_from_outside(cls, value: str, info: ValidationInfo) -> str:
        access = info.data.get("access")
        people = (
            [one for one in access.iam.invokers if one.startswith("user:")] if isinstance(access, IamAccess) else []
        )
        if value == "internal" and people:
            raise ValueError(
                f"internal keeps {people[0]}'s desktop out, whose requests come from the internet; name service"
                " accounts or groups that call from the project's networks, or write ingress: all"
            )
        return value

    @field_validator("domain", mode="after")
    @classmethod
    def _a_load_balancer_gets_in(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("ingress") == "internal":
            raise ValueError(
                f"{value} leads to a load balancer, which ingress: internal keeps out; write internal-and-lb"
            )
        return value

    @field_validator("default_url", mode="after")
    @classmethod
    def _some_url_answers(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and "domain" in info.data and info.data["domain"] is None:
            raise ValueError("off leaves no URL at which the server answers; add domain: mcp.acme.dev, or remove it")
        return value
