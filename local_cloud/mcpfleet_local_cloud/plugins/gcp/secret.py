"""gcp:secretmanager types: a secret, a version with its value, and a member of a role (docs/google-apis.md 1.6).

The value is a Pulumi secret, which the engine encrypts in the state.
"""

import base64
from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.checking import Checker
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.iam_member import IamMember, member_fields, owner_field
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import block, blocks, boolean, mapping, text
from mcpfleet_local_cloud.plugins.resources import ResourceState
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, as_dict

_CMEK: Final = block("customerManagedEncryption", [text("kmsKeyName", required=True, force_new=True)], force_new=True)
SECRET: Final = (
    text("secretId", "", required=True, force_new=True),
    PROJECT,
    block(
        "replication",
        [
            block("auto", [_CMEK], "automatic", send_empty=True, force_new=True, conflicts=("userManaged",)),
            block(
                "userManaged",
                [blocks("replicas", [text("location", required=True, force_new=True), _CMEK], force_new=True)],
                force_new=True,
            ),
        ],
        required=True,
        force_new=True,
    ),
    mapping("annotations", ""),
    DELETION_POLICY,
    boolean("deletionProtection", ""),
    text("expireTime", computed=True),
    mapping("labels", ""),
    block("rotation", [text("nextRotationTime"), text("rotationPeriod")]),
    mapping("tags", force_new=True),
    blocks("topics", [text("name", required=True)]),
    text("ttl"),
    mapping("versionAliases"),
    text("versionDestroyTtl"),
    text("createTime", output=True),
    mapping("effectiveAnnotations", "", output=True),
    mapping("effectiveLabels", "", output=True),
    text("name", output=True),
    mapping("pulumiLabels", "", output=True),
)
VERSION: Final = (
    text("secret", "", required=True, force_new=True),
    text("secretData", "", force_new=True, secret=True),
    boolean("isSecretDataBase64", "", force_new=True),
    boolean("enabled", "", default=True),
    text("deletionPolicy", "", default="DELETE", implied=True, choices=("DELETE", "DISABLE", "ABANDON")),
    text("createTime", output=True),
    text("destroyTime", output=True),
    text("name", output=True),
    text("version", "", output=True),
)
_ENDPOINT: Final = "secretManagerCustomEndpoint"


class Secret(RestResource):
    """A secret, without a value."""

    type_name = "gcp:secretmanager/secret:Secret"
    fields = SECRET
    endpoint = _ENDPOINT
    id_format = "projects/{project}/secrets/{secretId}"
    import_formats = ("{project}/{secretId}", "{secretId}")
    title = "Secret"
    name_property = "secretId"
    create_parameter = "secretId"
    update_method = "mask"
    maskable = ("versionAliases", "versionDestroyTtl", "topics", "expireTime", "ttl", "rotation")
    has_labels = True

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The request body, with `automatic` even if it is empty."""
        body = super().body(planned, olds)
        if "auto" in as_dict(planned.get("replication")):
            automatic = as_dict(as_dict(body.get("replication")).get("automatic"))
            body["replication"] = {"automatic": automatic}
        else:
            as_dict(body.get("replication")).pop("automatic", None)
        if planned.get("annotations"):
            body["annotations"] = planned["annotations"]
        return body

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """PATCH the changes; annotations need a separate PATCH."""
        super().send_update(config, call, resource_id, olds, planned)
        if (olds.get("annotations") or {}) != (planned.get("annotations") or {}):
            body = {"annotations": as_dict(planned.get("annotations"))}
            config.send(call, "PATCH", self.endpoint, resource_id, body, query={"updateMask": "annotations"})

    def send_delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE the secret, unless it is protected."""
        if olds.get("deletionProtection"):
            raise ProviderError(
                "cannot destroy secretmanager secret without setting deletion_protection=false and running `pulumi up`"
            )
        super().send_delete(config, call, resource_id, olds)

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The secret's id, and the annotations that the program manages."""
        effective = as_dict(body.get("annotations"))
        configured = prior.get("annotations")
        properties: Properties = {
            "secretId": str(body["name"]).rpartition("/")[2],
            "effectiveAnnotations": dict(effective),
            "deletionProtection": prior.get("deletionProtection") or False,
        }
        if configured is not None:
            properties["annotations"] = {key: effective[key] for key in configured if key in effective}
        return properties


