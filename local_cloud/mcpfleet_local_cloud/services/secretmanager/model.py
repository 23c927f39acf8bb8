"""Secrets and their versions. Values are stored encrypted (`folder.Vault`), and only `access` returns them.

Only the state of a version can change: ENABLED, DISABLED, or DESTROYED, which deletes the value for good.
"""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import google_crc32c

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.state.folder import Vault
from mcpfleet_local_cloud.state.store import Document, Store

SECRET: Final = "secret"  # noqa: S105 - a kind of document
VERSION: Final = "secretVersion"
LATEST: Final = "latest"
MAX_PAYLOAD_BYTES: Final = 64 * 1024
"""The largest size of one value, in bytes (cloud.google.com/secret-manager/quotas)."""
_UPDATABLE_FIELDS: Final = frozenset({"labels", "annotations", "versionAliases", "etag"})
_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,255}")
_ALIAS: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,62}")
_STATES: Final = {"enable": "ENABLED", "disable": "DISABLED", "destroy": "DESTROYED"}


@dataclass(frozen=True, kw_only=True)
class Payload:
    """A version's value, and its full name with the version's number."""

    name: str
    data: bytes


class SecretManager:
    """All secrets of this cloud, by full name with the project's id: `projects/ID/secrets/S`.

    Args:
        store: stores the records.
        vault: encrypts the values.
        project_number_of: returns a project's number for its id; Google's names contain it.
        clock: seconds since the epoch.
    """

    def __init__(
        self, store: Store, vault: Vault, project_number_of: Callable[[str], str], clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._vault = vault
        self._project_number_of = project_number_of
        self._clock = clock
        self._watchers: list[Callable[[str], None]] = []

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call *changed* with a secret's name after each change of its versions."""
        self._watchers.append(changed)

    # Secrets.

    def create(self, project: str, secret_id: str, body: Document) -> Document:
        """Create a secret without a version.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS.
        """
        if not _ID.fullmatch(secret_id):
            raise invalid(
                "The provided Secret ID [" + secret_id + "] does not match the expected format [[a-zA-Z_0-9]+]."
            )
        if not body.get("replication"):
            raise invalid("Secret.replication must be set: {automatic: {}} or {userManaged: {replicas: [...]}}.")
        user_managed: Document | None = body["replication"].get("userManaged")
        if user_managed is not None and not user_managed.get("replicas"):
            raise invalid("Secret.replication.userManaged.replicas must name at least one location.")
        name = f"projects/{project}/secrets/{secret_id}"
        fields = {key: body[key] for key in ("replication", "labels", "annotations") if body.get(key)}
        record: Document = {"createTime": self._now(), "versions": 0, **fields}
        if body.get("versionAliases"):
            raise invalid("version_aliases: a secret without versions cannot have aliases.")
        if not self._store.insert(SECRET, name, record):
            raise GoogleError("ALREADY_EXISTS", f"Secret [{self._display_name(name)}] already exists.")
        return self._render_secret(name, record)

    def get(self, name: str) -> Document:
        """Return the secret."""
        return self._render_secret(name, self._find_existing(name))

    def exists(self, name: str) -> bool:
        """Whether a secret with that name exists."""
        return self._store.get(SECRET, name) is not None

    def secrets(self, project: str = "") -> list[Document]:
        """List all secrets, or those of *project*, sorted by name."""
        prefix = f"projects/{project}/secrets/" if project else ""
        return [self._render_secret(name, record) for name, record in self._store.list(SECRET, prefix)]

    def update(self, name: str, body: Document, mask: list[str]) -> Document:
        """Update the fields that *mask* names.

        Raises:
            GoogleError: NOT_FOUND, INVALID_ARGUMENT, ABORTED (the etag is outdated).
        """
        record = self._find_existing(name)
        if body.get("etag") and body["etag"] != _etag(record):
            raise GoogleError("ABORTED", f"The etag of [{self._display_name(name)}] is out of date.")
        for field in mask:
            if field not in _UPDATABLE_FIELDS:
                raise invalid(f"update_mask: '{field}' cannot be changed.")
            if field == "versionAliases":
                self._check_aliases(name, body.get(field) or {})
            if field != "etag":
                record[field] = body.get(field, {})
        self._store.put(SECRET, name, record)
        return self._render_secret(name, record)

    def delete(self, name: str, etag: str = "") -> None:
        """Delete the secret with all its versions.

        Raises:
            GoogleError: NOT_FOUND, ABORTED (the etag is outdated).
        """
        record = self._find_existing(name)
        if etag and etag != _etag(record):
            raise GoogleError("ABORTED", f"The etag of [{self._display_name(name)}] is out of date.")
        with self._store.transaction():
            for version, _ in self._store.list(VERSION, f"{name}/versions/"):
                self._store.delete(VERSION, version)
            self._store.delete(SECRET, name)
        self._notify_watchers(name)

    # Versions.

    def add_version(self, name: str, payload: Document) -> Document:
        """Add the value of *payload* (`{data: base64, dataCrc32c}`) as the newest version.

        Raises:
            GoogleError: NOT_FOUND, INVALID_ARGUMENT.
        """
        record = self._find_existing(name)
        data = _parse_payload(payload)
        with self._store.transaction():
            record["versions"] += 1
            version = f"{name}/versions/{record['versions']}"
            version_record: Document = {
                "createTime": self._now(),
                "state": "ENABLED",
                "sealed": self._vault.encrypt(data),
            }
            if "dataCrc32c" in payload:
                version_record["checked"] = True
            self._store.put(VERSION, version, version_record)
            self._store.put(SECRET, name, record)
        self._notify_watchers(name)
        return self._render_version(version, version_record)

    def version(self, name: str, version: str) -> Document:
        """Return the version's document, without its value; *version* is a number, an alias, or `latest`."""
        return self._render_version(*self._find_version(name, version))

    def versions(self, name: str) -> list[Document]:
        """List all versions, the newest first."""
        self._find_existing(name)
        records = self._store.list(VERSION, f"{name}/versions/")
        records.sort(key=lambda entry: int(entry[0].rpartition("/")[2]), reverse=True)
        return [self._render_version(version, record) for version, record in records]

    def access(self, name: str, version: str) -> Payload:
        """Return the value of a version.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION if the version is disabled or destroyed.
        """
        full_name, record = self._find_version(name, version)
        if record["state"] != "ENABLED":
            raise GoogleError(
                "FAILED_PRECONDITION",
                f"Secret Version [{self._display_name(full_name)}] is in {record['state']} state.",
            )
        return Payload(name=self._display_name(full_name), data=self._vault.decrypt(record["sealed"]))

    def change_state(self, name: str, version: str, verb: str, etag: str = "") -> Document:
        """Change the state of a version; *verb* is `enable`, `disable` or `destroy`.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION if the version is destroyed; ABORTED (*etag* is outdated).
        """
        full_name, record = self._find_version(name, version)
        if etag and etag != self._render_version(full_name, record)["etag"]:
            raise GoogleError("ABORTED", f"The etag of [{self._display_name(full_name)}] is out of date.")
        if record["state"] == "DESTROYED" and verb != "destroy":
            raise GoogleError(
                "FAILED_PRECONDITION", f"Secret Version [{self._display_name(full_name)}] is in DESTROYED state."
            )
        record["state"] = _STATES[verb]
        if verb == "destroy":
            record.pop("sealed", None)
            record.setdefault("destroyTime", self._now())
        self._store.put(VERSION, full_name, record)
        self._notify_watchers(name)
        return self._render_version(full_name, record)

    # Helpers.

    def _find_existing(self, name: str) -> Document:
        record = self._store.get(SECRET, name)
        if record is None:
            raise GoogleError("NOT_FOUND", f"Secret [{self._display_name(name)}] not found.")
        return record

    def _find_version(self, name: str, version: str) -> tuple[str, Document]:
        secret = self._store.get(SECRET, name)
        if secret is None or not secret["versions"]:
            raise GoogleError("NOT_FOUND", f"Secret [{self._display_name(name)}] not found or has no versions.")
        number = version
        if version == LATEST:
            # On Google, `latest` is the newest version that was ever added, even if it is disabled.
            number = str(secret["versions"])
        elif not version.isdecimal():
            number = str(secret.get("versionAliases", {}).get(version, version))
        full_name = f"{name}/versions/{number}"
        record = self._store.get(VERSION, full_name)
        if record is None:
            raise GoogleError("NOT_FOUND", f"Secret Version [{self._display_name(full_name)}] not found.")
        return full_name, record

    def _check_aliases(self, name: str, aliases: Document) -> None:
        for alias, number in aliases.items():
            if not _ALIAS.fullmatch(alias) or alias == LATEST:
                raise invalid(f"version_aliases: '{alias}' is no name for a version.")
            if self._store.get(VERSION, f"{name}/versions/{number}") is None:
                raise invalid(f"version_aliases: there is no version {number} for '{alias}'.")

    def _render_secret(self, name: str, record: Document) -> Document:
        fields = {key: value for key, value in record.items() if key != "versions" and value}
        return {"name": self._display_name(name), **fields, "etag": _etag(record)}

    def _render_version(self, name: str, record: Document) -> Document:
        fields: Document = {key: record[key] for key in ("createTime", "destroyTime", "state") if key in record}
        fields["replicationStatus"] = {"automatic": {}}
        if record.get("checked"):
            fields["clientSpecifiedPayloadChecksum"] = True
        return {"name": self._display_name(name), **fields, "etag": _etag({**record, "sealed": ""})}

    def _display_name(self, name: str) -> str:
        parts = name.split("/")
        parts[1] = self._project_number_of(parts[1])
        return "/".join(parts)

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock())

    def _notify_watchers(self, name: str) -> None:
        for watcher in self._watchers:
            watcher(name)


def checksum(data: bytes) -> str:
    """The CRC-32C of *data* in the format of `SecretPayload.dataCrc32c`."""
    return str(google_crc32c.value(data))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _parse_payload(payload: Document) -> bytes:
    if not payload:
        raise invalid("payload: must be set.")
    text = json_api.require_field(payload, "data", "payload").replace("-", "+").replace("_", "/")
    data = base64.b64decode(text + "=" * (-len(text) % 4))
    if len(data) > MAX_PAYLOAD_BYTES:
        raise invalid(f"The Secret Payload size exceeds the limit of {MAX_PAYLOAD_BYTES} bytes.")
    if payload.get("dataCrc32c", checksum(data)) != checksum(data):
        raise invalid(
            "The checksum of the payload's data differs from payload.dataCrc32c: the data was damaged in transit."
        )
    return data


def _etag(record: Document) -> str:
    return f'"{hashlib.sha256(repr(sorted(record.items())).encode()).hexdigest()[:14]}"'
