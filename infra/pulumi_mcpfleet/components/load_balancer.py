"""One load balancer for the domains of all servers, with a certificate map: an address, two forwarding rules, one bill.

A certificate is issued by the proof of a DNS record (`_acme-challenge.DOMAIN`), before the domain's A record leads
here: a domain that answers elsewhere moves without a break.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypedDict

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.front_end import SCHEME, front_end
from pulumi_mcpfleet.fleet import OauthAccess, Server
from pulumi_mcpfleet.tokens import LOAD_BALANCER

if TYPE_CHECKING:
    from pulumi_gcp.compute import (
        URLMapPathMatcherArgsDict as PathMatcher,
    )

_SERVICE: Final = "//certificatemanager.googleapis.com/"
"""What stands before a certificate map's name where a proxy names it."""
_METADATA: Final = "/.well-known/oauth-protected-resource"
"""Where clients ask which tokens a server takes, with its path behind it (RFC 9728, 3.1)."""


class DnsRecord(TypedDict):
    """A record that the user's DNS needs.

    Attributes:
        name: The full name, with a dot at its end.
        type: A or CNAME.
        data: Its value.
    """

    name: str
    type: str
    data: str


@dataclass(frozen=True)
class Backend:
    """A server behind the load balancer.

    Attributes:
        domain: Its domain.
        service: Its backend service.
        spec: What the fleet says of it.
    """

    domain: str
    service: pulumi.Output[str]
    spec: Server


@dataclass(frozen=True, kw_only=True)
class LoadBalancerArgs:
    """What is behind the load balancer.

    Attributes:
        project: The Google Cloud project.
        backends: The servers with a domain, by name.
        apis: What has to be enabled before.
        labels: Labels on what can carry them.
    """

    project: str
    backends: Mapping[str, Backend]
    apis: Sequence[pulumi.Input[pulumi.Resource]]
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class LoadBalancer(pulumi.ComponentResource):
    """The load balancer of a fleet."""

    address: pulumi.Output[str]
    """The IPv4 address that the A record of each domain has to name."""

    ready: pulumi.Output[str]
    """Known once requests to the address reach the servers; to wait for."""

    records: Mapping[str, pulumi.Output[Sequence[DnsRecord]]]
    """What the DNS of each domain needs."""

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(LOAD_BALANCER, name, None, opts)
        self._name, self._args = name, args
        self._child = pulumi.ResourceOptions(parent=self)
        self._first = pulumi.ResourceOptions(parent=self, depends_on=args.apis)
        self._entries: list[pulumi.Output[str]] = []
        domains = list(dict.fromkeys(one.domain for one in args.backends.values()))
        proofs = {domain: self._proof(domain) for domain in domains}
        front = front_end(
            name,
            naming.LOAD_BALANCER_ID,
            project=args.project,
            secure=lambda: self._https_proxy(proofs),
            apis=args.apis,
            labels=args.labels,
            parent=self,
        )
        self.address = front.address
        self.ready = pulumi.Output.all(front.ready, *self._entries).apply(lambda known: str(known[0]))
        self.records = {
            domain: pulumi.Output.all(self.address, proof.dns_resource_records).apply(
                lambda known, domain=domain: [address_record(domain, known[0]), *map(_record, known[1] or ())]
            )
            for domain, proof in proofs.items()
        }
        self.register_outputs({"address": self.address})

    def _proof(self, domain: str) -> "gcp.certificatemanager.DnsAuthorization":
        return gcp.certificatemanager.DnsAuthorization(
            domain,
            project=self._args.project,
            name=naming.domain_id(domain),
            domain=domain,
            # Its record has a name of its own for each project, so that it stands beside other people's proofs.
            type="PER_PROJECT_RECORD",
            labels=self._args.labels or None,
            opts=self._first,
        )

    def _https_proxy(
        self, proofs: Mapping[str, "gcp.certificatemanager.DnsAuthorization"]
    ) -> "gcp.compute.TargetHttpsProxy":
        name, project, labels = self._name, self._args.project, self._args.labels or None
        shown = gcp.certificatemanager.CertificateMap(
            name, project=project, name=naming.LOAD_BALANCER_ID, labels=labels, opts=self._first
        )
        for domain, proof in proofs.items():
            certificate = gcp.certificatemanager.Certificate(
                domain,
                project=project,
                name=naming.domain_id(domain),
                managed={"domains": [domain], "dns_authorizations": [proof.id]},
                labels=labels,
                opts=self._child,
            )
            entry = gcp.certificatemanager.CertificateMapEntry(
                domain,
                project=project,
                name=naming.domain_id(domain),
                map=shown.name,
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
            url_map=self._routes(list(proofs)).id,
            certificate_map=pulumi.Output.concat(_SERVICE, shown.id),
            opts=self._child,
        )

    def _routes(self, domains: Sequence[str]) -> "gcp.compute.URLMap":
        # For hosts and paths that are nobody's: a backend without a group, which the load balancer answers 503 for.
        nowhere = gcp.compute.BackendService(
            f"{self._name}-nowhere",
            project=self._args.project,
            name=f"{naming.LOAD_BALANCER_ID}-nowhere",
            protocol="HTTPS",
            load_balancing_scheme=SCHEME,
            opts=self._first,
        )
        return gcp.compute.URLMap(
            self._name,
            project=self._args.project,
            name=naming.LOAD_BALANCER_ID,
            default_service=nowhere.id,
            host_rules=[{"hosts": [domain], "path_matcher": naming.domain_id(domain)} for domain in domains],
            path_matchers=[self._matcher(domain, nowhere.id) for domain in domains],
            opts=self._child,
        )

    def _matcher(self, domain: str, nowhere: pulumi.Output[str]) -> "PathMatcher":
        here = [one for one in self._args.backends.values() if one.domain == domain]
        whole = next((one.service for one in here if one.spec.domain_path is None), nowhere)
        matcher: PathMatcher = {"name": naming.domain_id(domain), "default_service": whole}
        parts = [(one, one.spec.domain_path) for one in here if one.spec.domain_path is not None]
        if parts:
            matcher["path_rules"] = [{"paths": _paths(one.spec, path), "service": one.service} for one, path in parts]
        return matcher


def address_record(domain: str, address: str) -> DnsRecord:
    """The record that leads *domain* to *address*."""
    return {"name": f"{domain}.", "type": "A", "data": address}


def _record(given: Any) -> DnsRecord:
    return {"name": str(given["name"]), "type": str(given["type"]), "data": str(given["data"])}


def _paths(spec: Server, path: str) -> list[str]:
    """The patterns of paths below *path*, and of what clients ask about the server's login."""
    below = [path, f"{path}/*"]
    return below + [f"{_METADATA}{one}" for one in below] if isinstance(spec.access, OauthAccess) else below
