"""An MCP server on Cloud Run: its service account, its image, its service in each region, and its callers' grants.

`foundation` enables APIs and creates the image repository, `template` has the revisions, `access` the grants, and
`custom_domain` the load balancer of a domain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import environment, naming
from pulumi_mcpfleet.components import login, template
from pulumi_mcpfleet.components.access import (
    GrantTarget,
    access_arguments,
    access_environment,
    grant_access,
    grant_permissions,
)
from pulumi_mcpfleet.components.arguments import McpServerArgs
from pulumi_mcpfleet.components.custom_domain import CustomDomain, CustomDomainArgs
from pulumi_mcpfleet.components.deferred import Deferred
from pulumi_mcpfleet.components.foundation import Foundation, standalone_foundation
from pulumi_mcpfleet.components.image import build_image, login_image
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
"""The outputs of a server in every language; the last three exist only with a domain."""

_INGRESS: Final = {
    "all": "INGRESS_TRAFFIC_ALL",
    "internal": "INGRESS_TRAFFIC_INTERNAL_ONLY",
    "internal-and-lb": "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
}


@dataclass(frozen=True, kw_only=True)
class ServerInFleet:
    """The arguments of a server of a fleet."""

    project: str
    regions: Sequence[str]
    foundation: Foundation
    spec: Server
    balanced: bool = True
    """True if the server's domain has its own load balancer."""
    in_mesh: bool = False
    """True if a client calls the server through the service mesh."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    deferred: Deferred | None = None
    """The outputs among the arguments."""


class McpServer(pulumi.ComponentResource):
    """A scale-to-zero MCP server that runs as its own service account and that only its invokers may call."""

    account: pulumi.Output[str]
    """The email address of its service account."""

    service: pulumi.Output[str]
    """The Cloud Run service's name, the same in each region."""

    url: pulumi.Output[str]
    """The URL of its domain, or else of its service. Known when the invokers may call it."""

    urls: Mapping[str, pulumi.Output[str]]
    """The service's own URL in each region; empty if it is disabled."""

    spec: Server
    """The server's configuration."""

    base_url: pulumi.Output[str]
    """The public URL, which is known before the service exists."""

    services: Mapping[str, pulumi.Output[str]]
    """The Cloud Run service's name in each region, known when it exists there."""

    audience: pulumi.Output[str]
    """The audience of callers' ID tokens."""

    mcp_url: pulumi.Output[str]
    """The URL for MCP clients: the endpoint itself, without a redirect."""

    address: pulumi.Output[str] | None
    """The IP address for the A record of its domain; None without a domain."""

    dns_records: pulumi.Output[Sequence[DnsRecord]] | None
    """The DNS records of its domain; None without a domain."""

    backend: Backend | None
    """The server as a backend of a load balancer; None without a domain."""

    def __init__(self, name: str, args: McpServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Create the server *name*, without a fleet or a config file.

        Args:
            name: The server's name: 2 to 26 characters of `a-z`, `0-9` and `-`.
            args: The arguments.
            opts: The component's options; its resources inherit its providers, transforms and `protect`.

        Raises:
            pulumi.RunError: The arguments have mistakes; the text has one line for each.
        """
        shared = args.get("foundation")
        arguments = read_server(
            name, {key: value for key, value in args.items() if key != "foundation"}, shared=bool(shared)
        )
        opts = arguments.deferred.component_options(opts)
        super().__init__(MCP_SERVER, name, None, opts)
        self._create(
            name,
            ServerInFleet(
                project=arguments.project,
                regions=arguments.fleet.all_regions,
                foundation=standalone_foundation(name, arguments, shared, self),
                spec=arguments.fleet.servers[name],
                balanced=arguments.fleet.load_balancer != "shared",
                deferred=arguments.deferred,
            ),
        )

    @classmethod
    def in_fleet(cls, name: str, args: ServerInFleet, opts: pulumi.ResourceOptions | None = None) -> Self:
        """Create the server *name* of a fleet, whose arguments are already validated."""
        component = cls.__new__(cls)
        pulumi.ComponentResource.__init__(component, MCP_SERVER, name, None, opts)
        component._create(name, args)
        return component

    def _create(self, name: str, args: ServerInFleet) -> None:
        self._name, self._args, self._spec = name, args, args.spec
        # Names are fixed, so a replacement has the name of the old resource. The engine must know that even if the
        # provider sees no difference any more: when an update that failed during a replacement is reverted, it would
        # otherwise create the service again, and then delete it as the old one.
        self._child = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        spec, foundation = args.spec, args.foundation
        self._service_name = naming.service_name(name, spec.service_name)
        self._resource_name = naming.per_service_name(name, spec.service_name)

        self.spec = spec
        self.base_url = self._base_url()
        self._image_ref = self._image()
        self.account = email = self._identity()
        permissions = self._grant_permissions(email)
        self._report_blocked_origins()
        self._report_shared_state()
        containers = self._containers()
        if isinstance(spec.access, LoginAccess):
            bucket, grant = login.create_bucket(
                name,
                self._resource_name,
                project=args.project,
                region=args.regions[0],
                labels={**args.labels, **spec.labels},
                member=email.apply(naming.account_member),
                options=self._options(*foundation.apis),
            )
            permissions = [*permissions, grant]
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
                region, template.revision(spec, email, containers, project=args.project, region=region), permissions
            )
            for region in args.regions
        }
        granted = [
            grant
            for region, service in services.items()
            for grant in grant_access(
                spec.access,
                GrantTarget(server=self._resource_name, project=args.project, region=region, service=service.name),
                foundation,
                self._child,
            )
        ]
        domain = self._domain({region: service.name for region, service in services.items()})

        self.services = {region: service.name for region, service in services.items()}
        first = services[args.regions[0]]
        self.service = first.name
        # A URL is known only when the grants exist, so that it can be called at once.
        front = domain.front_end if domain else None
        waits = [*(grant.urn for grant in granted), *([front.ready] if front else [])]
        self.urls = {region: _after(service.uri, waits) for region, service in services.items()}
        self._set_url(_after(f"https://{spec.domain}", waits) if spec.domain else self.urls[args.regions[0]])
        self.backend = Backend(str(spec.domain), domain.backend, spec) if domain else None
        self.address = front.address if front else None
        self.dns_records = (
            self.address.apply(lambda address: [address_record(str(spec.domain), address)]) if self.address else None
        )
        if spec.agent_registry == "entry":
            self._agent_registry_entry()
        self.register_outputs(self.outputs)

    @property
    def backend_service(self) -> pulumi.Output[str] | None:
        """The backend service of its domain, for a load balancer of your own; None without a domain."""
        return self.backend.service if self.backend else None

    @property
    def outputs(self) -> dict[str, Any]:
        """The outputs of the component in every language."""
        return {name: value for name in OUTPUTS if (value := getattr(self, name)) is not None}

    def use_load_balancer(self, load_balancer: LoadBalancer) -> None:
        """Set the outputs of a domain behind *load_balancer*: its DNS records, and the URL when it is ready."""
        self.address = load_balancer.address
        self.dns_records = load_balancer.records[str(self._spec.domain)]
        self._set_url(_after(self.url, [load_balancer.ready]))

    def _set_url(self, url: pulumi.Output[str]) -> None:
        self.url = url
        self.audience = url.apply(lambda known_url: naming.audience(known_url, self._spec.domain_path))
        self.mcp_url = url.apply(lambda known_url: naming.mcp_url(known_url, self._spec.endpoint))

    def _options(self, *depends_on: pulumi.Input[pulumi.Resource]) -> pulumi.ResourceOptions:
        """Return the options of a resource that needs the APIs.

        A resource that uses the server's own account depends on the APIs through it. Without the repeated dependencies,
        the preview of a large fleet takes a tenth less time (`./dev bench fleet`).
        """
        apis = self._args.foundation.apis if self._spec.service_account is not None else ()
        after: list[pulumi.Input[pulumi.Resource]] = [*apis, *depends_on]
        return pulumi.ResourceOptions(parent=self, delete_before_replace=True, depends_on=after)

    def _identity(self) -> pulumi.Output[str]:
        """Create the service account, unless the config names one; return its email address."""
        if self._spec.service_account is not None:
            deferred, account = self._args.deferred, self._spec.service_account
            return pulumi.Output.from_input(deferred.resolve(account) if deferred else account)
        # A new account is not visible everywhere at once, and Cloud Run refuses a service whose account it can't see.
        # The provider reads a new account three times and then waits 10 s, and all users of the address wait for that.
        return gcp.serviceaccount.Account(
            self._name,
            project=self._args.project,
            account_id=naming.account_id(self._name),
            display_name=f"MCP server {self._name}",
            opts=self._options(*self._args.foundation.apis),
        ).email

    def _grant_permissions(self, email: pulumi.Output[str]) -> list[pulumi.Resource]:
        return grant_permissions(self._name, self._spec, project=self._args.project, email=email, child=self._options())

    def _image(self) -> template.Image:
        """Return the image: the existing one as the config names it, or one that is built and pinned by its digest."""
        match self._spec.source:
            case ExistingImage(image=image, args=args):
                return template.Image(pullable_image(image, self._args.foundation), args)
            case source:
                return build_image(
                    self._name,
                    source,
                    project=self._args.project,
                    foundation=self._args.foundation,
                    parent=self,
                )

    def as_sidecar(self, port: int, *, idle: bool) -> "Container":
        """Return the server as a sidecar container of a client, which only the client can reach.

        Args:
            port: The port on which it listens.
            idle: True if the instance has CPU only during requests.
        """
        container = template.main_container(self.spec, self._image_ref, self._variables(port))
        for key in ("ports", "liveness_probe"):
            container.pop(key, None)
        container["name"] = self._name
        container["resources"] = {"limits": {"cpu": self.spec.cpu, "memory": self.spec.memory}, "cpu_idle": idle}
        container["startup_probe"] = template.startup_probe(self.spec, port, self.spec.probes.startup)
        return self._args.deferred.resolve(container) if self._args.deferred else container

    def _containers(self) -> list["Container"]:
        spec = self._spec
        sidecars = {
            name: pullable_image(sidecar.image, self._args.foundation) for name, sidecar in spec.sidecars.items()
        }
        return template.containers(spec, self._image_ref, sidecars, self._variables())

    def _variables(self, port: int | None = None) -> list["Variable"]:
        """Return the container's environment variables; *port* is set if it is a sidecar of a client."""
        spec = self._spec
        base = self.base_url
        hosts = naming.allowed_hosts(self._service_name, spec.domain, in_mesh=self._mesh_host)
        env: dict[str, pulumi.Input[str]] = {
            environment.PROJECT: self._args.project,
            environment.BASE_URL: base,
            environment.AUDIENCE: base.apply(
                lambda url: ",".join((naming.audience(url, spec.domain_path), *spec.audiences))
            ),
            **environment.container_environment(
                path=spec.path,
                transports=spec.transports,
                stateless=spec.sessions == "stateless",
                health_path=spec.health_path,
                allowed_hosts=hosts,
                allowed_origins=spec.allowed_origins,
            ),
            **self._source_variables(port or spec.port, hosts),
        }
        if isinstance(spec.access, OauthAccess):
            oauth = spec.access.oauth
            audience = oauth.audience or base.apply(lambda url: naming.mcp_url(url, spec.endpoint))
            env |= environment.oauth_environment(issuer=oauth.issuer, scopes=oauth.scopes)
            env[environment.OAUTH_AUDIENCE] = audience
        if isinstance(spec.access, LoginAccess):
            env["PORT"] = str(spec.port)  # Cloud Run gives it to the container that takes requests only
        if port is None:
            env |= access_environment(spec.access, self._service_name, self._args.regions, self._args.foundation)
        else:
            env["PORT"] = str(port)  # Cloud Run gives it to the container that takes requests only
            # Google's front end authenticates the client's callers; calls over localhost have no identity.
            env[environment.ACCESS] = "public"
        replaced = (env.keys() - {environment.PROJECT}) & (spec.env.keys() | spec.secrets.keys())
        if replaced and port is None:
            names = ", ".join(sorted(replaced))
            pulumi.warn(f"{self._name}: {names} of its env replaces what the fleet would set", self)
        kept = {name: value for name, value in env.items() if name not in spec.secrets}
        return template.variables({**kept, **spec.env}, spec.secrets)

    def _report_shared_state(self) -> None:
        shares = self._image_ref.shares
        if shares and (self._spec.sessions == "stateless" or shares.startswith(FILE_STATE)):
            pulumi.info(f"{self._name}: {separation_advice(shares, bridged=is_bridged(self._spec.source))}", self)

    def _report_blocked_origins(self) -> None:
        """Report origins whose pages Google blocks, because a browser's preflight request has no token."""
        access = access_kind(self._spec.access)
        remote_origins = [
            origin
            for origin in self._spec.allowed_origins
            if urlsplit(origin).hostname not in ("localhost", "127.0.0.1")
        ]
        if remote_origins and access in ("iam", "iap"):
            text = (
                f"{self._name}: allowed_origins: pages of {', '.join(remote_origins)} can't call it directly: with"
                f" access: {access}, Google refuses a browser's preflight, which has no token; let them call through"
                " a server of yours that adds one, or choose access: login or oauth"
            )
            pulumi.info(text, self)

    @property
    def _mesh_host(self) -> str | None:
        """The server's host name in the mesh; None if no mesh client calls it."""
        return naming.mesh_host(self._name) if self._args.in_mesh else None

    def _source_variables(self, port: int, hosts: Sequence[str]) -> dict[str, pulumi.Input[str]]:
        """Return variables of frameworks and conventions that the server's source reads."""
        spec, args, reads = self._spec, self._args, self._image_ref.reads
        variables: dict[str, pulumi.Input[str]] = {}
        if FASTMCP_SETTINGS in reads:
            variables |= environment.fastmcp_environment(
                port=port,
                path=spec.endpoint,
                transports=spec.transports,
                stateless=spec.sessions == "stateless",
                allowed_hosts=hosts,
                allowed_origins=spec.allowed_origins,
            )
        if "MCP_ALLOWED_HOSTS" in reads:
            # Such servers compare hosts exactly. The second run.app host is not known before the deployment (ADR 0008).
            def exact_hosts(number: str) -> str:
                return ",".join(
                    naming.exact_hosts(
                        self._service_name,
                        spec.domain,
                        project_number=number,
                        regions=args.regions,
                        in_mesh=self._mesh_host,
                    )
                )

            variables["MCP_ALLOWED_HOSTS"] = args.foundation.project_number.apply(exact_hosts)
        if "MCP_ALLOWED_ORIGINS" in reads and spec.allowed_origins:
            variables["MCP_ALLOWED_ORIGINS"] = ",".join(spec.allowed_origins)
        if "MCP_BASE_URL" in reads:
            variables["MCP_BASE_URL"] = self.base_url
        return variables

    def _base_url(self) -> pulumi.Output[str]:
        """Return the public URL, which is known before the service exists, so one `up` is enough."""
        if self._spec.domain is not None:
            return pulumi.Output.from_input(f"https://{self._spec.domain}")
        region = self._args.regions[0]  # several regions need a domain
        return self._args.foundation.project_number.apply(
            lambda number: naming.service_url(self._service_name, project_number=number, region=region)
        )

    def _service(
        self, region: str, revision: "Template", permissions: Sequence[pulumi.Resource]
    ) -> gcp.cloudrunv2.Service:
        spec, args = self._spec, self._args
        functional_type = "FUNCTIONAL_TYPE_MCP_SERVER" if spec.agent_registry == "functional-type" else None
        options = self._options(*permissions)
        # A functional type can't be unset, but the provider would try.
        options.replace_on_changes = ["functional_type"] if functional_type is None else None
        return gcp.cloudrunv2.Service(
            naming.regional_name(self._resource_name, region),
            name=self._service_name,
            project=args.project,
            location=region,
            description=spec.description or None,
            labels={**args.labels, **spec.labels} or None,
            ingress=_INGRESS[spec.ingress],
            default_uri_disabled=None if spec.default_url else True,
            deletion_protection=spec.deletion_protection,
            custom_audiences=list(self._audiences()) or None,
            # Set on the service, so that it applies to every revision that serves. Set even to 0, because Cloud Run
            # returns the field, which would be a difference in the next update.
            scaling={"min_instance_count": spec.min_instances},
            functional_type=functional_type,
            # Set even to Cloud Run's default, or a service that used a preview feature would keep its launch stage.
            launch_stage="BETA" if spec.needs_beta else "GA",
            template=revision,
            opts=options,
            **access_arguments(spec),
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


def pullable_image(image: str, foundation: Foundation) -> pulumi.Input[str]:
    """Return *image* from a registry from which Cloud Run can pull."""
    remote = foundation.remote_uris.get(host_of(image))
    if remote is None or is_pullable(image):
        return image
    return remote.apply(lambda uri: naming.remote_image(uri, image))


def _after(value: pulumi.Input[str], waits: Sequence[pulumi.Output[str]]) -> pulumi.Output[str]:
    """Return *value* as an output that is known when all of *waits* are."""
    if not waits:
        return pulumi.Output.from_input(value)
    return pulumi.Output.all(value, *waits).apply(lambda values: str(values[0]))
