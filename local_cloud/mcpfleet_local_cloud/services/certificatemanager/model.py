"""Certificates, DNS authorizations, and certificate maps, which select a load balancer's certificate by host name.

Only managed certificates exist here. The cloud's own authority issues them at once, without a check of the domain's
DNS. Everything is in `locations/global`.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, already_exists, invalid, not_found, unimplemented
from mcpfleet_local_cloud.services.certificatemanager.resource_types import (
    AUTHORIZATIONS,
    CERTIFICATES,
    ENTRIES,
    MAPS,
    PRIMARY_MATCHER,
    ResourceType,
    resource_type_at,
)
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "certificatemanager"
_ID: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,62}")
_DOMAIN: Final = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_MAX_DOMAINS: Final = 100
_MAX_CERTIFICATES: Final = 4
"""The limit for one map entry (the reference of `CertificateMapEntry.certificates`)."""
_VALIDITY_SECONDS: Final = 90 * 24 * 3600
"""The validity of a managed certificate, in seconds."""


class CertificateManager:
    """All documents, by path: `projects/P/locations/global/certificates/C`.

    Args:
        store: stores the documents.
        targets: returns `CertificateMap.gclbTargets` of the map at a path.
        proxies: returns the target proxies that use the map at a path, with or without a forwarding rule.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        targets: Callable[[str], list[Document]],
        proxies: Callable[[str], list[str]],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._targets = targets
        self._proxies = proxies
        self._clock = clock

    def create(self, path: str, body: Document) -> Document:
        """Create the document at *path*.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, NOT_FOUND (a referenced document), UNIMPLEMENTED.
        """
        name = path.rpartition("/")[2]
        if not _ID.fullmatch(name):
            raise invalid(
                f"Resource ID '{name}' must be 1 to 63 letters, digits, hyphens and underscores, the first a letter."
            )
        resource_type = resource_type_at(path)
        if resource_type is ENTRIES:
            self.get(_map_path(path))
        now = json_api.format_timestamp(self._clock())
        document = {**self._validate(resource_type, path, body), "name": path, "createTime": now, "updateTime": now}
        if resource_type is CERTIFICATES:
            document["expireTime"] = json_api.format_timestamp(self._clock() + _VALIDITY_SECONDS)
        if not self._store.insert(KIND, path, document):
            raise already_exists(path)
        return self.get(path)

    def get(self, path: str) -> Document:
        """Return the document at *path*.

        Raises:
            GoogleError: NOT_FOUND.
        """
        document = self._store.get(KIND, path)
        if document is None:
            raise not_found(path)
        targets = self._targets(path) if resource_type_at(path) is MAPS else []
        return {**document, "gclbTargets": targets} if targets else document

    def list_documents(self, parent: str, collection: str) -> list[Document]:
        """List the documents of *collection* below *parent*."""
        prefix = f"{parent}/{collection}/"
        return [self.get(path) for path, _ in self._store.list(KIND, prefix) if "/" not in path[len(prefix) :]]

    def change(self, path: str, body: Document, mask: list[str]) -> Document:
        """Update the fields of *mask* from *body*.

        Raises:
            GoogleError: as for `create`; NOT_FOUND; INVALID_ARGUMENT if a field of *mask* cannot be changed.
        """
        current, resource_type = self.get(path), resource_type_at(path)
        for field in mask:
            if field not in resource_type.mutable and body.get(field) != current.get(field):
                raise invalid(f"update_mask: '{field}' cannot be changed.")
        changed = {**current, **{field: body.get(field) for field in mask if field in resource_type.mutable}}
        if resource_type is ENTRIES:
            self._check_entry(path, changed)
        changed = {field: value for field, value in changed.items() if value and field != "gclbTargets"}
        self._store.put(KIND, path, {**changed, "updateTime": json_api.format_timestamp(self._clock())})
        return self.get(path)

    def delete(self, path: str) -> None:
        """Delete the document.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION while another document uses it.
        """
        self.get(path)
        user = next(self._users(path), None)
        if user is not None:
            raise GoogleError("FAILED_PRECONDITION", f"can't delete {path}: it is in use by {user}.")
        self._store.delete(KIND, path)

    def covers(self, map_path: str, host: str) -> bool:
        """Whether the map at *map_path* has a certificate for *host*.

        The entry is that of the host name, else that of its wildcard, else the primary one. As on Google, an entry may
        have certificates for other hosts, which clients then refuse.
        """
        entries = {
            entry.get("hostname", PRIMARY_MATCHER): entry for entry in self.list_documents(map_path, ENTRIES.collection)
        }
        matching = entries.get(host) or entries.get(f"*.{host.partition('.')[2]}") or entries.get(PRIMARY_MATCHER)
        return matching is not None and any(_matches(host, domain) for domain in self._domains(matching))

    def names(self, map_path: str) -> set[str]:
        """The host names and wildcards for which the map at *map_path* has certificates."""
        entries = self.list_documents(map_path, ENTRIES.collection)
        return {
            name
            for entry in entries
            for name in ([entry["hostname"]] if "hostname" in entry else self._domains(entry))
            if any(name == domain or _matches(name, domain) for domain in self._domains(entry))
        }

    def _domains(self, entry: Document) -> list[str]:
        return [
            domain for certificate in entry["certificates"] for domain in self.get(certificate)["managed"]["domains"]
        ]

    def _users(self, path: str) -> Iterator[str]:
        for other, record in self._store.list(KIND):
            referenced = [*record.get("certificates", []), *record.get("managed", {}).get("dnsAuthorizations", [])]
            if path in referenced or other.startswith(f"{path}/"):
                yield other
        if resource_type_at(path) is MAPS:
            yield from self._proxies(path)

    def _validate(self, resource_type: ResourceType, path: str, body: Document) -> Document:
        fields = {field: value for field, value in body.items() if value}
        if resource_type is ENTRIES:
            self._check_entry(path, fields)
            fields["state"] = "ACTIVE"
        elif resource_type is CERTIFICATES:
            fields |= self._issue(fields)
        elif resource_type is AUTHORIZATIONS:
            fields |= _dns_challenge(path, fields)
        return fields

    def _check_entry(self, path: str, entry: Document) -> None:
        host: str = entry.get("hostname") or ""
        certificates: list[str] = entry.get("certificates") or []
        if bool(host) == bool(entry.get("matcher")):
            raise invalid("certificate_map_entry: exactly one of hostname and matcher must be set.")
        if host and not _DOMAIN.fullmatch(host.removeprefix("*.")):
            raise invalid(f"certificate_map_entry.hostname: '{host}' is no host name.")
        if not 1 <= len(certificates) <= _MAX_CERTIFICATES:
            raise invalid(f"certificate_map_entry.certificates: 1 to {_MAX_CERTIFICATES} are required.")
        for certificate in certificates:
            self._find_reference(certificate, CERTIFICATES)
        for other in self.list_documents(_map_path(path), ENTRIES.collection):
            if other["name"] != path and other.get("hostname", PRIMARY_MATCHER) == (host or PRIMARY_MATCHER):
                raise invalid(f"certificate_map_entry: '{host or PRIMARY_MATCHER}' is in {other['name']} already.")

    def _issue(self, fields: Document) -> Document:
        managed: Document = fields.get("managed") or {}
        if "managed" not in fields:
            raise invalid("certificate: one of managed and self_managed must be set.")
        if fields.get("scope", "DEFAULT") != "DEFAULT":
            raise unimplemented(f"certificate.scope = {fields['scope']}", "load balancers here serve the default one.")
        domains: list[str] = managed.get("domains") or []
        if not 1 <= len(domains) <= _MAX_DOMAINS:
            raise invalid(f"certificate.managed.domains: 1 to {_MAX_DOMAINS} are required.")
        authorizations: list[str] = managed.get("dnsAuthorizations") or []
        authorized_domains = [
            self._find_reference(authorization, AUTHORIZATIONS)["domain"] for authorization in authorizations
        ]
        for domain in domains:
            base_domain = domain.removeprefix("*.")
            if not _DOMAIN.fullmatch(base_domain):
                raise invalid(f"certificate.managed.domains: '{domain}' is no domain.")
            if base_domain not in authorized_domains and (authorized_domains or base_domain != domain):
                raise invalid(f"certificate.managed.domains: '{domain}' has no DNS authorization.")
        attempts = [{"domain": domain, "state": "AUTHORIZED"} for domain in domains]
        return {
            "scope": "DEFAULT",
            "sanDnsnames": domains,
            "managed": {**managed, "state": "ACTIVE", "authorizationAttemptInfo": attempts},
        }

    def _find_reference(self, path: str, resource_type: ResourceType) -> Document:
        parts = path.split("/")
        if len(parts) != 6 or parts[4] != resource_type.collection:
            raise invalid(f"'{path}' is not of the form projects/*/locations/*/{resource_type.collection}/*.")
        return self.get(path)


def _dns_challenge(path: str, fields: Document) -> Document:
    domain: str = fields.get("domain", "")
    if not _DOMAIN.fullmatch(domain):
        raise invalid(f"dns_authorization.domain: '{domain}' is no domain; a wildcard is that of its domain.")
    record_type: str = fields.get("type", "FIXED_RECORD")
    # A record per project has the project in its name (Certificate Manager, "Domain authorization").
    project_suffix = (
        f"_{uuid5(NAMESPACE_URL, path.split('/')[1]).hex[:16]}" if record_type == "PER_PROJECT_RECORD" else ""
    )
    record = {
        "name": f"_acme-challenge{project_suffix}.{domain}.",
        "type": "CNAME",
        "data": f"{uuid5(NAMESPACE_URL, path)}.1.authorize.certificatemanager.goog.",
    }
    return {"type": record_type, "dnsResourceRecord": record}


def _map_path(entry: str) -> str:
    return entry.rsplit("/", 2)[0]


def _matches(host: str, domain: str) -> bool:
    """Whether a certificate for *domain* is valid for *host* (RFC 6125, 6.4.3: a wildcard matches one label)."""
    return host == domain or (domain.startswith("*.") and host.partition(".")[2] == domain[2:])
