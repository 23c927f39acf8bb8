"""Documents of Compute Engine: create, update, and delete, which is refused while another document depends on one.

Their effect is implemented elsewhere: `balancer.py` serves forwarding rules, and Cloud Run looks up networks. Every
operation is done when it is returned.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import uuid4

from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.services.compute.documents import (
    DEPENDENCIES,
    LOOPBACK,
    build_record,
    fingerprint,
    label_fingerprint,
    parse_reference,
    render_document,
    resource_type_at,
    resource_type_of,
    url_of,
)
from mcpfleet_local_cloud.services.compute.resource_types import BACKEND_TIMEOUT_SECONDS, ResourceType
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "compute"
CERTIFICATE_MANAGER: Final = "//certificatemanager.googleapis.com/"
"""The prefix of a certificate map's name in a target proxy."""
DEFAULT_NETWORK: Final = "default"
"""The name of the network and of its subnetwork in each region that every project has from the start."""
_NAME: Final = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_FIRST_PORT: Final = 19500
_PORT_COUNT: Final = 500
_MAX_OPERATIONS: Final = 1000
"""The largest number of stored operations; each is done when it is returned, so a client reads it once at most."""
_DERIVED_FIELDS: Final = (DEPENDENCIES, "fingerprint", "labelFingerprint")
"""Fields that are computed from the rest of a document."""
_PERMANENT_FIELDS: Final = ("id", "creationTimestamp", "address")
"""Fields that are set when a document is created and never change."""


