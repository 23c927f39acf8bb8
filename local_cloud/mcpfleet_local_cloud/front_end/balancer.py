"""External load balancers: what the forwarding rules of the project do, on loopback ports of this machine.

Each rule has a port of 127.0.0.1 that follows from its name. TLS is by the cloud's own authority. A request goes by
host and path through the URL map to a service, or is redirected.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from starlette.types import ASGIApp, Scope

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.front_end.routing import RoutedRequest, host_of
from mcpfleet_local_cloud.network.listeners import Listeners
from mcpfleet_local_cloud.services.certificatemanager import CertificateManager
from mcpfleet_local_cloud.services.compute.documents import LOOPBACK, parse_reference
from mcpfleet_local_cloud.services.compute.model import CERTIFICATE_MANAGER, Compute
from mcpfleet_local_cloud.state.store import Document

_CODES: Final = {
    "MOVED_PERMANENTLY_DEFAULT": 301,
    "FOUND": 302,
    "SEE_OTHER": 303,
    "TEMPORARY_REDIRECT": 307,
    "PERMANENT_REDIRECT": 308,
}
_log = logging.getLogger(__name__)


class Balancer:
    """Serves every forwarding rule.

    Args:
        compute: the documents.
        certificates: the certificate maps of their proxies.
        doors: the front door of a service, by its full name.
    """

    def __init__(
        self, compute: Compute, certificates: CertificateManager, doors: Callable[[str], ServiceEndpoint | None]
    ) -> None:
        self._compute = compute
        self._certificates = certificates
        self._doors = doors
        self._listeners: dict[str, tuple[Listeners, int]] = {}
        self._make: Callable[[Balancer, str], ASGIApp] | None = None
        self._tls: ssl.SSLContext | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # Which way a request goes.

    def secured(self, host: str) -> bool:
        """Whether a certificate of some HTTPS load balancer is for *host*."""
        return any(self._has_certificate(path, host) for path, _ in self._compute.iterate("forwardingRules"))

    def domains(self) -> set[str]:
        """The domains of every HTTPS forwarding rule; a wildcard as it is."""
        return {one for path, _ in self._compute.iterate("forwardingRules") for one in self._certified(path)}

    def arrive(self, rule: str, host: str, path: str, query: str) -> RoutedRequest:
        """How a request for *host* and *path* leaves the forwarding rule with that full name."""
        forwarding = self._compute.find(rule)
        proxy = self._compute.find(parse_reference(forwarding["target"])) if forwarding else None
        routes = self._compute.find(parse_reference(proxy["urlMap"])) if proxy else None
        found = self._route(routes, host, path, query) if routes else RoutedRequest(door=None, balanced=True)
        return replace(found, address=LOOPBACK, secure=forwarding is None or _secure(forwarding))

    def arrive_by_name(self, host: str, path: str, query: str) -> RoutedRequest | None:
        """The same for an HTTPS request to *host* whose rule is not known; None where no rule is for it."""
        rules = (name for name, _ in self._compute.iterate("forwardingRules") if self._has_certificate(name, host))
        rule = next(rules, None)
        return self.arrive(rule, host, path, query) if rule else None

    # Serving.

    async def open(self, app: Callable[["Balancer", str], ASGIApp], tls: ssl.SSLContext) -> None:
        """Begin to serve the rules that there are, and from now on those that there will be."""
        self._make = app
        self._tls = tls
        self._compute.watch(self._changed)
        await self.settle()

    async def close(self) -> None:
        """Stop serving."""
        for listeners, _ in self._listeners.values():
            await listeners.close_all()
        self._listeners.clear()

    async def settle(self) -> None:
        """Listen for the rules that there are, and for no others."""
        if self._make is None:
            return
        async with self._lock:
            rules = dict(self._compute.iterate("forwardingRules"))
            for name in [name for name in self._listeners if name not in rules]:
                await self._listeners.pop(name)[0].close_all()
            for name, rule in rules.items():
                if name not in self._listeners:
                    await self._listen(name, secure=_secure(rule))

    def inventory(self) -> list[Document]:
        """What is served, for people."""
        return [
            {
                "name": name,
                "url": f"{'https' if _secure(rule) else 'http'}://{LOOPBACK}:{self._listeners[name][1]}",
                "domains": sorted(self._certified(name)),
            }
            for name, rule in self._compute.iterate("forwardingRules")
            if name in self._listeners
        ]

    async def _listen(self, name: str, *, secure: bool) -> None:
        listeners = Listeners(LOOPBACK, self._tls if secure else None)
        port = next((one for one in self._compute.ports_of(name) if listeners.open(one)), 0)
        if not port:
            _log.warning("%s: all ports for load balancers on %s are taken", name, LOOPBACK)
            return
        assert self._make is not None  # noqa: S101 - `settle` has looked
        await listeners.serve(self._make(self, name))
        self._listeners[name] = (listeners, port)

    def _changed(self) -> None:
        try:
            task = asyncio.get_running_loop().create_task(self.settle())
        except RuntimeError:  # nobody serves yet
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _proxy(self, rule: str) -> Document | None:
        found = self._compute.find(rule)
        return self._compute.find(parse_reference(found["target"])) if found else None

    def _has_certificate(self, rule: str, host: str) -> bool:
        proxy = self._proxy(rule) or {}
        if proxy.get("certificateMap"):
            return self._certificates.covers(_map_of(proxy), host)
        return host in self._certified(rule)

    def _certified(self, rule: str) -> set[str]:
        proxy = self._proxy(rule) or {}
        if proxy.get("certificateMap"):
            return self._certificates.names(_map_of(proxy))
        certificates = [self._compute.find(parse_reference(one)) for one in proxy.get("sslCertificates", [])]
        return {domain.rstrip(".") for one in certificates if one for domain in one["managed"]["domains"]}

    def _route(self, routes: Document, host: str, path: str, query: str) -> RoutedRequest:
        matcher: Document = routes
        for host_rule in routes.get("hostRules", []):
            if any(_matches(host, pattern) for pattern in host_rule["hosts"]):
                matcher = next(one for one in routes["pathMatchers"] if one["name"] == host_rule["pathMatcher"])
        # The longest pattern counts, in whichever order they are (Cloud Load Balancing, "URL maps overview").
        fitting = [
            (len(pattern.removesuffix("*")), rule["service"])
            for rule in matcher.get("pathRules", [])
            for pattern in rule["paths"]
            if _covers(pattern, path)
        ]
        if fitting:
            return self._to(max(fitting)[1])
        redirect: Document | None = matcher.get("defaultUrlRedirect")
        if redirect:
            return RoutedRequest(door=None, balanced=True, redirect=_redirected(redirect, host, path, query))
        return self._to(matcher.get("defaultService") or routes["defaultService"])

    def _to(self, service: str) -> RoutedRequest:
        """The backend's service: on Google the nearest region's, here the first that there is."""
        backends = (self._compute.find(parse_reference(service)) or {}).get("backends", [])
        for one in backends:
            group = parse_reference(one["group"])
            found = self._compute.find(group) or {}
            _, project, _, region, *_ = group.split("/")
            door = self._doors(f"projects/{project}/locations/{region}/services/{found['cloudRun']['service']}")
            if door is not None:
                return RoutedRequest(door=door, balanced=True)
        return RoutedRequest(door=None, balanced=True, unserved=not backends)


def balanced_app(front: Callable[[Callable[[Scope], RoutedRequest]], ASGIApp]) -> Callable[[Balancer, str], ASGIApp]:
    """What answers for a forwarding rule; *front* makes a front end of the way in which requests arrive."""

    def make(balancer: Balancer, rule: str) -> ASGIApp:
        def arrive(scope: Scope) -> RoutedRequest:
            return balancer.arrive(
                rule, host_of(scope["headers"]), scope["path"], scope["query_string"].decode("latin-1")
            )

        return front(arrive)

    return make


def _map_of(proxy: Document) -> str:
    return str(proxy["certificateMap"]).removeprefix(CERTIFICATE_MANAGER)


def _secure(rule: Document) -> bool:
    return "/targetHttpsProxies/" in rule["target"]


def _matches(host: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _covers(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) or path == pattern[:-2] if pattern.endswith("/*") else path == pattern


def _redirected(redirect: Document, host: str, path: str, query: str) -> tuple[int, str]:
    scheme = "https" if redirect.get("httpsRedirect") else "http"
    where = redirect.get("hostRedirect") or host
    new = redirect.get("pathRedirect") or path
    if prefix := redirect.get("prefixRedirect"):
        new = prefix.rstrip("/") + path
    new = re.sub(r"[\r\n]", "", new)
    kept = f"?{query}" if query and not redirect.get("stripQuery") else ""
    code = _CODES[redirect.get("redirectResponseCode") or "MOVED_PERMANENTLY_DEFAULT"]
    return code, f"{scheme}://{where}{new}{kept}"
