"""Private zones and their address records; `mesh.py` resolves names for containers with them.

Public zones, forwarding, peering, and all record types except A are refused by name.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final, cast
from uuid import uuid4

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.services.compute.documents import parse_reference
from mcpfleet_local_cloud.state.store import Document, Store

ZONE: Final = "dns.zone"
RECORD: Final = "dns.record"
_NAME: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)+")
_MAX_NAME_LENGTH: Final = 254
_ZONE_FIELDS: Final = frozenset({"name", "dnsName", "description", "visibility", "privateVisibilityConfig", "labels"})


class Dns:
    """All zones, by path: `projects/P/managedZones/Z`.

    Args:
        store: stores zones and records.
        network_exists: whether a VPC network exists at a path.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, network_exists: Callable[[str], bool], clock: Callable[[], float]) -> None:
        self._store = store
        self._network_exists = network_exists
        self._clock = clock

    def create(self, parent: str, body: Document) -> Document:
        """Create a zone below *parent* (`projects/P`).

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, UNIMPLEMENTED.
        """
        path = f"{parent}/managedZones/{body.get('name', '')}"
        zone = {
            **self._validate(path, body),
            "kind": "dns#managedZone",
            "id": str(int.from_bytes(uuid4().bytes[:8], "big") >> 1),
            "creationTime": self._now(),
        }
        if not self._store.insert(ZONE, path, zone):
            raise GoogleError(
                "ALREADY_EXISTS", f"The resource 'entity.managedZone' named '{body['name']}' already exists"
            )
        return zone

    def get(self, path: str) -> Document:
        """Return the zone.

        Raises:
            GoogleError: NOT_FOUND.
        """
        zone = self._store.get(ZONE, path)
        if zone is None:
            raise _not_found_error("managedZone", path.rpartition("/")[2])
        return zone

    def zones(self, parent: str = "") -> list[Document]:
        """List the zones below *parent*, sorted by name; without *parent*, all zones."""
        return [zone for _, zone in self._store.list(ZONE, f"{parent}/managedZones/" if parent else "")]

    def change(self, path: str, body: Document, *, merge: bool) -> Document:
        """Replace the zone by *body*, or *merge* it in.

        Raises:
            GoogleError: as for `create`; NOT_FOUND.
        """
        current = self.get(path)
        desired = {**current, **body} if merge else body
        if desired.get("dnsName", current["dnsName"]) != current["dnsName"]:
            raise invalid("Invalid value for 'entity.managedZone.dnsName': it cannot be changed.")
        zone = {**self._validate(path, desired), **{field: current[field] for field in ("kind", "id", "creationTime")}}
        self._store.put(ZONE, path, zone)
        return zone

    def delete(self, path: str) -> None:
        """Delete the zone.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION while it has records.
        """
        self.get(path)
        if self.records(path):
            raise GoogleError(
                "FAILED_PRECONDITION",
                f"The resource named '{path.rpartition('/')[2]}' cannot be deleted because it contains one or more "
                "'resource records'.",
                reason="containerNotEmpty",
            )
        self._store.delete(ZONE, path)

    def records(self, path: str, name: str = "", kind: str = "") -> list[Document]:
        """List the records of the zone, or only those of that *name* and *kind* (the record type).

        Raises:
            GoogleError: NOT_FOUND: there is no such zone.
        """
        self.get(path)
        records = [record for _, record in self._store.list(RECORD, f"{path}/")]
        return [one for one in records if name in ("", one["name"]) and kind in ("", one["type"])]

    def apply(self, path: str, body: Document) -> Document:
        """Delete and add records, all or none; return the finished change.

        Raises:
            GoogleError: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, UNIMPLEMENTED.
        """
        zone = self.get(path)
        change: dict[str, list[Document]] = {}
        for part in ("deletions", "additions"):
            entries: Any = body.get(part) or []
            if not isinstance(entries, list):
                raise invalid(f"Invalid value at 'change.{part}' (RESOURCE_RECORD_SET), a list is wanted.")
            change[part] = [
                _parse_record(f"change.{part}[{index}]", record, zone)
                for index, record in enumerate(cast("list[Any]", entries))
            ]
        with self._store.transaction():
            for record in change["deletions"]:
                if self._store.get(RECORD, _key(path, record)) != record:
                    raise _not_found_error("change.deletions", f"{record['name']} ({record['type']})")
                self._store.delete(RECORD, _key(path, record))
            for record in change["additions"]:
                if not self._store.insert(RECORD, _key(path, record), record):
                    raise GoogleError(
                        "ALREADY_EXISTS",
                        f"The resource 'entity.change.additions' named '{record['name']} ({record['type']})' "
                        "already exists",
                    )
        return {"kind": "dns#change", "id": uuid4().hex, "startTime": self._now(), "status": "done", **change}

    def resolve(self, network: str, host: str) -> list[str]:
        """Resolve *host* on the VPC network at the path *network*, by the zone with the longest matching name."""
        name = f"{host.rstrip('.')}."
        zones = [
            (path, zone)
            for path, zone in self._store.list(ZONE)
            if network in _networks(zone) and f".{name}".endswith(f".{zone['dnsName']}")
        ]
        if not zones:
            return []
        path, _ = max(zones, key=lambda item: len(item[1]["dnsName"]))
        records: dict[str, list[str]] = {item["name"]: item["rrdatas"] for item in self.records(path)}
        labels = name.split(".")
        candidates = [name, *(".".join(["*", *labels[index:]]) for index in range(1, len(labels) - 1))]
        match = next((item for item in candidates if item in records), None)
        return records[match] if match is not None else []

    def _validate(self, path: str, body: Document) -> Document:
        name, dns_name = json_api.require_field(body, "name"), json_api.require_field(body, "dnsName")
        if not _NAME.fullmatch(name):
            raise invalid(f"Invalid value for 'entity.managedZone.name': '{name}'")
        if not _DNS_NAME.fullmatch(dns_name) or dns_name.startswith("*") or len(dns_name) > _MAX_NAME_LENGTH:
            raise invalid(f"Invalid value for 'entity.managedZone.dnsName': '{dns_name}'")
        if body.get("visibility") != "private":
            raise unimplemented("managedZone.visibility", "this machine serves no names to the outside; use private.")
        networks = _networks(body)
        for index, network in enumerate(networks):
            if not self._network_exists(network):
                field_path = f"entity.managedZone.privateVisibilityConfig.networks[{index}].networkUrl"
                raise invalid(f"Invalid value for '{field_path}': the network '{network}' was not found.")
        for other, zone in self._store.list(ZONE):
            shared = set(networks) & set(_networks(zone))
            if other != path and zone["dnsName"] == dns_name and shared:
                raise invalid(
                    f"The zone '{zone['name']}' for '{dns_name}' is already visible in the network '{min(shared)}'; "
                    "use another network or another DNS name."
                )
        return {field: value for field, value in body.items() if field in _ZONE_FIELDS and value}

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock(), "milliseconds")