class Compute:
    """All documents, by path: `projects/P/global/urlMaps/U` or `projects/P/regions/R/subnetworks/S`.

    Args:
        store: stores the documents.
        cloud_id: determines the ports, so that two clouds on one machine rarely choose the same.
        is_enabled: whether a project has the API enabled.
        has_certificate_map: whether a certificate map exists at a path of Certificate Manager.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        cloud_id: str,
        is_enabled: Callable[[str], bool],
        has_certificate_map: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._cloud_id = cloud_id
        self._is_enabled = is_enabled
        self._has_certificate_map = has_certificate_map
        self._clock = clock
        self._watchers: list[Callable[[], None]] = []
        self._user_lookups: list[Callable[[str], str | None]] = []
        self._operations: dict[str, Document] = {}

    def watch(self, changed: Callable[[], None]) -> None:
        """Call *changed* after each change."""
        self._watchers.append(changed)

    def add_user_lookup(self, user_of: Callable[[str], str | None]) -> None:
        """Call *user_of* with a path before a document is deleted: it returns a dependent resource of another API."""
        self._user_lookups.append(user_of)

    def create(self, parent: str, collection: str, body: Document) -> Document:
        """Create a document below *parent* (`projects/P/global`); return the finished operation.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, NOT_FOUND (a referenced document), UNIMPLEMENTED.
        """
        resource_type = resource_type_of(parent, collection)
        name: str = body.get("name", "")
        if not _NAME.fullmatch(name):
            raise invalid(
                f"Invalid value for field 'resource.name': '{name}'. Must be a match of regex '{_NAME.pattern}'"
            )
        path = f"{parent}/{collection}/{name}"
        record = self._validate(path, collection, resource_type, body, {})
        if self.find(path) is not None:
            raise GoogleError("ALREADY_EXISTS", f"The resource '{path}' already exists")
        record |= {
            "id": _new_id(),
            "creationTimestamp": self._now(),
        }
        if collection == "addresses":
            record["address"] = LOOPBACK
        if collection == "sslCertificates":
            record["managed"] = _issue_certificate(record["managed"])
        self._put(path, record)
        return self._add_operation(path, "insert")

    def get(self, path: str) -> Document:
        """Return the document.

        Raises:
            GoogleError: NOT_FOUND.
        """
        record = self.find(path)
        if record is None:
            raise not_found_error(path)
        return self._render(path, record)

    def find(self, path: str) -> Document | None:
        """Return the record at *path*, or None."""
        record = self._store.get(KIND, path)
        return record if record is not None else self._built_in(path)

    def documents(self, parent: str, collection: str) -> list[Document]:
        """List the documents of the collection, sorted by name."""
        prefix = f"{parent}/{collection}/"
        built_in = self._built_in(prefix + DEFAULT_NETWORK)
        documents = [self._render(path, record) for path, record in self._store.list(KIND, prefix)]
        return ([self._render(prefix + DEFAULT_NETWORK, built_in)] if built_in else []) + documents

    def iterate(self, collection: str) -> Iterator[tuple[str, Document]]:
        """Yield path and record of every document of *collection*, without the built-in ones."""
        for path, record in self._store.list(KIND):
            if path.split("/")[-2] == collection:
                yield path, record

    def ports_of(self, rule: str) -> Iterator[int]:
        """Yield the loopback ports for the forwarding rule at the path *rule*, in order of preference."""
        start = int.from_bytes(hashlib.sha256(f"{self._cloud_id}/{rule}".encode()).digest()[:4], "big")
        return (_FIRST_PORT + (start + step) % _PORT_COUNT for step in range(_PORT_COUNT))

    def change(self, path: str, body: Document, *, merge: bool, operation_type: str = "update") -> Document:
        """Replace the document by *body*, or *merge* it in; return the finished operation, of type *operation_type*.

        Raises:
            GoogleError: as for `create`; CONDITION_NOT_MET if the body's fingerprint is outdated.
        """
        current = self._find_existing(path)
        expected_fingerprint: Any = body.get("fingerprint")
        if expected_fingerprint and expected_fingerprint != fingerprint(current):
            raise GoogleError("CONDITION_NOT_MET", "Invalid fingerprint: the resource has changed, read it again.")
        permanent = {field: current[field] for field in _PERMANENT_FIELDS if field in current}
        changeable = {field: value for field, value in current.items() if field not in permanent}
        desired = {**changeable, **body} if merge else body
        self._put(
            path, {**self._validate(path, path.split("/")[-2], resource_type_at(path), desired, current), **permanent}
        )
        return self._add_operation(path, operation_type)

    def set_labels(self, path: str, labels: Any, expected_fingerprint: str) -> Document:
        """Replace the document's labels; return the finished operation.

        Args:
            path: the path of the document.
            labels: the new labels.
            expected_fingerprint: the fingerprint of the labels that the caller read, or empty.

        Raises:
            GoogleError: NOT_FOUND, INVALID_ARGUMENT; CONDITION_NOT_MET if the labels have changed since.
        """
        current = self._find_existing(path)
        if expected_fingerprint and expected_fingerprint != label_fingerprint(current):
            raise GoogleError(
                "CONDITION_NOT_MET", "Labels fingerprint either invalid or resource labels have changed: read it again."
            )
        return self.change(path, {"labels": labels}, merge=True, operation_type="setLabels")

    def delete(self, path: str) -> Document:
        """Delete the document; return the finished operation.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION if another document depends on it.
        """
        if self._store.get(KIND, path) is None and self._built_in(path) is not None:
            raise unimplemented(path, "the default network cannot be deleted here.")
        self._find_existing(path)
        users = self.find_dependents(path)
        users += [user for find_user in self._user_lookups if (user := find_user(path)) is not None]
        if users:
            raise GoogleError(
                "FAILED_PRECONDITION",
                f"The {resource_type_at(path).singular} resource '{path}' is already being used by '{users[0]}'",
                reason="resourceInUseByAnotherResource",
            )
        self._store.delete(KIND, path)
        self._notify_watchers()
        return self._add_operation(path, "delete")

    def find_network(self, project: str, region: str, network: str, subnetwork: str) -> tuple[str, str]:
        """Find the network and the subnetwork for an interface of a Cloud Run service in *region*.

        Raises:
            GoogleError: INVALID_ARGUMENT: one of them does not exist.
        """
        if not self._is_enabled(project):
            raise invalid(
                f"VPC network '{network or subnetwork}' was not found: the Compute Engine API is not enabled in "
                f"project {project}."
            )
        subnetworks = f"projects/{project}/regions/{region}/subnetworks"
        if subnetwork:
            subnetwork_path = parse_reference(subnetwork) if "/" in subnetwork else f"{subnetworks}/{subnetwork}"
            record = self.find(subnetwork_path)
            if record is None:
                raise invalid(f"VPC subnetwork '{subnetwork}' was not found in region {region}.")
            network_path = parse_reference(record["network"])
        else:
            network_path = (
                parse_reference(network) if "/" in network else f"projects/{project}/global/networks/{network}"
            )
            subnetwork_path = f"{subnetworks}/{network_path.rpartition('/')[2]}"
        requested_path = parse_reference(network) if "/" in network else f"projects/{project}/global/networks/{network}"
        if self.find(network_path) is None or (network and requested_path != network_path):
            raise invalid(f"VPC network '{network}' was not found, or has not the subnetwork '{subnetwork}'.")
        if self.find(subnetwork_path) is None:
            raise invalid(f"VPC network '{network}' has no subnetwork of its own name in {region}: name a subnetwork.")
        return network or network_path.rpartition("/")[2], subnetwork or subnetwork_path.rpartition("/")[2]

    def targets(self, certificate_map: str) -> list[Document]:
        """The proxies with a forwarding rule that use the certificate map at that path of Certificate Manager.

        Each is a `GclbTarget` of that API.
        """
        addresses_by_proxy: dict[str, list[Document]] = {}
        proxies = self.find_dependents(certificate_map)
        for _, rule in self.iterate("forwardingRules"):
            if (proxy := parse_reference(rule["target"])) in proxies:
                ports = [int(rule["portRange"].partition("-")[0])]
                addresses_by_proxy.setdefault(proxy, []).append({"ipAddress": rule["IPAddress"], "ports": ports})
        return [
            {"targetHttpsProxy": f"//compute.googleapis.com/{proxy}", "ipConfigs": addresses}
            for proxy, addresses in addresses_by_proxy.items()
        ]

    def operation(self, name: str) -> Document:
        """Return the finished operation with that full name, `projects/P/global/operations/O`.

        Raises:
            GoogleError: NOT_FOUND; only the latest operations are kept, and only until the cloud stops.
        """
        operation = self._operations.get(name)
        if operation is None:
            raise not_found_error(name)
        return operation

    def find_dependents(self, path: str) -> list[str]:
        """List the documents that depend on the one at *path*, which may belong to another API."""
        return [other for other, record in self._store.list(KIND) if path in record.get(DEPENDENCIES, [])]

    def _render(self, path: str, record: Document) -> Document:
        return render_document(path, record, lambda: self.find_dependents(path))

    def _validate(
        self, path: str, collection: str, resource_type: ResourceType, body: Document, previous: Document
    ) -> Document:
        for field in resource_type.required:
            if not body.get(field):
                raise invalid(f"Invalid value for field 'resource.{field}': ''. Value for field is required.")
        for field, allowed in resource_type.allowed_values.items():
            if field in body and body[field] not in allowed:
                raise unimplemented(
                    f"{resource_type.singular}.{field} = {body[field]}", "this value is not supported here."
                )
        scheme: Any = previous.get("loadBalancingScheme")
        if scheme and body.get("loadBalancingScheme", scheme) != scheme:
            raise invalid(
                f"Invalid value for field 'resource.loadBalancingScheme': '{body['loadBalancingScheme']}'. The scheme "
                "changes by a migration alone (externalManagedMigrationState), and from EXTERNAL to EXTERNAL_MANAGED."
            )
        dependencies = self._find_dependencies(resource_type, body)
        if collection == "networkEndpointGroups":
            _check_endpoints(body)
        elif collection == "backendServices":
            dependencies += self._check_backends(body)
        elif collection == "urlMaps":
            dependencies += self._check_routes(body)
            self._check_balanced(dependencies)
        elif collection == "targetHttpsProxies":
            dependencies += self._check_certificates(body)
        elif collection == "subnetworks":
            _check_range(body["ipCidrRange"])
        elif collection == "forwardingRules" and (address := body.get("IPAddress")):
            dependencies += self._check_address(path, address, previous)
        fields = {field: value for field, value in body.items() if field not in _DERIVED_FIELDS}
        return {**build_record(resource_type, fields), DEPENDENCIES: dependencies}

    def _find_dependencies(self, resource_type: ResourceType, body: Document) -> list[str]:
        dependencies: list[str] = []
        for field, collections in resource_type.references.items():
            value: Any = body.get(field)
            values = cast("list[Any]", value) if isinstance(value, list) else [value] if value else []
            dependencies += [self._resolve_reference(f"resource.{field}", item, collections) for item in values]
        return dependencies

    def _resolve_reference(self, field: str, value: Any, collections: tuple[str, ...]) -> str:
        path = parse_reference(str(value))
        if "/" not in path or path.split("/")[-2] not in collections:
            raise invalid(f"Invalid value for field '{field}': '{value}'. The URL is malformed.")
        if self.find(path) is None:
            raise not_found_error(path)
        return path

    def _check_backends(self, body: Document) -> list[str]:
        backends: list[Document] = body.get("backends") or []
        if backends and body.get("timeoutSec") not in (None, 0, BACKEND_TIMEOUT_SECONDS):
            raise invalid(
                "Invalid value for field 'resource.timeoutSec': Timeout sec is not supported for a backend service "
                "with Serverless network endpoint groups."
            )
        return [
            self._resolve_reference(
                f"resource.backends[{index}].group", backend.get("group"), ("networkEndpointGroups",)
            )
            for index, backend in enumerate(backends)
        ]

    def _check_routes(self, body: Document) -> list[str]:
        dependencies: list[str] = []
        if bool(body.get("defaultService")) == bool(body.get("defaultUrlRedirect")):
            raise invalid(
                "Invalid value for field 'resource.defaultService': exactly one of defaultService and "
                "defaultUrlRedirect must be set."
            )
        path_matchers: list[Document] = body.get("pathMatchers") or []
        matchers: dict[str, Document] = {item.get("name", ""): item for item in path_matchers}
        rules: list[Document] = body.get("hostRules") or []
        for index, rule in enumerate(rules):
            if rule.get("pathMatcher") not in matchers:
                raise invalid(
                    f"Invalid value for field 'resource.hostRules[{index}].pathMatcher': no such path matcher."
                )
        for name, matcher in matchers.items():
            paths: list[Document] = matcher.get("pathRules") or []
            services = [matcher.get("defaultService"), *(item.get("service") for item in paths)]
            dependencies += [
                self._resolve_reference(f"resource.pathMatchers[{name}]", item, ("backendServices",))
                for item in services
                if item
            ]
        return dependencies

    def _check_balanced(self, backends: list[str]) -> None:
        for path in backends:
            if (self.find(path) or {}).get("loadBalancingScheme") == "INTERNAL_SELF_MANAGED":
                raise unimplemented(f"urlMap to {path}", "use HTTP routes of Network Services for a mesh here.")

    def _check_certificates(self, body: Document) -> list[str]:
        """Check a proxy's certificates; a certificate map takes precedence over certificates."""
        certificate_map: str = body.get("certificateMap") or ""
        if not certificate_map:
            if not body.get("sslCertificates"):
                raise invalid("Invalid value for field 'resource.sslCertificates': ''. Value for field is required.")
            return []
        path = certificate_map.removeprefix(CERTIFICATE_MANAGER)
        if path == certificate_map or not re.fullmatch(r"projects/[^/]+/locations/[^/]+/certificateMaps/[^/]+", path):
            raise invalid(
                f"Invalid value for field 'resource.certificateMap': '{certificate_map}'. The URL is malformed."
            )
        if not self._has_certificate_map(path):
            raise not_found_error(certificate_map)
        return [path]

    def _check_address(self, path: str, address: str, previous: Document) -> list[str]:
        if address == previous.get("IPAddress"):
            return [dependency for dependency in previous[DEPENDENCIES] if "/addresses/" in dependency]
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return [self._resolve_reference("resource.IPAddress", address, ("addresses",))]
        for address_path, record in self.iterate("addresses"):
            if record["address"] == address:
                return [address_path]
        raise invalid(
            f"Invalid value for field 'resource.IPAddress': '{address}' of {path} is no address of this project."
        )

    def _built_in(self, path: str) -> Document | None:
        """The default network or subnetwork, if the API is enabled."""
        parts = path.split("/")
        if len(parts) < 5 or parts[-1] != DEFAULT_NETWORK or not self._is_enabled(parts[1]):
            return None
        if parts[2:4] == ["global", "networks"]:
            return build_record(resource_type_at(path), {"name": DEFAULT_NETWORK, "autoCreateSubnetworks": True})
        if parts[2] == "regions" and parts[4] == "subnetworks":
            network = f"projects/{parts[1]}/global/networks/{DEFAULT_NETWORK}"
            subnetwork = {"network": network, "ipCidrRange": "10.128.0.0/20", "privateIpGoogleAccess": True}
            return build_record(resource_type_at(path), {"name": DEFAULT_NETWORK, **subnetwork})
        return None

    def _find_existing(self, path: str) -> Document:
        record = self._store.get(KIND, path)
        if record is None:
            raise not_found_error(path)
        return record

    def _put(self, path: str, record: Document) -> None:
        self._store.put(KIND, path, record)
        self._notify_watchers()

    def _notify_watchers(self) -> None:
        for watcher in self._watchers:
            watcher()

    def _add_operation(self, path: str, operation_type: str) -> Document:
        parent = path.rpartition("/")[0].rpartition("/")[0]
        name = f"{parent}/operations/operation-{uuid4().hex}"
        now = self._now()
        operation: Document = {
            "kind": "compute#operation",
            "id": _new_id(),
            "name": name.rpartition("/")[2],
            "operationType": operation_type,
            "status": "DONE",
            "progress": 100,
            "insertTime": now,
            "startTime": now,
            "endTime": now,
            "targetLink": url_of(path),
            "selfLink": url_of(name),
        }
        if "/regions/" in parent:
            operation["region"] = url_of(parent)
        self._operations[name] = operation
        while len(self._operations) > _MAX_OPERATIONS:
            self._operations.pop(next(iter(self._operations)))
        return operation

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")


