"""The model of a client: a service that calls MCP servers of the fleet with an account of its own."""

from collections.abc import Collection, Iterator, Mapping
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pulumi_mcpfleet.fleet import values
from pulumi_mcpfleet.fleet.access import ClientAccess, Iam, IamAccess, IapAccess, LoginAccess, OauthAccess
from pulumi_mcpfleet.fleet.base import NO_REPEATS, NOT_EMPTY, Mistake, raise_if_any
from pulumi_mcpfleet.fleet.field_docs import FieldDoc
from pulumi_mcpfleet.fleet.parts import Vpc
from pulumi_mcpfleet.fleet.server import Server
from pulumi_mcpfleet.fleet.sources import ExistingImage, Source
from pulumi_mcpfleet.fleet.stdio import Registered, Stdio
from pulumi_mcpfleet.fleet.workload import BUILT_PORT, Workload


class Client(Workload):
    """A service that calls servers of the fleet."""

    source: Source = Field(
        description="Where the image comes from.",
        examples=[{"image": "docker.io/acme/assistant:1"}],
    )
    access: ClientAccess = Field(  # pyright: ignore[reportIncompatibleVariableOverride]  narrower, and frozen
        default=IamAccess(iam=Iam()),
        description="Who can call the client itself. By default, nobody can.",
        examples=[{"iam": {"invokers": ["group:staff@acme.dev"]}}],
    )
    vpc: Annotated[Vpc, FieldDoc("[vpc](#vpc)", "")] | None = Field(
        default=None,
        description=(
            "Direct VPC egress: the client's requests leave through your network. To call servers "
            "with `ingress: internal`, set `all_traffic`. With `topology: mesh`, set `network`."
        ),
        examples=[{"network": "default", "all_traffic": True}],
    )
    calls: Annotated[tuple[values.ServerName, ...], NO_REPEATS, NOT_EMPTY] = Field(
        description=(
            "The servers that the client calls. Its account can call only these. The variable "
            "`MCP_SERVERS` has their URLs."
        ),
        examples=[["reference", "toolbox"]],
    )
    topology: Literal["service", "sidecar", "mesh"] = Field(
        default="service",
        description=(
            "How the client reaches its servers. `service`: over HTTPS, with an ID token for each "
            "server. `sidecar`: copies of the servers' containers run in the client's instances, at"
            " `http://localhost:PORT`, where nobody else reaches them. `mesh`: at "
            "`http://mcp-SERVER`, through Cloud Service Mesh (a preview), which adds the ID token; "
            "needs `vpc`."
        ),
        examples=["sidecar"],
    )

    @field_validator("env", "secrets", mode="after")
    @classmethod
    def _refuse_reserved_variable(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        is_set = "MCP_SERVERS" in value
        return raise_if_any(value, [(("MCP_SERVERS",), "is set by the fleet; write `calls`")] if is_set else [])

    @field_validator("source", mode="after")
    @classmethod
    def _refuse_stdio(cls, value: Source) -> Source:
        message = "is a kind of server; a client is an app that listens: write folder, build, git or image"
        return raise_if_any(value, [(("stdio",), message)] if isinstance(value, Stdio | Registered) else [])


def sidecar_ports(client: Client, servers: Mapping[str, Server]) -> dict[str, int]:
    """The ports of the servers that run as sidecars of *client*, by name.

    An existing image keeps its port; images that are built here get the free ports after the client's.
    """
    fixed = {name: port for name in client.calls if (port := _find_fixed_port(servers[name])) is not None}
    free = (port for port in count(client.port + 1) if port not in fixed.values())
    return {name: fixed[name] if name in fixed else next(free) for name in client.calls}


def _find_fixed_port(server: Server) -> int | None:
    """Find the port of a server that ignores the variable PORT; None if the server obeys it."""
    source = server.source
    if isinstance(source, Stdio | Registered) or (source.port == BUILT_PORT and not isinstance(source, ExistingImage)):
        return None
    return source.port


def client_mistakes(
    clients: Mapping[str, Client], servers: Mapping[str, Server], invalid: Collection[str] = ()
) -> Iterator[Mistake]:
    """Find mistakes between clients and servers of one fleet.

    Args:
        clients: The fleet's clients; the paths of mistakes are relative to them.
        servers: The fleet's servers that have no mistakes.
        invalid: The names of servers with mistakes of their own; calls of these are not checked.
    """
    for name, client in clients.items():
        if name in servers:
            yield (name,), "is also a server's name, and each name is that of a service and an account; write another"
        called_servers = [call for call in client.calls if call in servers]
        for index, called in enumerate(client.calls):
            if called in invalid:
                continue
            if called not in servers:
                available = ", ".join((*servers, *sorted(map(str, invalid))))
                yield (name, "calls", index), f"{called!r} is not a server; available: {available}"
                continue
            for message in _call_mistakes(client, called, servers[called]):
                yield (name, "calls", index), message
        if client.topology == "mesh":
            yield from _mesh_mistakes(name, client)
        if client.topology == "sidecar" and len(called_servers) == len(client.calls):
            yield from _port_mistakes(name, client, servers)


def _call_mistakes(client: Client, name: str, server: Server) -> Iterator[str]:
    if isinstance(server.access, OauthAccess):  # also as a sidecar, because the server itself checks the token
        yield f"{name} requires an OAuth token, and an account's ID token is none; give it access by iam"
    if isinstance(server.access, LoginAccess):
        yield f"{name} requires that a person logs in, and an account can't; give it access by iam"
        return
    if client.topology == "sidecar":
        if server.all_secrets or server.volumes or server.writable or server.sidecars or server.cloudsql_instances:
            yield f"{name} has secrets, volumes or sidecars, which would become the client's; write topology: service"
        if server.gpu is not None:
            yield f"{name} has a GPU, which it would not have as a sidecar; write topology: service"
        return
    if client.topology == "mesh" and not server.default_url:
        yield f"{name} has default_url: false, and the mesh calls a service there; write topology: service"
    if client.topology == "mesh" and isinstance(server.access, IapAccess):
        yield f"{name} is behind IAP, which does not accept the mesh's tokens; write topology: service"
        return
    if isinstance(server.access, IapAccess) and server.access.iap.program_audience is None:
        yield (
            f"{name} is behind IAP with Google's own OAuth client, for which no program can get a token; add"
            " programmatic_clients (or an oauth_client) to its access.iap, or give it access by iam"
        )
    if server.ingress != "all" and not (client.vpc and client.vpc.all_traffic):
        yield (
            f"{name} accepts requests only from the project's networks (ingress: {server.ingress}); add"
            " vpc: {network: default, all_traffic: true} to the client"
        )


def _mesh_mistakes(name: str, client: Client) -> Iterator[Mistake]:
    if client.vpc is None:
        yield (
            (name, "vpc"),
            "missing; the mesh needs a VPC network for the client's requests, add vpc: {network: default}",
        )
    elif client.vpc.network is None:
        yield (
            (name, "vpc", "network"),
            "missing; the mesh's names are resolved in a network, so write it in addition to the subnetwork",
        )


def _port_mistakes(name: str, client: Client, servers: Mapping[str, Server]) -> Iterator[Mistake]:
    used = {client.port: "the client"}
    for called, port in sidecar_ports(client, servers).items():
        other = used.setdefault(port, called)
        if other != called:
            message = f"{called} listens on {port}, as {other} does, and they share one localhost; change one's port"
            yield (name, "calls"), message
