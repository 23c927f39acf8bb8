"""gcp:storage types: a bucket, an object, a member of a role on a bucket (docs/google-apis.md 1.7).

Only the properties that the local cloud honours are here; the provider has more, which are refused by name.
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
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import Properties, items, table

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
# The Terraform provider before 7 replaced an object for everything here; 10.2.0 uploads new content in place.
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
    """A bucket."""

    type_name = "gcp:storage/bucket:Bucket"
    fields = BUCKET
    endpoint = _ENDPOINT
    id_form = "{name}"
    import_forms = ("{project}/{name}",)
    title = "Bucket"
    updating = "patch"
    labelled = True

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """POST it below the project."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", planned)
        query = {"project": str(planned["project"])}
        try:
            config.send(call, "POST", self.endpoint, "b", self.body(planned, {}), query=query)
        except ApiError as error:
            if not error.exists_by_our_doing:
                raise ProviderError(f"Error creating bucket {planned['name']}: {error}") from error
        self.get(config, call, str(planned["name"]))  # to see it there, as the real provider does
        return Found(str(planned["name"]), self._state(planned, self.get(config, call, str(planned["name"]))))

    def get(self, config: Api, call: Call, address: str) -> dict[str, Any]:
        """GET it."""
        return config.send(call, "GET", self.endpoint, f"b/{address.rpartition('/')[2]}")

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The document; a label that goes is null."""
        body = super().body(planned, olds)
        labels: dict[str, str | None] = dict.fromkeys(table(olds.get("effectiveLabels")))
        labels |= table(planned.get("effectiveLabels"))
        if labels:
            body["labels"] = labels
        rules = [
            {"action": rule["action"], "condition": rule["condition"]}
            for rule in map(table, items(planned.get("lifecycleRules")))
        ]
        if rules or olds.get("lifecycleRules"):
            body["lifecycle"] = {"rule": rules}
        if soft := table(planned.get("softDeletePolicy")):
            # Sent even where it is 0, which switches it off (the provider's ForceSendFields).
            body["softDeletePolicy"] = {"retentionDurationSeconds": str(soft.get("retentionDurationSeconds") or 0)}
        access = {"uniformBucketLevelAccess": {"enabled": bool(planned.get("uniformBucketLevelAccess"))}}
        prevention = planned.get("publicAccessPrevention") or "inherited"
        return {**body, "iamConfiguration": {**access, "publicAccessPrevention": prevention}}

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """PATCH whatever it is."""
        config.send(call, "PATCH", self.endpoint, f"b/{resource_id}", self.body(planned, olds))

    def remove(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE it, with its objects where that is wished."""
        listed = config.send(call, "GET", self.endpoint, f"b/{resource_id}/o", query={"versions": "true"})
        objects: list[dict[str, Any]] = listed.get("items") or []
        if objects and not olds.get("forceDestroy"):
            raise ProviderError(
                f"Error trying to delete bucket {resource_id} containing objects without `force_destroy` set to true"
            )
        while objects:
            for one in objects:
                path = f"b/{resource_id}/o/{quote(str(one['name']), safe='')}"
                config.send(call, "DELETE", self.endpoint, path, query={"generation": str(one["generation"])})
            listed = config.send(call, "GET", self.endpoint, f"b/{resource_id}/o", query={"versions": "true"})
            objects = listed.get("items") or []
        config.send(call, "DELETE", self.endpoint, f"b/{resource_id}")

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """What lies deeper in the document."""
        access = table(body.get("iamConfiguration"))
        more: Properties = {
            "url": f"gs://{body['name']}",
            "project": known.get("project") or "",
            "forceDestroy": known.get("forceDestroy") or False,
            "uniformBucketLevelAccess": table(access.get("uniformBucketLevelAccess")).get("enabled", False),
            "publicAccessPrevention": access.get("publicAccessPrevention", "inherited"),
        }
        rules: list[Any] = table(body.get("lifecycle")).get("rule") or []
        return {**more, "lifecycleRules": rules} if rules else more


