"""One MCP server on Cloud Run: its identity, its image, its service in each region, and who may call it.

It creates no registry and enables no API (`Foundation` does). What a revision is, is in `template`; who is let in, in
`access`; the load balancer of a domain, in `custom_domain`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import environment, naming
from pulumi_mcpfleet.components import login, template
from pulumi_mcpfleet.components.access import GrantTarget, grants, rights, switches, told
from pulumi_mcpfleet.components.arguments import McpServerArgs
from pulumi_mcpfleet.components.custom_domain import CustomDomain, CustomDomainArgs
from pulumi_mcpfleet.components.deferred import Deferred
from pulumi_mcpfleet.components.foundation import Foundation, standalone_foundation
from pulumi_mcpfleet.components.image import built_image, login_image
from pulumi_mcpfleet.components.load_balancer import Backend, DnsRecord, LoadBalancer, address_record
from pulumi_mcpfleet.components.standalone import read_server
from pulumi_mcpfleet.fleet import ExistingImage, LoginAccess, OauthAccess, Server
from pulumi_mcpfleet.fleet.access import access_kind
from pulumi_mcpfleet.fleet.images import host_of, is_pullable
from pulumi_mcpfleet.fleet.stdio import is_bridged
from pulumi_mcpfleet.sources.environment_use import FASTMCP_SETTINGS
from pulumi_mcpfleet.sources.shared_state import FILE_STATE, separation_advice
from pulumi_mcpfleet.tokens import MCP_SERVER

if TYPE_CHECKING:
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateArgsDict as Template,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateContainerArgsDict as Container,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateContainerEnvArgsDict as Variable,
    )

OUTPUTS: Final = (
    "service",
    "url",
    "urls",
    "mcp_url",
    "audience",
    "account",
    "address",
    "dns_records",
    "backend_service",
)
"""What programs in every language have of a server; the last three are missing without a domain."""

_INGRESS: Final = {
    "all": "INGRESS_TRAFFIC_ALL",
    "internal": "INGRESS_TRAFFIC_INTERNAL_ONLY",
    "internal-and-lb": "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
}


@dataclass(frozen=True, kw_only=True)
class ServerInFleet:
    """A server as its fleet describes it, and the stack that it is in."""

    project: str
    regions: Sequence[str]
    foundation: Foundation
    spec: Server
    balanced: bool = True
    """Whether its domain has a load balancer of its own."""
    in_mesh: bool = False
    """Whether a client calls it through the service mesh."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    deferred: Deferred | None = None
    """The outputs among its arguments."""


