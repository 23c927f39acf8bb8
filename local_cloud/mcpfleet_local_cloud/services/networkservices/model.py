"""Meshes, and the routes by which a host name in a mesh leads to a backend service.

A route here has one rule without conditions, with one destination and a timeout; what else Google's routes can do
(matches, weights, rewrites, gateways) is refused by name.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, already_exists, invalid, not_found, unimplemented
from mcpfleet_local_cloud.services.compute.answers import reference
from mcpfleet_local_cloud.state.store import Document, Store

MESH: Final = "networkservices.mesh"
ROUTE: Final = "networkservices.httpRoute"
SCHEME: Final = "INTERNAL_SELF_MANAGED"
"""Of backend services that a mesh can use."""
_ID: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST: Final = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    MESH: frozenset({"description", "labels"}),
    ROUTE: frozenset({"description", "labels", "hostnames", "meshes", "rules"}),
}
COLLECTIONS: Final = {"meshes": MESH, "httpRoutes": ROUTE}


class NetworkServices:
    """Every mesh and route, by its path `projects/P/locations/global/meshes/M`.

    Args:
        store: where they are kept.
        backend: the backend service at a path of Compute Engine, `projects/P/global/backendServices/B`.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, backend: Callable[[str], Document | None], clock: Callable[[], float]) -> None:
        self._store = store
        self._backend = backend
        self._clock = clock

    def create(self, kind: str, path: str, body: Document) -> Document:
        """Make the mesh or route at *path*.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, NOT_FOUND (what it refers to), UNIMPLEMENTED.
        """
        name = path.rpartition("/")[2]
        if not _ID.fullmatch(name):
            raise invalid(f"Resource ID '{name}' must be 1 to 63 lower-case letters, digits and hyphens.")
        now = self._now()
        made = {**self._checked(kind, path, body), "name": path, "createTime": now, "updateTime": now}
        made["selfLink"] = f"https://networkservices.googleapis.com/v1/{path}"
        if not self._store.insert(kind, path, made):
            raise already_exists(path)
        return made

    def get(self, kind: str, path: str) -> Document:
        """The mesh or route at *path*.

        Raises:
            GoogleError: NOT_FOUND.
        """
        found = self._store.get(kind, path)
        if found is None:
            raise not_found(path)
        return found

    def all(self, kind: str, parent: str = "") -> list[Document]:
        """The meshes or routes below *parent*; every one without it."""
        return [one for _, one in self._store.list(kind, parent)]

    def change(self, kind: str, path: str, body: Document, mask: list[str]) -> Document:
        """Change the fields of *mask* to those of *body*.

        Raises:
            GoogleError: as `create`; NOT_FOUND.
        """
        found = self.get(kind, path)
        wanted = {field: found[field] for field in _FIELDS[kind] if field in found}
        for field in mask:
            wanted[field] = body.get(field)
        kept = {field: found[field] for field in ("name", "selfLink", "createTime")}
        changed = {**self._checked(kind, path, wanted), **kept, "updateTime": self._now()}
        self._store.put(kind, path, changed)
        return changed

    def delete(self, kind: str, path: str) -> None:
        """Forget the mesh or route.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION while a route is in the mesh.
        """
        self.get(kind, path)
        for route in self.all(ROUTE):
            if path in route.get("meshes", []):
                raise GoogleError("FAILED_PRECONDITION", f"{path} is in use by {route['name']}.")
        self._store.delete(kind, path)

    def exists(self, mesh: str) -> bool:
        """Whether there is a mesh at that path."""
        return self._store.get(MESH, mesh) is not None

    def backend_of(self, mesh: str, host: str) -> tuple[str, float | None] | None:
        """Where *host* leads in the mesh, and for how long; None without a route.

        Returns:
            The backend service, by its path of Compute Engine, and the seconds that a request may take, if it says so.
        """
        for route in self.all(ROUTE):
            if mesh in route.get("meshes", []) and host in route["hostnames"]:
                action: Document = route["rules"][0]["action"]
                timeout = float(action["timeout"][:-1]) if action.get("timeout") else None
                return _backend_path(action["destinations"][0]["serviceName"]), timeout
        return None

    def user_of(self, backend: str) -> str | None:
        """A route that leads to the backend service at that path of Compute Engine."""
        for route in self.all(ROUTE):
            destinations: list[Document] = route["rules"][0]["action"]["destinations"]
            if any(_backend_path(one["serviceName"]) == backend for one in destinations):
                return str(route["name"])
        return None

    def _checked(self, kind: str, path: str, body: Document) -> Document:
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
                raise unimplemented(f"httpRoute.hostnames = {host}", "a name stands for itself here.")
            if not _HOST.fullmatch(host):
                raise invalid(f"http_route.hostnames: '{host}' is no host name.")
        for mesh in meshes:
            if not self.exists(mesh):
                raise not_found(mesh)
        for other in self.all(ROUTE):
            shared = set(other["hostnames"]) & set(hosts)
            if other["name"] != path and shared and set(other.get("meshes", [])) & set(meshes):
                raise invalid(f"http_route.hostnames: '{min(shared)}' is a name of {other['name']} in the same mesh.")
        for destination in _destinations(body.get("rules")):
            backend = self._backend(_backend_path(destination))
            if backend is None:
                raise not_found(destination)
            if backend.get("loadBalancingScheme") != SCHEME:
                raise invalid(f"http_route.rules: {destination} must have the load balancing scheme {SCHEME}.")

    def _now(self) -> str:
        return json_api.format_timestamp(self._clock())


def _destinations(rules: Any) -> Iterator[str]:
    """The one destination of the one rule.

    Raises:
        GoogleError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    given: list[Document] = rules or []
    if not given:
        raise invalid("http_route.rules: at least one is required.")
    if len(given) > 1:
        raise unimplemented("httpRoute.rules[1]", "a route has one rule here.")
    action: Document = given[0].get("action", {})
    if action.get("timeout", "").startswith("-"):
        raise invalid(f"http_route.rules[0].action.timeout: '{action['timeout']}' is negative.")
    wanted: list[Document] = action.get("destinations", [])
    if len(wanted) != 1:
        raise unimplemented("httpRoute.rules[0].action.destinations", "a rule has one destination here.")
    # A single destination has all requests, whatever its weight.
    yield json_api.require_field(wanted[0], "serviceName", "http_route.rules[0].action.destinations[0]")


def _backend_path(service: str) -> str:
    """The backend service as Compute Engine names it; the route may use either form."""
    return reference(service).replace("/locations/global/", "/global/")
