"""A domain of the user's in front of a server: a global external load balancer and its certificate.

Google issues the certificate once the domain's DNS leads to `address`; until then the domain does not answer. It makes
no DNS record: the zone is the user's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.tokens import CUSTOM_DOMAIN

# Serverless backends of the global external Application Load Balancer (Cloud Load Balancing, "Serverless NEGs").
SCHEME: Final = "EXTERNAL_MANAGED"


@dataclass(frozen=True, kw_only=True)
class CustomDomainArgs:
    """Which domain leads where.

    Attributes:
        project: The Google Cloud project.
        domain: The domain.
        services: The service's name in each region.
        service_name: What the user has named the service, if that is not `mcp-NAME`.
        apis: What has to be enabled before.
        labels: Labels on the address and the forwarding rules; nothing else of a load balancer can carry any.
    """

    project: str
    domain: str
    services: Mapping[str, pulumi.Output[str]]
    apis: Sequence[pulumi.Input[pulumi.Resource]]
    service_name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class CustomDomain(pulumi.ComponentResource):
    """A load balancer for one server."""

    address: pulumi.Output[str]
    """The IPv4 address that the domain's A record has to name."""

    ready: pulumi.Output[str]
    """Known once requests to the address reach the server; to wait for."""

    def __init__(self, name: str, args: CustomDomainArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(CUSTOM_DOMAIN, name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        resource = naming.service_name(name)

        address = gcp.compute.GlobalAddress(
            name,
            project=args.project,
            name=resource,
            labels=args.labels or None,
            opts=pulumi.ResourceOptions(parent=self, depends_on=args.apis),
        )
        secure = self._https_proxy(name, resource, args, child)
        plain = self._redirecting_proxy(name, resource, args, child)
        rules = [
            gcp.compute.GlobalForwardingRule(
                f"{name}-{scheme}",
                project=args.project,
                name=f"{resource}-{scheme}",
                ip_address=address.id,
                port_range=port,
                target=target,
                load_balancing_scheme=SCHEME,
                labels=args.labels or None,
                opts=child,
            )
            for scheme, port, target in (("https", "443", secure.id), ("http", "80", plain.id))
        ]
        self.address = address.address
        self.ready = pulumi.Output.all(*(rule.id for rule in rules)).apply(lambda ids: str(ids[0]))
        self.register_outputs({"address": self.address})

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
        groups = [
            gcp.compute.RegionNetworkEndpointGroup(
                naming.in_region(naming.of_service(name, args.service_name), region),
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
        backend = gcp.compute.BackendService(
            name,
            project=args.project,
            name=resource,
            protocol="HTTPS",
            load_balancing_scheme=SCHEME,
            # No timeout: a backend of serverless groups takes none, the service's own applies.
            backends=[{"group": group.id} for group in groups],
            opts=child,
        )
        routes = gcp.compute.URLMap(name, project=args.project, name=resource, default_service=backend.id, opts=child)
        return gcp.compute.TargetHttpsProxy(
            name, project=args.project, name=resource, url_map=routes.id, ssl_certificates=[certificate.id], opts=child
        )

    def _redirecting_proxy(
        self, name: str, resource: str, args: CustomDomainArgs, child: pulumi.ResourceOptions
    ) -> "gcp.compute.TargetHttpProxy":
        redirect = gcp.compute.URLMap(
            f"{name}-redirect",
            project=args.project,
            name=f"{resource}-redirect",
            default_url_redirect={
                "https_redirect": True,
                # 308: a client that follows it sends its POST again as a POST.
                "redirect_response_code": "PERMANENT_REDIRECT",
                "strip_query": False,
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=args.apis),
        )
        return gcp.compute.TargetHttpProxy(name, project=args.project, name=resource, url_map=redirect.id, opts=child)
