"""The load balancer that the domains of all servers share: one address, two forwarding rules, and a certificate map.

Google issues a certificate when the DNS has its authorization record (`_acme-challenge.DOMAIN`). The domain's A record
can change after that, so a domain that is in use elsewhere moves here without an interruption.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypedDict

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.front_end import SCHEME, create_front_end
from pulumi_mcpfleet.fleet import OauthAccess, Server
from pulumi_mcpfleet.tokens import LOAD_BALANCER

if TYPE_CHECKING:
    from pulumi_gcp.compute import (
        URLMapPathMatcherArgsDict as PathMatcher,
    )
    from pulumi_gcp.compute import (
        URLMapPathMatcherPathRuleArgsDict as PathRule,
    )

_API_PREFIX: Final = "//certificatemanager.googleapis.com/"
"""The prefix of a certificate map's name in a proxy."""
_METADATA_PATH: Final = "/.well-known/oauth-protected-resource"
"""The path of a server's protected resource metadata, before the server's own path (RFC 9728, 3.1)."""


class DnsRecord(TypedDict):
    """A record for the user's DNS.

    Attributes:
        name: The full name, with a trailing dot.
        type: A or CNAME.
        data: The value.
    """

    name: str
    type: str
    data: str


@dataclass(frozen=True)
class Backend:
    """A server behind the load balancer.

    Attributes:
        domain: The server's domain.
        service: The server's backend service.
        spec: The server's configuration.
    """

    domain: str
    service: pulumi.Output[str]
    spec: Server


@dataclass(frozen=True, kw_only=True)
class LoadBalancerArgs:
    """The arguments of the load balancer.

    Attributes:
        project: The Google Cloud project.
        backends: The servers with a domain, by name.
        apis: The APIs that must be enabled first.
        labels: Labels on the resources that can have some.
    """

    project: str
    backends: Mapping[str, Backend]
    apis: Sequence[pulumi.Input[pulumi.Resource]]
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class LoadBalancer(pulumi.ComponentResource):
    """The load balancer of a fleet."""

    address: pulumi.Output[str]
    """The IPv4 address for the A record of each domain."""

    ready: pulumi.Output[str]
    """A value that is known when requests to the address reach the servers, so that dependents wait for them."""

    records: Mapping[str, pulumi.Output[Sequence[DnsRecord]]]
    """The DNS records of each domain."""

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(LOAD_BALANCER, name, None, opts)
        self._name, self._args = name, args
        self._child = pulumi.ResourceOptions(parent=self)
        self._after_apis = pulumi.ResourceOptions(parent=self, depends_on=args.apis)
        self._entries: list[pulumi.Output[str]] = []
        domains = list(dict.fromkeys(backend.domain for backend in args.backends.values()))
        authorizations = {domain: self._create_authorization(domain) for domain in domains}
        front = create_front_end(
            name,
            naming.LOAD_BALANCER_ID,
            project=args.project,
            create_https_proxy=lambda: self._create_https_proxy(authorizations),
            apis=args.apis,
            labels=args.labels,
            parent=self,
        )
        self.address = front.address
        self.ready = pulumi.Output.all(front.ready, *self._entries).apply(lambda values: str(values[0]))
        self.records = {
            domain: pulumi.Output.all(self.address, authorization.dns_resource_records).apply(
                lambda values, domain=domain: [address_record(domain, values[0]), *map(_dns_record, values[1] or ())]
            )
            for domain, authorization in authorizations.items()
        }
        self.register_outputs({"address": self.address})

    def _create_authorization(self, domain: str) -> "gcp.certificatemanager.DnsAuthorization":
        return gcp.certificatemanager.DnsAuthorization(
            domain,
            project=self._args.project,
            name=naming.domain_id(domain),
            domain=domain,
            # The record's name is unique to the project, so it doesn't collide with authorizations of other projects.
            type="PER_PROJECT_RECORD",
            labels=self._args.labels or None,
            opts=self._after_apis,
        )

    def _create_https_proxy(
        self, authorizations: Mapping[str, "gcp.certificatemanager.DnsAuthorization"]
    ) -> "gcp.compute.TargetHttpsProxy":
        name, project, labels = self._name, self._args.project, self._args.labels or None
        certificate_map = gcp.certificatemanager.CertificateMap(
            name, project=project, name=naming.LOAD_BALANCER_ID, labels=labels, opts=self._after_apis
        )
        for domain, authorization in authorizations.items():
            certificate = gcp.certificatemanager.Certificate(
                domain,
                project=project,
                name=naming.domain_id(domain),
                managed={"domains": [domain], "dns_authorizations": [authorization.id]},
                labels=labels,
                opts=self._child,
            )
            entry = gcp.certificatemanager.CertificateMapEntry(
                domain,
                project=project,
                name=naming.domain_id(domain),
                map=certificate_map.name,
                hostname=domain,
                certificates=[certificate.id],
                labels=labels,
                opts=self._child,
            )
            self._entries.append(entry.id)
        return gcp.compute.TargetHttpsProxy(
            name,
            project=project,
            name=naming.LOAD_BALANCER_ID,
            url_map=self._create_url_map(list(authorizations)).id,
            certificate_map=pulumi.Output.concat(_API_PREFIX, certificate_map.id),
            opts=self._child,
        )

    def _create_url_map(self, domains: Sequence[str]) -> "gcp.compute.URLMap":
        # For hosts and paths of no server: a backend service without a group, for which the load balancer responds 503.
        fallback = gcp.compute.BackendService(
            f"{self._name}-nowhere",
            project=self._args.project,
            name=f"{naming.LOAD_BALANCER_ID}-nowhere",
            protocol="HTTPS",
            load_balancing_scheme=SCHEME,
            opts=self._after_apis,
        )
        return gcp.compute.URLMap(
            self._name,
            project=self._args.project,
            name=naming.LOAD_BALANCER_ID,
            default_service=fallback.id,
            host_rules=[{"hosts": [domain], "path_matcher": naming.domain_id(domain)} for domain in domains],
            path_matchers=[self._path_matcher(domain, fallback.id) for domain in domains],
            opts=self._child,
        )

    def _path_matcher(self, domain: str, fallback: pulumi.Output[str]) -> "PathMatcher":
        backends = [backend for backend in self._args.backends.values() if backend.domain == domain]
        default = next((backend.service for backend in backends if backend.spec.domain_path is None), fallback)
        matcher: PathMatcher = {"name": naming.domain_id(domain), "default_service": default}
        rules: list[PathRule] = [
            {"paths": _path_patterns(backend.spec, path), "service": backend.service}
            for backend in backends
            if (path := backend.spec.domain_path) is not None
        ]
        if rules:
            matcher["path_rules"] = rules
        return matcher


def address_record(domain: str, address: str) -> DnsRecord:
    """Return the A record of *domain* with *address*."""
    return {"name": f"{domain}.", "type": "A", "data": address}


def _dns_record(record: Any) -> DnsRecord:
    return {"name": str(record["name"]), "type": str(record["type"]), "data": str(record["data"])}


def _path_patterns(spec: Server, path: str) -> list[str]:
    """Return patterns of *path* and the paths below it, and of the server's protected resource metadata."""
    patterns = [path, f"{path}/*"]
    metadata = [f"{_METADATA_PATH}{pattern}" for pattern in patterns]
    return patterns + metadata if isinstance(spec.access, OauthAccess) else patterns
