"""gcp:compute types: networks, and a load balancer's parts (docs/google-apis.md 1.7).

The types have only the properties that the local cloud honours; all others of the real provider are errors.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from mcpfleet_local_cloud.plugins.call import Call
from mcpfleet_local_cloud.plugins.diffing import diff
from mcpfleet_local_cloud.plugins.gcp.common import PROJECT
from mcpfleet_local_cloud.plugins.gcp.equivalence import (
    same_address,
    same_or_default,
    same_path,
    same_ports,
    same_resource,
)
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api
from mcpfleet_local_cloud.plugins.properties import Field, block, blocks, boolean, integer, mapping, number, text, texts
from mcpfleet_local_cloud.plugins.values import Properties, as_dict

_POLICY: Final = text("deletionPolicy", "", default="DELETE", implied=True, choices=("DELETE", "PREVENT", "ABANDON"))
_NAME: Final = text("name", force_new=True, autoname=63)
_FIXED_DESCRIPTION: Final = text("description", force_new=True)
_OUTPUTS: Final = (text("creationTimestamp", output=True), text("selfLink", output=True))
_LABELS: Final = (
    mapping("labels", ""),
    text("labelFingerprint", output=True),
    mapping("effectiveLabels", "", output=True),
    mapping("pulumiLabels", "", output=True),
)
_PROXY: Final = (text("fingerprint", output=True), integer("proxyId", "id", output=True))
_REDIRECT: Final = (
    text("hostRedirect"),
    boolean("httpsRedirect"),
    text("pathRedirect"),
    text("prefixRedirect"),
    text(
        "redirectResponseCode",
        choices=("FOUND", "MOVED_PERMANENTLY_DEFAULT", "PERMANENT_REDIRECT", "SEE_OTHER", "TEMPORARY_REDIRECT"),
    ),
    boolean("stripQuery", required=True),
)
_BACKEND: Final = (
    text("group", required=True, equivalent=same_path),
    text("balancingMode", default="UTILIZATION"),
    number("capacityScaler", default=1),
    number("maxUtilization", computed=True, send_empty=True),
)
_PATH_RULE: Final = (texts("paths", required=True, ordered=False), text("service", equivalent=same_resource))


def _compute_fields(*fields: Field) -> tuple[Field, ...]:
    return (_NAME, PROJECT, _POLICY, *fields, *_OUTPUTS)


class ComputeResource(RestResource):
    """The base class of Compute Engine's types.

    Attributes:
        setters: the API method of each property that has one of its own.
        null_fields: fields that the types don't have, and that the real provider always sends as null.
    """

    endpoint = "computeCustomEndpoint"
    operation_kind = "compute"
    setters: ClassVar[dict[str, str]] = {}
    null_fields: ClassVar[tuple[str, ...]] = ()

    def complete_inputs(self, config: Api, news: Properties) -> Properties:
        """The inputs with the provider's project and region."""
        news = super().complete_inputs(config, news)
        has_region = any(field.name == "region" for field in self.fields)
        return {**news, "region": config.config.region} if has_region and news.get("region") is None else news

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Call the setters of changed properties, then send the other changes."""
        changed = {re.split(r"[.\[]", path)[0] for path in diff(self.fields, olds, planned)}
        wire_names = {field.name: field.wire for field in self.fields}
        for name in sorted(changed & self.setters.keys()):
            # The setters of a proxy are not below `global`, except setCertificateMap.
            target = resource_id if name == "certificateMap" else resource_id.replace("/global/target", "/target")
            body = {**dict.fromkeys(self.null_fields), wire_names[name]: planned.get(name)}
            response = config.send(call, "POST", self.endpoint, f"{target}/{self.setters[name]}", body)
            self._wait_for_operation(config, call, response, "Updating")
        super().send_update(config, call, resource_id, olds, planned)

    def address(self, properties: Mapping[str, Any]) -> str:
        """The id, with the region's name even if the state has the region's URL."""
        region = str(properties.get("region", "")).rpartition("/")[2]
        return super().address({**properties, "region": region} if region else properties)

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The request body; a PUT has the fingerprint of the version that it replaces."""
        body = {**dict.fromkeys(self.null_fields), **super().body(planned, olds)}
        if self.update_method == "put" and olds.get("fingerprint"):
            body["fingerprint"] = olds["fingerprint"]
        if self.update_method == "" and body.get("region"):
            # ParseGlobalFieldValue turns a region's name into a path; the API reads its last part.
            body["region"] = f"projects/{planned['project']}/global/regions/{str(body['region']).rpartition('/')[2]}"
        return body

    def after_create(self, config: Api, call: Call, address: str, planned: Properties) -> None:
        """Set the labels again, as the real provider does: at first, the API took no labels at creation."""
        if planned.get("effectiveLabels"):
            created = self.get(config, call, address)
            self.relabel(config, call, address, created.get("labelFingerprint", ""), planned)

    def relabel(self, config: Api, call: Call, resource_id: str, fingerprint: str, planned: Properties) -> None:
        """Set the labels with setLabels."""
        body = {"labels": planned.get("effectiveLabels"), "labelFingerprint": fingerprint}
        response = config.send(call, "POST", self.endpoint, f"{resource_id}/setLabels", body)
        self._wait_for_operation(config, call, response, "Updating")


