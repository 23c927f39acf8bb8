"""The user's whole vocabulary, as frozen models: every key with its default, limit and meaning.

Keys are the user's words, not the provider's. Rules between two keys stand at the later one as field
validators, not as model validators, so that they report even when another key is wrong. A field's
first example is what the report tells a user to add when the field is missing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

from infra.fleet import values
from infra.fleet.values import NO_REPEATS, NUMBER, Text, one_kind

DEFAULT_HEALTH_PATH: Final = "/health"
"""Answered by the reference server. Never /healthz: Google's front end keeps that one for itself."""

MAX_TIMEOUT: Final = 3600  # seconds; Cloud Run's longest request
MAX_CONCURRENCY: Final = 1000  # requests at once in one instance; Cloud Run's highest
MAX_INSTANCES: Final = 1000  # above this a project needs a quota by agreement with Google

# Cloud Run, "CPU limits": the least memory that goes with so many CPUs, in MiB.
_MEMORY_FLOOR: Final = {4: 2048, 6: 4096, 8: 4096}
# Cloud Run, "Memory limits": above so many MiB at least so many CPUs, and below one CPU at most this memory.
_CPU_FLOOR: Final = ((24_576, 8), (16_384, 6), (8_192, 4), (4_096, 2))
_MEMORY_CEILING: Final = ((0.5, 512), (1.0, 1024))


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Build(_Model):
    """An image that `up` builds from a folder and pushes to the stack's registry."""

    build: values.Folder = Field(
        description="The folder with the Dockerfile, as seen from Pulumi.yaml.", examples=["./mcp_server"]
    )
    build_args: Mapping[values.BuildArgName, Text] = Field(
        default={}, description="Values for the Dockerfile's ARGs; they stay visible in the image, so no secrets."
    )


class ExistingImage(_Model):
    """An image that somebody else builds; used exactly as named."""

    image: values.ImageUrl = Field(
        description="The image, best pinned by digest.", examples=["docker.io/acme/toolbox:1"]
    )
    port: Annotated[int, NUMBER] = Field(
        default=8080, ge=1, le=65_535, description="The port that the container listens on."
    )
    args: tuple[Text, ...] = Field(default=(), description="Arguments in place of the image's CMD.")
    command: tuple[Text, ...] = Field(default=(), description="The program in place of the image's ENTRYPOINT.")


def _source_kind(value: Any) -> str | None:
    if isinstance(value, (Build, ExistingImage)):
        return "build" if isinstance(value, Build) else "image"
    if isinstance(value, dict):
        return "build" if "build" in value else "image" if "image" in value else None
    return None


Source = Annotated[
    Annotated[Build, Tag("build")] | Annotated[ExistingImage, Tag("image")],
    Discriminator(_source_kind),
    one_kind("source", ["build", "image"]),
]
"""Where a server's image comes from: the one key says the kind, and a kind holds only what it needs."""


class Iam(_Model):
    """Cloud Run's own check of the caller's Google ID token."""

    invokers: Annotated[tuple[values.Member, ...], NO_REPEATS] = Field(
        default=(), description="The principals that may call the server; nobody else can."
    )


class IamAccess(_Model):
    """Access for named Google identities."""

    iam: Iam = Field(description="Who may call, by IAM.", examples=["{invokers: []}"])


Access = Annotated[IamAccess, one_kind("access", ["iam"])]
"""Who may call a server. One kind for now; the next ones make this a tagged union like `Source`."""


