"""gcp:networkservices and gcp:dns types: a service mesh and its names (docs/google-apis.md 1.7).

Only the properties that the local cloud honours are here; the provider has more, which are refused by name.
"""

from typing import Any, ClassVar, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.alike import same_resource
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import block, blocks, boolean, integer, mapping, text, texts
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import Properties, items, table

_NAME: Final = text("name", "", force_new=True, autoname=63)
_LABELS: Final = (
    mapping("labels", ""),
    mapping("effectiveLabels", "", output=True),
    mapping("pulumiLabels", "", output=True),
)
_TIMES: Final = tuple(text(name, output=True) for name in ("createTime", "selfLink", "updateTime"))


class _NetworkService(RestResource):
    """What both types of Network Services have in common."""

    endpoint = "networkServicesCustomEndpoint"
    updating = "mask"
    waiting = "google"
    labelled = True

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """Where and under which name it is."""
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
    id_form = "projects/{project}/locations/{location}/meshes/{name}"
    import_forms = ("{project}/{location}/{name}", "{location}/{name}")
    title = "Mesh"
    create_query = "meshId"
    masked = ("description", "interceptionPort")

    def complete(self, config: Api, news: Properties) -> Properties:
        """A mesh is in no region."""
        return {"location": "global", **super().complete(config, news)}


class HttpRoute(_NetworkService):
    """Where host names in a mesh lead."""

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
    id_form = "projects/{project}/locations/global/httpRoutes/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "HttpRoute"
    create_query = "httpRouteId"
    masked = ("description", "hostnames", "meshes", "gateways", "rules")


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
            [blocks("networks", [text("networkUrl", required=True, alike=same_resource)], ordered=False)],
            send_empty=True,
        ),
        text("visibility", default="public", force_new=True, choices=("private", "public")),
        *_LABELS,
        text("creationTime", output=True),
        integer("managedZoneId", "id", output=True),
        texts("nameServers", output=True),
    )
    endpoint = "dnsCustomEndpoint"
    id_form = "projects/{project}/managedZones/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "ManagedZone"
    updating = "put"
    labelled = True


class RecordSet(RestResource):
    """The records of one name and type; made and unmade by changes of its zone."""

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
    id_form = "projects/{project}/managedZones/{managedZone}/rrsets/{name}/{type}"
    import_forms = ("{project}/{managedZone}/{name}/{type}", "{managedZone}/{name}/{type}")
    title = "DNS RecordSet"

    _QUERY: ClassVar[dict[str, str]] = {"prettyPrint": "false"}

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """Add it."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", planned)
        address = self.address(planned)
        try:
            self._apply(config, call, address, additions=[self.body(planned, {})])
        except ApiError as error:
            raise ProviderError(f"Error creating DNS RecordSet: {error}") from error
        return Found(address, self._state(planned, self.get(config, call, address)))

    def get(self, config: Api, call: Call, address: str) -> dict[str, Any]:
        """Look for it in its zone."""
        zone, _, rest = address.partition("/rrsets/")
        name, _, kind = rest.partition("/")
        query = {**self._QUERY, "name": name, "type": kind}
        found = items(config.send(call, "GET", self.endpoint, f"{zone}/rrsets", query=query).get("rrsets"))
        return table(found[0]) if found else {}

    def gone(self, body: dict[str, Any]) -> bool:
        """Whether the zone has none such."""
        return not body

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Take the old one away and add the new one, at once."""
        self._apply(config, call, resource_id, deletions=[self.body(olds, {})], additions=[self.body(planned, {})])

    def remove(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Take it away."""
        self._apply(config, call, resource_id, deletions=[self.body(olds, {})])

    def _apply(self, api: Api, call: Call, address: str, **change: list[dict[str, Any]]) -> None:
        zone = address.partition("/rrsets/")[0]
        if "deletions" not in change:
            # The records that a zone has by itself would have to be replaced; it has none of ours.
            api.send(call, "GET", self.endpoint, f"{zone}/rrsets", query=self._QUERY)
        done = api.send(call, "POST", self.endpoint, f"{zone}/changes", change, query=self._QUERY)
        while True:
            done = api.send(call, "GET", self.endpoint, f"{zone}/changes/{done['id']}", query=self._QUERY)
            if done.get("status") == "done":
                return
            call.wait(0.5)


TYPES: Final = (HttpRoute, ManagedZone, Mesh, RecordSet)
