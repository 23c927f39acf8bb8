"""gcp:iap types, and gcp:projects/serviceIdentity, an API's service agent (docs/google-apis.md 1.7)."""

import re
from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.iam_member import IamMember, member_fields, owner_field
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import block, text, texts
from mcpfleet_local_cloud.plugins.resources import ResourceState
from mcpfleet_local_cloud.plugins.values import Properties, as_dict

_ENDPOINT: Final = "iapCustomEndpoint"
_OAUTH: Final = (
    text("clientId"),
    text("clientSecret", secret=True),
    text("clientSecretSha256", output=True),
    text("loginHint"),
    texts("programmaticClients"),
)
SETTINGS: Final = (
    text("name", force_new=True, autoname=255),
    block("accessSettings", [block("oauthSettings", _OAUTH)]),
    DELETION_POLICY,
)
SERVICE_IDENTITY: Final = (
    text("service", required=True, force_new=True),
    PROJECT,
    text("email", output=True),
    text("member", output=True),
)


class Settings(RestResource):
    """The settings of Identity-Aware Proxy for one resource: they always exist, and deleting them empties them."""

    type_name = "gcp:iap/settings:Settings"
    fields = SETTINGS
    endpoint = _ENDPOINT
    id_format = "{name}"
    title = "Settings"

    def parse_id(self, api: Api, resource_id: str) -> dict[str, str]:
        """The resource's name, which has slashes."""
        return {"name": resource_id.removesuffix("/iapSettings")}

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """PATCH the settings."""
        planned = self._plan(config, {}, news, preview=preview)
        if preview:
            return ResourceState("", planned)
        try:
            self.send_update(config, call, str(planned["name"]), {}, planned)
        except ApiError as error:
            raise ProviderError(f"Error creating Settings: {error}") from error
        response = self.get(config, call, str(planned["name"]))
        return ResourceState(f"{planned['name']}/iapSettings", self._state(planned, response))

    def get(self, config: Api, call: Call, address: str) -> dict[str, Any]:
        """GET the settings."""
        return config.send(call, "GET", self.endpoint, f"{address.removesuffix('/iapSettings')}:iapSettings")

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """PATCH the settings."""
        path = f"{resource_id.removesuffix('/iapSettings')}:iapSettings"
        config.send(call, "PATCH", self.endpoint, path, self.body(planned, olds))

    def send_delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """PATCH the settings to be empty."""
        config.send(call, "PATCH", self.endpoint, f"{olds['name']}:iapSettings", {"name": olds["name"]})

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The name as configured, and the client secret, which the API never returns."""
        configured = as_dict(as_dict(prior.get("accessSettings")).get("oauthSettings"))
        current = as_dict(as_dict(body.get("accessSettings")).get("oauthSettings"))
        properties: Properties = {"name": prior.get("name") or body.get("name")}
        if not current and not configured:
            return properties
        oauth = {key: value for key, value in current.items() if value}
        if configured.get("clientSecret") and current.get("clientSecretSha256"):
            oauth["clientSecret"] = configured["clientSecret"]
        return {**properties, "accessSettings": {"oauthSettings": oauth}}


class WebCloudRunServiceIamMember(IamMember):
    """A member that may access a Cloud Run service through Identity-Aware Proxy."""

    type_name = "gcp:iap/webCloudRunServiceIamMember:WebCloudRunServiceIamMember"
    fields = member_fields(owner_field("cloudRunServiceName"), text("location", computed=True, force_new=True))
    endpoint = _ENDPOINT
    id_format = "projects/{project}/iap_web/cloud_run-{location}/services/{cloudRunServiceName}"
    import_formats = ("{project}/{location}/{cloudRunServiceName}", "{location}/{cloudRunServiceName}")
    owner = "cloudRunServiceName"
    resource_noun = "iap webcloudrunservice"
    options_in_body = True

    def complete_inputs(self, config: Api, news: Properties) -> Properties:
        """The inputs, with the parts of the service's full name if the program sets that."""
        news = super().complete_inputs(config, news)
        match = re.fullmatch(r"projects/([^/]+)/locations/([^/]+)/services/([^/]+)", str(news["cloudRunServiceName"]))
        if match:
            news |= {"project": match[1], "location": match[2], "cloudRunServiceName": match[3]}
        return news

    def write_policy(self, api: Api, call: Call, address: str, policy: dict[str, Any]) -> None:
        """Replace the policy, without an update mask."""
        api.send(call, "POST", self.endpoint, f"{address}:setIamPolicy", {"policy": policy})


class ServiceIdentity(RestResource):
    """An API's service agent in a project; it can be created, but not deleted."""

    type_name = "gcp:projects/serviceIdentity:ServiceIdentity"
    fields = SERVICE_IDENTITY
    endpoint = "serviceUsageCustomEndpoint"
    id_format = "projects/{project}/services/{service}"
    title = "ServiceIdentity"

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """Generate the service agent."""
        planned = self._plan(config, {}, news, preview=preview)
        if preview:
            return ResourceState("", planned)
        address = self.address(planned)
        try:
            operation = config.send(
                call, "POST", self.endpoint, f"{address}:generateServiceIdentity", version="v1beta1"
            )
            identity = config.wait_for_operation(call, self.endpoint, operation, "Creating Service Identity")
        except ApiError as error:
            raise ProviderError(f"Error creating Service Identity: {error}") from error
        email = str(identity.get("email", ""))
        return ResourceState(address, {**planned, "email": email, "member": f"serviceAccount:{email}"})

    def update(
        self, config: Api, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """The new state, without a call: a service agent can't change."""
        return {**olds, **self.complete_inputs(config, news)}

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> ResourceState | None:
        """The state as it is: the API has no method to read a service agent."""
        return ResourceState(resource_id, {**self.parse_id(config, resource_id), **state})

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Do nothing: a service agent exists as long as its project."""