class Server(_Model):
    """One MCP server."""

    source: Source = Field(description="Where the image comes from.", examples=["{build: ./mcp_server}"])
    access: Access = Field(default=IamAccess(iam=Iam()), description="Who may call. By default nobody.")
    path: values.UrlPath = Field(default="/mcp", description="The path of the MCP endpoint.")
    health_path: values.UrlPath | None = Field(
        default=None,
        description="What probes ask by HTTP: /health where we build the image; for an existing image, whose"
        " path we cannot know, only that the port accepts connections is probed unless a path is given.",
    )
    timeout: Annotated[int, NUMBER] = Field(
        default=3600, ge=1, le=MAX_TIMEOUT, description="The longest request, streams included, in seconds."
    )
    cpu: values.Cpu = Field(default="1", description="CPUs of one instance.")
    memory: values.Memory = Field(default="512Mi", description="Memory of one instance, its files in /tmp included.")
    concurrency: Annotated[int, NUMBER] = Field(
        default=80, ge=1, le=MAX_CONCURRENCY, description="Requests that one instance takes at once."
    )
    min_instances: Annotated[int, NUMBER] = Field(
        default=0, ge=0, le=MAX_INSTANCES, description="Instances kept warm, and paid for, without requests."
    )
    max_instances: Annotated[int, NUMBER] = Field(
        default=3, ge=1, le=MAX_INSTANCES, description="The most instances; also the bound of the bill."
    )
    startup_boost: bool = Field(default=True, description="More CPU while an instance starts.")
    env: Mapping[values.EnvironmentName, Text] = Field(
        default={}, description="Further environment variables; plain text that everyone with access can read."
    )
    audiences: Annotated[tuple[values.Audience, ...], NO_REPEATS] = Field(
        default=(), max_length=50, description="Audiences that tokens may carry beside the service's URL."
    )
    allowed_origins: Annotated[tuple[values.Origin, ...], NO_REPEATS] = Field(
        default=(), max_length=50, description="Web origins whose pages may call; by default none."
    )
    description: str = Field(default="", max_length=512, description="A sentence for the people who see the service.")
    deletion_protection: bool | None = Field(
        default=None, description="Refuse to delete the service; by default on in profile prod."
    )

    @field_validator("health_path", mode="after")
    @classmethod
    def _health_path_of_a_built_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and isinstance(info.data.get("source"), Build):
            value = DEFAULT_HEALTH_PATH
        if value is not None and value == info.data.get("path"):
            raise ValueError(f"{value} is the MCP endpoint already; give one of the two another path")
        return value

    @field_validator("memory", mode="after")
    @classmethod
    def _memory_goes_with_cpu(cls, value: str, info: ValidationInfo) -> str:
        if "cpu" not in info.data:
            return value
        cpu, memory = values.cpus(info.data["cpu"]), values.mebibytes(value)
        floor = _MEMORY_FLOOR.get(int(cpu), 0) if cpu >= 1 else 0
        if memory < floor:
            raise ValueError(f"{value} is too little for {cpu:g} CPUs; Cloud Run wants {floor}Mi or more")
        ceiling = next((most for below, most in _MEMORY_CEILING if cpu < below), None)
        if ceiling is not None and memory > ceiling:
            raise ValueError(f"{value} is too much for {cpu:g} CPU; take {ceiling}Mi or less, or more cpu")
        least = next((cpus for above, cpus in _CPU_FLOOR if memory > above), 0)
        if cpu < least:
            raise ValueError(f'{value} is too much for {cpu:g} CPU; take less memory, or cpu: "{least}"')
        return value

    @field_validator("concurrency", mode="after")
    @classmethod
    def _concurrency_goes_with_cpu(cls, value: int, info: ValidationInfo) -> int:
        cpu = info.data.get("cpu")
        if cpu is not None and values.cpus(cpu) < 1 and value > 1:
            raise ValueError(f"{value} needs a whole CPU and cpu is {cpu}; write concurrency: 1, or cpu: 1")
        return value

    @field_validator("max_instances", mode="after")
    @classmethod
    def _max_is_not_below_min(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("min_instances")
        if least is not None and value < least:
            raise ValueError(f"{value} is below min_instances ({least}); raise it or lower min_instances")
        return value


class Fleet(_Model):
    """Every server of one stack."""

    region: values.Region = Field(description="The Google Cloud region of everything.", examples=["europe-west1"])
    profile: Literal["dev", "prod"] = Field(default="dev", description="Which defaults apply where the two differ.")
    labels: Annotated[Mapping[values.LabelKey, values.LabelValue], Field(max_length=60)] = Field(
        default={}, description="Labels on every resource that can carry them."
    )
    servers: Mapping[values.ServerName, Server] = Field(
        min_length=1, description="The servers, by name.", examples=["{reference: {source: {build: ./mcp_server}}}"]
    )

    def deletion_protection_of(self, server: Server) -> bool:
        """Whether *server* refuses to be deleted: what it says itself, else what the profile says."""
        if server.deletion_protection is not None:
            return server.deletion_protection
        return self.profile == "prod"
