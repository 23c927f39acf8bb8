"""Secrets and versions: what there is. Values are kept sealed (`folder.Vault`) and leave through `access` alone.

A version never changes but for its state: ENABLED, DISABLED, or DESTROYED, which forgets the value for good.
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
LIMIT: Final = 64 * 1024
"""Bytes of one value (cloud.google.com/secret-manager/quotas)."""
_CHANGEABLE: Final = frozenset({"labels", "annotations", "versionAliases", "etag"})
_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,255}")
_ALIAS: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,62}")
_STATES: Final = {"enable": "ENABLED", "disable": "DISABLED", "destroy": "DESTROYED"}


@dataclass(frozen=True, kw_only=True)
class Payload:
    """A version's value and its full name, with the version's number."""

    name: str
    data: bytes


class SecretManager:
    """Every secret of this cloud; names are full (`projects/ID/secrets/S`), with the project's id.

    Args:
        store: where records are kept.
        vault: seals the values.
        number: gives a project's number for its id: Google's names have it.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, vault: Vault, number: Callable[[str], str], clock: Callable[[], float]) -> None:
        self._store = store
        self._vault = vault
        self._number = number
        self._clock = clock
        self._watchers: list[Callable[[str], None]] = []

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call *changed* with a secret's name after each change of its versions."""
        self._watchers.append(changed)

    # Secrets.

    def create(self, project: str, secret_id: str, body: Document) -> Document:
        """Make a secret without a version.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS.
        """
        if not _ID.fullmatch(secret_id):
            raise invalid(
                "The provided Secret ID [" + secret_id + "] does not match the expected format [[a-zA-Z_0-9]+]."
            )
        if not body.get("replication"):
            raise invalid("Secret.replication must be set: {automatic: {}} or {userManaged: {replicas: [...]}}.")
        chosen: Document | None = body["replication"].get("userManaged")
        if chosen is not None and not chosen.get("replicas"):
            raise invalid("Secret.replication.userManaged.replicas must name at least one location.")
        name = f"projects/{project}/secrets/{secret_id}"
        kept = {key: body[key] for key in ("replication", "labels", "annotations") if body.get(key)}
        record: Document = {"createTime": self._now(), "versions": 0, **kept}
        if body.get("versionAliases"):
            raise invalid("version_aliases: a secret without versions has nothing to give another name to.")
        if not self._store.insert(SECRET, name, record):
            raise GoogleError("ALREADY_EXISTS", f"Secret [{self._shown(name)}] already exists.")
        return self._secret(name, record)

    def get(self, name: str) -> Document:
        """The secret."""
        return self._secret(name, self._existing(name))

    def exists(self, name: str) -> bool:
        """Whether there is a secret of that name."""
        return self._store.get(SECRET, name) is not None

    def secrets(self, project: str = "") -> list[Document]:
        """Every secret, of *project* alone where it is given; by name."""
        prefix = f"projects/{project}/secrets/" if project else ""
        return [self._secret(name, record) for name, record in self._store.list(SECRET, prefix)]

    def update(self, name: str, body: Document, mask: list[str]) -> Document:
        """Change the fields that *mask* names.

        Raises:
            GoogleError: NOT_FOUND, INVALID_ARGUMENT, ABORTED (the etag).
        """
        record = self._existing(name)
        if body.get("etag") and body["etag"] != _etag(record):
            raise GoogleError("ABORTED", f"The etag of [{self._shown(name)}] is out of date.")
        for field in mask:
            if field not in _CHANGEABLE:
                raise invalid(f"update_mask: '{field}' cannot be changed.")
            if field == "versionAliases":
                self._check_aliases(name, body.get(field) or {})
            if field != "etag":
                record[field] = body.get(field, {})
        self._store.put(SECRET, name, record)
        return self._secret(name, record)

    def delete(self, name: str, etag: str = "") -> None:
        """Forget the secret with all its versions.

        Raises:
            GoogleError: NOT_FOUND, ABORTED.
        """
        record = self._existing(name)
        if etag and etag != _etag(record):
            raise GoogleError("ABORTED", f"The etag of [{self._shown(name)}] is out of date.")
        with self._store.transaction():
            for version, _ in self._store.list(VERSION, f"{name}/versions/"):
                self._store.delete(VERSION, version)
            self._store.delete(SECRET, name)
        self._tell(name)

    # Versions.

    def add_version(self, name: str, payload: Document) -> Document:
        """Add the value of *payload* (`{data: base64, dataCrc32c}`) as the newest version.

        Raises:
            GoogleError: NOT_FOUND, INVALID_ARGUMENT.
        """
        record = self._existing(name)
        data = _data(payload)
        with self._store.transaction():
            record["versions"] += 1
            version = f"{name}/versions/{record['versions']}"
            made: Document = {"createTime": self._now(), "state": "ENABLED", "sealed": self._vault.encrypt(data)}
            if "dataCrc32c" in payload:
                made["checked"] = True
            self._store.put(VERSION, version, made)
            self._store.put(SECRET, name, record)
        self._tell(name)
        return self._version(version, made)

    def version(self, name: str, version: str) -> Document:
        """The version's document, without its value; *version* is a number, an alias, or `latest`."""
        return self._version(*self._found(name, version))

    def versions(self, name: str) -> list[Document]:
        """Every version, the newest first."""
        self._existing(name)
        found = self._store.list(VERSION, f"{name}/versions/")
        found.sort(key=lambda one: int(one[0].rpartition("/")[2]), reverse=True)
        return [self._version(version, record) for version, record in found]

    def access(self, name: str, version: str) -> Payload:
        """The value.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION where it is disabled or destroyed.
        """
        full, record = self._found(name, version)
        if record["state"] != "ENABLED":
            raise GoogleError(
                "FAILED_PRECONDITION", f"Secret Version [{self._shown(full)}] is in {record['state']} state."
            )
        return Payload(name=self._shown(full), data=self._vault.decrypt(record["sealed"]))

    def change_state(self, name: str, version: str, verb: str, etag: str = "") -> Document:
        """`enable`, `disable` or `destroy` a version.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION where it was destroyed before; ABORTED (the *etag*).
        """
        full, record = self._found(name, version)
        if etag and etag != self._version(full, record)["etag"]:
            raise GoogleError("ABORTED", f"The etag of [{self._shown(full)}] is out of date.")
        if record["state"] == "DESTROYED" and verb != "destroy":
            raise GoogleError("FAILED_PRECONDITION", f"Secret Version [{self._shown(full)}] is in DESTROYED state.")
        record["state"] = _STATES[verb]
        if verb == "destroy":
            record.pop("sealed", None)
            record.setdefault("destroyTime", self._now())
        self._store.put(VERSION, full, record)
        self._tell(name)
        return self._version(full, record)

    # Inside.

    def _existing(self, name: str) -> Document:
        record = self._store.get(SECRET, name)
        if record is None:
            raise GoogleError("NOT_FOUND", f"Secret [{self._shown(name)}] not found.")
        return record

    def _found(self, name: str, version: str) -> tuple[str, Document]:
        secret = self._store.get(SECRET, name)
        if secret is None or not secret["versions"]:
            raise GoogleError("NOT_FOUND", f"Secret [{self._shown(name)}] not found or has no versions.")
        number = version
        if version == LATEST:
            # Google's alias means the newest version there ever was, also a disabled one.
            number = str(secret["versions"])
        elif not version.isdecimal():
            number = str(secret.get("versionAliases", {}).get(version, version))
        full = f"{name}/versions/{number}"
        record = self._store.get(VERSION, full)
        if record is None:
            raise GoogleError("NOT_FOUND", f"Secret Version [{self._shown(full)}] not found.")
        return full, record

    def _check_aliases(self, name: str, aliases: Document) -> None:
        for alias, number in aliases.items():
            if not _ALIAS.fullmatch(alias) or alias == LATEST:
                raise invalid(f"version_aliases: '{alias}' is no name for a version.")
            if self._store.get(VERSION, f"{name}/versions/{number}") is None:
                raise invalid(f"version_aliases: there is no version {number} for '{alias}'.")

    def _secret(self, name: str, record: Document) -> Document:
        shown = {key: value for key, value in record.items() if key != "versions" and value}
        return {"name": self._shown(name), **shown, "etag": _etag(record)}

    def _version(self, name: str, record: Document) -> Document:
        shown: Document = {key: record[key] for key in ("createTime", "destroyTime", "state") if key in record}
        shown["replicationStatus"] = {"automatic": {}}
        if record.get("checked"):
            shown["clientSpecifiedPayloadChecksum"] = True
        return {"name": self._shown(name), **shown, "etag": _etag({**record, "sealed": ""})}

    def _shown(self, name: str) -> str:
        parts = name.split("/")
        parts[1] = self._number(parts[1])
        return "/".join(parts)

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock())

    def _tell(self, name: str) -> None:
        for watcher in self._watchers:
            watcher(name)


def checksum(data: bytes) -> str:
    """CRC-32C of *data*, as a payload has it."""
    return str(google_crc32c.value(data))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _data(payload: Document) -> bytes:
    if not payload:
        raise invalid("payload: must be set.")
    text = json_api.require_field(payload, "data", "payload").replace("-", "+").replace("_", "/")
    data = base64.b64decode(text + "=" * (-len(text) % 4))
    if len(data) > LIMIT:
        raise invalid(f"The Secret Payload size exceeds the limit of {LIMIT} bytes.")
    if payload.get("dataCrc32c", checksum(data)) != checksum(data):
        raise invalid("The checksum of the payload's data is not payload.dataCrc32c: it was damaged on its way.")
    return data


def _etag(record: Document) -> str:
    return f'"{hashlib.sha256(repr(sorted(record.items())).encode()).hexdigest()[:14]}"'
