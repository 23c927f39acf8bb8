"""The resource types of Compute Engine that exist here: their allowed values, references and defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, kw_only=True)
class ResourceType:
    """The documents of one collection.

    Attributes:
        singular: the name of one document, as in the field `kind`.
        permission: the resource in the permissions, `compute.<permission>.create`.
        allowed_values: the supported values of fields that do not support all.
        references: fields with the path of another document, and the collections that it may be in.
        required: fields that must be set.
        defaults: Google's default values.
        has_fingerprint: whether a document has a fingerprint.
        has_labels: whether a document has labels.
    """

    singular: str
    permission: str
    allowed_values: Mapping[str, frozenset[object]] = field(default_factory=dict[str, frozenset[object]])
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    has_fingerprint: bool = False
    has_labels: bool = False


_SCHEMES: Final = frozenset({"EXTERNAL", "EXTERNAL_MANAGED"})
BACKEND_TIMEOUT_SECONDS: Final = 30
"""The default timeout of a backend service, in seconds; serverless backends support no other."""

GLOBAL: Final[Mapping[str, ResourceType]] = {
    "addresses": ResourceType(
        singular="address",
        permission="globalAddresses",
        has_labels=True,
        allowed_values={
            "addressType": frozenset({"EXTERNAL", ""}),
            "ipVersion": frozenset({"IPV4", "", "UNSPECIFIED_VERSION"}),
            "networkTier": frozenset({"PREMIUM", ""}),
        },
        defaults={"addressType": "EXTERNAL", "ipVersion": "IPV4", "networkTier": "PREMIUM"},
    ),
    "sslCertificates": ResourceType(
        singular="sslCertificate",
        permission="sslCertificates",
        allowed_values={"type": frozenset({"MANAGED"})},
        required=("managed",),
    ),
    "backendServices": ResourceType(
        singular="backendService",
        permission="backendServices",
        allowed_values={
            "protocol": frozenset({"HTTP", "HTTPS", "HTTP2", ""}),
            "loadBalancingScheme": _SCHEMES | {"INTERNAL_SELF_MANAGED"},
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
            "timeoutSec": BACKEND_TIMEOUT_SECONDS,
        },
        has_fingerprint=True,
    ),
    "urlMaps": ResourceType(
        singular="urlMap",
        permission="urlMaps",
        references={"defaultService": ("backendServices",)},
        has_fingerprint=True,
    ),
    "targetHttpProxies": ResourceType(
        singular="targetHttpProxy",
        permission="targetHttpProxies",
        references={"urlMap": ("urlMaps",)},
        required=("urlMap",),
        has_fingerprint=True,
    ),
    "targetHttpsProxies": ResourceType(
        singular="targetHttpsProxy",
        permission="targetHttpsProxies",
        allowed_values={
            "quicOverride": frozenset({"NONE", "DISABLE", ""}),
            "tlsEarlyData": frozenset({"DISABLED", ""}),
        },
        references={"urlMap": ("urlMaps",), "sslCertificates": ("sslCertificates",)},
        required=("urlMap",),
        defaults={"quicOverride": "NONE", "tlsEarlyData": "DISABLED"},
        has_fingerprint=True,
    ),
    "forwardingRules": ResourceType(
        singular="forwardingRule",
        permission="globalForwardingRules",
        has_labels=True,
        allowed_values={
            "IPProtocol": frozenset({"TCP", ""}),
            "loadBalancingScheme": _SCHEMES,
            "networkTier": frozenset({"PREMIUM", ""}),
            "ipVersion": frozenset({"IPV4", ""}),
        },
        references={"target": ("targetHttpProxies", "targetHttpsProxies")},
        required=("target", "portRange"),
        defaults={"IPProtocol": "TCP", "loadBalancingScheme": "EXTERNAL", "networkTier": "PREMIUM"},
        has_fingerprint=True,
    ),
    "networks": ResourceType(
        singular="network",
        permission="networks",
        allowed_values={"networkFirewallPolicyEnforcementOrder": frozenset({"AFTER_CLASSIC_FIREWALL", ""})},
        defaults={
            "networkFirewallPolicyEnforcementOrder": "AFTER_CLASSIC_FIREWALL",
            "routingConfig": {"routingMode": "REGIONAL"},
        },
    ),
}
REGIONAL: Final[Mapping[str, ResourceType]] = {
    "networkEndpointGroups": ResourceType(
        singular="networkEndpointGroup",
        permission="regionNetworkEndpointGroups",
        allowed_values={"networkEndpointType": frozenset({"SERVERLESS", ""})},
        required=("cloudRun",),
        defaults={"networkEndpointType": "SERVERLESS"},
    ),
    "subnetworks": ResourceType(
        singular="subnetwork",
        permission="subnetworks",
        allowed_values={"purpose": frozenset({"PRIVATE", ""}), "stackType": frozenset({"IPV4_ONLY", ""})},
        references={"network": ("networks",)},
        required=("network", "ipCidrRange"),
        defaults={"privateIpGoogleAccess": False, "purpose": "PRIVATE", "stackType": "IPV4_ONLY"},
        has_fingerprint=True,
    ),
}
