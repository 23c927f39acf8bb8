"""gcp:agentregistry/service:Service (the pulumi_gcp 10.2.0 SDK; docs/google-apis.md 1.7)."""

from typing import Any, Final

from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.properties import block, blocks, text
from mcpfleet_local_cloud.plugins.values import Properties

SERVICE: Final = (
    text("location", "", required=True, force_new=True),
    text("serviceId", "", required=True, force_new=True),
    PROJECT,
    DELETION_POLICY,
    text("displayName"),
    text("description"),
    blocks(
        "interfaces",
        [
            text("url", required=True),
            text("protocolBinding", required=True, choices=("JSONRPC", "GRPC", "HTTP_JSON")),
        ],
    ),
    block("agentSpec", [text("type", required=True), text("content")]),
    block("endpointSpec", [text("type", required=True)]),
    block("mcpServerSpec", [text("type", required=True, choices=("NO_SPEC", "TOOL_SPEC")), text("content")]),
    text("createTime", output=True),
    text("name", output=True),
    text("registryResource", output=True),
    text("updateTime", output=True),
)


class AgentRegistryService(RestResource):
    """An Agent Registry entry for a service that agents can use."""

    type_name = "gcp:agentregistry/service:Service"
    fields = SERVICE
    endpoint = "agentRegistryCustomEndpoint"
    id_format = "projects/{project}/locations/{location}/services/{serviceId}"
    import_formats = ("{project}/{location}/{serviceId}", "{location}/{serviceId}")
    title = "Service"
    name_property = "serviceId"
    create_parameter = "serviceId"
    update_method = "mask"
    maskable = ("displayName", "description", "interfaces", "agentSpec", "endpointSpec", "mcpServerSpec")
    operation_kind = "google"

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The project, location and service id, from the full name."""
        _, project, _, location, _, service = str(body["name"]).split("/")
        return {"project": project, "location": location, "serviceId": service}
