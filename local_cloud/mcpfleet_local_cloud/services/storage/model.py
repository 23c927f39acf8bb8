"""Buckets; `objects.py` has their objects."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.services.storage.objects import Objects, object_not_found
from mcpfleet_local_cloud.state.store import Document, Store

BUCKET: Final = "bucket"
_STORED_FIELDS: Final = ("labels", "iamConfiguration", "softDeletePolicy", "lifecycle", "storageClass", "rpo")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_DAY_SECONDS: Final = 86400


class Storage:
    """All buckets of this cloud, by their unique names.

    Args:
        store: stores the records.
        root: the folder with the objects.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, root: Path, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self.objects: Final = Objects(store, root, clock)

    def create(self, project: Document, body: Document) -> Document:
        """Create a bucket.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, UNIMPLEMENTED.
        """
        name: str = body.get("name", "")
        if not _NAME.fullmatch(name) or ".." in name or name.startswith("goog"):
            raise invalid(f"Invalid bucket name: '{name}'")
        _check_bucket(body)
        now = self._now()
        record: Document = {
            "project": project["projectId"],
            "projectNumber": project["projectNumber"],
            "location": str(body.get("location") or "US").upper(),
            "storageClass": "STANDARD",
            "timeCreated": now,
            "updated": now,
            "metageneration": 1,
            **{field: body[field] for field in _STORED_FIELDS if body.get(field)},
        }
        _complete_soft_delete(record, now)
        if not self._store.insert(BUCKET, name, record):
            raise GoogleError(
                "ALREADY_EXISTS", "Your previous request to create the named bucket succeeded and you already own it."
            )
        self.objects.folder(name)
        return self._render_bucket(name, record)

    def get(self, name: str) -> Document:
        """Return the bucket."""
        return self._render_bucket(name, self._find_existing(name))

    def exists(self, name: str) -> bool:
        """Whether the bucket exists."""
        return self._store.get(BUCKET, name) is not None

    def resource(self, name: str) -> str:
        """The resource name of the bucket in policies, below that of its project.

        Raises:
            GoogleError: NOT_FOUND.
        """
        return f"projects/{self._find_existing(name)['project']}/buckets/{name}"

    def folder(self, name: str) -> Path:
        """The folder with the bucket's objects."""
        return self.objects.folder(name)

    def buckets(self, project: str = "") -> list[Document]:
        """List all buckets, or those of *project*, sorted by name."""
        records = self._store.list(BUCKET)
        return [self._render_bucket(name, record) for name, record in records if project in ("", record["project"])]

    def update(self, name: str, body: Document) -> Document:
        """Update the fields in *body*; null removes a field.

        Raises:
            GoogleError: NOT_FOUND, INVALID_ARGUMENT, UNIMPLEMENTED.
        """
        record = self._find_existing(name)
        _check_bucket(body)
        for field in _STORED_FIELDS:
            if field == "labels" and isinstance(body.get(field), dict):
                merged: Document = {**record.get(field, {}), **body[field]}
                record[field] = {key: value for key, value in merged.items() if value is not None}
            elif field in body:
                record[field] = body[field] or {}
        record["metageneration"] += 1
        record["updated"] = self._now()
        if body.get("softDeletePolicy"):
            _complete_soft_delete(record, record["updated"])
        self._store.put(BUCKET, name, record)
        return self._render_bucket(name, record)

    def delete(self, name: str) -> None:
        """Delete an empty bucket.

        Raises:
            GoogleError: NOT_FOUND; ABORTED if it contains objects.
        """
        self._find_existing(name)
        if any(True for _ in self.objects.list(name)):
            raise GoogleError("ABORTED", "The bucket you tried to delete is not empty.")
        self.objects.delete_bucket(name)
        self._store.delete(BUCKET, name)

    def expire(self, name: str) -> None:
        """Delete the objects that have reached the age in the bucket's lifecycle rules."""
        rules: list[Document] = self._find_existing(name).get("lifecycle", {}).get("rule", [])
        ages = [int(rule["condition"]["age"]) for rule in rules]
        if not ages:
            return
        for object_name, record in list(self.objects.list(name)):
            created_at = datetime.fromisoformat(record["timeCreated"]).timestamp()
            if self._clock() - created_at >= min(ages) * _DAY_SECONDS:
                self.objects.delete(name, object_name)

    def object(self, bucket: str, name: str) -> tuple[Path, Document]:
        """Return the object's file and document.

        Raises:
            GoogleError: NOT_FOUND.
        """
        self.expire(bucket)
        entry = self.objects.find(bucket, name)
        if entry is None:
            raise object_not_found(bucket, name)
        return entry[0], render_object(bucket, name, entry[1])

    def _find_existing(self, name: str) -> Document:
        record = self._store.get(BUCKET, name)
        if record is None:
            raise GoogleError("NOT_FOUND", "The specified bucket does not exist.")
        return record

    def _render_bucket(self, name: str, record: Document) -> Document:
        fields = {
            field: record[field]
            for field in (*_STORED_FIELDS, "location", "timeCreated", "updated")
            if record.get(field)
        }
        return {
            "kind": "storage#bucket",
            "id": name,
            "name": name,
            "selfLink": f"https://www.googleapis.com/storage/v1/b/{name}",
            "projectNumber": record["projectNumber"],
            "metageneration": str(record["metageneration"]),
            "locationType": "region" if "-" in record["location"] else "multi-region",
            "etag": f"CA{record['metageneration']}=",
            "iamConfiguration": {"publicAccessPrevention": "inherited", "uniformBucketLevelAccess": {"enabled": False}},
            "softDeletePolicy": {"retentionDurationSeconds": "604800", "effectiveTime": record["timeCreated"]},
            **fields,
        }

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock(), "milliseconds")


def render_object(bucket: str, name: str, record: Document) -> Document:
    """Render an object's document."""
    fields = {field: value for field, value in record.items() if field != "mtime"}
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{record['generation']}",
        "name": name,
        "bucket": bucket,
        "storageClass": "STANDARD",
        "etag": f"C{record['generation']}=",
        **fields,
    }


def _complete_soft_delete(record: Document, now: str) -> None:
    """Complete the soft delete policy with the time since when it applies, and with its duration as a string."""
    if policy := record.get("softDeletePolicy"):
        seconds = policy.get("retentionDurationSeconds") or "0"
        record["softDeletePolicy"] = {"retentionDurationSeconds": seconds, "effectiveTime": now}


def _check_bucket(body: Document) -> None:
    soft_delete, lifecycle, access = (
        _submessage(body, field) for field in ("softDeletePolicy", "lifecycle", "iamConfiguration")
    )
    seconds: str = soft_delete.get("retentionDurationSeconds") or "0"
    if seconds.startswith("-"):
        raise invalid(f"Invalid value for bucket.softDeletePolicy.retentionDurationSeconds: {seconds}")
    rules: list[Document] = lifecycle.get("rule") or []
    for index, rule in enumerate(rules):
        if rule.get("action", {}).get("type") != "Delete" or "age" not in rule.get("condition", {}):
            raise unimplemented(f"bucket.lifecycle.rule[{index}]", "only deletion by age is supported here.")
    prevention: str = access.get("publicAccessPrevention") or "inherited"
    if prevention not in ("inherited", "enforced", "unspecified"):
        raise invalid(f"Invalid value for bucket.iamConfiguration.publicAccessPrevention: '{prevention}'")


def _submessage(body: Document, field: str) -> Document:
    return body.get(field) or {}