class GlobalAddress(ComputeResource):
    """An address of a load balancer."""

    type_name = "gcp:compute/globalAddress:GlobalAddress"
    fields = (
        *_compute_fields(_FIXED_DESCRIPTION, text("address", output=True)),
        text("addressType", force_new=True, equivalent=same_or_default("EXTERNAL")),
        text("ipVersion", force_new=True, choices=("IPV4", "IPV6"), equivalent=same_or_default("IPV4")),
        *_LABELS,
    )
    id_format = "projects/{project}/global/addresses/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "GlobalAddress"
    has_labels = True

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The request body; a global address is in the premium tier."""
        return {**super().body(planned, olds), "networkTier": "PREMIUM"}

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Update the labels; nothing else can change."""
        if olds.get("effectiveLabels") != planned.get("effectiveLabels"):
            self.relabel(config, call, resource_id, olds.get("labelFingerprint", ""), planned)


class ManagedSslCertificate(ComputeResource):
    """A certificate that Google issues."""

    type_name = "gcp:compute/managedSslCertificate:ManagedSslCertificate"
    fields = _compute_fields(
        _FIXED_DESCRIPTION,
        block("managed", [texts("domains", required=True, force_new=True)], force_new=True),
        text("type", default="MANAGED", force_new=True, choices=("MANAGED",)),
        integer("certificateId", "id", output=True),
        text("expireTime", output=True),
        texts("subjectAlternativeNames", output=True),
    )
    id_format = "projects/{project}/global/sslCertificates/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "ManagedSslCertificate"


class RegionNetworkEndpointGroup(ComputeResource):
    """A Cloud Run service as a backend."""

    type_name = "gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup"
    fields = _compute_fields(
        text("region", required=True, force_new=True, equivalent=same_resource),
        _FIXED_DESCRIPTION,
        text("networkEndpointType", default="SERVERLESS", force_new=True, choices=("SERVERLESS",)),
        block(
            "cloudRun",
            [text("service", force_new=True), text("tag", force_new=True), text("urlMask", force_new=True)],
            force_new=True,
        ),
    )
    id_format = "projects/{project}/regions/{region}/networkEndpointGroups/{name}"
    import_formats = ("{project}/{region}/{name}", "{region}/{name}")
    title = "RegionNetworkEndpointGroup"
    null_fields = ("appEngine", "serverlessDeployment")


class BackendService(ComputeResource):
    """A load balancer's backends."""

    type_name = "gcp:compute/backendService:BackendService"
    fields = _compute_fields(
        text("description"),
        blocks("backends", _BACKEND, ordered=False),
        integer("connectionDrainingTimeoutSec", "", default=300),
        boolean("enableCdn", "enableCDN"),
        text(
            "loadBalancingScheme",
            default="EXTERNAL_MANAGED",
            choices=("EXTERNAL", "EXTERNAL_MANAGED", "INTERNAL_SELF_MANAGED"),
        ),
        text("portName", computed=True),
        text("protocol", computed=True, choices=("HTTP", "HTTPS", "HTTP2", "TCP", "SSL", "GRPC", "UNSPECIFIED", "H2C")),
        text("sessionAffinity", computed=True),
        integer("timeoutSec", computed=True),
        text("fingerprint", output=True),
        integer("generatedId", "id", output=True),
    )
    id_format = "projects/{project}/global/backendServices/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "BackendService"
    null_fields = ("iap",)
    update_method = "put"

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The request body, with the draining timeout in `connectionDraining`."""
        draining = {"drainingTimeoutSec": planned.get("connectionDrainingTimeoutSec", 300)}
        return {**super().body(planned, olds), "connectionDraining": draining}

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The draining timeout, from `connectionDraining`."""
        return {"connectionDrainingTimeoutSec": as_dict(body.get("connectionDraining")).get("drainingTimeoutSec", 300)}


class UrlMap(ComputeResource):
    """The rules for which request goes to which backend."""

    type_name = "gcp:compute/uRLMap:URLMap"
    fields = _compute_fields(
        text("description"),
        text("defaultService", conflicts=("defaultUrlRedirect",), equivalent=same_resource),
        block("defaultUrlRedirect", _REDIRECT),
        blocks(
            "hostRules",
            [text("description"), texts("hosts", required=True, ordered=False), text("pathMatcher", required=True)],
            ordered=False,
        ),
        blocks(
            "pathMatchers",
            [
                text("name", required=True),
                text("description"),
                text("defaultService", equivalent=same_resource),
                block("defaultUrlRedirect", _REDIRECT),
                blocks("pathRules", _PATH_RULE),
            ],
        ),
        text("fingerprint", output=True),
        integer("mapId", "id", output=True),
    )
    id_format = "projects/{project}/global/urlMaps/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "UrlMap"
    update_method = "put"


