"""Certificates, the proofs of their domains, and certificate maps: which certificate a load balancer shows for a name.

A certificate is managed here and is issued at once, by the cloud's own authority, whether its domain's DNS proves
anything or not. Everything is in `locations/global`.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, already_exists, invalid, not_found, unimplemented
from mcpfleet_local_cloud.services.certificatemanager.kinds import (
    AUTHORIZATIONS,
    CERTIFICATES,
    ENTRIES,
    MAPS,
    PRIMARY,
    ResourceType,
    kind_at,
)
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "certificatemanager"
_ID: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,62}")
_DOMAIN: Final = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_MOST_DOMAINS: Final = 100
_MOST_CERTIFICATES: Final = 4
"""Of one map entry (the reference of `CertificateMapEntry.certificates`)."""
_LIFE: Final = 90 * 24 * 3600
"""Seconds that a managed certificate is valid for."""


class CertificateManager:
    """Every document, by its path `projects/P/locations/global/certificates/C`.

    Args:
        store: where they are kept.
        targets: what of Compute Engine shows the map at a path, as `CertificateMap.gclbTargets` has it.
        proxies: the target proxies that use the map at a path, with a forwarding rule or without.
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
        """Make the document at *path*.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, NOT_FOUND (what it refers to), UNIMPLEMENTED.
        """
        name = path.rpartition("/")[2]
        if not _ID.fullmatch(name):
            raise invalid(
                f"Resource ID '{name}' must be 1 to 63 letters, digits, hyphens and underscores, the first a letter."
            )
        kind = kind_at(path)
        if kind is ENTRIES:
            self.get(_map_of(path))
        now = json_api.format_timestamp(self._clock())
        made = {**self._checked(kind, path, body), "name": path, "createTime": now, "updateTime": now}
        if kind is CERTIFICATES:
            made["expireTime"] = json_api.format_timestamp(self._clock() + _LIFE)
        if not self._store.insert(KIND, path, made):
            raise already_exists(path)
        return self.get(path)

    def get(self, path: str) -> Document:
        """The document at *path*.

        Raises:
            GoogleError: NOT_FOUND.
        """
        found = self._store.get(KIND, path)
        if found is None:
            raise not_found(path)
        targets = self._targets(path) if kind_at(path) is MAPS else []
        return {**found, "gclbTargets": targets} if targets else found

    def all(self, parent: str, collection: str) -> list[Document]:
        """The documents of that collection below *parent*."""
        prefix = f"{parent}/{collection}/"
        return [self.get(path) for path, _ in self._store.list(KIND, prefix) if "/" not in path[len(prefix) :]]

    def change(self, path: str, body: Document, mask: list[str]) -> Document:
        """Change the fields of *mask* to those of *body*.

        Raises:
            GoogleError: as `create`; NOT_FOUND; INVALID_ARGUMENT where a field of *mask* cannot be changed.
        """
        found, kind = self.get(path), kind_at(path)
        for field in mask:
            if field not in kind.mutable and body.get(field) != found.get(field):
                raise invalid(f"update_mask: '{field}' cannot be changed.")
        changed = {**found, **{field: body.get(field) for field in mask if field in kind.mutable}}
        if kind is ENTRIES:
            self._check_entry(path, changed)
        changed = {field: value for field, value in changed.items() if value and field != "gclbTargets"}
        self._store.put(KIND, path, {**changed, "updateTime": json_api.format_timestamp(self._clock())})
        return self.get(path)

    def delete(self, path: str) -> None:
        """Forget the document.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION while another one needs it.
        """
        self.get(path)
        user = next(self._users(path), None)
        if user is not None:
            raise GoogleError("FAILED_PRECONDITION", f"can't delete {path}: it is in use by {user}.")
        self._store.delete(KIND, path)

    def covers(self, map_path: str, host: str) -> bool:
        """Whether the map at that path has a certificate for *host*.

        The entry of that host name counts, else that of its wildcard, else the primary one; as on Google, whether a
        certificate of it is for the host is the user's affair, and no client takes one that is not.
        """
        entries = {one.get("hostname", PRIMARY): one for one in self.all(map_path, ENTRIES.collection)}
        found = entries.get(host) or entries.get(f"*.{host.partition('.')[2]}") or entries.get(PRIMARY)
        return found is not None and any(_matches(host, domain) for domain in self._domains(found))

    def names(self, map_path: str) -> set[str]:
        """The names that the map at that path has certificates for; a wildcard as it is."""
        entries = self.all(map_path, ENTRIES.collection)
        return {
            name
            for one in entries
            for name in ([one["hostname"]] if "hostname" in one else self._domains(one))
            if any(name == domain or _matches(name, domain) for domain in self._domains(one))
        }

    def _domains(self, entry: Document) -> list[str]:
        return [domain for one in entry["certificates"] for domain in self.get(one)["managed"]["domains"]]

    def _users(self, path: str) -> Iterator[str]:
        for other, record in self._store.list(KIND):
            named = [*record.get("certificates", []), *record.get("managed", {}).get("dnsAuthorizations", [])]
            if path in named or other.startswith(f"{path}/"):
                yield other
        if kind_at(path) is MAPS:
            yield from self._proxies(path)

    def _checked(self, kind: ResourceType, path: str, body: Document) -> Document:
        given = {field: value for field, value in body.items() if value}
        if kind is ENTRIES:
            self._check_entry(path, given)
            given["state"] = "ACTIVE"
        elif kind is CERTIFICATES:
            given |= self._certificate(given)
        elif kind is AUTHORIZATIONS:
            given |= _authorization(path, given)
        return given

    def _check_entry(self, path: str, given: Document) -> None:
        host: str = given.get("hostname") or ""
        certificates: list[str] = given.get("certificates") or []
        if bool(host) == bool(given.get("matcher")):
            raise invalid("certificate_map_entry: exactly one of hostname and matcher must be set.")
        if host and not _DOMAIN.fullmatch(host.removeprefix("*.")):
            raise invalid(f"certificate_map_entry.hostname: '{host}' is no host name.")
        if not 1 <= len(certificates) <= _MOST_CERTIFICATES:
            raise invalid(f"certificate_map_entry.certificates: 1 to {_MOST_CERTIFICATES} are required.")
        for one in certificates:
            self._needed(one, CERTIFICATES)
        for other in self.all(_map_of(path), ENTRIES.collection):
            if other["name"] != path and other.get("hostname", PRIMARY) == (host or PRIMARY):
                raise invalid(f"certificate_map_entry: '{host or PRIMARY}' is in {other['name']} already.")

    def _certificate(self, given: Document) -> Document:
        managed: Document = given.get("managed") or {}
        if "managed" not in given:
            raise invalid("certificate: one of managed and self_managed must be set.")
        if given.get("scope", "DEFAULT") != "DEFAULT":
            raise unimplemented(f"certificate.scope = {given['scope']}", "load balancers here serve the default one.")
        domains: list[str] = managed.get("domains") or []
        if not 1 <= len(domains) <= _MOST_DOMAINS:
            raise invalid(f"certificate.managed.domains: 1 to {_MOST_DOMAINS} are required.")
        authorizations: list[str] = managed.get("dnsAuthorizations") or []
        proved = [self._needed(one, AUTHORIZATIONS)["domain"] for one in authorizations]
        for domain in domains:
            bare = domain.removeprefix("*.")
            if not _DOMAIN.fullmatch(bare):
                raise invalid(f"certificate.managed.domains: '{domain}' is no domain.")
            if bare not in proved and (proved or bare != domain):
                raise invalid(f"certificate.managed.domains: '{domain}' has no DNS authorization.")
        attempts = [{"domain": domain, "state": "AUTHORIZED"} for domain in domains]
        return {
            "scope": "DEFAULT",
            "sanDnsnames": domains,
            "managed": {**managed, "state": "ACTIVE", "authorizationAttemptInfo": attempts},
        }

    def _needed(self, path: str, kind: ResourceType) -> Document:
        parts = path.split("/")
        if len(parts) != 6 or parts[4] != kind.collection:
            raise invalid(f"'{path}' is not of the form projects/*/locations/*/{kind.collection}/*.")
        return self.get(path)


def _authorization(path: str, given: Document) -> Document:
    domain: str = given.get("domain", "")
    if not _DOMAIN.fullmatch(domain):
        raise invalid(f"dns_authorization.domain: '{domain}' is no domain; a wildcard is that of its domain.")
    kind: str = given.get("type", "FIXED_RECORD")
    # A record for each project has the project in its name (Certificate Manager, "Domain authorization").
    own = f"_{uuid5(NAMESPACE_URL, path.split('/')[1]).hex[:16]}" if kind == "PER_PROJECT_RECORD" else ""
    record = {
        "name": f"_acme-challenge{own}.{domain}.",
        "type": "CNAME",
        "data": f"{uuid5(NAMESPACE_URL, path)}.1.authorize.certificatemanager.goog.",
    }
    return {"type": kind, "dnsResourceRecord": record}


def _map_of(entry: str) -> str:
    return entry.rsplit("/", 2)[0]


def _matches(host: str, domain: str) -> bool:
    """Whether a certificate for *domain* is one for *host* (RFC 6125, 6.4.3: a wildcard is one label)."""
    return host == domain or (domain.startswith("*.") and host.partition(".")[2] == domain[2:])
