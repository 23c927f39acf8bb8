"""A domain of the user's in front of a server: its backend, and a load balancer of its own where it has one.

Google issues the certificate once the domain's DNS leads to the balancer's address; until then the domain does not
answer. It makes no DNS record: the zone is the user's. The balancer of all servers is in `load_balancer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.front_end import SCHEME, FrontEnd, front_end
from pulumi_mcpfleet.tokens import CUSTOM_DOMAIN


@dataclass(frozen=True, kw_only=True)
class CustomDomainArgs:
    """Which domain leads where.

    Attributes:
        project: The Google Cloud project.
        domain: The domain.
        services: The service's name in each region.
        service_name: What the user has named the service, if that is not `mcp-NAME`.
        balanced: Whether the server has a load balancer of its own.
        apis: What has to be enabled before.
        labels: Labels on the address and the forwarding rules; nothing else of a load balancer can carry any.
    """

    project: str
    domain: str
    services: Mapping[str, pulumi.Output[str]]
    apis: Sequence[pulumi.Input[pulumi.Resource]]
    service_name: str | None = None
    balanced: bool = True
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class CustomDomain(pulumi.ComponentResource):
    """The backend of one server, and perhaps a load balancer before it."""

    backend: pulumi.Output[str]
    """The backend service, by which other load balancers lead to the server."""

    front_end: FrontEnd | None
    """The server's own load balancer; None where it has none."""

    def __init__(self, name: str, args: CustomDomainArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(CUSTOM_DOMAIN, name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        resource = naming.service_name(name)

        self.backend = self._backend(name, resource, args, child)
        self.front_end = None
        if args.balanced:
            self.front_end = front_end(
                name,
                resource,
                project=args.project,
                secure=lambda: self._https_proxy(name, resource, args, child),
                apis=args.apis,
                labels=args.labels,
                parent=self,
            )
        self.register_outputs({"address": self.front_end.address if self.front_end else None})

    def _backend(
        self, name: str, resource: str, args: CustomDomainArgs, child: pulumi.ResourceOptions
    ) -> pulumi.Output[str]:
        groups = [
            gcp.compute.RegionNetworkEndpointGroup(
                naming.regional_name(naming.per_service_name(name, args.service_name), region),
                project=args.project,
                region=region,
                # A group of another service has another name: it is there before the balancer lets go of the old one.
                name=naming.group_name(resource, args.service_name),
                network_endpoint_type="SERVERLESS",
                cloud_run={"service": service},
                opts=child,
            )
            for region, service in args.services.items()
        ]
        return gcp.compute.BackendService(
            name,
            project=args.project,
            name=resource,
            protocol="HTTPS",
            load_balancing_scheme=SCHEME,
            # No timeout: a backend of serverless groups takes none, the service's own applies.
            backends=[{"group": group.id} for group in groups],
            opts=child,
        ).id

    def _https_proxy(
        self, name: str, resource: str, args: CustomDomainArgs, child: pulumi.ResourceOptions
    ) -> "gcp.compute.TargetHttpsProxy":
        certificate = gcp.compute.ManagedSslCertificate(
            name,
            project=args.project,
            name=naming.certificate_name(name, args.domain),
            managed={"domains": [args.domain]},
            # Another domain has another certificate, under a name of its own. The provider would delete the old one
            # first, as it does with whatever the program names; Google refuses that while the proxy has it.
            opts=pulumi.ResourceOptions(parent=self, depends_on=args.apis, delete_before_replace=False),
        )
        routes = gcp.compute.URLMap(name, project=args.project, name=resource, default_service=self.backend, opts=child)
        return gcp.compute.TargetHttpsProxy(
            name, project=args.project, name=resource, url_map=routes.id, ssl_certificates=[certificate.id], opts=child
        )
