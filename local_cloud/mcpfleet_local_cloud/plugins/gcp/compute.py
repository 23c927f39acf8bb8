"""gcp:compute types: networks, and a load balancer's parts (docs/google-apis.md 1.7).

Only the properties that the local cloud honours are here; the provider has more, which are refused by name.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from mcpfleet_local_cloud.plugins.call import Call
from mcpfleet_local_cloud.plugins.diffing import diff
from mcpfleet_local_cloud.plugins.gcp.alike import same_address, same_or_default, same_path, same_ports, same_resource
from mcpfleet_local_cloud.plugins.gcp.common import PROJECT
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api
from mcpfleet_local_cloud.plugins.properties import Field, block, blocks, boolean, integer, mapping, number, text, texts
from mcpfleet_local_cloud.plugins.values import Properties, table

_POLICY: Final = text("deletionPolicy", "", default="DELETE", implied=True, choices=("DELETE", "PREVENT", "ABANDON"))
_NAME: Final = text("name", force_new=True, autoname=63)
_FIXED: Final = text("description", force_new=True)
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
    text("group", required=True, alike=same_path),
    text("balancingMode", default="UTILIZATION"),
    number("capacityScaler", default=1),
    number("maxUtilization", computed=True, send_empty=True),
)
_PATH_RULE: Final = (texts("paths", required=True, ordered=False), text("service", alike=same_resource))


def _own(*fields: Field) -> tuple[Field, ...]:
    return (_NAME, PROJECT, _POLICY, *fields, *_OUTPUTS)


class ComputeResource(RestResource):
    """A document of Compute Engine.

    Attributes:
        setters: properties that have a method of their own.
        nulls: properties that are not here and that the real provider always sends empty.
    """

    endpoint = "computeCustomEndpoint"
    waiting = "compute"
    setters: ClassVar[dict[str, str]] = {}
    nulls: ClassVar[tuple[str, ...]] = ()

    def complete(self, config: Api, news: Properties) -> Properties:
        """The inputs with the provider's project and region."""
        news = super().complete(config, news)
        wanted = any(one.name == "region" for one in self.fields)
        return {**news, "region": config.config.region} if wanted and news.get("region") is None else news

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Call the setters of what changed, or send all of it."""
        changed = {re.split(r"[.\[]", path)[0] for path in diff(self.fields, olds, planned)}
        wires = {one.name: one.wire for one in self.fields}
        for name in sorted(changed & self.setters.keys()):
            # A proxy's are not below `global`, but for that of its map.
            at = resource_id if name == "certificateMap" else resource_id.replace("/global/target", "/target")
            body = {**dict.fromkeys(self.nulls), wires[name]: planned.get(name)}
            answer = config.send(call, "POST", self.endpoint, f"{at}/{self.setters[name]}", body)
            self._finish(config, call, answer, "Updating")
        super().change(config, call, resource_id, olds, planned)

    def address(self, properties: Mapping[str, Any]) -> str:
        """The id; it has the region's name, whether the state has that or a URL."""
        region = str(properties.get("region", "")).rpartition("/")[2]
        return super().address({**properties, "region": region} if region else properties)

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The document; one that is replaced as a whole says of which one it was made."""
        body = {**dict.fromkeys(self.nulls), **super().body(planned, olds)}
        if self.updating == "put" and olds.get("fingerprint"):
            body["fingerprint"] = olds["fingerprint"]
        if self.updating == "" and body.get("region"):
            # So says ParseGlobalFieldValue, which makes a path of a region's name; the API reads the last part.
            body["region"] = f"projects/{planned['project']}/global/regions/{str(body['region']).rpartition('/')[2]}"
        return body

    def after_create(self, config: Api, call: Call, address: str, planned: Properties) -> None:
        """The labels are set again, as the real provider does: the API took none at creation once."""
        if planned.get("effectiveLabels"):
            made = self.get(config, call, address)
            self.relabel(config, call, address, made.get("labelFingerprint", ""), planned)

    def relabel(self, config: Api, call: Call, resource_id: str, fingerprint: str, planned: Properties) -> None:
        """Set the labels, which have a method of their own."""
        body = {"labels": planned.get("effectiveLabels"), "labelFingerprint": fingerprint}
        answer = config.send(call, "POST", self.endpoint, f"{resource_id}/setLabels", body)
        self._finish(config, call, answer, "Updating")


class GlobalAddress(ComputeResource):
    """An address of a load balancer."""

    type_name = "gcp:compute/globalAddress:GlobalAddress"
    fields = (
        *_own(_FIXED, text("address", output=True)),
        text("addressType", force_new=True, alike=same_or_default("EXTERNAL")),
        text("ipVersion", force_new=True, choices=("IPV4", "IPV6"), alike=same_or_default("IPV4")),
        *_LABELS,
    )
    id_form = "projects/{project}/global/addresses/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "GlobalAddress"
    labelled = True

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The document; a global address is of the premium tier."""
        return {**super().body(planned, olds), "networkTier": "PREMIUM"}

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Only labels can change."""
        if olds.get("effectiveLabels") != planned.get("effectiveLabels"):
            self.relabel(config, call, resource_id, olds.get("labelFingerprint", ""), planned)


class ManagedSslCertificate(ComputeResource):
    """A certificate that Google issues."""

    type_name = "gcp:compute/managedSslCertificate:ManagedSslCertificate"
    fields = _own(
        _FIXED,
        block("managed", [texts("domains", required=True, force_new=True)], force_new=True),
        text("type", default="MANAGED", force_new=True, choices=("MANAGED",)),
        integer("certificateId", "id", output=True),
        text("expireTime", output=True),
        texts("subjectAlternativeNames", output=True),
    )
    id_form = "projects/{project}/global/sslCertificates/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "ManagedSslCertificate"


class RegionNetworkEndpointGroup(ComputeResource):
    """A Cloud Run service as a backend."""

    type_name = "gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup"
    fields = _own(
        text("region", required=True, force_new=True, alike=same_resource),
        _FIXED,
        text("networkEndpointType", default="SERVERLESS", force_new=True, choices=("SERVERLESS",)),
        block(
            "cloudRun",
            [text("service", force_new=True), text("tag", force_new=True), text("urlMask", force_new=True)],
            force_new=True,
        ),
    )
    id_form = "projects/{project}/regions/{region}/networkEndpointGroups/{name}"
    import_forms = ("{project}/{region}/{name}", "{region}/{name}")
    title = "RegionNetworkEndpointGroup"
    nulls = ("appEngine", "serverlessDeployment")


class BackendService(ComputeResource):
    """A load balancer's backends."""

    type_name = "gcp:compute/backendService:BackendService"
    fields = _own(
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
    id_form = "projects/{project}/global/backendServices/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "BackendService"
    nulls = ("iap",)
    updating = "put"

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The document; draining lies a level deeper."""
        draining = {"drainingTimeoutSec": planned.get("connectionDrainingTimeoutSec", 300)}
        return {**super().body(planned, olds), "connectionDraining": draining}

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """The same on its way back."""
        return {"connectionDrainingTimeoutSec": table(body.get("connectionDraining")).get("drainingTimeoutSec", 300)}


class UrlMap(ComputeResource):
    """Which request goes to which backend."""

    type_name = "gcp:compute/uRLMap:URLMap"
    fields = _own(
        text("description"),
        text("defaultService", conflicts=("defaultUrlRedirect",), alike=same_resource),
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
                text("defaultService", alike=same_resource),
                block("defaultUrlRedirect", _REDIRECT),
                blocks("pathRules", _PATH_RULE),
            ],
        ),
        text("fingerprint", output=True),
        integer("mapId", "id", output=True),
    )
    id_form = "projects/{project}/global/urlMaps/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "UrlMap"
    updating = "put"


class TargetHttpProxy(ComputeResource):
    """The plain end of a load balancer."""

    type_name = "gcp:compute/targetHttpProxy:TargetHttpProxy"
    fields = _own(_FIXED, text("urlMap", required=True, alike=same_resource), *_PROXY)
    id_form = "projects/{project}/global/targetHttpProxies/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "TargetHttpProxy"
    setters: ClassVar[dict[str, str]] = {"urlMap": "setUrlMap"}


class TargetHttpsProxy(ComputeResource):
    """The TLS end of a load balancer."""

    type_name = "gcp:compute/targetHttpsProxy:TargetHttpsProxy"
    fields = _own(
        _FIXED,
        text("urlMap", required=True, alike=same_resource),
        texts("sslCertificates", alike=same_resource),
        text("certificateMap"),
        text("quicOverride", default="NONE", choices=("NONE", "ENABLE", "DISABLE")),
        *_PROXY,
    )
    id_form = "projects/{project}/global/targetHttpsProxies/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "TargetHttpsProxy"
    nulls = ("serverTlsPolicy",)
    setters: ClassVar[dict[str, str]] = {
        "certificateMap": "setCertificateMap",
        "sslCertificates": "setSslCertificates",
        "urlMap": "setUrlMap",
    }


class GlobalForwardingRule(ComputeResource):
    """An address and a port that lead to a proxy."""

    type_name = "gcp:compute/globalForwardingRule:GlobalForwardingRule"
    fields = (
        *_own(
            _FIXED,
            text("target", required=True, alike=same_path),
            text("ipAddress", "IPAddress", computed=True, force_new=True, alike=same_address),
            text("ipProtocol", "IPProtocol", computed=True, force_new=True),
            text("ipVersion", force_new=True, choices=("IPV4", "IPV6")),
            text(
                "loadBalancingScheme",
                default="EXTERNAL_MANAGED",
                choices=("EXTERNAL", "EXTERNAL_MANAGED"),
            ),
            text("networkTier", computed=True, force_new=True),
            text("portRange", force_new=True, alike=same_ports),
            integer("forwardingRuleId", "id", output=True),
        ),
        *_LABELS,
    )
    id_form = "projects/{project}/global/forwardingRules/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "GlobalForwardingRule"
    labelled = True
    attributed = False
    setters: ClassVar[dict[str, str]] = {"target": "setTarget"}

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """The target, the scheme, and labels."""
        super().change(config, call, resource_id, olds, planned)
        scheme = planned.get("loadBalancingScheme")
        if olds.get("loadBalancingScheme") != scheme:
            answer = config.send(call, "PATCH", self.endpoint, resource_id, {"loadBalancingScheme": scheme})
            self._finish(config, call, answer, "Updating")
        if olds.get("effectiveLabels") != planned.get("effectiveLabels"):
            self.relabel(config, call, resource_id, olds.get("labelFingerprint", ""), planned)


class Network(ComputeResource):
    """A VPC network."""

    type_name = "gcp:compute/network:Network"
    fields = _own(_FIXED, boolean("autoCreateSubnetworks", default=True, force_new=True, send_empty=True))
    id_form = "projects/{project}/global/networks/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "Network"


class Subnetwork(ComputeResource):
    """A range of a VPC network in one region."""

    type_name = "gcp:compute/subnetwork:Subnetwork"
    fields = _own(
        text("region", "", computed=True, force_new=True, alike=same_resource),
        _FIXED,
        text("network", required=True, force_new=True, alike=same_resource),
        text("ipCidrRange", required=True),
        boolean("privateIpGoogleAccess", computed=True),
        text("fingerprint", output=True),
    )
    id_form = "projects/{project}/regions/{region}/subnetworks/{name}"
    import_forms = ("{project}/{region}/{name}", "{region}/{name}", "{name}")
    title = "Subnetwork"
    updating = "patch"

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """The region by its name, as the program writes it."""
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
