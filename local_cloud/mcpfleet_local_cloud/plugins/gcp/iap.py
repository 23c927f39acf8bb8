"""gcp:iap types, and the identity of a service's agent (docs/google-apis.md 1.7)."""

import re
from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.iam_member import IamMember, member_fields, owner_field
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import block, text, texts
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import Properties, table

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
    """The settings of Identity-Aware Proxy for one resource: they are there always, and are emptied at the end."""

    type_name = "gcp:iap/settings:Settings"
    fields = SETTINGS
    endpoint = _ENDPOINT
    id_form = "{name}"
    title = "Settings"

    def parts(self, api: Api, resource_id: str) -> dict[str, str]:
        """A resource's name has slashes."""
        return {"name": resource_id.removesuffix("/iapSettings")}

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """PATCH them."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", planned)
        try:
            self.change(config, call, str(planned["name"]), {}, planned)
        except ApiError as error:
            raise ProviderError(f"Error creating Settings: {error}") from error
        found = self.get(config, call, str(planned["name"]))
        return Found(f"{planned['name']}/iapSettings", self._state(planned, found))

    def get(self, config: Api, call: Call, address: str) -> dict[str, Any]:
        """GET them."""
        return config.send(call, "GET", self.endpoint, f"{address.removesuffix('/iapSettings')}:iapSettings")

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """PATCH them."""
        where = f"{resource_id.removesuffix('/iapSettings')}:iapSettings"
        config.send(call, "PATCH", self.endpoint, where, self.body(planned, olds))

    def remove(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Empty them."""
        config.send(call, "PATCH", self.endpoint, f"{olds['name']}:iapSettings", {"name": olds["name"]})

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """The name as it was given, and the secret, which the API shows to nobody."""
        given = table(table(known.get("accessSettings")).get("oauthSettings"))
        shown = table(table(body.get("accessSettings")).get("oauthSettings"))
        found: Properties = {"name": known.get("name") or body.get("name")}
        if not shown and not given:
            return found
        oauth = {key: value for key, value in shown.items() if value}
        if given.get("clientSecret") and shown.get("clientSecretSha256"):
            oauth["clientSecret"] = given["clientSecret"]
        return {**found, "accessSettings": {"oauthSettings": oauth}}


class WebCloudRunServiceIamMember(IamMember):
    """Somebody who may pass Identity-Aware Proxy to a Cloud Run service."""

    type_name = "gcp:iap/webCloudRunServiceIamMember:WebCloudRunServiceIamMember"
    fields = member_fields(owner_field("cloudRunServiceName"), text("location", computed=True, force_new=True))
    endpoint = _ENDPOINT
    id_form = "projects/{project}/iap_web/cloud_run-{location}/services/{cloudRunServiceName}"
    import_forms = ("{project}/{location}/{cloudRunServiceName}", "{location}/{cloudRunServiceName}")
    owner = "cloudRunServiceName"
    noun = "iap webcloudrunservice"
    options_in_body = True

    def complete(self, config: Api, news: Properties) -> Properties:
        """The service may be given by its full name of Cloud Run's API."""
        news = super().complete(config, news)
        found = re.fullmatch(r"projects/([^/]+)/locations/([^/]+)/services/([^/]+)", str(news["cloudRunServiceName"]))
        if found:
            news |= {"project": found[1], "location": found[2], "cloudRunServiceName": found[3]}
        return news

    def write(self, api: Api, call: Call, address: str, policy: dict[str, Any]) -> None:
        """POST the policy, without a mask."""
        api.send(call, "POST", self.endpoint, f"{address}:setIamPolicy", {"policy": policy})


class ServiceIdentity(RestResource):
    """The account of an API's own in a project; made by asking for it, and there for good."""

    type_name = "gcp:projects/serviceIdentity:ServiceIdentity"
    fields = SERVICE_IDENTITY
    endpoint = "serviceUsageCustomEndpoint"
    id_form = "projects/{project}/services/{service}"
    title = "ServiceIdentity"

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """Ask for it."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", planned)
        address = self.address(planned)
        try:
            operation = config.send(
                call, "POST", self.endpoint, f"{address}:generateServiceIdentity", version="v1beta1"
            )
            made = config.finish(call, self.endpoint, operation, "Creating Service Identity")
        except ApiError as error:
            raise ProviderError(f"Error creating Service Identity: {error}") from error
        email = str(made.get("email", ""))
        return Found(address, {**planned, "email": email, "member": f"serviceAccount:{email}"})

    def update(
        self, config: Api, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """Nothing of it can change."""
        return {**olds, **self.complete(config, news)}

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> Found | None:
        """There is nothing to read it by."""
        return Found(resource_id, {**self.parts(config, resource_id), **state})

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """It stays with its project."""
