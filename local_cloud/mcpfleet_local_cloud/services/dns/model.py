"""Private zones and their address records. `mesh.py` answers containers from them.

Public zones, forwarding, peering and every type of record but A are refused by name.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final, cast
from uuid import uuid4

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.services.compute.answers import reference
from mcpfleet_local_cloud.state.store import Document, Store

ZONE: Final = "dns.zone"
RECORD: Final = "dns.record"
_NAME: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)+")
_LONGEST: Final = 254
_ZONE_FIELDS: Final = frozenset({"name", "dnsName", "description", "visibility", "privateVisibilityConfig", "labels"})


class Dns:
    """Every zone, by its path `projects/P/managedZones/Z`.

    Args:
        store: where they are kept.
        exists: whether there is a VPC network of that path.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, exists: Callable[[str], bool], clock: Callable[[], float]) -> None:
        self._store = store
        self._exists = exists
        self._clock = clock

    def create(self, parent: str, body: Document) -> Document:
        """Make a zone below *parent* (`projects/P`).

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, UNIMPLEMENTED.
        """
        path = f"{parent}/managedZones/{body.get('name', '')}"
        zone = {
            **self._checked(path, body),
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
        """The zone.

        Raises:
            GoogleError: NOT_FOUND.
        """
        found = self._store.get(ZONE, path)
        if found is None:
            raise _missing("managedZone", path.rpartition("/")[2])
        return found

    def zones(self, parent: str = "") -> list[Document]:
        """The zones below *parent*, by name; every one without it."""
        return [zone for _, zone in self._store.list(ZONE, f"{parent}/managedZones/" if parent else "")]

    def change(self, path: str, body: Document, *, merge: bool) -> Document:
        """Replace the zone by *body*, or *merge* it in.

        Raises:
            GoogleError: as `create`; NOT_FOUND.
        """
        found = self.get(path)
        wanted = {**found, **body} if merge else body
        if wanted.get("dnsName", found["dnsName"]) != found["dnsName"]:
            raise invalid("Invalid value for 'entity.managedZone.dnsName': it cannot be changed.")
        zone = {**self._checked(path, wanted), **{field: found[field] for field in ("kind", "id", "creationTime")}}
        self._store.put(ZONE, path, zone)
        return zone

    def delete(self, path: str) -> None:
        """Forget the zone.

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
        """The records of the zone, or those of that name and type.

        Raises:
            GoogleError: NOT_FOUND: there is no such zone.
        """
        self.get(path)
        found = [record for _, record in self._store.list(RECORD, f"{path}/")]
        return [one for one in found if name in ("", one["name"]) and kind in ("", one["type"])]

    def apply(self, path: str, body: Document) -> Document:
        """Take away and add records, all or none: the finished change.

        Raises:
            GoogleError: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, UNIMPLEMENTED.
        """
        zone = self.get(path)
        change: dict[str, list[Document]] = {}
        for part in ("deletions", "additions"):
            given: Any = body.get(part) or []
            if not isinstance(given, list):
                raise invalid(f"Invalid value at 'change.{part}' (RESOURCE_RECORD_SET), a list is wanted.")
            change[part] = [
                _record(f"change.{part}[{index}]", one, zone) for index, one in enumerate(cast("list[Any]", given))
            ]
        with self._store.transaction():
            for one in change["deletions"]:
                if self._store.get(RECORD, _key(path, one)) != one:
                    raise _missing("change.deletions", f"{one['name']} ({one['type']})")
                self._store.delete(RECORD, _key(path, one))
            for one in change["additions"]:
                if not self._store.insert(RECORD, _key(path, one), one):
                    raise GoogleError(
                        "ALREADY_EXISTS",
                        f"The resource 'entity.change.additions' named '{one['name']} ({one['type']})' already exists",
                    )
        return {"kind": "dns#change", "id": uuid4().hex, "startTime": self._now(), "status": "done", **change}

    def addresses(self, network: str, host: str) -> list[str]:
        """What *host* means on the VPC network with path *network*: by the zone that says most of the name."""
        name = f"{host.rstrip('.')}."
        seeing = [
            (path, zone)
            for path, zone in self._store.list(ZONE)
            if network in _networks(zone) and f".{name}".endswith(f".{zone['dnsName']}")
        ]
        if not seeing:
            return []
        path, _ = max(seeing, key=lambda one: len(one[1]["dnsName"]))
        records: dict[str, list[str]] = {one["name"]: one["rrdatas"] for one in self.records(path)}
        labels = name.split(".")
        asked = [name, *(".".join(["*", *labels[at:]]) for at in range(1, len(labels) - 1))]
        found = next((one for one in asked if one in records), None)
        return records[found] if found is not None else []

    def _checked(self, path: str, body: Document) -> Document:
        name, dns_name = json_api.require_field(body, "name"), json_api.require_field(body, "dnsName")
        if not _NAME.fullmatch(name):
            raise invalid(f"Invalid value for 'entity.managedZone.name': '{name}'")
        if not _DNS_NAME.fullmatch(dns_name) or dns_name.startswith("*") or len(dns_name) > _LONGEST:
            raise invalid(f"Invalid value for 'entity.managedZone.dnsName': '{dns_name}'")
        if body.get("visibility") != "private":
            raise unimplemented("managedZone.visibility", "nobody outside asks this machine for names; use private.")
        networks = _networks(body)
        for index, network in enumerate(networks):
            if not self._exists(network):
                where = f"entity.managedZone.privateVisibilityConfig.networks[{index}].networkUrl"
                raise invalid(f"Invalid value for '{where}': the network '{network}' was not found.")
        for other, zone in self._store.list(ZONE):
            shared = set(networks) & set(_networks(zone))
            if other != path and zone["dnsName"] == dns_name and shared:
                raise invalid(
                    f"The zone '{zone['name']}' for '{dns_name}' is visible in the network '{min(shared)}' already; "
                    "there one zone has a name."
                )
        return {field: value for field, value in body.items() if field in _ZONE_FIELDS and value}

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock(), "milliseconds")


def _networks(zone: Document) -> list[str]:
    config: Document = zone.get("privateVisibilityConfig") or {}
    given: list[Document] = config.get("networks") or []
    return [reference(one.get("networkUrl", "")) for one in given]


def _record(at: str, body: Document, zone: Document) -> Document:
    name, kind = json_api.require_field(body, "name", at), json_api.require_field(body, "type", at)
    if not _DNS_NAME.fullmatch(name) or not f".{name}".endswith(f".{zone['dnsName']}"):
        raise invalid(f"Invalid value for 'entity.{at}.name': '{name}'")
    if kind != "A":
        raise unimplemented(f"{at}.type = {kind}", "only A records are answered here.")
    values: list[str] = body.get("rrdatas") or []
    for value in values:
        try:
            ipaddress.IPv4Address(value)
        except ValueError:
            raise invalid(f"Invalid value for 'entity.{at}.rrdata[0]': '{value}'") from None
    if not values:
        raise invalid(f"The 'entity.{at}.rrdata' must be specified.")
    ttl: int = body.get("ttl") or 0
    if ttl < 0:
        raise invalid(f"Invalid value for 'entity.{at}.ttl': '{ttl}'")
    return {"kind": "dns#resourceRecordSet", "name": name, "type": kind, "ttl": ttl, "rrdatas": values}


def _key(zone: str, record: Document) -> str:
    return f"{zone}/rrsets/{record['name']}/{record['type']}"


def _missing(what: str, name: str) -> GoogleError:
    return GoogleError("NOT_FOUND", f"The 'parameters.{what}' resource named '{name}' does not exist.")