class BucketObject(RestResource):
    """An object, from a string or a file."""

    type_name = "gcp:storage/bucketObject:BucketObject"
    fields = OBJECT
    endpoint = _ENDPOINT
    id_form = "{bucket}-{name}"
    title = "BucketObject"

    def check_more(self, config: Api, inputs: Properties, checker: Checker) -> None:
        """There is something to upload, and it is no folder."""
        if inputs.get("content") is None and inputs.get("source") is None:
            checker.fail("content", "one of `content,source` must be specified")
        source = inputs.get("source")
        if isinstance(source, dict) and not {"path", "text"} & table(source).keys():
            checker.fail(
                "source", "the emulated provider takes a file or a text, and no archive that is yet to be made"
            )

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """Upload it."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", planned)
        self._upload(config, call, planned)
        return Found(f"{planned['bucket']}-{planned['name']}", self._state(planned, self._get(config, call, planned)))

    def update(
        self, config: Api, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """Upload it again."""
        planned = self._planned(config, olds, news, preview=preview)
        if preview:
            return planned
        self._upload(config, call, planned)
        return self._state(planned, self._get(config, call, planned))

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> Found | None:
        """GET its document."""
        if not state.get("bucket"):
            raise ProviderError("objects cannot be imported")
        try:
            return Found(resource_id, self._state(state, self._get(config, call, state)))
        except ApiError as error:
            if error.missing:
                return None
            raise

    def remove(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE it."""
        config.send(call, "DELETE", self.endpoint, _path(olds))

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """What only the provider knows."""
        md5 = str(body.get("md5Hash", ""))
        return {
            "outputName": body["name"],
            "detectMd5hash": md5,
            "md5hexhash": base64.b64decode(md5).hex(),
        }

    def _get(self, api: Api, call: Call, of: Properties) -> dict[str, Any]:
        return api.send(call, "GET", self.endpoint, _path(of))

    def _upload(self, api: Api, call: Call, planned: Properties) -> None:
        content = _content(planned)
        about = {key: planned[key] for key in _SENT if planned.get(key)}
        kind = str(planned.get("contentType") or "application/octet-stream")
        mark = f"part-{secrets.token_hex(16)}"
        body = b"".join(
            [
                f"--{mark}\r\nContent-Type: application/json\r\n\r\n".encode(),
                json.dumps({**about, "name": planned["name"]}).encode(),
                f"\r\n--{mark}\r\nContent-Type: {kind}\r\n\r\n".encode(),
                content,
                f"\r\n--{mark}--".encode(),
            ]
        )
        query = {"uploadType": "multipart", "name": str(planned["name"])}
        where = f"/upload/storage/v1/b/{planned['bucket']}/o"
        try:
            found = api.upload(call, self.endpoint, where, body, f"multipart/related; boundary={mark}", query)
        except ApiError as error:
            raise ProviderError(f"Error uploading object {planned['name']}: {error}") from error
        if found.get("md5Hash") != base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode():
            raise ProviderError(f"Error uploading object {planned['name']}: it was damaged on its way")


class BucketIamMember(IamMember):
    """A member of a role on a bucket; Cloud Storage's policies have methods of their own."""

    type_name = "gcp:storage/bucketIAMMember:BucketIAMMember"
    fields = tuple(one for one in member_fields(owner_field("bucket")) if one.name != "project")
    endpoint = _ENDPOINT
    id_form = "b/{bucket}"
    import_forms = ("{bucket}",)
    owner = "bucket"
    noun = "storage bucket"

    def complete(self, config: Api, news: Properties) -> Properties:
        """The inputs, the bucket by its bare name."""
        bucket = news.get("bucket")
        return {**news, "bucket": bucket.removeprefix("b/")} if isinstance(bucket, str) else news

    def policy(self, api: Api, call: Call, address: str) -> dict[str, Any]:
        """GET b/B/iam."""
        return api.send(call, "GET", self.endpoint, f"{address}/iam", query={"optionsRequestedPolicyVersion": "3"})

    def write(self, api: Api, call: Call, address: str, policy: dict[str, Any]) -> None:
        """PUT b/B/iam, the bare policy."""
        api.send(call, "PUT", self.endpoint, f"{address}/iam", policy)


_SENT: Final = (
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
    "metadata",
)


def _path(of: Properties) -> str:
    return f"b/{of['bucket']}/o/{quote(str(of['name']), safe='')}"


def _content(planned: Properties) -> bytes:
    if planned.get("content") is not None:
        return str(planned["content"]).encode()
    source = table(planned.get("source"))
    if "text" in source:
        return str(source["text"]).encode()
    try:
        return Path(str(source["path"])).read_bytes()
    except OSError as refusal:
        raise ProviderError(f"source: {source['path']} cannot be read: {refusal.strerror}") from refusal