def _networks(zone: Document) -> list[str]:
    config: Document = zone.get("privateVisibilityConfig") or {}
    networks: list[Document] = config.get("networks") or []
    return [parse_reference(network.get("networkUrl", "")) for network in networks]


def _parse_record(path: str, body: Document, zone: Document) -> Document:
    name, record_type = json_api.require_field(body, "name", path), json_api.require_field(body, "type", path)
    if not _DNS_NAME.fullmatch(name) or not f".{name}".endswith(f".{zone['dnsName']}"):
        raise invalid(f"Invalid value for 'entity.{path}.name': '{name}'")
    if record_type != "A":
        raise unimplemented(f"{path}.type = {record_type}", "only A records are supported here.")
    values: list[str] = body.get("rrdatas") or []
    for value in values:
        try:
            ipaddress.IPv4Address(value)
        except ValueError:
            raise invalid(f"Invalid value for 'entity.{path}.rrdata[0]': '{value}'") from None
    if not values:
        raise invalid(f"The 'entity.{path}.rrdata' must be specified.")
    ttl: int = body.get("ttl") or 0
    if ttl < 0:
        raise invalid(f"Invalid value for 'entity.{path}.ttl': '{ttl}'")
    return {"kind": "dns#resourceRecordSet", "name": name, "type": record_type, "ttl": ttl, "rrdatas": values}


def _key(zone: str, record: Document) -> str:
    return f"{zone}/rrsets/{record['name']}/{record['type']}"


def _not_found_error(kind: str, name: str) -> GoogleError:
    return GoogleError("NOT_FOUND", f"The 'parameters.{kind}' resource named '{name}' does not exist.")