class TargetHttpProxy(ComputeResource):
    """The HTTP proxy of a load balancer."""

    type_name = "gcp:compute/targetHttpProxy:TargetHttpProxy"
    fields = _compute_fields(_FIXED_DESCRIPTION, text("urlMap", required=True, equivalent=same_resource), *_PROXY)
    id_format = "projects/{project}/global/targetHttpProxies/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "TargetHttpProxy"
    setters: ClassVar[dict[str, str]] = {"urlMap": "setUrlMap"}


class TargetHttpsProxy(ComputeResource):
    """The HTTPS proxy of a load balancer."""

    type_name = "gcp:compute/targetHttpsProxy:TargetHttpsProxy"
    fields = _compute_fields(
        _FIXED_DESCRIPTION,
        text("urlMap", required=True, equivalent=same_resource),
        texts("sslCertificates", equivalent=same_resource),
        text("certificateMap"),
        text("quicOverride", default="NONE", choices=("NONE", "ENABLE", "DISABLE")),
        *_PROXY,
    )
    id_format = "projects/{project}/global/targetHttpsProxies/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "TargetHttpsProxy"
    null_fields = ("serverTlsPolicy",)
    setters: ClassVar[dict[str, str]] = {
        "certificateMap": "setCertificateMap",
        "sslCertificates": "setSslCertificates",
        "urlMap": "setUrlMap",
    }


class GlobalForwardingRule(ComputeResource):
    """The rule that forwards traffic of an address and port to a proxy."""

    type_name = "gcp:compute/globalForwardingRule:GlobalForwardingRule"
    fields = (
        *_compute_fields(
            _FIXED_DESCRIPTION,
            text("target", required=True, equivalent=same_path),
            text("ipAddress", "IPAddress", computed=True, force_new=True, equivalent=same_address),
            text("ipProtocol", "IPProtocol", computed=True, force_new=True),
            text("ipVersion", force_new=True, choices=("IPV4", "IPV6")),
            text(
                "loadBalancingScheme",
                default="EXTERNAL_MANAGED",
                choices=("EXTERNAL", "EXTERNAL_MANAGED"),
            ),
            text("networkTier", computed=True, force_new=True),
            text("portRange", force_new=True, equivalent=same_ports),
            integer("forwardingRuleId", "id", output=True),
        ),
        *_LABELS,
    )
    id_format = "projects/{project}/global/forwardingRules/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "GlobalForwardingRule"
    has_labels = True
    has_attribution_label = False
    setters: ClassVar[dict[str, str]] = {"target": "setTarget"}

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Update the target, the load balancing scheme and the labels."""
        super().send_update(config, call, resource_id, olds, planned)
        scheme = planned.get("loadBalancingScheme")
        if olds.get("loadBalancingScheme") != scheme:
            response = config.send(call, "PATCH", self.endpoint, resource_id, {"loadBalancingScheme": scheme})
            self._wait_for_operation(config, call, response, "Updating")
        if olds.get("effectiveLabels") != planned.get("effectiveLabels"):
            self.relabel(config, call, resource_id, olds.get("labelFingerprint", ""), planned)


class Network(ComputeResource):
    """A VPC network."""

    type_name = "gcp:compute/network:Network"
    fields = _compute_fields(
        _FIXED_DESCRIPTION, boolean("autoCreateSubnetworks", default=True, force_new=True, send_empty=True)
    )
    id_format = "projects/{project}/global/networks/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "Network"


class Subnetwork(ComputeResource):
    """An address range of a VPC network in one region."""

    type_name = "gcp:compute/subnetwork:Subnetwork"
    fields = _compute_fields(
        text("region", "", computed=True, force_new=True, equivalent=same_resource),
        _FIXED_DESCRIPTION,
        text("network", required=True, force_new=True, equivalent=same_resource),
        text("ipCidrRange", required=True),
        boolean("privateIpGoogleAccess", computed=True),
        text("fingerprint", output=True),
    )
    id_format = "projects/{project}/regions/{region}/subnetworks/{name}"
    import_formats = ("{project}/{region}/{name}", "{region}/{name}", "{name}")
    title = "Subnetwork"
    update_method = "patch"

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The region's name, as the program writes it."""
        return {"region": str(body["region"]).rpartition("/")[2]}


TYPES: Final = (
    BackendService,
    GlobalAddress,
    GlobalForwardingRule,
    ManagedSslCertificate,
    Network,
    RegionNetworkEndpointGroup,
    Subnetwork,
    TargetHttpProxy,
    TargetHttpsProxy,
    UrlMap,
)
