"""Documents of Compute Engine as Google returns them: complete, with URLs as references and IP addresses.

The fields of each type are those of the discovery document (compute v1, 2026-10). The default values are those of
Google's documentation.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.services.compute.resource_types import GLOBAL, REGIONAL, ResourceType
from mcpfleet_local_cloud.state.store import Document

LOOPBACK: Final = "127.0.0.1"
"""The address of every load balancer, because not every system has further loopback addresses. Their ports differ."""
DEPENDENCIES: Final = "needs"
"""The internal field of a record with the paths of the documents that it depends on."""


def resource_type_of(parent: str, collection: str) -> ResourceType:
    """The resource type of *collection* below *parent*.

    Raises:
        GoogleError: NOT_FOUND: there is no such collection.
    """
    resource_type = (REGIONAL if "/regions/" in parent else GLOBAL).get(collection)
    if resource_type is None:
        raise GoogleError("NOT_FOUND", f"The local cloud has no collection {parent}/{collection}.")
    return resource_type


def resource_type_at(path: str) -> ResourceType:
    """The resource type of the document at *path*."""
    parent, collection, _ = path.rsplit("/", 2)
    return resource_type_of(parent, collection)


def url_of(path: str) -> str:
    """The URL of the document at *path*, as on Google."""
    return f"https://www.googleapis.com/compute/v1/{path}"


def parse_reference(value: str) -> str:
    """Parse a reference, which may be a URL or a path; return the path."""
    match = re.search(r"projects/.*", value)
    return match[0] if match else value


def build_record(resource_type: ResourceType, body: Document) -> Document:
    """Build the record for a valid *body*: sets the defaults and turns every reference into a URL."""
    record: Document = {**resource_type.defaults, **_without_nulls(body)}
    for field in resource_type.references:
        if field in record:
            record[field] = _to_urls(record[field])
    if resource_type.singular == "backendService":
        record["backends"] = [_complete_backend(item) for item in record.get("backends", [])]
    elif resource_type.singular == "urlMap" and "pathMatchers" in record:
        record["pathMatchers"] = [_complete_matcher(item) for item in record["pathMatchers"]]
    elif resource_type.singular == "forwardingRule":
        record["IPAddress"] = LOOPBACK
        record["portRange"] = _port_range(str(record["portRange"]))
    elif resource_type.singular == "subnetwork":
        network = ipaddress.ip_network(record["ipCidrRange"])
        record["gatewayAddress"] = str(next(network.hosts(), network.network_address))
    return record


def render_document(path: str, record: Document, users: Callable[[], list[str]]) -> Document:
    """Render the document of a record.

    Args:
        path: the path of the document.
        record: see `build_record`.
        users: returns the paths of the documents that depend on it.
    """
    resource_type = resource_type_at(path)
    parts = path.split("/")
    document = {
        "kind": f"compute#{resource_type.singular}",
        **{field: value for field, value in record.items() if field != DEPENDENCIES},
    }
    document["selfLink"] = url_of(path)
    if parts[2] == "regions":
        document["region"] = url_of("/".join(parts[:4]))
    if resource_type.has_fingerprint:
        document["fingerprint"] = fingerprint(record)
    if resource_type.has_labels:
        document["labelFingerprint"] = label_fingerprint(record)
    if resource_type.singular == "address":
        rules = users()
        document |= {"status": "IN_USE", "users": [url_of(rule) for rule in rules]} if rules else {"status": "RESERVED"}
    return document


def fingerprint(record: Document) -> str:
    """The fingerprint of a document, which changes with its content."""
    return _hash({field: value for field, value in record.items() if field != DEPENDENCIES})


def label_fingerprint(record: Document) -> str:
    """The fingerprint of a document's labels."""
    return _hash(record.get("labels") or {})


def _hash(fields: Mapping[str, Any]) -> str:
    return f"{hashlib.sha256(repr(sorted(fields.items())).encode()).hexdigest()[:11]}="


def _to_urls(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_urls(item) for item in cast("list[Any]", value)]
    return url_of(parse_reference(str(value))) if value else value


def _complete_backend(backend: Document) -> Document:
    return {"balancingMode": "UTILIZATION", "capacityScaler": 1, **backend, "group": _to_urls(backend["group"])}


def _complete_matcher(matcher: Document) -> Document:
    completed = {
        **matcher,
        **({"defaultService": _to_urls(matcher["defaultService"])} if "defaultService" in matcher else {}),
    }
    if "pathRules" in matcher:
        completed["pathRules"] = [
            {**rule, **({"service": _to_urls(rule["service"])} if "service" in rule else {})}
            for rule in matcher["pathRules"]
        ]
    return completed


def _port_range(ports: str) -> str:
    return ports if "-" in ports else f"{ports}-{ports}"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        entries = cast("Document", value).items()
        return {name: _without_nulls(nested) for name, nested in entries if nested is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in cast("list[Any]", value)]
    return value
