"""Buckets: what there is of them, and their objects (`objects.py`)."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.services.storage.objects import Objects, not_there
from mcpfleet_local_cloud.state.store import Document, Store

BUCKET: Final = "bucket"
_KEPT: Final = ("labels", "iamConfiguration", "softDeletePolicy", "lifecycle", "storageClass", "rpo")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_DAY: Final = 86400


class Storage:
    """Every bucket of this cloud; their names are unique in it.

    Args:
        store: where records are kept.
        root: where objects are kept.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, root: Path, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self.objects: Final = Objects(store, root, clock)

    def create(self, project: Document, body: Document) -> Document:
        """Make a bucket.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, UNIMPLEMENTED.
        """
        name: str = body.get("name", "")
        if not _NAME.fullmatch(name) or ".." in name or name.startswith("goog"):
            raise invalid(f"Invalid bucket name: '{name}'")
        _check(body)
        now = self._now()
        record: Document = {
            "project": project["projectId"],
            "projectNumber": project["projectNumber"],
            "location": str(body.get("location") or "US").upper(),
            "storageClass": "STANDARD",
            "timeCreated": now,
            "updated": now,
            "metageneration": 1,
            **{field: body[field] for field in _KEPT if body.get(field)},
        }
        _soften(record, now)
        if not self._store.insert(BUCKET, name, record):
            raise GoogleError(
                "ALREADY_EXISTS", "Your previous request to create the named bucket succeeded and you already own it."
            )
        self.objects.folder(name)
        return self._bucket(name, record)

    def get(self, name: str) -> Document:
        """The bucket."""
        return self._bucket(name, self._existing(name))

    def exists(self, name: str) -> bool:
        """Whether there is such a bucket."""
        return self._store.get(BUCKET, name) is not None

    def resource(self, name: str) -> str:
        """The name under which the bucket's policy is kept, below its project's.

        Raises:
            GoogleError: NOT_FOUND.
        """
        return f"projects/{self._existing(name)['project']}/buckets/{name}"

    def folder(self, name: str) -> Path:
        """The folder with the bucket's objects."""
        return self.objects.folder(name)

    def buckets(self, project: str = "") -> list[Document]:
        """Every bucket, of *project* alone where it is given; by name."""
        every = self._store.list(BUCKET)
        return [self._bucket(name, record) for name, record in every if project in ("", record["project"])]

    def update(self, name: str, body: Document) -> Document:
        """Change what *body* holds; null takes a field away.

        Raises:
            GoogleError: NOT_FOUND, INVALID_ARGUMENT, UNIMPLEMENTED.
        """
        record = self._existing(name)
        _check(body)
        for field in _KEPT:
            if field == "labels" and isinstance(body.get(field), dict):
                merged: Document = {**record.get(field, {}), **body[field]}
                record[field] = {key: value for key, value in merged.items() if value is not None}
            elif field in body:
                record[field] = body[field] or {}
        record["metageneration"] += 1
        record["updated"] = self._now()
        if body.get("softDeletePolicy"):
            _soften(record, record["updated"])
        self._store.put(BUCKET, name, record)
        return self._bucket(name, record)

    def delete(self, name: str) -> None:
        """Remove an empty bucket.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION where it holds objects.
        """
        self._existing(name)
        if any(True for _ in self.objects.list(name)):
            raise GoogleError("ABORTED", "The bucket you tried to delete is not empty.")
        self.objects.drop(name)
        self._store.delete(BUCKET, name)

    def expire(self, name: str) -> None:
        """Delete the objects whose time is over by the bucket's lifecycle rules."""
        rules: list[Document] = self._existing(name).get("lifecycle", {}).get("rule", [])
        ages = [int(rule["condition"]["age"]) for rule in rules]
        if not ages:
            return
        for object_name, record in list(self.objects.list(name)):
            made = datetime.fromisoformat(record["timeCreated"]).timestamp()
            if self._clock() - made >= min(ages) * _DAY:
                self.objects.delete(name, object_name)

    def object(self, bucket: str, name: str) -> tuple[Path, Document]:
        """The object's file and document.

        Raises:
            GoogleError: NOT_FOUND.
        """
        self.expire(bucket)
        found = self.objects.find(bucket, name)
        if found is None:
            raise not_there(bucket, name)
        return found[0], shown(bucket, name, found[1])

    def _existing(self, name: str) -> Document:
        record = self._store.get(BUCKET, name)
        if record is None:
            raise GoogleError("NOT_FOUND", "The specified bucket does not exist.")
        return record

    def _bucket(self, name: str, record: Document) -> Document:
        kept = {field: record[field] for field in (*_KEPT, "location", "timeCreated", "updated") if record.get(field)}
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
            **kept,
        }

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock(), "milliseconds")


def shown(bucket: str, name: str, record: Document) -> Document:
    """An object's document."""
    kept = {field: value for field, value in record.items() if field != "mtime"}
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{record['generation']}",
        "name": name,
        "bucket": bucket,
        "storageClass": "STANDARD",
        "etag": f"C{record['generation']}=",
        **kept,
    }


def _soften(record: Document, now: str) -> None:
    """Complete the soft delete policy: since when it holds, and its 64-bit number as a string."""
    if policy := record.get("softDeletePolicy"):
        seconds = policy.get("retentionDurationSeconds") or "0"
        record["softDeletePolicy"] = {"retentionDurationSeconds": seconds, "effectiveTime": now}


def _check(body: Document) -> None:
    soft, lifecycle, access = (_part(body, field) for field in ("softDeletePolicy", "lifecycle", "iamConfiguration"))
    seconds: str = soft.get("retentionDurationSeconds") or "0"
    if seconds.startswith("-"):
        raise invalid(f"Invalid value for bucket.softDeletePolicy.retentionDurationSeconds: {seconds}")
    rules: list[Document] = lifecycle.get("rule") or []
    for index, rule in enumerate(rules):
        if rule.get("action", {}).get("type") != "Delete" or "age" not in rule.get("condition", {}):
            raise unimplemented(
                f"bucket.lifecycle.rule[{index}]", "objects are deleted by age here, and nothing else happens to them."
            )
    prevention: str = access.get("publicAccessPrevention") or "inherited"
    if prevention not in ("inherited", "enforced", "unspecified"):
        raise invalid(f"Invalid value for bucket.iamConfiguration.publicAccessPrevention: '{prevention}'")


def _part(body: Document, field: str) -> Document:
    return body.get(field) or {}
