"""Documents of Compute Engine as Google answers them: references as URLs, an address as its IP, nothing left out.

What each kind is answered with follows the discovery document (compute v1, 2026-10); which value Google chooses for a
field that was left out, its documentation.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.services.compute.kinds import GLOBAL, REGIONAL, ResourceType
from mcpfleet_local_cloud.state.store import Document

LOOPBACK: Final = "127.0.0.1"
"""The address of every load balancer: not every system has another one of its own. Ports tell them apart."""
NEEDS: Final = "needs"
"""The field of a record, never shown, with the paths of the documents that this one needs."""


def kind_of(parent: str, collection: str) -> ResourceType:
    """What may be in *collection* below *parent*.

    Raises:
        GoogleError: NOT_FOUND: there is no such collection here.
    """
    found = (REGIONAL if "/regions/" in parent else GLOBAL).get(collection)
    if found is None:
        raise GoogleError("NOT_FOUND", f"The local cloud has no collection {parent}/{collection}.")
    return found


def kind_at(path: str) -> ResourceType:
    """The kind of the document at *path*."""
    parent, collection, _ = path.rsplit("/", 2)
    return kind_of(parent, collection)


def link(path: str) -> str:
    """The URL of a document, as Google's have it."""
    return f"https://www.googleapis.com/compute/v1/{path}"


def reference(value: str) -> str:
    """The path that a reference means, which may be written as a URL."""
    found = re.search(r"projects/.*", value)
    return found[0] if found else value


def completed(kind: ResourceType, body: Document) -> Document:
    """The record of a document whose *body* was checked: what was left out filled in, every reference a URL."""
    record: Document = {**kind.defaults, **_without_nulls(body)}
    for field in kind.refers:
        if field in record:
            record[field] = _linked(record[field])
    if kind.one == "backendService":
        record["backends"] = [_backend(one) for one in record.get("backends", [])]
    elif kind.one == "urlMap" and "pathMatchers" in record:
        record["pathMatchers"] = [_matcher(one) for one in record["pathMatchers"]]
    elif kind.one == "forwardingRule":
        record["IPAddress"] = LOOPBACK
        record["portRange"] = _range(str(record["portRange"]))
    elif kind.one == "subnetwork":
        network = ipaddress.ip_network(record["ipCidrRange"])
        record["gatewayAddress"] = str(next(network.hosts(), network.network_address))
    return record


def shown(path: str, record: Document, users: Callable[[], list[str]]) -> Document:
    """The document of a record.

    Args:
        path: of the document.
        record: see `completed`.
        users: the paths of the documents that need it.
    """
    kind = kind_at(path)
    parts = path.split("/")
    answer = {"kind": f"compute#{kind.one}", **{field: value for field, value in record.items() if field != NEEDS}}
    answer["selfLink"] = link(path)
    if parts[2] == "regions":
        answer["region"] = link("/".join(parts[:4]))
    if kind.fingerprinted:
        answer["fingerprint"] = fingerprint(record)
    if kind.labelled:
        answer["labelFingerprint"] = label_fingerprint(record)
    if kind.one == "address":
        rules = users()
        answer |= {"status": "IN_USE", "users": [link(one) for one in rules]} if rules else {"status": "RESERVED"}
    return answer


def fingerprint(record: Document) -> str:
    """What changes with the document."""
    return _hash({field: value for field, value in record.items() if field != NEEDS})


def label_fingerprint(record: Document) -> str:
    """What changes with its labels."""
    return _hash(record.get("labels") or {})


def _hash(of: Mapping[str, Any]) -> str:
    return f"{hashlib.sha256(repr(sorted(of.items())).encode()).hexdigest()[:11]}="


def _linked(value: Any) -> Any:
    if isinstance(value, list):
        return [_linked(one) for one in cast("list[Any]", value)]
    return link(reference(str(value))) if value else value


def _backend(given: Document) -> Document:
    return {"balancingMode": "UTILIZATION", "capacityScaler": 1, **given, "group": _linked(given["group"])}


def _matcher(given: Document) -> Document:
    matcher = {**given, **({"defaultService": _linked(given["defaultService"])} if "defaultService" in given else {})}
    if "pathRules" in given:
        matcher["pathRules"] = [
            {**rule, **({"service": _linked(rule["service"])} if "service" in rule else {})}
            for rule in given["pathRules"]
        ]
    return matcher


def _range(ports: str) -> str:
    return ports if "-" in ports else f"{ports}-{ports}"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        entries = cast("Document", value).items()
        return {name: _without_nulls(inside) for name, inside in entries if inside is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in cast("list[Any]", value)]
    return value
