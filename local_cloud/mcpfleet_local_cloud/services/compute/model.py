"""Documents of Compute Engine: made, changed, and kept from being deleted while another one needs them.

What they do is elsewhere: `balancer.py` serves forwarding rules, Cloud Run looks up networks. Every change is finished
when it is answered.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import uuid4

from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.services.compute.answers import (
    LOOPBACK,
    NEEDS,
    completed,
    fingerprint,
    kind_at,
    kind_of,
    label_fingerprint,
    link,
    reference,
    shown,
)
from mcpfleet_local_cloud.services.compute.kinds import TIMEOUT, ResourceType
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "compute"
CERTIFICATE_MANAGER: Final = "//certificatemanager.googleapis.com/"
"""What stands before a certificate map's name where a target proxy names it."""
DEFAULT: Final = "default"
"""The network, and its subnetwork in each region, that every project begins with."""
_NAME: Final = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_FIRST_PORT: Final = 19500
_PORTS: Final = 500
_OPERATIONS: Final = 1000
"""How many operations are kept; each is done when it is answered, so a client reads one once at most."""
_DERIVED: Final = (NEEDS, "fingerprint", "labelFingerprint")
"""What follows from the rest of a document."""
_GIVEN: Final = ("id", "creationTimestamp", "address")
"""What a document got when it was made, and keeps."""


