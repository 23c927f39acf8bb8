"""Meshes, and HTTP routes from a host name in a mesh to a backend service.

A route here has one rule without conditions, with one destination and a timeout. All other features of Google's routes
(matches, weights, rewrites, gateways) are refused by name.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, already_exists, invalid, not_found, unimplemented
from mcpfleet_local_cloud.services.compute.documents import parse_reference
from mcpfleet_local_cloud.state.store import Document, Store

MESH: Final = "networkservices.mesh"
ROUTE: Final = "networkservices.httpRoute"
MESH_SCHEME: Final = "INTERNAL_SELF_MANAGED"
"""The load balancing scheme of backend services in a mesh."""
_ID: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST: Final = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_UPDATABLE_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    MESH: frozenset({"description", "labels"}),
    ROUTE: frozenset({"description", "labels", "hostnames", "meshes", "rules"}),
}
COLLECTIONS: Final = {"meshes": MESH, "httpRoutes": ROUTE}


class NetworkServices:
    """All meshes and routes, by path: `projects/P/locations/global/meshes/M`.

    Args:
        store: stores the documents.
        find_backend: finds a backend service by its path of Compute Engine, `projects/P/global/backendServices/B`.
        clock: seconds since the epoch.
    """

    def __init__(
        self, store: Store, find_backend: Callable[[str], Document | None], clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._find_backend = find_backend
        self._clock = clock

    def create(self, kind: str, path: str, body: Document) -> Document:
        """Create the mesh or route at *path*.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, NOT_FOUND (a referenced document), UNIMPLEMENTED.
        """
        name = path.rpartition("/")[2]
        if not _ID.fullmatch(name):
            raise invalid(f"Resource ID '{name}' must be 1 to 63 lower-case letters, digits and hyphens.")
        now = self._now()
        document = {**self._validate(kind, path, body), "name": path, "createTime": now, "updateTime": now}
        document["selfLink"] = f"https://networkservices.googleapis.com/v1/{path}"
        if not self._store.insert(kind, path, document):
            raise already_exists(path)
        return document

    def get(self, kind: str, path: str) -> Document:
        """Return the mesh or route at *path*.

        Raises:
            GoogleError: NOT_FOUND.
        """
        document = self._store.get(kind, path)
        if document is None:
            raise not_found(path)
        return document

    def list_documents(self, kind: str, parent: str = "") -> list[Document]:
        """List the meshes or routes whose path begins with *parent*."""
        return [document for _, document in self._store.list(kind, parent)]

    def change(self, kind: str, path: str, body: Document, mask: list[str]) -> Document:
        """Update the fields of *mask* from *body*.

        Raises:
            GoogleError: as for `create`; NOT_FOUND.
        """
        current = self.get(kind, path)
        desired = {field: current[field] for field in _UPDATABLE_FIELDS[kind] if field in current}
        for field in mask:
            desired[field] = body.get(field)
        permanent = {field: current[field] for field in ("name", "selfLink", "createTime")}
        changed = {**self._validate(kind, path, desired), **permanent, "updateTime": self._now()}
        self._store.put(kind, path, changed)
        return changed

    def delete(self, kind: str, path: str) -> None:
        """Delete the mesh or route.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION while the mesh has routes.
        """
        self.get(kind, path)
        for route in self.list_documents(ROUTE):
            if path in route.get("meshes", []):
                raise GoogleError("FAILED_PRECONDITION", f"{path} is in use by {route['name']}.")
        self._store.delete(kind, path)

    def exists(self, mesh: str) -> bool:
        """Whether a mesh exists at the path *mesh*."""
        return self._store.get(MESH, mesh) is not None

    def resolve_backend(self, mesh: str, host: str) -> tuple[str, float | None] | None:
        """Resolve *host* by the routes of the mesh; None if there is no route.

        Returns:
            The path of the backend service in Compute Engine, and the timeout of a request in seconds, if the route has
            one.
        """
        for route in self.list_documents(ROUTE):
            if mesh in route.get("meshes", []) and host in route["hostnames"]:
                action: Document = route["rules"][0]["action"]
                timeout = float(action["timeout"][:-1]) if action.get("timeout") else None
                return _backend_path(action["destinations"][0]["serviceName"]), timeout
        return None

    def find_route_to(self, backend: str) -> str | None:
        """Find a route to the backend service at that path of Compute Engine."""
        for route in self.list_documents(ROUTE):
            destinations: list[Document] = route["rules"][0]["action"]["destinations"]
            if any(_backend_path(destination["serviceName"]) == backend for destination in destinations):
                return str(route["name"])
        return None

    def _validate(self, kind: str, path: str, body: Document) -> Document:
        if kind == ROUTE:
            self._check_route(path, body)
        return {field: value for field, value in body.items() if value}

    def _check_route(self, path: str, body: Document) -> None:
        hosts: list[str] = body.get("hostnames", [])
        meshes: list[str] = body.get("meshes", [])
        if not hosts:
            raise invalid("http_route.hostnames: at least one is required.")
        for host in hosts:
            if "*" in host:
                raise unimplemented(f"httpRoute.hostnames = {host}", "wildcards are not supported here.")
            if not _HOST.fullmatch(host):
                raise invalid(f"http_route.hostnames: '{host}' is no host name.")
        for mesh in meshes:
            if not self.exists(mesh):
                raise not_found(mesh)
        for other in self.list_documents(ROUTE):
            shared = set(other["hostnames"]) & set(hosts)
            if other["name"] != path and shared and set(other.get("meshes", [])) & set(meshes):
                raise invalid(f"http_route.hostnames: '{min(shared)}' is a name of {other['name']} in the same mesh.")
        for destination in _destinations(body.get("rules")):
            backend = self._find_backend(_backend_path(destination))
            if backend is None:
                raise not_found(destination)
            if backend.get("loadBalancingScheme") != MESH_SCHEME:
                raise invalid(f"http_route.rules: {destination} must have the load balancing scheme {MESH_SCHEME}.")

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock())


def _destinations(rules: Any) -> Iterator[str]:
    """Yield the one destination of the one rule.

    Raises:
        GoogleError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    rule_list: list[Document] = rules or []
    if not rule_list:
        raise invalid("http_route.rules: at least one is required.")
    if len(rule_list) > 1:
        raise unimplemented("httpRoute.rules[1]", "a route has one rule here.")
    action: Document = rule_list[0].get("action", {})
    if action.get("timeout", "").startswith("-"):
        raise invalid(f"http_route.rules[0].action.timeout: '{action['timeout']}' is negative.")
    destinations: list[Document] = action.get("destinations", [])
    if len(destinations) != 1:
        raise unimplemented("httpRoute.rules[0].action.destinations", "a rule has one destination here.")
    # A single destination receives all requests, whatever its weight.
    yield json_api.require_field(destinations[0], "serviceName", "http_route.rules[0].action.destinations[0]")


def _backend_path(service: str) -> str:
    """The path of a backend service in Compute Engine; a route may use the path of either API."""
    return parse_reference(service).replace("/locations/global/", "/global/")
