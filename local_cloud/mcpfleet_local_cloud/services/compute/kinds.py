"""The kinds of documents of Compute Engine that there are here: which values each takes, and what they refer to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, kw_only=True)
class ResourceType:
    """One collection.

    Attributes:
        one: a document of it, as `kind` has it.
        permission: the resource in its permissions, `compute.<permission>.create`.
        values: the only values of a field that are honoured.
        refers: fields with the name of another document, and the collections that it may be in.
        required: fields that must be set.
        defaults: what Google chooses for a field that was left out.
        fingerprinted: whether a document has a fingerprint of its own.
        labelled: whether it has labels.
    """

    one: str
    permission: str
    values: Mapping[str, frozenset[object]] = field(default_factory=dict[str, frozenset[object]])
    refers: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fingerprinted: bool = False
    labelled: bool = False


_SCHEME: Final = frozenset({"EXTERNAL", "EXTERNAL_MANAGED"})
TIMEOUT: Final = 30
"""What a backend service answers where no timeout was given, in seconds; serverless backends take no other."""

GLOBAL: Final[Mapping[str, ResourceType]] = {
    "addresses": ResourceType(
        one="address",
        permission="globalAddresses",
        labelled=True,
        values={
            "addressType": frozenset({"EXTERNAL", ""}),
            "ipVersion": frozenset({"IPV4", "", "UNSPECIFIED_VERSION"}),
            "networkTier": frozenset({"PREMIUM", ""}),
        },
        defaults={"addressType": "EXTERNAL", "ipVersion": "IPV4", "networkTier": "PREMIUM"},
    ),
    "sslCertificates": ResourceType(
        one="sslCertificate",
        permission="sslCertificates",
        values={"type": frozenset({"MANAGED"})},
        required=("managed",),
    ),
    "backendServices": ResourceType(
        one="backendService",
        permission="backendServices",
        values={
            "protocol": frozenset({"HTTP", "HTTPS", "HTTP2", ""}),
            "loadBalancingScheme": _SCHEME | {"INTERNAL_SELF_MANAGED"},
            "sessionAffinity": frozenset({"NONE", ""}),
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
    "urlMaps": ResourceType(
        one="urlMap",
        permission="urlMaps",
        refers={"defaultService": ("backendServices",)},
        fingerprinted=True,
    ),
    "targetHttpProxies": ResourceType(
        one="targetHttpProxy",
        permission="targetHttpProxies",
        refers={"urlMap": ("urlMaps",)},
        required=("urlMap",),
        fingerprinted=True,
    ),
    "targetHttpsProxies": ResourceType(
        one="targetHttpsProxy",
        permission="targetHttpsProxies",
        values={"quicOverride": frozenset({"NONE", "DISABLE", ""}), "tlsEarlyData": frozenset({"DISABLED", ""})},
        refers={"urlMap": ("urlMaps",), "sslCertificates": ("sslCertificates",)},
        required=("urlMap",),
        defaults={"quicOverride": "NONE", "tlsEarlyData": "DISABLED"},
        fingerprinted=True,
    ),
    "forwardingRules": ResourceType(
        one="forwardingRule",
        permission="globalForwardingRules",
        labelled=True,
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
    "networks": ResourceType(
        one="network",
        permission="networks",
        values={"networkFirewallPolicyEnforcementOrder": frozenset({"AFTER_CLASSIC_FIREWALL", ""})},
        defaults={
            "networkFirewallPolicyEnforcementOrder": "AFTER_CLASSIC_FIREWALL",
            "routingConfig": {"routingMode": "REGIONAL"},
        },
    ),
}
REGIONAL: Final[Mapping[str, ResourceType]] = {
    "networkEndpointGroups": ResourceType(
        one="networkEndpointGroup",
        permission="regionNetworkEndpointGroups",
        values={"networkEndpointType": frozenset({"SERVERLESS", ""})},
        required=("cloudRun",),
        defaults={"networkEndpointType": "SERVERLESS"},
    ),
    "subnetworks": ResourceType(
        one="subnetwork",
        permission="subnetworks",
        values={"purpose": frozenset({"PRIVATE", ""}), "stackType": frozenset({"IPV4_ONLY", ""})},
        refers={"network": ("networks",)},
        required=("network", "ipCidrRange"),
        defaults={"privateIpGoogleAccess": False, "purpose": "PRIVATE", "stackType": "IPV4_ONLY"},
        fingerprinted=True,
    ),
}