class Compute:
    """Every such document, by its path `projects/P/global/urlMaps/U` or `projects/P/regions/R/subnetworks/S`.

    Args:
        store: where they are kept.
        cloud_id: from which ports follow, so that two clouds on a machine rarely want the same.
        enabled: whether a project has the API.
        certificate_map: whether there is a certificate map at a path of Certificate Manager.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        cloud_id: str,
        enabled: Callable[[str], bool],
        certificate_map: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._cloud_id = cloud_id
        self._enabled = enabled
        self._certificate_map = certificate_map
        self._clock = clock
        self._watchers: list[Callable[[], None]] = []
        self._users: list[Callable[[str], str | None]] = []
        self._operations: dict[str, Document] = {}

    def watch(self, changed: Callable[[], None]) -> None:
        """Call *changed* after each change."""
        self._watchers.append(changed)

    def used(self, user_of: Callable[[str], str | None]) -> None:
        """Ask *user_of*, before a document is deleted, what of another API needs the document with that path."""
        self._users.append(user_of)

    def create(self, parent: str, collection: str, body: Document) -> Document:
        """Make a document below *parent* (`projects/P/global`); the finished operation.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, NOT_FOUND (what it refers to), UNIMPLEMENTED.
        """
        kind = kind_of(parent, collection)
        name: str = body.get("name", "")
        if not _NAME.fullmatch(name):
            raise invalid(
                f"Invalid value for field 'resource.name': '{name}'. Must be a match of regex '{_NAME.pattern}'"
            )
        path = f"{parent}/{collection}/{name}"
        record = self._checked(path, collection, kind, body, {})
        if self.find(path) is not None:
            raise GoogleError("ALREADY_EXISTS", f"The resource '{path}' already exists")
        record |= {
            "id": _number(),
            "creationTimestamp": self._now(),
        }
        if collection == "addresses":
            record["address"] = LOOPBACK
        if collection == "sslCertificates":
            record["managed"] = _managed(record["managed"])
        self._put(path, record)
        return self._operation(path, "insert")

    def get(self, path: str) -> Document:
        """The document.

        Raises:
            GoogleError: NOT_FOUND.
        """
        found = self.find(path)
        if found is None:
            raise missing(path)
        return self._shown(path, found)

    def find(self, path: str) -> Document | None:
        """The record at *path*; None where there is none."""
        found = self._store.get(KIND, path)
        return found if found is not None else self._built_in(path)

    def documents(self, parent: str, collection: str) -> list[Document]:
        """Every document of the collection, by name."""
        prefix = f"{parent}/{collection}/"
        built_in = self._built_in(prefix + DEFAULT)
        found = [self._shown(path, record) for path, record in self._store.list(KIND, prefix)]
        return ([self._shown(prefix + DEFAULT, built_in)] if built_in else []) + found

    def all(self, collection: str) -> Iterator[tuple[str, Document]]:
        """Path and record of every document of *collection* that somebody made."""
        for path, record in self._store.list(KIND):
            if path.split("/")[-2] == collection:
                yield path, record

    def ports_of(self, rule: str) -> Iterator[int]:
        """The loopback ports that the forwarding rule at that path may have, the first choice first."""
        start = int.from_bytes(hashlib.sha256(f"{self._cloud_id}/{rule}".encode()).digest()[:4], "big")
        return (_FIRST_PORT + (start + step) % _PORTS for step in range(_PORTS))

    def change(self, path: str, body: Document, *, merge: bool, doing: str = "update") -> Document:
        """Replace the document by *body*, or *merge* it in; the finished operation, of the type *doing*.

        Raises:
            GoogleError: as `create`; CONDITION_NOT_MET where the body's fingerprint is of an older document.
        """
        found = self._existing(path)
        read: Any = body.get("fingerprint")
        if read and read != fingerprint(found):
            raise GoogleError("CONDITION_NOT_MET", "Invalid fingerprint: the resource has changed, read it again.")
        kept = {field: found[field] for field in _GIVEN if field in found}
        own = {field: value for field, value in found.items() if field not in kept}
        wanted = {**own, **body} if merge else body
        self._put(path, {**self._checked(path, path.split("/")[-2], kind_at(path), wanted, found), **kept})
        return self._operation(path, doing)

    def label(self, path: str, labels: Any, read: str) -> Document:
        """Replace the document's labels; the finished operation.

        Args:
            path: of the document.
            labels: the new ones.
            read: the fingerprint of the labels that the caller read; empty where the caller read none.

        Raises:
            GoogleError: NOT_FOUND, INVALID_ARGUMENT; CONDITION_NOT_MET where others were set meanwhile.
        """
        found = self._existing(path)
        if read and read != label_fingerprint(found):
            raise GoogleError(
                "CONDITION_NOT_MET", "Labels fingerprint either invalid or resource labels have changed: read it again."
            )
        return self.change(path, {"labels": labels}, merge=True, doing="setLabels")

    def delete(self, path: str) -> Document:
        """Forget the document; the finished operation.

        Raises:
            GoogleError: NOT_FOUND; INVALID_ARGUMENT where another one needs it.
        """
        if self._store.get(KIND, path) is None and self._built_in(path) is not None:
            raise unimplemented(path, "every project has its default network here.")
        self._existing(path)
        users = self.needing(path)
        users += [user for ask in self._users if (user := ask(path)) is not None]
        if users:
            raise GoogleError(
                "FAILED_PRECONDITION",
                f"The {kind_at(path).one} resource '{path}' is already being used by '{users[0]}'",
                reason="resourceInUseByAnotherResource",
            )
        self._store.delete(KIND, path)
        self._tell()
        return self._operation(path, "delete")

    def network_of(self, project: str, region: str, network: str, subnetwork: str) -> tuple[str, str]:
        """The network and the subnetwork that an interface of a Cloud Run service in *region* has.

        Raises:
            GoogleError: INVALID_ARGUMENT: one of them does not exist.
        """
        if not self._enabled(project):
            raise invalid(
                f"VPC network '{network or subnetwork}' was not found: the Compute Engine API is not enabled in "
                f"project {project}."
            )
        below = f"projects/{project}/regions/{region}/subnetworks"
        if subnetwork:
            sub = reference(subnetwork) if "/" in subnetwork else f"{below}/{subnetwork}"
            found = self.find(sub)
            if found is None:
                raise invalid(f"VPC subnetwork '{subnetwork}' was not found in region {region}.")
            of = reference(found["network"])
        else:
            of = reference(network) if "/" in network else f"projects/{project}/global/networks/{network}"
            sub = f"{below}/{of.rpartition('/')[2]}"
        wanted = reference(network) if "/" in network else f"projects/{project}/global/networks/{network}"
        if self.find(of) is None or (network and wanted != of):
            raise invalid(f"VPC network '{network}' was not found, or has not the subnetwork '{subnetwork}'.")
        if self.find(sub) is None:
            raise invalid(f"VPC network '{network}' has no subnetwork of its own name in {region}: name a subnetwork.")
        return network or of.rpartition("/")[2], subnetwork or sub.rpartition("/")[2]

    def targets(self, certificate_map: str) -> list[Document]:
        """The proxies with a forwarding rule that show the certificates of the map at that path of Certificate Manager.

        Each as a `GclbTarget` of that API.
        """
        found: dict[str, list[Document]] = {}
        proxies = self.needing(certificate_map)
        for _, rule in self.all("forwardingRules"):
            if (proxy := reference(rule["target"])) in proxies:
                ports = [int(rule["portRange"].partition("-")[0])]
                found.setdefault(proxy, []).append({"ipAddress": rule["IPAddress"], "ports": ports})
        return [
            {"targetHttpsProxy": f"//compute.googleapis.com/{proxy}", "ipConfigs": addresses}
            for proxy, addresses in found.items()
        ]

    def operation(self, name: str) -> Document:
        """The operation with that full name, `projects/P/global/operations/O`: finished.

        Raises:
            GoogleError: NOT_FOUND; only the latest are kept, and until the cloud is stopped.
        """
        found = self._operations.get(name)
        if found is None:
            raise missing(name)
        return found

    def needing(self, path: str) -> list[str]:
        """The documents that need the one at *path*, which may be another API's."""
        return [other for other, record in self._store.list(KIND) if path in record.get(NEEDS, [])]

    def _shown(self, path: str, record: Document) -> Document:
        return shown(path, record, lambda: self.needing(path))

    def _checked(self, path: str, collection: str, kind: ResourceType, body: Document, before: Document) -> Document:
        for field in kind.required:
            if not body.get(field):
                raise invalid(f"Invalid value for field 'resource.{field}': ''. Value for field is required.")
        for field, allowed in kind.values.items():
            if field in body and body[field] not in allowed:
                raise unimplemented(f"{kind.one}.{field} = {body[field]}", "another kind is not served here.")
        scheme: Any = before.get("loadBalancingScheme")
        if scheme and body.get("loadBalancingScheme", scheme) != scheme:
            raise invalid(
                f"Invalid value for field 'resource.loadBalancingScheme': '{body['loadBalancingScheme']}'. The scheme "
                "changes by a migration alone (externalManagedMigrationState), and from EXTERNAL to EXTERNAL_MANAGED."
            )
        needs = self._references(kind, body)
        if collection == "networkEndpointGroups":
            _check_endpoints(body)
        elif collection == "backendServices":
            needs += self._check_backends(body)
        elif collection == "urlMaps":
            needs += self._check_routes(body)
            self._check_balanced(needs)
        elif collection == "targetHttpsProxies":
            needs += self._check_certificates(body)
        elif collection == "subnetworks":
            _check_range(body["ipCidrRange"])
        elif collection == "forwardingRules" and (given := body.get("IPAddress")):
            needs += self._check_address(path, given, before)
        kept = {field: value for field, value in body.items() if field not in _DERIVED}
        return {**completed(kind, kept), NEEDS: needs}

    def _references(self, kind: ResourceType, body: Document) -> list[str]:
        needs: list[str] = []
        for field, collections in kind.refers.items():
            value: Any = body.get(field)
            several = cast("list[Any]", value) if isinstance(value, list) else [value] if value else []
            needs += [self._refer(f"resource.{field}", one, collections) for one in several]
        return needs

    def _refer(self, field: str, value: Any, collections: tuple[str, ...]) -> str:
        path = reference(str(value))
        if "/" not in path or path.split("/")[-2] not in collections:
            raise invalid(f"Invalid value for field '{field}': '{value}'. The URL is malformed.")
        if self.find(path) is None:
            raise missing(path)
        return path

    def _check_backends(self, body: Document) -> list[str]:
        backends: list[Document] = body.get("backends") or []
        if backends and body.get("timeoutSec") not in (None, 0, TIMEOUT):
            raise invalid(
                "Invalid value for field 'resource.timeoutSec': Timeout sec is not supported for a backend service "
                "with Serverless network endpoint groups."
            )
        return [
            self._refer(f"resource.backends[{index}].group", one.get("group"), ("networkEndpointGroups",))
            for index, one in enumerate(backends)
        ]

    def _check_routes(self, body: Document) -> list[str]:
        needs: list[str] = []
        if bool(body.get("defaultService")) == bool(body.get("defaultUrlRedirect")):
            raise invalid(
                "Invalid value for field 'resource.defaultService': exactly one of defaultService and "
                "defaultUrlRedirect must be set."
            )
        given: list[Document] = body.get("pathMatchers") or []
        matchers: dict[str, Document] = {one.get("name", ""): one for one in given}
        rules: list[Document] = body.get("hostRules") or []
        for index, rule in enumerate(rules):
            if rule.get("pathMatcher") not in matchers:
                raise invalid(
                    f"Invalid value for field 'resource.hostRules[{index}].pathMatcher': there is none so called."
                )
        for name, matcher in matchers.items():
            paths: list[Document] = matcher.get("pathRules") or []
            services = [matcher.get("defaultService"), *(one.get("service") for one in paths)]
            needs += [
                self._refer(f"resource.pathMatchers[{name}]", one, ("backendServices",)) for one in services if one
            ]
        return needs

    def _check_balanced(self, backends: list[str]) -> None:
        for path in backends:
            if (self.find(path) or {}).get("loadBalancingScheme") == "INTERNAL_SELF_MANAGED":
                raise unimplemented(f"urlMap to {path}", "a mesh has HTTP routes of Network Services here.")

    def _check_certificates(self, body: Document) -> list[str]:
        """A proxy's certificate map, which counts where it has certificates of its own besides."""
        given: str = body.get("certificateMap") or ""
        if not given:
            if not body.get("sslCertificates"):
                raise invalid("Invalid value for field 'resource.sslCertificates': ''. Value for field is required.")
            return []
        path = given.removeprefix(CERTIFICATE_MANAGER)
        if path == given or not re.fullmatch(r"projects/[^/]+/locations/[^/]+/certificateMaps/[^/]+", path):
            raise invalid(f"Invalid value for field 'resource.certificateMap': '{given}'. The URL is malformed.")
        if not self._certificate_map(path):
            raise missing(given)
        return [path]

    def _check_address(self, path: str, given: str, before: Document) -> list[str]:
        if given == before.get("IPAddress"):
            return [need for need in before[NEEDS] if "/addresses/" in need]
        try:
            ipaddress.ip_address(given)
        except ValueError:
            return [self._refer("resource.IPAddress", given, ("addresses",))]
        for found, record in self.all("addresses"):
            if record["address"] == given:
                return [found]
        raise invalid(
            f"Invalid value for field 'resource.IPAddress': '{given}' of {path} is no address of this project."
        )

    def _built_in(self, path: str) -> Document | None:
        """The default network, where the API is enabled."""
        parts = path.split("/")
        if len(parts) < 5 or parts[-1] != DEFAULT or not self._enabled(parts[1]):
            return None
        if parts[2:4] == ["global", "networks"]:
            return completed(kind_at(path), {"name": DEFAULT, "autoCreateSubnetworks": True})
        if parts[2] == "regions" and parts[4] == "subnetworks":
            network = f"projects/{parts[1]}/global/networks/{DEFAULT}"
            subnetwork = {"network": network, "ipCidrRange": "10.128.0.0/20", "privateIpGoogleAccess": True}
            return completed(kind_at(path), {"name": DEFAULT, **subnetwork})
        return None

    def _existing(self, path: str) -> Document:
        found = self._store.get(KIND, path)
        if found is None:
            raise missing(path)
        return found

    def _put(self, path: str, record: Document) -> None:
        self._store.put(KIND, path, record)
        self._tell()

    def _tell(self) -> None:
        for watcher in self._watchers:
            watcher()

    def _operation(self, path: str, doing: str) -> Document:
        parent = path.rpartition("/")[0].rpartition("/")[0]
        name = f"{parent}/operations/operation-{uuid4().hex}"
        now = self._now()
        done: Document = {
            "kind": "compute#operation",
            "id": _number(),
            "name": name.rpartition("/")[2],
            "operationType": doing,
            "status": "DONE",
            "progress": 100,
            "insertTime": now,
            "startTime": now,
            "endTime": now,
            "targetLink": link(path),
            "selfLink": link(name),
        }
        if "/regions/" in parent:
            done["region"] = link(parent)
        self._operations[name] = done
        while len(self._operations) > _OPERATIONS:
            self._operations.pop(next(iter(self._operations)))
        return done

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")


def _number() -> str:
    return str(int.from_bytes(uuid4().bytes[:8], "big") >> 1)


def missing(path: str) -> GoogleError:
    """Google's words for a document that does not exist."""
    return GoogleError("NOT_FOUND", f"The resource '{path}' was not found")


def _managed(given: Any) -> Document:
    """A managed certificate is issued at once: its authority is this cloud's own."""
    domains: Any = cast("Document", given).get("domains") if isinstance(given, dict) else None
    if not isinstance(domains, list) or not domains:
        raise invalid("Invalid value for field 'resource.managed.domains': ''. At least one domain is required.")
    names = [str(one) for one in cast("list[Any]", domains)]
    return {"domains": names, "status": "ACTIVE", "domainStatus": dict.fromkeys(names, "ACTIVE")}


def _check_endpoints(body: Document) -> None:
    run: Document = body.get("cloudRun") or {}
    if not run.get("service"):
        raise unimplemented("networkEndpointGroup.cloudRun", "name one service: URL masks are not served here.")


def _check_range(given: Any) -> None:
    try:
        ipaddress.ip_network(given)
    except ValueError as refusal:
        raise invalid(f"Invalid value for field 'resource.ipCidrRange': '{given}': {refusal}.") from None
