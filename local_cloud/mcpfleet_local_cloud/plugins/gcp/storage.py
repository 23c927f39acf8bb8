"""gcp:storage types: a bucket, an object, and a member of a role on a bucket (docs/google-apis.md 1.7).

The types have only the properties that the local cloud honours; all others of the real provider are errors.
"""

import base64
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.checking import Checker
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.iam_member import IamMember, member_fields, owner_field
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import block, blocks, boolean, integer, mapping, text
from mcpfleet_local_cloud.plugins.resources import ResourceState
from mcpfleet_local_cloud.plugins.values import Properties, as_dict, as_list

_ENDPOINT: Final = "storageCustomEndpoint"
BUCKET: Final = (
    text("location", required=True, force_new=True, ignore_case=True),
    text("name", force_new=True, autoname=63),
    PROJECT,
    DELETION_POLICY,
    boolean("forceDestroy", ""),
    mapping("labels", ""),
    blocks(
        "lifecycleRules",
        [
            block("action", [text("type", required=True), text("storageClass")], required=True),
            block("condition", [integer("age")], required=True),
        ],
        "",
        ordered=False,
    ),
    text("publicAccessPrevention", "", computed=True, choices=("inherited", "enforced")),
    block(
        "softDeletePolicy",
        [integer("retentionDurationSeconds", default=604800), text("effectiveTime", output=True)],
        computed=True,
    ),
    text("storageClass", default="STANDARD"),
    boolean("uniformBucketLevelAccess", "", computed=True),
    block("versioning", [boolean("enabled")], computed=True),
    mapping("effectiveLabels", "", output=True),
    integer("projectNumber", output=True),
    mapping("pulumiLabels", "", output=True),
    text("selfLink", output=True),
    text("timeCreated", output=True),
    text("updated", output=True),
    text("url", "", output=True),
)
# The Terraform provider before 7 replaced an object for any change; 10.2.0 uploads new content in place.
OBJECT: Final = (
    text("bucket", required=True, force_new=True),
    text("name", force_new=True, autoname=1024),
    text("cacheControl"),
    text("content", "", secret=True, conflicts=("source",)),
    text("contentDisposition"),
    text("contentEncoding"),
    text("contentLanguage"),
    text("contentType", computed=True),
    text("deletionPolicy", "", default="DELETE", implied=True),
    text("detectMd5hash", "", computed=True),
    mapping("metadata"),
    mapping("source", "", conflicts=("content",)),
    text("sourceMd5hash", ""),
    text("crc32c", output=True),
    integer("generation", output=True),
    text("md5hash", "md5Hash", output=True),
    text("md5hexhash", "", output=True),
    text("mediaLink", output=True),
    text("outputName", "", output=True),
    text("selfLink", output=True),
)


