"""gcp:networkservices and gcp:dns types: a service mesh and its DNS names (docs/google-apis.md 1.7).

The types have only the properties that the local cloud honours; all others of the real provider are errors.
"""

from typing import Any, ClassVar, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.equivalence import same_resource
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import block, blocks, boolean, integer, mapping, text, texts
from mcpfleet_local_cloud.plugins.resources import ResourceState
from mcpfleet_local_cloud.plugins.values import Properties, as_dict, as_list

_NAME: Final = text("name", "", force_new=True, autoname=63)
_LABELS: Final = (
    mapping("labels", ""),
    mapping("effectiveLabels", "", output=True),
    mapping("pulumiLabels", "", output=True),
)
_TIMES: Final = tuple(text(name, output=True) for name in ("createTime", "selfLink", "updateTime"))


class _NetworkService(RestResource):
    """The base class of Network Services' types."""

    endpoint = "networkServicesCustomEndpoint"
    update_method = "mask"
    operation_kind = "google"
    has_labels = True

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The project and the short name, from the full name."""
        parts = str(body["name"]).split("/")
        return {"project": parts[1], "name": parts[-1]}


class Mesh(_NetworkService):
    """A service mesh."""

    type_name = "gcp:networkservices/mesh:Mesh"
    fields = (
        _NAME,
        PROJECT,
        DELETION_POLICY,
        text("location", "", default="global", force_new=True),
        text("description"),
        integer("interceptionPort"),
        *_LABELS,
        *_TIMES,
    )
    id_format = "projects/{project}/locations/{location}/meshes/{name}"
    import_formats = ("{project}/{location}/{name}", "{location}/{name}")
    title = "Mesh"
    create_parameter = "meshId"
    maskable = ("description", "interceptionPort")

    def complete_inputs(self, config: Api, news: Properties) -> Properties:
        """The inputs with the provider's project; a mesh is always global."""
        return {"location": "global", **super().complete_inputs(config, news)}


class HttpRoute(_NetworkService):
    """The services that requests to host names in a mesh go to."""

    type_name = "gcp:networkservices/httpRoute:HttpRoute"
    fields = (
        _NAME,
        PROJECT,
        DELETION_POLICY,
        text("description"),
        texts("hostnames", required=True),
        texts("meshes"),
        texts("gateways"),
        blocks(
            "rules",
            [
                block("action", [blocks("destinations", [text("serviceName"), integer("weight")]), text("timeout")]),
                blocks("matches", [], send_empty=True),
            ],
            required=True,
        ),
        *_LABELS,
        *_TIMES,
    )
    id_format = "projects/{project}/locations/global/httpRoutes/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "HttpRoute"
    create_parameter = "httpRouteId"
    maskable = ("description", "hostnames", "meshes", "gateways", "rules")


class ManagedZone(RestResource):
    """A DNS zone."""

    type_name = "gcp:dns/managedZone:ManagedZone"
    fields = (
        text("name", force_new=True, autoname=63),
        PROJECT,
        DELETION_POLICY,
        text("description", default="Managed by Pulumi"),
        text("dnsName", required=True, force_new=True),
        boolean("forceDestroy", ""),
        block(
            "privateVisibilityConfig",
            [blocks("networks", [text("networkUrl", required=True, equivalent=same_resource)], ordered=False)],
            send_empty=True,
        ),
        text("visibility", default="public", force_new=True, choices=("private", "public")),
        *_LABELS,
        text("creationTime", output=True),
        integer("managedZoneId", "id", output=True),
        texts("nameServers", output=True),
    )
    endpoint = "dnsCustomEndpoint"
    id_format = "projects/{project}/managedZones/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "ManagedZone"
    update_method = "put"
    has_labels = True


class RecordSet(RestResource):
    """The DNS records of one name and type; changes of their zone create and delete them."""

    type_name = "gcp:dns/recordSet:RecordSet"
    fields = (
        text("managedZone", "", required=True, force_new=True),
        text("name", required=True, force_new=True),
        text("type", required=True, force_new=True),
        PROJECT,
        DELETION_POLICY,
        texts("rrdatas"),
        integer("ttl"),
    )
    endpoint = "dnsCustomEndpoint"
    id_format = "projects/{project}/managedZones/{managedZone}/rrsets/{name}/{type}"
    import_formats = ("{project}/{managedZone}/{name}/{type}", "{managedZone}/{name}/{type}")
    title = "DNS RecordSet"

    _QUERY: ClassVar[dict[str, str]] = {"prettyPrint": "false"}

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """Add the record set."""
        planned = self._plan(config, {}, news, preview=preview)
        if preview:
            return ResourceState("", planned)
        address = self.address(planned)
        try:
            self._apply_change(config, call, address, additions=[self.body(planned, {})])
        except ApiError as error:
            raise ProviderError(f"Error creating DNS RecordSet: {error}") from error
        return ResourceState(address, self._state(planned, self.get(config, call, address)))

    def get(self, config: Api, call: Call, address: str) -> dict[str, Any]:
        """The record set from its zone's list; empty if the zone doesn't have it."""
        zone, _, rest = address.partition("/rrsets/")
        name, _, record_type = rest.partition("/")
        query = {**self._QUERY, "name": name, "type": record_type}
        record_sets = as_list(config.send(call, "GET", self.endpoint, f"{zone}/rrsets", query=query).get("rrsets"))
        return as_dict(record_sets[0]) if record_sets else {}

    def is_deleted(self, body: dict[str, Any]) -> bool:
        """Whether the zone doesn't have the record set."""
        return not body

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Replace the old record set in one change."""
        self._apply_change(
            config, call, resource_id, deletions=[self.body(olds, {})], additions=[self.body(planned, {})]
        )

    def send_delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Delete the record set."""
        self._apply_change(config, call, resource_id, deletions=[self.body(olds, {})])

    def _apply_change(self, api: Api, call: Call, address: str, **change: list[dict[str, Any]]) -> None:
        zone = address.partition("/rrsets/")[0]
        if "deletions" not in change:
            # The real provider looks for records that a zone creates itself, to replace them; there are none here.
            api.send(call, "GET", self.endpoint, f"{zone}/rrsets", query=self._QUERY)
        operation = api.send(call, "POST", self.endpoint, f"{zone}/changes", change, query=self._QUERY)
        while True:
            operation = api.send(call, "GET", self.endpoint, f"{zone}/changes/{operation['id']}", query=self._QUERY)
            if operation.get("status") == "done":
                return
            call.wait(0.5)


TYPES: Final = (HttpRoute, ManagedZone, Mesh, RecordSet)