class SecretVersion(RestResource):
    """One value of a secret. Each new value is a new version; the API assigns its number."""

    type_name = "gcp:secretmanager/secretVersion:SecretVersion"
    fields = VERSION
    endpoint = _ENDPOINT
    id_format = "{secret}/versions/{version}"
    title = "SecretVersion"

    def check_rules(self, config: Api, inputs: Properties, checker: Checker) -> None:
        """Require a value."""
        if inputs.get("secretData") is None:
            checker.fail("secretData", "one of `secret_data,secret_data_wo` must be specified")

    def parse_id(self, api: Api, resource_id: str) -> dict[str, str]:
        """The secret and version in an id, which has too many slashes for `id_format`."""
        secret, separator, version = resource_id.partition("/versions/")
        if not separator or not secret.startswith("projects/"):
            raise ProviderError(
                f"Import id {resource_id!r} doesn't match any of the accepted formats: "
                "[projects/{{project}}/secrets/{{secret_id}}/versions/{{version}}]"
            )
        return {"secret": secret, "version": version}

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """Add the version, then enable or disable it."""
        planned = self._plan(config, {}, news, preview=preview)
        if preview:
            return ResourceState("", planned)
        data = str(planned["secretData"])
        encoded = data if planned.get("isSecretDataBase64") else base64.b64encode(data.encode()).decode()
        try:
            version = config.send(
                call, "POST", self.endpoint, f"{planned['secret']}:addVersion", {"payload": {"data": encoded}}
            )
            verb = "disable" if planned.get("enabled") is False else "enable"
            config.send(call, "POST", self.endpoint, f"{version['name']}:{verb}", {})
        except ApiError as error:
            raise ProviderError(f"Error creating SecretVersion: {error}") from error
        version_name = str(version["name"])
        return ResourceState(version_name, self._state(planned, config.send(call, "GET", self.endpoint, version_name)))

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Enable or disable the version."""
        if bool(olds.get("enabled", True)) != bool(planned.get("enabled", True)):
            verb = "enable" if planned.get("enabled", True) else "disable"
            config.send(call, "POST", self.endpoint, f"{resource_id}:{verb}", {})

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> ResourceState | None:
        """GET the version, and its value if it is enabled."""
        current = super().read(config, call, resource_id, state)
        if current is not None and current.properties.get("enabled"):
            payload = config.send(call, "GET", self.endpoint, f"{resource_id}:access")["payload"]["data"]
            as_text = payload if state.get("isSecretDataBase64") else base64.b64decode(payload).decode()
            current.properties["secretData"] = as_text
        return current

    def send_delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Destroy the value, or disable the version, by its deletion policy."""
        verb = "disable" if olds.get("deletionPolicy") == "DISABLE" else "destroy"
        config.send(call, "POST", self.endpoint, f"{resource_id}:{verb}", {})

    def is_deleted(self, body: dict[str, Any]) -> bool:
        """Whether the version is destroyed."""
        return body.get("state") == "DESTROYED"

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The properties that the API's document has in another form."""
        secret, _, version = str(body["name"]).partition("/versions/")
        configured = prior.get("secret")
        return {
            "secret": configured if configured not in (None, UNKNOWN) else secret,
            "version": version,
            "enabled": body.get("state") == "ENABLED",
            "isSecretDataBase64": prior.get("isSecretDataBase64") or False,
        }


class SecretIamMember(IamMember):
    """A member of a role on a secret."""

    type_name = "gcp:secretmanager/secretIamMember:SecretIamMember"
    fields = member_fields(owner_field("secretId"))
    endpoint = _ENDPOINT
    id_format = "projects/{project}/secrets/{secretId}"
    import_formats = ("{project}/{secretId}", "{secretId}")
    owner = "secretId"
    resource_noun = "secretmanager secret"

    def read_policy(self, api: Api, call: Call, address: str) -> dict[str, Any]:
        """The policy of the secret, with its conditions."""
        query = {"options.requestedPolicyVersion": "3"}
        return api.send(call, "GET", self.endpoint, f"{address}:getIamPolicy", query=query)