class Bucket(RestResource):
    """A Cloud Storage bucket."""

    type_name = "gcp:storage/bucket:Bucket"
    fields = BUCKET
    endpoint = _ENDPOINT
    id_format = "{name}"
    import_formats = ("{project}/{name}",)
    title = "Bucket"
    update_method = "patch"
    has_labels = True

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """POST the bucket, with its project as a parameter."""
        planned = self._plan(config, {}, news, preview=preview)
        if preview:
            return ResourceState("", planned)
        query = {"project": str(planned["project"])}
        try:
            config.send(call, "POST", self.endpoint, "b", self.body(planned, {}), query=query)
        except ApiError as error:
            if not error.is_created_by_earlier_attempt:
                raise ProviderError(f"Error creating bucket {planned['name']}: {error}") from error
        self.get(config, call, str(planned["name"]))  # the real provider checks that it exists, too
        return ResourceState(str(planned["name"]), self._state(planned, self.get(config, call, str(planned["name"]))))

    def get(self, config: Api, call: Call, address: str) -> dict[str, Any]:
        """GET the bucket."""
        return config.send(call, "GET", self.endpoint, f"b/{address.rpartition('/')[2]}")

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The request body; a removed label is null."""
        body = super().body(planned, olds)
        labels: dict[str, str | None] = dict.fromkeys(as_dict(olds.get("effectiveLabels")))
        labels |= as_dict(planned.get("effectiveLabels"))
        if labels:
            body["labels"] = labels
        rules = [
            {"action": rule["action"], "condition": rule["condition"]}
            for rule in map(as_dict, as_list(planned.get("lifecycleRules")))
        ]
        if rules or olds.get("lifecycleRules"):
            body["lifecycle"] = {"rule": rules}
        if soft := as_dict(planned.get("softDeletePolicy")):
            # 0, which disables soft deletion, is sent too (the provider's ForceSendFields).
            body["softDeletePolicy"] = {"retentionDurationSeconds": str(soft.get("retentionDurationSeconds") or 0)}
        access = {"uniformBucketLevelAccess": {"enabled": bool(planned.get("uniformBucketLevelAccess"))}}
        prevention = planned.get("publicAccessPrevention") or "inherited"
        return {**body, "iamConfiguration": {**access, "publicAccessPrevention": prevention}}

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """PATCH the bucket."""
        config.send(call, "PATCH", self.endpoint, f"b/{resource_id}", self.body(planned, olds))

    def send_delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE the bucket, with its objects if `forceDestroy` is set."""
        page = config.send(call, "GET", self.endpoint, f"b/{resource_id}/o", query={"versions": "true"})
        objects: list[dict[str, Any]] = page.get("items") or []
        if objects and not olds.get("forceDestroy"):
            raise ProviderError(
                f"Error trying to delete bucket {resource_id} containing objects without `force_destroy` set to true"
            )
        while objects:
            for item in objects:
                path = f"b/{resource_id}/o/{quote(str(item['name']), safe='')}"
                config.send(call, "DELETE", self.endpoint, path, query={"generation": str(item["generation"])})
            page = config.send(call, "GET", self.endpoint, f"b/{resource_id}/o", query={"versions": "true"})
            objects = page.get("items") or []
        config.send(call, "DELETE", self.endpoint, f"b/{resource_id}")

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The properties that the API nests deeper in the document."""
        access = as_dict(body.get("iamConfiguration"))
        properties: Properties = {
            "url": f"gs://{body['name']}",
            "project": prior.get("project") or "",
            "forceDestroy": prior.get("forceDestroy") or False,
            "uniformBucketLevelAccess": as_dict(access.get("uniformBucketLevelAccess")).get("enabled", False),
            "publicAccessPrevention": access.get("publicAccessPrevention", "inherited"),
        }
        rules: list[Any] = as_dict(body.get("lifecycle")).get("rule") or []
        return {**properties, "lifecycleRules": rules} if rules else properties


class BucketObject(RestResource):
    """A Cloud Storage object, from a string or a file."""

    type_name = "gcp:storage/bucketObject:BucketObject"
    fields = OBJECT
    endpoint = _ENDPOINT
    id_format = "{bucket}-{name}"
    title = "BucketObject"

    def check_rules(self, config: Api, inputs: Properties, checker: Checker) -> None:
        """Require content or a source that is a file or a text."""
        if inputs.get("content") is None and inputs.get("source") is None:
            checker.fail("content", "one of `content,source` must be specified")
        source = inputs.get("source")
        if isinstance(source, dict) and not {"path", "text"} & as_dict(source).keys():
            checker.fail("source", "the emulated provider takes a file or a text, and builds no archive")

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """Upload the object."""
        planned = self._plan(config, {}, news, preview=preview)
        if preview:
            return ResourceState("", planned)
        self._upload(config, call, planned)
        return ResourceState(
            f"{planned['bucket']}-{planned['name']}", self._state(planned, self._get(config, call, planned))
        )

    def update(
        self, config: Api, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """Upload the object again."""
        planned = self._plan(config, olds, news, preview=preview)
        if preview:
            return planned
        self._upload(config, call, planned)
        return self._state(planned, self._get(config, call, planned))

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> ResourceState | None:
        """GET the object's document; None if it doesn't exist."""
        if not state.get("bucket"):
            raise ProviderError("objects cannot be imported")
        try:
            return ResourceState(resource_id, self._state(state, self._get(config, call, state)))
        except ApiError as error:
            if error.is_not_found:
                return None
            raise

    def send_delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE the object."""
        config.send(call, "DELETE", self.endpoint, _object_path(olds))

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The properties that the provider computes itself."""
        md5 = str(body.get("md5Hash", ""))
        return {
            "outputName": body["name"],
            "detectMd5hash": md5,
            "md5hexhash": base64.b64decode(md5).hex(),
        }

    def _get(self, api: Api, call: Call, properties: Properties) -> dict[str, Any]:
        return api.send(call, "GET", self.endpoint, _object_path(properties))

    def _upload(self, api: Api, call: Call, planned: Properties) -> None:
        content = _read_content(planned)
        metadata = {key: planned[key] for key in _METADATA_FIELDS if planned.get(key)}
        content_type = str(planned.get("contentType") or "application/octet-stream")
        boundary = f"part-{secrets.token_hex(16)}"
        body = b"".join(
            [
                f"--{boundary}\r\nContent-Type: application/json\r\n\r\n".encode(),
                json.dumps({**metadata, "name": planned["name"]}).encode(),
                f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode(),
                content,
                f"\r\n--{boundary}--".encode(),
            ]
        )
        query = {"uploadType": "multipart", "name": str(planned["name"])}
        path = f"/upload/storage/v1/b/{planned['bucket']}/o"
        try:
            response = api.upload(call, self.endpoint, path, body, f"multipart/related; boundary={boundary}", query)
        except ApiError as error:
            raise ProviderError(f"Error uploading object {planned['name']}: {error}") from error
        if response.get("md5Hash") != base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode():
            raise ProviderError(f"Error uploading object {planned['name']}: its MD5 hash differs after the upload")


class BucketIamMember(IamMember):
    """A member of a role on a bucket; Cloud Storage has its own methods for IAM policies."""

    type_name = "gcp:storage/bucketIAMMember:BucketIAMMember"
    fields = tuple(one for one in member_fields(owner_field("bucket")) if one.name != "project")
    endpoint = _ENDPOINT
    id_format = "b/{bucket}"
    import_formats = ("{bucket}",)
    owner = "bucket"
    resource_noun = "storage bucket"

    def complete_inputs(self, config: Api, news: Properties) -> Properties:
        """The inputs, with the bucket's name without `b/`."""
        bucket = news.get("bucket")
        return {**news, "bucket": bucket.removeprefix("b/")} if isinstance(bucket, str) else news

    def read_policy(self, api: Api, call: Call, address: str) -> dict[str, Any]:
        """GET b/B/iam."""
        return api.send(call, "GET", self.endpoint, f"{address}/iam", query={"optionsRequestedPolicyVersion": "3"})

    def write_policy(self, api: Api, call: Call, address: str, policy: dict[str, Any]) -> None:
        """PUT b/B/iam; the policy is the whole body."""
        api.send(call, "PUT", self.endpoint, f"{address}/iam", policy)


_METADATA_FIELDS: Final = (
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
    "metadata",
)


def _object_path(properties: Properties) -> str:
    return f"b/{properties['bucket']}/o/{quote(str(properties['name']), safe='')}"


def _read_content(planned: Properties) -> bytes:
    if planned.get("content") is not None:
        return str(planned["content"]).encode()
    source = as_dict(planned.get("source"))
    if "text" in source:
        return str(source["text"]).encode()
    try:
        return Path(str(source["path"])).read_bytes()
    except OSError as refusal:
        raise ProviderError(f"source: {source['path']} cannot be read: {refusal.strerror}") from refusal
