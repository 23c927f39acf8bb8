"""The kinds of documents of Compute Engine that there are here: which fields each has, and what they refer to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_COMMON: Final = frozenset(
    {"name", "description", "kind", "id", "selfLink", "creationTimestamp", "fingerprint", "region"}
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One collection.

    Attributes:
        one: a document of it, as `kind` has it.
        permission: the resource in its permissions, `compute.<permission>.create`.
        fields: what may be set.
        values: the only values of a field that are honoured.
        refers: fields with the name of another document, and the collections that it may be in.
        required: fields that must be set.
        defaults: what Google chooses for a field that was left out.
        fingerprinted: whether a document has a fingerprint of its own.
    """

    one: str
    permission: str
    fields: frozenset[str]
    values: Mapping[str, frozenset[object]] = field(default_factory=dict[str, frozenset[object]])
    refers: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fingerprinted: bool = False

    @property
    def settable(self) -> frozenset[str]:
        """What is kept of what a caller sends."""
        return self.fields - {"labelFingerprint", "gatewayAddress"} | {"name", "description"}

    @property
    def known(self) -> frozenset[str]:
        """Every field that a caller may send."""
        return self.fields | _COMMON


_SCHEME: Final = frozenset({"EXTERNAL", "EXTERNAL_MANAGED"})
TIMEOUT: Final = 30
"""What a backend service answers where no timeout was given, in seconds; serverless backends take no other."""
_NOTHING: Final = frozenset({False, "", None})

GLOBAL: Final[Mapping[str, Kind]] = {
    "addresses": Kind(
        one="address",
        permission="globalAddresses",
        fields=frozenset({"addressType", "ipVersion", "networkTier", "labels", "labelFingerprint"}),
        values={
            "addressType": frozenset({"EXTERNAL", ""}),
            "ipVersion": frozenset({"IPV4", "", "UNSPECIFIED_VERSION"}),
            "networkTier": frozenset({"PREMIUM", ""}),
        },
        defaults={"addressType": "EXTERNAL", "ipVersion": "IPV4", "networkTier": "PREMIUM"},
    ),
    "sslCertificates": Kind(
        one="sslCertificate",
        permission="sslCertificates",
        fields=frozenset({"type", "managed"}),
        values={"type": frozenset({"MANAGED"})},
        required=("managed",),
    ),
    "backendServices": Kind(
        one="backendService",
        permission="backendServices",
        fields=frozenset(
            {
                "affinityCookieTtlSec",
                "backends",
                "protocol",
                "loadBalancingScheme",
                "connectionDraining",
                "sessionAffinity",
                "enableCDN",
                "timeoutSec",
                "portName",
                "port",
                "healthChecks",
                "iap",
                "securityPolicy",
                "customRequestHeaders",
                "logConfig",
                "localityLbPolicy",
                "usedBy",
            }
        ),
        values={
            "affinityCookieTtlSec": frozenset({0, ""}),
            "protocol": frozenset({"HTTP", "HTTPS", "HTTP2", ""}),
            "loadBalancingScheme": _SCHEME | {"INTERNAL_SELF_MANAGED"},
            "sessionAffinity": frozenset({"NONE", ""}),
            "enableCDN": _NOTHING,
            "securityPolicy": _NOTHING,
        },
        defaults={
            "affinityCookieTtlSec": 0,
            "connectionDraining": {"drainingTimeoutSec": 0},
            "enableCDN": False,
            "loadBalancingScheme": "EXTERNAL",
            "port": 80,
            "portName": "http",
            "protocol": "HTTP",
            "sessionAffinity": "NONE",
            "timeoutSec": TIMEOUT,
        },
        fingerprinted=True,
    ),
    "urlMaps": Kind(
        one="urlMap",
        permission="urlMaps",
        fields=frozenset({"defaultService", "defaultUrlRedirect", "hostRules", "pathMatchers", "tests"}),
        refers={"defaultService": ("backendServices",)},
        fingerprinted=True,
    ),
    "targetHttpProxies": Kind(
        one="targetHttpProxy",
        permission="targetHttpProxies",
        fields=frozenset({"urlMap"}),
        refers={"urlMap": ("urlMaps",)},
        required=("urlMap",),
        fingerprinted=True,
    ),
    "targetHttpsProxies": Kind(
        one="targetHttpsProxy",
        permission="targetHttpsProxies",
        fields=frozenset({"urlMap", "sslCertificates", "quicOverride", "tlsEarlyData"}),
        values={"quicOverride": frozenset({"NONE", "DISABLE", ""}), "tlsEarlyData": frozenset({"DISABLED", ""})},
        refers={"urlMap": ("urlMaps",), "sslCertificates": ("sslCertificates",)},
        required=("urlMap", "sslCertificates"),
        defaults={"quicOverride": "NONE", "tlsEarlyData": "DISABLED"},
        fingerprinted=True,
    ),
    "forwardingRules": Kind(
        one="forwardingRule",
        permission="globalForwardingRules",
        fields=frozenset(
            {
                "IPAddress",
                "IPProtocol",
                "portRange",
                "target",
                "loadBalancingScheme",
                "networkTier",
                "ipVersion",
                "labels",
                "labelFingerprint",
            }
        ),
        values={
            "IPProtocol": frozenset({"TCP", ""}),
            "loadBalancingScheme": _SCHEME,
            "networkTier": frozenset({"PREMIUM", ""}),
            "ipVersion": frozenset({"IPV4", ""}),
        },
        refers={"target": ("targetHttpProxies", "targetHttpsProxies")},
        required=("target", "portRange"),
        defaults={"IPProtocol": "TCP", "loadBalancingScheme": "EXTERNAL", "networkTier": "PREMIUM"},
        fingerprinted=True,
    ),
    "networks": Kind(
        one="network",
        permission="networks",
        fields=frozenset(
            {"autoCreateSubnetworks", "routingConfig", "mtu", "subnetworks", "networkFirewallPolicyEnforcementOrder"}
        ),
        values={"networkFirewallPolicyEnforcementOrder": frozenset({"AFTER_CLASSIC_FIREWALL", ""})},
        defaults={
            "networkFirewallPolicyEnforcementOrder": "AFTER_CLASSIC_FIREWALL",
            "routingConfig": {"routingMode": "REGIONAL"},
        },
    ),
}
REGIONAL: Final[Mapping[str, Kind]] = {
    "networkEndpointGroups": Kind(
        one="networkEndpointGroup",
        permission="regionNetworkEndpointGroups",
        fields=frozenset({"networkEndpointType", "cloudRun"}),
        values={"networkEndpointType": frozenset({"SERVERLESS", ""})},
        required=("cloudRun",),
        defaults={"networkEndpointType": "SERVERLESS"},
    ),
    "subnetworks": Kind(
        one="subnetwork",
        permission="subnetworks",
        fields=frozenset(
            {
                "network",
                "gatewayAddress",
                "ipCidrRange",
                "privateIpGoogleAccess",
                "purpose",
                "stackType",
                "secondaryIpRanges",
                "logConfig",
            }
        ),
        values={"purpose": frozenset({"PRIVATE", ""}), "stackType": frozenset({"IPV4_ONLY", ""})},
        refers={"network": ("networks",)},
        required=("network", "ipCidrRange"),
        defaults={"privateIpGoogleAccess": False, "purpose": "PRIVATE", "stackType": "IPV4_ONLY"},
        fingerprinted=True,
    ),
}