def _new_id() -> str:
    return str(int.from_bytes(uuid4().bytes[:8], "big") >> 1)


def not_found_error(path: str) -> GoogleError:
    """Google's error for a document that does not exist."""
    return GoogleError("NOT_FOUND", f"The resource '{path}' was not found")


def _issue_certificate(managed: Any) -> Document:
    """Issue a managed certificate. It is active at once, because this cloud has its own authority."""
    domains: Any = cast("Document", managed).get("domains") if isinstance(managed, dict) else None
    if not isinstance(domains, list) or not domains:
        raise invalid("Invalid value for field 'resource.managed.domains': ''. At least one domain is required.")
    names = [str(domain) for domain in cast("list[Any]", domains)]
    return {"domains": names, "status": "ACTIVE", "domainStatus": dict.fromkeys(names, "ACTIVE")}


def _check_endpoints(body: Document) -> None:
    run: Document = body.get("cloudRun") or {}
    if not run.get("service"):
        raise unimplemented("networkEndpointGroup.cloudRun", "name one service: URL masks are not served here.")


def _check_range(cidr: Any) -> None:
    try:
        ipaddress.ip_network(cidr)
    except ValueError as refusal:
        raise invalid(f"Invalid value for field 'resource.ipCidrRange': '{cidr}': {refusal}.") from None
