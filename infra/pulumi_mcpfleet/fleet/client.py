"""One client: a service of the fleet that calls its MCP servers as an account of its own."""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from pulumi_mcpfleet.fleet import quantities, rules, values
from pulumi_mcpfleet.fleet.access import ClientAccess, Iam, IamAccess, IapAccess, OauthAccess
from pulumi_mcpfleet.fleet.base import NO_REPEATS, NOT_EMPTY, NUMBER, Mistake, Model, without
from pulumi_mcpfleet.fleet.kinds import Kind
from pulumi_mcpfleet.fleet.made import Stdio
from pulumi_mcpfleet.fleet.parts import SecretPlace, SecretRef, Volume, Vpc
from pulumi_mcpfleet.fleet.roles import Role
from pulumi_mcpfleet.fleet.server import MAX_CONCURRENCY, MAX_INSTANCES, MAX_TIMEOUT, Server
from pulumi_mcpfleet.fleet.sources import ExistingImage, Source
from pulumi_mcpfleet.fleet.values import Text

BUILT_PORT: Final = 8080
"""Where a built client listens; its sidecars listen on the ports after it."""


class Client(Model):
    """One client of the fleet's servers."""

    source: Source = Field(
        description="Where the image comes from.",
        examples=[{"folder": ".", "dockerfile": "mcp_client/Dockerfile"}],
    )
    calls: Annotated[tuple[values.ServerName, ...], NO_REPEATS, NOT_EMPTY] = Field(
        description="The servers that it calls. Its account may call just these, and finds where they answer in"
        " `MCP_SERVERS`.",
        examples=[["reference", "toolbox"]],
    )
    topology: Literal["service", "sidecar", "mesh"] = Field(
        default="service",
        description="How it reaches them. `service`: over HTTPS, with an ID token for each. `sidecar`: their containers"
        " run beside its own, at `http://localhost:PORT`, and are reached by nobody else. `mesh`: at"
        " `http://mcp-SERVER`, through Cloud Service Mesh (a preview), which adds the ID token; needs `vpc`.",
        examples=["sidecar"],
    )
    access: ClientAccess = Field(
        default=IamAccess(iam=Iam()),
        description="Who may call the client itself. By default nobody.",
        examples=[{"iam": {"invokers": ["group:staff@acme.dev"]}}],
    )
    health_path: values.UrlPath | None = Field(
        default=None,
        description="What probes ask by HTTP; by default only that its port accepts connections.",
        examples=["/health"],
    )
    timeout: Annotated[int, NUMBER] = Field(
        default=300, ge=1, le=MAX_TIMEOUT, description="The longest request, in seconds.", examples=[900]
    )
    cpu: quantities.Cpu = Field(default="1", description="CPUs of its own container.", examples=["2"])
    memory: quantities.Memory = Field(default="512Mi", description="Memory of its own container.", examples=["1Gi"])
    concurrency: Annotated[int, NUMBER] = Field(
        default=80, ge=1, le=MAX_CONCURRENCY, description="Requests that one instance takes at once.", examples=[20]
    )
    max_instances: Annotated[int, NUMBER] = Field(
        default=3, ge=1, le=MAX_INSTANCES, description="The most instances; also the bound of the bill.", examples=[10]
    )
    env: Mapping[values.EnvironmentName, Text] = Field(
        default={},
        max_length=900,
        description="Further environment variables; plain text that everyone with access can read, so no secrets.",
        examples=[{"GREETING": "hello"}],
    )
    secrets: Mapping[SecretPlace, Annotated[SecretRef, Kind("", "[versions of secrets](#secrets)")]] = Field(
        default={},
        max_length=100,
        description="Secrets of Secret Manager, as environment variables or as files. Its account may read just these.",
        examples=[{"CRM_TOKEN": {"secret": "crm-token", "version": "3"}}],
    )
    volumes: Mapping[values.VolumeName, Volume] = Field(
        default={},
        max_length=10,
        description="Folders of memory, buckets and secrets, by name.",
        examples=[{"notes": {"gcs": {"bucket": "acme-notes"}, "mount": "/notes"}}],
    )
    roles: Annotated[tuple[Role, ...], NO_REPEATS] = Field(
        default=(),
        max_length=50,
        description="Roles on the project that its account gets.",
        examples=[["roles/aiplatform.user"]],
    )
    vpc: Annotated[Vpc, Kind("[vpc](#vpc)", "")] | None = Field(
        default=None,
        description="Direct VPC egress: with `all_traffic` it reaches servers whose ingress is `internal`. A client in"
        " the mesh needs it, with its `network`.",
        examples=[{"network": "default", "all_traffic": True}],
    )
    description: str = Field(
        default="",
        max_length=512,
        description="A sentence for the people who see the service.",
        examples=["Answers the field teams"],
    )
    deletion_protection: bool = Field(
        default=False,
        description="Refuse to delete the service; by default on in profile prod.",
        examples=[True],
    )

    @field_validator("env", mode="after")
    @classmethod
    def _env_holds_no_secret(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        return without(value, rules.secrets_in_the_clear(value))

    @field_validator("env", "secrets", mode="after")
    @classmethod
    def _the_fleets_own_is_left(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        taken = "MCP_SERVERS" in value
        return without(value, [(("MCP_SERVERS",), "is set by the fleet; write `calls`")] if taken else [])

    @field_validator("secrets", mode="after")
    @classmethod
    def _secrets_have_their_own_places(
        cls, value: Mapping[str, SecretRef], info: ValidationInfo
    ) -> Mapping[str, SecretRef]:
        return without(value, (*rules.set_twice(value, info.data.get("env", {})), *rules.hidden_secrets(value)))

    @field_validator("volumes", mode="after")
    @classmethod
    def _volumes_have_their_own_places(cls, value: Mapping[str, Volume], info: ValidationInfo) -> Mapping[str, Volume]:
        return without(value, rules.mounts(value, info.data.get("secrets", {})))

    @field_validator("source", mode="after")
    @classmethod
    def _stdio_is_no_client(cls, value: Source) -> Source:
        wrong = "is a kind of server; a client is an app that listens: write folder, build, git or image"
        return without(value, [(("stdio",), wrong)] if isinstance(value, Stdio) else [])

    @property
    def port(self) -> int:
        """Where its own container listens."""
        return self.source.port if isinstance(self.source, ExistingImage) else BUILT_PORT

    @property
    def as_server(self) -> Server:
        """What a revision of it is made of, in a server's words."""
        return Server(
            source=self.source,
            access=self.access,
            health_path=self.health_path,
            timeout=self.timeout,
            cpu=self.cpu,
            memory=self.memory,
            concurrency=self.concurrency,
            max_instances=self.max_instances,
            secrets=self.secrets,
            volumes=self.volumes,
            roles=self.roles,
            vpc=self.vpc,
        )


def sidecar_ports(client: Client, servers: Mapping[str, Server]) -> dict[str, int]:
    """Where the servers beside a client listen: an existing image where it always does, built ones after the client."""
    ports: dict[str, int] = {}
    free = client.port
    for name in client.calls:
        source = servers[name].source
        if isinstance(source, ExistingImage):
            ports[name] = source.port
        else:
            free += 1
            ports[name] = free
    return ports


def among(
    clients: Mapping[str, Client], servers: Mapping[str, Server], left_out: Collection[str] = ()
) -> Iterator[Mistake]:
    """What a client cannot be in this fleet, by its path from the clients; of servers *left_out* nothing is said."""
    for name, client in clients.items():
        if name in servers:
            yield (name,), "is a server's name, too, and both name a service and an account; write another"
        known = [one for one in client.calls if one in servers]
        for index, called in enumerate(client.calls):
            if called in left_out:
                continue
            if called not in servers:
                yield (
                    (name, "calls", index),
                    f"{called!r} is not a server; there is {', '.join((*servers, *sorted(map(str, left_out))))}",
                )
                continue
            for sentence in _cannot_call(client, called, servers[called]):
                yield (name, "calls", index), sentence
        if client.topology == "mesh":
            yield from _no_way_out(name, client)
        if client.topology == "sidecar" and len(known) == len(client.calls):
            yield from _ports(name, client, servers)


def _cannot_call(client: Client, name: str, server: Server) -> Iterator[str]:
    if isinstance(server.access, OauthAccess):  # beside the client, too: the server itself asks
        yield f"{name} asks for a login that an account's ID token is not; give it access by iam"
    if client.topology == "sidecar":
        if server.all_secrets or server.volumes or server.sidecars:
            yield f"{name} has secrets, volumes or sidecars, which would become the client's; write topology: service"
        return
    if client.topology == "mesh" and not server.default_url:
        yield f"{name} has default_url: false, and the mesh calls a service there; write topology: service"
    if client.topology == "mesh" and isinstance(server.access, IapAccess):
        yield f"{name} is behind IAP, which takes no token of the mesh's; write topology: service"
        return
    if isinstance(server.access, IapAccess) and server.access.iap.program_audience is None:
        yield (
            f"{name} is behind IAP with Google's own OAuth client, for which no program can make a token; add"
            " programmatic_clients (or an oauth_client) to its access.iap, or give it access by iam"
        )
    if server.ingress != "all" and not (client.vpc and client.vpc.all_traffic):
        yield (
            f"{name} lets in the project's networks only (ingress: {server.ingress}); add"
            " vpc: {network: default, all_traffic: true} to the client"
        )


def _no_way_out(name: str, client: Client) -> Iterator[Mistake]:
    if client.vpc is None:
        yield (
            (name, "vpc"),
            "missing; a mesh takes what a client sends into a VPC network, add vpc: {network: default}",
        )
    elif client.vpc.network is None:
        yield (
            (name, "vpc", "network"),
            "missing; the names of the mesh are known in a network, so write it beside the subnetwork",
        )


def _ports(name: str, client: Client, servers: Mapping[str, Server]) -> Iterator[Mistake]:
    taken = {client.port: "the client"}
    for called, port in sidecar_ports(client, servers).items():
        other = taken.setdefault(port, called)
        if other != called:
            sentence = f"{called} listens on {port}, as {other} does, and they share one localhost; change one's port"
            yield (name, "calls"), sentence
