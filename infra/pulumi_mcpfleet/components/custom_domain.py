"""A server's custom domain: its backend service, and its own load balancer if it has one.

Google issues the certificate when the domain's DNS has the load balancer's address; until then, the domain doesn't
respond. No DNS record is created, because the zone is the user's. `load_balancer` has the one that all servers share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.front_end import SCHEME, FrontEnd, create_front_end
from pulumi_mcpfleet.tokens import CUSTOM_DOMAIN


@dataclass(frozen=True, kw_only=True)
class CustomDomainArgs:
    """The domain, and the services behind it.

    Attributes:
        project: The Google Cloud project.
        domain: The domain.
        services: The service's name in each region.
        apis: The APIs that must be enabled first.
        service_name: The service's name in the config, if it is not `mcp-NAME`.
        balanced: Whether the server has its own load balancer.
        labels: Labels on the address and the forwarding rules; the other resources can't have labels.
    """

    project: str
    domain: str
    services: Mapping[str, pulumi.Output[str]]
    apis: Sequence[pulumi.Input[pulumi.Resource]]
    service_name: str | None = None
    balanced: bool = True
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class CustomDomain(pulumi.ComponentResource):
    """The backend service of one server, and its own load balancer if it has one."""

    backend: pulumi.Output[str]
    """The ID of the backend service, for other load balancers."""

    front_end: FrontEnd | None
    """The front end of the server's own load balancer; None if it has none."""

    def __init__(self, name: str, args: CustomDomainArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(CUSTOM_DOMAIN, name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        resource = naming.service_name(name)

        self.backend = self._backend(name, resource, args, child)
        self.front_end = None
        if args.balanced:
            self.front_end = create_front_end(
                name,
                resource,
                project=args.project,
                create_https_proxy=lambda: self._https_proxy(name, resource, args, child),
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
                # With the service's name in it: a new group can exist while the load balancer still uses the old one.
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
            # No timeout: a backend service of serverless groups can't have one; the service's own applies.
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
            # By default, the provider deletes a resource with a fixed name before it creates the replacement. Google
            # refuses that while the proxy uses the old certificate; the name has the domain, so both can exist.
            opts=pulumi.ResourceOptions(parent=self, depends_on=args.apis, delete_before_replace=False),
        )
        routes = gcp.compute.URLMap(name, project=args.project, name=resource, default_service=self.backend, opts=child)
        return gcp.compute.TargetHttpsProxy(
            name, project=args.project, name=resource, url_map=routes.id, ssl_certificates=[certificate.id], opts=child
        )