class McpServer(pulumi.ComponentResource):
    """A scale-to-zero MCP server that runs as its own service account and that only its invokers may call."""

    account: pulumi.Output[str]
    """The address of the account that it runs as."""

    service: pulumi.Output[str]
    """The Cloud Run service's name, the same in each region."""

    url: pulumi.Output[str]
    """Where it answers: its domain, else the service's URL. Known once the invokers may call."""

    urls: Mapping[str, pulumi.Output[str]]
    """The service's own URL in each region; empty where it is switched off."""

    spec: Server
    """What the fleet says of it."""

    base_url: pulumi.Output[str]
    """Where the world reaches it, known before it exists."""

    services: Mapping[str, pulumi.Output[str]]
    """The Cloud Run service's name in each region, once it exists there."""

    audience: pulumi.Output[str]
    """What callers' ID tokens are to be for."""

    mcp_url: pulumi.Output[str]
    """The URL for MCP clients: the endpoint itself, no redirect on the way."""

    address: pulumi.Output[str] | None
    """What the A record of its domain has to name."""

    dns_records: pulumi.Output[Sequence[DnsRecord]] | None
    """What the DNS of its domain needs."""

    backend: Backend | None
    """What a load balancer leads to; None without a domain."""

    def __init__(self, name: str, args: McpServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Create the server *name*, which needs no fleet and no config file.

        Args:
            name: The server's name: 2 to 26 of `a-z`, `0-9` and `-`.
            args: The arguments.
            opts: The component's options; its parts have its providers, transforms and `protect`.

        Raises:
            pulumi.RunError: The arguments have mistakes; all of them are in the text, one to a line.
        """
        shared = args.get("foundation")
        found = read_server(
            name, {key: value for key, value in args.items() if key != "foundation"}, shared=bool(shared)
        )
        opts = found.deferred.component_options(opts)
        super().__init__(MCP_SERVER, name, None, opts)
        self._create(
            name,
            ServerInFleet(
                project=found.project,
                regions=found.fleet.all_regions,
                foundation=standalone_foundation(name, found, shared, self),
                spec=found.fleet.servers[name],
                balanced=found.fleet.load_balancer != "shared",
                deferred=found.deferred,
            ),
        )

    @classmethod
    def in_fleet(cls, name: str, args: ServerInFleet, opts: pulumi.ResourceOptions | None = None) -> Self:
        """The server *name* of a fleet, whose arguments are checked already."""
        component = cls.__new__(cls)
        pulumi.ComponentResource.__init__(component, MCP_SERVER, name, None, opts)
        component._create(name, args)
        return component

    def _create(self, name: str, args: ServerInFleet) -> None:
        self._name, self._args, self._spec = name, args, args.spec
        # Names are fixed, so a replacement has the name of what it replaces. The engine must know that even where
        # the provider sees no difference any more: when a replacement that failed half way is taken back, it would
        # otherwise create the service again and then delete it, believing that to be the old one.
        self._child = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        spec, foundation = args.spec, args.foundation
        self._service_name = naming.service_name(name, spec.service_name)
        self._place = naming.per_service_name(name, spec.service_name)

        self.spec = spec
        self.base_url = self._base_url()
        self._image_ref = self._image()
        self.account = email = self._identity()
        held = self._rights(email)
        self._say_which_pages_need_a_proxy()
        self._say_what_callers_share()
        containers = self._containers()
        if isinstance(spec.access, LoginAccess):
            bucket, grant = login.create_bucket(
                name,
                self._place,
                project=args.project,
                region=args.regions[0],
                labels={**args.labels, **spec.labels},
                member=email.apply(naming.account_member),
                options=self._options(*foundation.apis),
            )
            held = [*held, grant]
            containers = login.put_in_front(
                containers,
                spec,
                spec.access.login,
                image=login_image(name, spec.source, foundation, self),
                base_url=self.base_url,
                bucket=bucket,
                project=args.project,
            )
        services = {
            region: self._service(
                region, template.revision(spec, email, containers, project=args.project, region=region), held
            )
            for region in args.regions
        }
        granted = [
            grant
            for region, service in services.items()
            for grant in grants(
                spec.access,
                GrantTarget(server=self._place, project=args.project, region=region, service=service.name),
                foundation,
                self._child,
            )
        ]
        domain = self._domain({region: service.name for region, service in services.items()})

        self.services = {region: service.name for region, service in services.items()}
        first = services[args.regions[0]]
        self.service = first.name
        # Whoever reads a URL may call it at once, so it waits for the grants.
        front = domain.front_end if domain else None
        waits = [*(grant.urn for grant in granted), *([front.ready] if front else [])]
        self.urls = {region: _after(service.uri, waits) for region, service in services.items()}
        self._answers(_after(f"https://{spec.domain}", waits) if spec.domain else self.urls[args.regions[0]])
        self.backend = Backend(str(spec.domain), domain.backend, spec) if domain else None
        self.address = front.address if front else None
        self.dns_records = (
            self.address.apply(lambda one: [address_record(str(spec.domain), one)]) if self.address else None
        )
        if spec.agent_registry == "entry":
            self._agent_registry_entry()
        self.register_outputs(self.outputs)

    @property
    def backend_service(self) -> pulumi.Output[str] | None:
        """The backend service of its domain, by which a load balancer of yours leads here; None without a domain."""
        return self.backend.service if self.backend else None

    @property
    def outputs(self) -> dict[str, Any]:
        """What programs in every language have of it."""
        return {name: found for name in OUTPUTS if (found := getattr(self, name)) is not None}

    def use_load_balancer(self, load_balancer: LoadBalancer) -> None:
        """Set the outputs of a domain behind *load_balancer*: its DNS records, and the URL when it is ready."""
        self.address = load_balancer.address
        self.dns_records = load_balancer.records[str(self._spec.domain)]
        self._answers(_after(self.url, [load_balancer.ready]))

    def _answers(self, url: pulumi.Output[str]) -> None:
        self.url = url
        self.audience = url.apply(lambda known: naming.audience(known, self._spec.domain_path))
        self.mcp_url = url.apply(lambda known: naming.mcp_url(known, self._spec.endpoint))

    def _options(self, *depends_on: pulumi.Input[pulumi.Resource]) -> pulumi.ResourceOptions:
        """For what needs the APIs.

        What names the server's own account waits for it, and so for them. Said again, these dependencies are a tenth
        of the time that the preview of a large fleet takes (`./dev bench fleet`).
        """
        apis = self._args.foundation.apis if self._spec.service_account is not None else ()
        after: list[pulumi.Input[pulumi.Resource]] = [*apis, *depends_on]
        return pulumi.ResourceOptions(parent=self, delete_before_replace=True, depends_on=after)

    def _identity(self) -> pulumi.Output[str]:
        """The address of the account that the server runs as."""
        if self._spec.service_account is not None:
            deferred, account = self._args.deferred, self._spec.service_account
            return pulumi.Output.from_input(deferred.resolve(account) if deferred else account)
        # A new account is not seen everywhere at once, and Cloud Run refuses a service whose account it does
        # not see. What protects us: the provider reads the account three times after it has created it and
        # then waits 10 s before it reports it done, and the address makes everything that uses it wait for that.
        return gcp.serviceaccount.Account(
            self._name,
            project=self._args.project,
            account_id=naming.account_id(self._name),
            display_name=f"MCP server {self._name}",
            opts=self._options(*self._args.foundation.apis),
        ).email

    def _rights(self, email: pulumi.Output[str]) -> list[pulumi.Resource]:
        return rights(self._name, self._spec, project=self._args.project, email=email, child=self._options())

    def _image(self) -> template.Image:
        """The image to run: the existing one as it is named, or one built here and pinned by its digest."""
        match self._spec.source:
            case ExistingImage(image=image, args=args):
                return template.Image(pulled(image, self._args.foundation), args)
            case source:
                return built_image(
                    self._name,
                    source,
                    project=self._args.project,
                    foundation=self._args.foundation,
                    parent=self,
                )

    def as_sidecar(self, port: int, *, idle: bool) -> "Container":
        """The server as a container beside a client's own, where it listens on *port* and nobody else reaches it.

        Args:
            port: Where it listens.
            idle: Whether the instance's CPU is there during requests alone.
        """
        own = template.main_container(self.spec, self._image_ref, self._variables(port))
        for key in ("ports", "liveness_probe"):
            own.pop(key, None)
        own["name"] = self._name
        own["resources"] = {"limits": {"cpu": self.spec.cpu, "memory": self.spec.memory}, "cpu_idle": idle}
        own["startup_probe"] = template.startup_probe(self.spec, port, self.spec.probes.startup)
        return self._args.deferred.resolve(own) if self._args.deferred else own

    def _containers(self) -> list["Container"]:
        spec = self._spec
        sidecars = {name: pulled(one.image, self._args.foundation) for name, one in spec.sidecars.items()}
        return template.containers(spec, self._image_ref, sidecars, self._variables())

    def _variables(self, port: int | None = None) -> list["Variable"]:
        """What the container finds; *port*: where it listens instead, beside a client's container."""
        spec = self._spec
        base = self.base_url
        hosts = naming.allowed_hosts(self._service_name, spec.domain, in_mesh=self._mesh_host)
        env: dict[str, pulumi.Input[str]] = {
            environment.PROJECT: self._args.project,
            environment.BASE_URL: base,
            environment.AUDIENCE: base.apply(
                lambda known: ",".join((naming.audience(known, spec.domain_path), *spec.audiences))
            ),
            **environment.container_environment(
                path=spec.path,
                transports=spec.transports,
                stateless=spec.sessions == "stateless",
                health_path=spec.health_path,
                allowed_hosts=hosts,
                allowed_origins=spec.allowed_origins,
            ),
            **self._read_elsewhere(port or spec.port, hosts),
        }
        if isinstance(spec.access, OauthAccess):
            oauth = spec.access.oauth
            audience = oauth.audience or base.apply(lambda url: naming.mcp_url(url, spec.endpoint))
            env |= environment.oauth_environment(issuer=oauth.issuer, scopes=oauth.scopes)
            env[environment.OAUTH_AUDIENCE] = audience
        if isinstance(spec.access, LoginAccess):
            env["PORT"] = str(spec.port)  # Cloud Run gives it to the container that takes requests only
        if port is None:
            env |= told(spec.access, self._service_name, self._args.regions, self._args.foundation)
        else:
            env["PORT"] = str(port)  # Cloud Run gives it to the container that takes requests only
            # Google's front end has checked who calls the client; what that sends on over localhost names nobody.
            env[environment.ACCESS] = "public"
        replaced = (env.keys() - {environment.PROJECT}) & (spec.env.keys() | spec.secrets.keys())
        if replaced and port is None:
            names = ", ".join(sorted(replaced))
            pulumi.warn(f"{self._name}: {names} of its env replaces what the fleet would set", self)
        kept = {name: value for name, value in env.items() if name not in spec.secrets}
        return template.variables({**kept, **spec.env}, spec.secrets)

    def _say_what_callers_share(self) -> None:
        shares = self._image_ref.shares
        if shares and (self._spec.sessions == "stateless" or shares.startswith(FILE_STATE)):
            pulumi.info(f"{self._name}: {separation_advice(shares, bridged=is_bridged(self._spec.source))}", self)

    def _say_which_pages_need_a_proxy(self) -> None:
        """Google refuses a browser's preflight, which has no token. Behind a proxy the origins are right."""
        checked = access_kind(self._spec.access)
        far = [one for one in self._spec.allowed_origins if urlsplit(one).hostname not in ("localhost", "127.0.0.1")]
        if far and checked in ("iam", "iap"):
            text = (
                f"{self._name}: allowed_origins: pages of {', '.join(far)} can't call it directly: with"
                f" access: {checked}, Google refuses a browser's preflight, which has no token; let them call through"
                " a server of yours that adds one, or choose access: login or oauth"
            )
            pulumi.info(text, self)

    @property
    def _mesh_host(self) -> str | None:
        """What a client in the mesh calls it; None where none does."""
        return naming.mesh_host(self._name) if self._args.in_mesh else None

    def _read_elsewhere(self, port: int, hosts: Sequence[str]) -> dict[str, pulumi.Input[str]]:
        """Variables of others' that the source is known to read."""
        spec, args, reads = self._spec, self._args, self._image_ref.reads
        found: dict[str, pulumi.Input[str]] = {}
        if FASTMCP_SETTINGS in reads:
            found |= environment.fastmcp_environment(
                port=port,
                path=spec.endpoint,
                transports=spec.transports,
                stateless=spec.sessions == "stateless",
                allowed_hosts=hosts,
                allowed_origins=spec.allowed_origins,
            )
        if "MCP_ALLOWED_HOSTS" in reads:
            # Who knows no patterns compares exactly. The other run.app host cannot be known before (ADR 0008).
            def exact(number: str) -> str:
                return ",".join(
                    naming.exact_hosts(
                        self._service_name,
                        spec.domain,
                        project_number=number,
                        regions=args.regions,
                        in_mesh=self._mesh_host,
                    )
                )

            found["MCP_ALLOWED_HOSTS"] = args.foundation.project_number.apply(exact)
        if "MCP_ALLOWED_ORIGINS" in reads and spec.allowed_origins:
            found["MCP_ALLOWED_ORIGINS"] = ",".join(spec.allowed_origins)
        if "MCP_BASE_URL" in reads:
            found["MCP_BASE_URL"] = self.base_url
        return found

    def _base_url(self) -> pulumi.Output[str]:
        """Where the world reaches the server, known before it exists: so the first `up` is the last."""
        if self._spec.domain is not None:
            return pulumi.Output.from_input(f"https://{self._spec.domain}")
        region = self._args.regions[0]  # several regions have a domain in front of them
        return self._args.foundation.project_number.apply(
            lambda number: naming.service_url(self._service_name, project_number=number, region=region)
        )

    def _service(self, region: str, revision: "Template", rights: Sequence[pulumi.Resource]) -> gcp.cloudrunv2.Service:
        spec, args = self._spec, self._args
        typed = "FUNCTIONAL_TYPE_MCP_SERVER" if spec.agent_registry == "functional-type" else None
        options = self._options(*rights)
        # Cloud Run lets nobody unset a functional type, and the provider would try.
        options.replace_on_changes = ["functional_type"] if typed is None else None
        return gcp.cloudrunv2.Service(
            naming.regional_name(self._place, region),
            name=self._service_name,
            project=args.project,
            location=region,
            description=spec.description or None,
            labels={**args.labels, **spec.labels} or None,
            ingress=_INGRESS[spec.ingress],
            default_uri_disabled=None if spec.default_url else True,
            deletion_protection=spec.deletion_protection,
            custom_audiences=list(self._audiences()) or None,
            # Of the service, not of the revision: it holds for what serves, whichever revision that is. Said even
            # where it is 0, or Cloud Run's answer would be a difference in the next update.
            scaling={"min_instance_count": spec.min_instances},
            functional_type=typed,
            # Said even where it is Cloud Run's default, or a service that was of the preview would stay so.
            launch_stage="BETA" if spec.needs_beta else "GA",
            template=revision,
            opts=options,
            **switches(spec),
        )

    def _audiences(self) -> Iterator[str]:
        if self._spec.domain is not None:
            yield naming.audience(f"https://{self._spec.domain}", self._spec.domain_path)
        yield from self._spec.audiences

    def _domain(self, services: Mapping[str, pulumi.Output[str]]) -> CustomDomain | None:
        if self._spec.domain is None:
            return None
        return CustomDomain(
            self._name,
            CustomDomainArgs(
                project=self._args.project,
                domain=self._spec.domain,
                services=services,
                service_name=self._spec.service_name,
                balanced=self._args.balanced,
                apis=self._args.foundation.apis,
                labels={**self._args.labels, **self._spec.labels},
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _agent_registry_entry(self) -> None:
        gcp.agentregistry.Service(
            self._name,
            project=self._args.project,
            location=self._args.regions[0],
            service_id=naming.service_name(self._name),
            display_name=self._name,
            description=self._spec.description or None,
            interfaces=[{"protocol_binding": "JSONRPC", "url": self.mcp_url}],
            mcp_server_spec={"type": "NO_SPEC"},
            opts=self._child,
        )


def pulled(image: str, foundation: Foundation) -> pulumi.Input[str]:
    """*image* from where Cloud Run can pull it."""
    remote = foundation.remote_uris.get(host_of(image))
    if remote is None or is_pullable(image):
        return image
    return remote.apply(lambda uri: naming.remote_image(uri, image))


def _after(value: pulumi.Input[str], waits: Sequence[pulumi.Output[str]]) -> pulumi.Output[str]:
    """*value*, known once all of *waits* are."""
    if not waits:
        return pulumi.Output.from_input(value)
    return pulumi.Output.all(value, *waits).apply(lambda known: str(known[0]))
