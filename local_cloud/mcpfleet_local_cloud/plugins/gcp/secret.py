"""gcp:secretmanager types: a secret, a version with its value, a member of a role (docs/google-apis.md 1.6).

The value is a secret of Pulumi's: the SDK has the engine encrypt it in the state.
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
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, table

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
    id_form = "projects/{project}/secrets/{secretId}"
    import_forms = ("{project}/{secretId}", "{secretId}")
    title = "Secret"
    naming = "secretId"
    create_query = "secretId"
    updating = "mask"
    masked = ("versionAliases", "versionDestroyTtl", "topics", "expireTime", "ttl", "rotation")
    labelled = True

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The document; `automatic` is sent though it is empty."""
        body = super().body(planned, olds)
        if "auto" in table(planned.get("replication")):
            automatic = table(table(body.get("replication")).get("automatic"))
            body["replication"] = {"automatic": automatic}
        else:
            table(body.get("replication")).pop("automatic", None)
        if planned.get("annotations"):
            body["annotations"] = planned["annotations"]
        return body

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """PATCH; annotations have a mask of their own."""
        super().change(config, call, resource_id, olds, planned)
        if (olds.get("annotations") or {}) != (planned.get("annotations") or {}):
            body = {"annotations": table(planned.get("annotations"))}
            config.send(call, "PATCH", self.endpoint, resource_id, body, query={"updateMask": "annotations"})

    def remove(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE, unless it is protected."""
        if olds.get("deletionProtection"):
            raise ProviderError(
                "cannot destroy secretmanager secret without setting deletion_protection=false and running `pulumi up`"
            )
        super().remove(config, call, resource_id, olds)

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """The id, and the annotations that are ours."""
        shown = table(body.get("annotations"))
        ours = known.get("annotations")
        more: Properties = {
            "secretId": str(body["name"]).rpartition("/")[2],
            "effectiveAnnotations": dict(shown),
            "deletionProtection": known.get("deletionProtection") or False,
        }
        if ours is not None:
            more["annotations"] = {key: shown[key] for key in ours if key in shown}
        return more


class SecretVersion(RestResource):
    """A value of a secret. Each new value is a new version; the API makes up its number."""

    type_name = "gcp:secretmanager/secretVersion:SecretVersion"
    fields = VERSION
    endpoint = _ENDPOINT
    id_form = "{secret}/versions/{version}"
    title = "SecretVersion"

    def check_more(self, config: Api, inputs: Properties, checker: Checker) -> None:
        """A version has a value."""
        if inputs.get("secretData") is None:
            checker.fail("secretData", "one of `secret_data,secret_data_wo` must be specified")

    def parts(self, api: Api, resource_id: str) -> dict[str, str]:
        """A version's name has more slashes than a form can tell apart."""
        secret, found, version = resource_id.partition("/versions/")
        if not found or not secret.startswith("projects/"):
            raise ProviderError(
                f"Import id {resource_id!r} doesn't match any of the accepted formats: "
                "[projects/{{project}}/secrets/{{secret_id}}/versions/{{version}}]"
            )
        return {"secret": secret, "version": version}

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """Add the version, then enable or disable it."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", planned)
        data = str(planned["secretData"])
        encoded = data if planned.get("isSecretDataBase64") else base64.b64encode(data.encode()).decode()
        try:
            made = config.send(
                call, "POST", self.endpoint, f"{planned['secret']}:addVersion", {"payload": {"data": encoded}}
            )
            verb = "disable" if planned.get("enabled") is False else "enable"
            config.send(call, "POST", self.endpoint, f"{made['name']}:{verb}", {})
        except ApiError as error:
            raise ProviderError(f"Error creating SecretVersion: {error}") from error
        identity = str(made["name"])
        return Found(identity, self._state(planned, config.send(call, "GET", self.endpoint, identity)))

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Enable or disable."""
        if bool(olds.get("enabled", True)) != bool(planned.get("enabled", True)):
            verb = "enable" if planned.get("enabled", True) else "disable"
            config.send(call, "POST", self.endpoint, f"{resource_id}:{verb}", {})

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> Found | None:
        """GET it, and its value where it has one."""
        found = super().read(config, call, resource_id, state)
        if found is not None and found.properties.get("enabled"):
            payload = config.send(call, "GET", self.endpoint, f"{resource_id}:access")["payload"]["data"]
            as_text = payload if state.get("isSecretDataBase64") else base64.b64decode(payload).decode()
            found.properties["secretData"] = as_text
        return found

    def remove(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Destroy the value (or disable the version)."""
        verb = "disable" if olds.get("deletionPolicy") == "DISABLE" else "destroy"
        config.send(call, "POST", self.endpoint, f"{resource_id}:{verb}", {})

    def gone(self, body: dict[str, Any]) -> bool:
        """A destroyed version is none."""
        return body.get("state") == "DESTROYED"

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """What the API says in other words."""
        secret, _, version = str(body["name"]).partition("/versions/")
        given = known.get("secret")
        return {
            "secret": given if given not in (None, UNKNOWN) else secret,
            "version": version,
            "enabled": body.get("state") == "ENABLED",
            "isSecretDataBase64": known.get("isSecretDataBase64") or False,
        }


class SecretIamMember(IamMember):
    """A member of a role on a secret."""

    type_name = "gcp:secretmanager/secretIamMember:SecretIamMember"
    fields = member_fields(owner_field("secretId"))
    endpoint = _ENDPOINT
    id_form = "projects/{project}/secrets/{secretId}"
    import_forms = ("{project}/{secretId}", "{secretId}")
    owner = "secretId"
    noun = "secretmanager secret"

    def policy(self, api: Api, call: Call, address: str) -> dict[str, Any]:
        """The policy of the secret, with its conditions."""
        query = {"options.requestedPolicyVersion": "3"}
        return api.send(call, "GET", self.endpoint, f"{address}:getIamPolicy", query=query)
