"""The model of an MCP server: every key with its default, limits and description, and the rules between its keys.

A rule between two keys is a field validator of the later key, not a model validator, so that it also runs if a third
key is wrong. The mistake's path can be that of the earlier key.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from pulumi_mcpfleet.fleet import containers, identities, quantities, values
from pulumi_mcpfleet.fleet.access import Access, IamAccess, LoginAccess, OauthAccess
from pulumi_mcpfleet.fleet.base import NO_REPEATS, NOT_EMPTY, NUMBER, PARENT, Mistake, invalid_names, raise_if_any
from pulumi_mcpfleet.fleet.field_docs import FieldDoc
from pulumi_mcpfleet.fleet.parts import Probe, Probes, Sidecar
from pulumi_mcpfleet.fleet.sources import Build
from pulumi_mcpfleet.fleet.stdio import is_bridged
from pulumi_mcpfleet.fleet.volumes import FileSystem
from pulumi_mcpfleet.fleet.workload import MAX_INSTANCES, MAX_TIMEOUT, Workload

DEFAULT_HEALTH_PATH: Final = "/health"
"""The health path of the reference server. It can't be /healthz, which Google's front end answers itself."""

SSE_PATH: Final = "/sse"
"""The default path of the legacy SSE transport in the official SDK and in FastMCP."""

_EXAMPLE: Final = "mcp.acme.dev"
_SESSIONS_NEED_ONE_INSTANCE: Final = (
    "instances do not know each other's sessions, and MCP clients do not keep the cookie that would bring them back:"
    " calls would fail with 404; write max_instances: 1, or sessions: stateless"
)
_SSE_NEEDS_ONE_INSTANCE: Final = (
    "instances cannot serve sse: a message would reach an instance without its stream; write max_instances: 1, or"
    " leave sse out of transports"
)


LOGIN_PATHS: Final = ("/oauth/", "/.well-known/")
"""What the container of `access: login` answers itself (`mcpfleet_login`)."""


class Server(Workload):
    """An MCP server of the fleet."""

    health_path: values.UrlPath | None = Field(
        default=None,
        description=(
            "The path of HTTP probes. Default: `/health` for `build` and behind the bridge. For any"
            " other source, Cloud Run by default only checks that the port accepts connections."
        ),
        examples=["/ready"],
    )
    timeout: Annotated[int, NUMBER] = Field(
        default=3600,
        ge=1,
        le=MAX_TIMEOUT,
        description="The maximum duration of a request, including its stream, in seconds.",
        examples=[900],
    )
    path: values.EndpointPath = Field(
        default="/mcp", description="The path of the MCP endpoint.", examples=["/tools/mcp"]
    )
    transports: Annotated[tuple[Literal["streamable-http", "sse"], ...], NO_REPEATS, NOT_EMPTY] = Field(
        default=("streamable-http",),
        description=(
            "The transports that the server supports. `sse` is MCP's deprecated transport, at "
            "`/sse`; it needs `max_instances: 1`. With only `sse`, the MCP URL ends in `/sse`, or "
            "in the `path` that you set."
        ),
        examples=[["streamable-http", "sse"]],
    )
    sessions: Literal["stateless", "stateful"] = Field(
        default="stateless",
        description=(
            "`stateless`: any instance can answer any request. `stateful`: one instance keeps the "
            "sessions, which end with it; needs `max_instances: 1`."
        ),
        examples=["stateful"],
    )
    min_instances: Annotated[int, NUMBER] = Field(
        default=0,
        ge=0,
        le=MAX_INSTANCES,
        description=(
            "The number of instances that run, and that you pay for, even without requests. Default"
            " in profile `prod`: 1."
        ),
        examples=[1],
    )
    startup_boost: bool = Field(
        default=True, description="Whether an instance has more CPU while it starts.", examples=[False]
    )
    execution_environment: Literal["gen1", "gen2"] | None = Field(
        default=None,
        description=(
            "The sandbox. `gen1` starts faster; `gen2` has full Linux compatibility. Default: Cloud Run chooses."
        ),
        examples=["gen2"],
    )
    sidecars: Mapping[values.ContainerName, Annotated[Sidecar, FieldDoc("", "[sidecars](#sidecars)")]] = Field(
        default={},
        max_length=9,
        description="Further containers of each instance, by name. They get no requests.",
        examples=[{"redis": {"image": "docker.io/library/redis:7"}}],
    )
    depends_on: Annotated[tuple[values.ContainerName, ...], NO_REPEATS] = Field(
        default=(), description="Sidecars that must have started before the server.", examples=[["redis"]]
    )
    probes: Annotated[Probes, FieldDoc("[probes](#probes)", "")] = Field(
        default=Probes(),
        description="Probes that replace the [default ones](#probes).",
        examples=[{"startup": {"period": 2, "failures": 60}}],
    )
    service_account: identities.Account | None = Field(
        default=None,
        description="An existing service account to run as. Default: mcpfleet creates one for this server.",
        examples=["toolbox@acme-mcp-dev.iam.gserviceaccount.com"],
    )
    ingress: Literal["all", "internal", "internal-and-lb"] = Field(
        default="all",
        description=(
            "Where requests can come from: the internet, only the project's networks, or these and "
            "a load balancer. `access` still decides who can call."
        ),
        examples=["internal"],
    )
    domain: values.Domain | None = Field(
        default=None,
        description=(
            "A domain of yours. Callers reach the server through a global load balancer with a "
            "managed certificate. mcpfleet adds the domain to the audiences and allowed hosts "
            "([domains](#domains))."
        ),
        examples=["mcp.acme.dev"],
    )
    domain_path: values.UrlPath | None = Field(
        default=None,
        description=(
            "If several servers share the `domain`: the path that leads to this server, with all "
            "paths below it. `path` must be below it, too."
        ),
        examples=["/weather"],
    )
    default_url: bool = Field(
        default=True,
        description="Whether the server also responds at its run.app URL. `false` needs a `domain`.",
        examples=[False],
    )
    audiences: Annotated[tuple[values.Audience, ...], NO_REPEATS] = Field(
        default=(),
        max_length=50,
        description="Audiences to accept in tokens, in addition to the service's URL.",
        examples=[["https://mcp.acme.dev"]],
    )
    allowed_origins: Annotated[tuple[values.Origin, ...], NO_REPEATS] = Field(
        default=(),
        max_length=50,
        description=(
            "Web origins whose pages can call the server and read its responses (CORS), if `access`"
            " lets browsers through ([web pages](#web-pages))."
        ),
        examples=[["https://app.acme.dev"]],
    )
    agent_registry: Literal["functional-type", "entry"] | None = Field(
        default=None,
        description=(
            "How agents find the server. `functional-type` declares the service an MCP server "
            "(beta). You can't change or unset that: if you remove the key, the service is deleted "
            "and created again. `entry` creates a record in Agent Registry."
        ),
        examples=["entry"],
    )

    @property
    def endpoint(self) -> str:
        """The path of the MCP URL for clients: the legacy transport's path if the server supports only that."""
        is_sse_only = self.transports == ("sse",) and "path" not in self.model_fields_set
        return SSE_PATH if is_sse_only else self.path

    @property
    def all_sidecars(self) -> Mapping[str, Sidecar]:
        """Further containers of each instance, by name."""
        return self.sidecars

    @property
    def sandbox(self) -> Literal["gen1", "gen2"] | None:
        """The execution environment: the one that the user sets, or the one that the volumes need."""
        return self.execution_environment or super().sandbox

    @property
    def needs_beta(self) -> bool:
        """True if the server uses features that Cloud Run accepts only in launch stage BETA."""
        preview = self.agent_registry == "functional-type" or self.probes.readiness is not None
        return preview or super().needs_beta

    @property
    def reached(self) -> Literal["proxy", "url", "network"]:
        """The way for a person's client: an authenticated proxy, the URL itself, or only from the VPC network."""
        if self.ingress == "internal":
            return "network"
        return "proxy" if isinstance(self.access, IamAccess) else "url"

    @field_validator("access", mode="after")
    @classmethod
    def _refuse_oauth_behind_bridge(cls, value: Access, info: ValidationInfo) -> Access:
        if isinstance(value, OauthAccess) and is_bridged(info.data.get("source")):
            raise ValueError(
                "with oauth the server itself must check tokens, and a stdio server behind the bridge does not:"
                " anybody could call; write iam or iap"
            )
        return value

    @field_validator("health_path", mode="after")
    @classmethod
    def _default_health_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and (isinstance(info.data.get("source"), Build) or is_bridged(info.data.get("source"))):
            value = DEFAULT_HEALTH_PATH
        return value

    @field_validator("path", mode="after")
    @classmethod
    def _check_path(cls, value: str, info: ValidationInfo) -> str:
        message = f"{value} is the MCP endpoint already; give one of the two another path"
        mistakes: list[Mistake] = []
        if value == info.data.get("health_path"):
            mistakes.append(((PARENT, "health_path"), message))
        if isinstance(info.data.get("access"), LoginAccess):
            mistakes += [
                (key, f"{path} is below a path of the login (access: login); write another path")
                for key, path in (((), value), ((PARENT, "health_path"), info.data.get("health_path")))
                if f"{path}/".startswith(LOGIN_PATHS)
            ]
        return raise_if_any(value, mistakes)

    @field_validator("transports", mode="after")
    @classmethod
    def _check_transports(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return raise_if_any(value, _instance_mistakes(info, _SSE_NEEDS_ONE_INSTANCE) if "sse" in value else ())

    @field_validator("sessions", mode="after")
    @classmethod
    def _check_sessions(cls, value: str, info: ValidationInfo) -> str:
        return raise_if_any(value, _instance_mistakes(info, _SESSIONS_NEED_ONE_INSTANCE) if value == "stateful" else ())

    @field_validator("min_instances", mode="after")
    @classmethod
    def _check_min_instances(cls, value: int, info: ValidationInfo) -> int:
        maximum = info.data.get("max_instances", value)
        message = f"{maximum} is below min_instances ({value}); raise it or lower min_instances"
        return raise_if_any(value, [((PARENT, "max_instances"), message)] if maximum < value else [])

    @field_validator("execution_environment", mode="after")
    @classmethod
    def _check_execution_environment(cls, value: str | None, info: ValidationInfo) -> str | None:
        memory = info.data.get("memory")
        # Cloud Run, "Memory limits": the second generation needs at least 512 MiB.
        if value == "gen2" and memory is not None and quantities.mebibytes(memory) < 512:
            raise ValueError(f"gen2 needs at least 512Mi and memory is {memory}; raise it, or write gen1")
        mistakes: list[Mistake] = [
            ((PARENT, "volumes", name), "needs execution_environment: gen2, which mounts file systems; gen1 does not")
            for name, volume in info.data.get("volumes", {}).items()
            if value == "gen1" and isinstance(volume, FileSystem)
        ]
        return raise_if_any(value, mistakes)

    @field_validator("sidecars", mode="after")
    @classmethod
    def _check_sidecars(cls, value: Mapping[str, Sidecar], info: ValidationInfo) -> Mapping[str, Sidecar]:
        return raise_if_any(value, containers.sidecar_mistakes(info.data, value, lambda key: invalid_names(info, key)))

    @field_validator("depends_on", mode="after")
    @classmethod
    def _check_depends_on(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return raise_if_any(
            value,
            containers.unknown_dependencies(value, info.data.get("sidecars", value), invalid_names(info, "sidecars")),
        )

    @field_validator("probes", mode="after")
    @classmethod
    def _check_probes(cls, value: Probes, info: ValidationInfo) -> Probes:
        mistakes: list[Mistake] = []
        health_path, http2 = info.data.get("health_path", ""), info.data.get("use_http2", False)
        for name in ("startup", "liveness", "readiness"):
            probe: Probe | None = getattr(value, name)
            if probe is not None and probe.path and http2:
                message = "is a probe by HTTP/1, and with use_http2 the container speaks HTTP/2; remove one of them"
                mistakes.append(((name, "path"), message))
            elif name != "startup" and probe and not probe.path and probe.grpc is None and health_path is None:
                mistakes.append(((name, "path"), "missing, and health_path too; add path: /ready, or grpc: {}"))
        return raise_if_any(value, mistakes)

    @field_validator("ingress", mode="after")
    @classmethod
    def _check_ingress(cls, value: str, info: ValidationInfo) -> str:
        access = info.data.get("access")
        people = (
            [invoker for invoker in access.iam.invokers if invoker.startswith("user:")]
            if isinstance(access, IamAccess)
            else []
        )
        if value == "internal" and people:
            raise ValueError(
                f"internal keeps {people[0]}'s desktop out, whose requests come from the internet; name service"
                " accounts or groups that call from the project's networks, or write ingress: all"
            )
        return value

    @field_validator("ingress", mode="after")
    @classmethod
    def _check_ingress_of_login(cls, value: str, info: ValidationInfo) -> str:
        if value == "internal" and isinstance(info.data.get("access"), LoginAccess):
            raise ValueError(
                "internal keeps out the browsers and MCP clients of people who log in (access: login); write"
                " ingress: all, or internal-and-lb with a domain"
            )
        return value

    @field_validator("domain", mode="after")
    @classmethod
    def _check_domain(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("ingress") == "internal":
            raise ValueError(
                f"{value} needs a load balancer, whose requests ingress: internal refuses; write internal-and-lb"
            )
        return value

    @field_validator("domain_path", mode="after")
    @classmethod
    def _check_domain_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return value
        mistakes: list[Mistake] = []
        if isinstance(info.data.get("access"), LoginAccess):
            message = "can't be combined with access: login, whose pages are not below it; use a domain of its own"
            mistakes.append(((), message))
        if "domain" in info.data and info.data["domain"] is None:
            mistakes.append(((), f"needs a domain; add domain: {_EXAMPLE}, or remove it"))
        path: str = info.data.get("path", value)
        if path != value and not path.startswith(f"{value}/"):
            mistakes.append(((PARENT, "path"), f"{path} is not below domain_path; write path: {value}{path}"))
        if "sse" in info.data.get("transports", ()):
            mistakes.append(
                ((PARENT, "transports"), f"sse is at {SSE_PATH}, which is not below domain_path; leave it out")
            )
        return raise_if_any(value, mistakes)

    @field_validator("default_url", mode="after")
    @classmethod
    def _check_default_url(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and "domain" in info.data and info.data["domain"] is None:
            raise ValueError("false leaves the server without a URL; add domain: mcp.acme.dev, or remove it")
        return value


def _instance_mistakes(info: ValidationInfo, reason: str) -> list[Mistake]:
    """The mistake that the server can have several instances, if it can; *info* has no keys with mistakes."""
    maximum = info.data.get("max_instances", 1)
    return [((PARENT, "max_instances"), f"{maximum} {reason}")] if maximum > 1 else []
