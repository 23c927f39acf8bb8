"""External load balancers: serves the project's forwarding rules on loopback ports of this machine.

Each rule has a port of 127.0.0.1 that depends on its name. Certificates are issued by the cloud's own authority. The
URL map routes a request by host and path to a service, or redirects it.
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
from mcpfleet_local_cloud.front_end.routing import RoutedRequest, read_host
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
        compute: The resources of Compute Engine.
        certificates: The certificate maps of HTTPS proxies.
        find_endpoint: Finds a service's endpoint by its full name.
    """

    def __init__(
        self, compute: Compute, certificates: CertificateManager, find_endpoint: Callable[[str], ServiceEndpoint | None]
    ) -> None:
        self._compute = compute
        self._certificates = certificates
        self._find_endpoint = find_endpoint
        self._listeners: dict[str, tuple[Listeners, int]] = {}
        self._create_app: Callable[[Balancer, str], ASGIApp] | None = None
        self._tls: ssl.SSLContext | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # Routing.

    def has_certificate(self, host: str) -> bool:
        """Return whether an HTTPS load balancer has a certificate for *host*."""
        return any(self._covers_host(path, host) for path, _ in self._compute.iterate("forwardingRules"))

    def domains(self) -> set[str]:
        """The domains of all HTTPS forwarding rules, including wildcards."""
        return {
            domain for path, _ in self._compute.iterate("forwardingRules") for domain in self._certificate_domains(path)
        }

    def route(self, rule: str, host: str, path: str, query: str) -> RoutedRequest:
        """Route a request for *host* and *path* through the forwarding rule with the full name *rule*."""
        forwarding = self._compute.find(rule)
        proxy = self._compute.find(parse_reference(forwarding["target"])) if forwarding else None
        url_map = self._compute.find(parse_reference(proxy["urlMap"])) if proxy else None
        routed = (
            self._apply_url_map(url_map, host, path, query)
            if url_map
            else RoutedRequest(endpoint=None, is_balanced=True)
        )
        return replace(routed, balancer_address=LOOPBACK, is_https=forwarding is None or _is_https(forwarding))

    def route_by_host(self, host: str, path: str, query: str) -> RoutedRequest | None:
        """Route an HTTPS request to *host* through the first rule with a certificate for it; None if there is none."""
        rules = (name for name, _ in self._compute.iterate("forwardingRules") if self._covers_host(name, host))
        rule = next(rules, None)
        return self.route(rule, host, path, query) if rule else None

    # Serving.

    async def open(self, app: Callable[["Balancer", str], ASGIApp], tls: ssl.SSLContext) -> None:
        """Start to serve the existing rules and all later ones."""
        self._create_app = app
        self._tls = tls
        self._compute.watch(self._on_change)
        await self.sync_listeners()

    async def close(self) -> None:
        """Stop serving."""
        for listeners, _ in self._listeners.values():
            await listeners.close_all()
        self._listeners.clear()

    async def sync_listeners(self) -> None:
        """Open listeners for new rules, and close those of deleted rules."""
        if self._create_app is None:
            return
        async with self._lock:
            rules = dict(self._compute.iterate("forwardingRules"))
            for name in [name for name in self._listeners if name not in rules]:
                await self._listeners.pop(name)[0].close_all()
            for name, rule in rules.items():
                if name not in self._listeners:
                    await self._listen(name, secure=_is_https(rule))

    def inventory(self) -> list[Document]:
        """List the served rules with their URLs and domains."""
        return [
            {
                "name": name,
                "url": f"{'https' if _is_https(rule) else 'http'}://{LOOPBACK}:{self._listeners[name][1]}",
                "domains": sorted(self._certificate_domains(name)),
            }
            for name, rule in self._compute.iterate("forwardingRules")
            if name in self._listeners
        ]

    async def _listen(self, name: str, *, secure: bool) -> None:
        listeners = Listeners(LOOPBACK, self._tls if secure else None)
        port = next((candidate for candidate in self._compute.ports_of(name) if listeners.open(candidate)), 0)
        if not port:
            _log.warning("%s: all ports for load balancers on %s are in use", name, LOOPBACK)
            return
        assert self._create_app is not None  # noqa: S101 - `sync_listeners` has checked it
        await listeners.serve(self._create_app(self, name))
        self._listeners[name] = (listeners, port)

    def _on_change(self) -> None:
        try:
            task = asyncio.get_running_loop().create_task(self.sync_listeners())
        except RuntimeError:  # there is no event loop yet
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _find_proxy(self, rule: str) -> Document | None:
        forwarding = self._compute.find(rule)
        return self._compute.find(parse_reference(forwarding["target"])) if forwarding else None

    def _covers_host(self, rule: str, host: str) -> bool:
        proxy = self._find_proxy(rule) or {}
        if proxy.get("certificateMap"):
            return self._certificates.covers(_certificate_map(proxy), host)
        return host in self._certificate_domains(rule)

    def _certificate_domains(self, rule: str) -> set[str]:
        proxy = self._find_proxy(rule) or {}
        if proxy.get("certificateMap"):
            return self._certificates.names(_certificate_map(proxy))
        certificates = [self._compute.find(parse_reference(item)) for item in proxy.get("sslCertificates", [])]
        return {domain.rstrip(".") for item in certificates if item for domain in item["managed"]["domains"]}

    def _apply_url_map(self, url_map: Document, host: str, path: str, query: str) -> RoutedRequest:
        matcher: Document = url_map
        for host_rule in url_map.get("hostRules", []):
            if any(_host_matches(host, pattern) for pattern in host_rule["hosts"]):
                matcher = next(
                    path_matcher
                    for path_matcher in url_map["pathMatchers"]
                    if path_matcher["name"] == host_rule["pathMatcher"]
                )
        # The longest pattern wins, in any order (Cloud Load Balancing, "URL maps overview").
        matches = [
            (len(pattern.removesuffix("*")), rule["service"])
            for rule in matcher.get("pathRules", [])
            for pattern in rule["paths"]
            if _path_matches(pattern, path)
        ]
        if matches:
            return self._route_to_backend(max(matches)[1])
        redirect: Document | None = matcher.get("defaultUrlRedirect")
        if redirect:
            return RoutedRequest(endpoint=None, is_balanced=True, redirect=_build_redirect(redirect, host, path, query))
        return self._route_to_backend(matcher.get("defaultService") or url_map["defaultService"])

    def _route_to_backend(self, service: str) -> RoutedRequest:
        """Route to the backend's service: on Google in the nearest region, here the first that exists."""
        backends = (self._compute.find(parse_reference(service)) or {}).get("backends", [])
        for backend in backends:
            group = parse_reference(backend["group"])
            endpoint_group = self._compute.find(group) or {}
            _, project, _, region, *_ = group.split("/")
            endpoint = self._find_endpoint(
                f"projects/{project}/locations/{region}/services/{endpoint_group['cloudRun']['service']}"
            )
            if endpoint is not None:
                return RoutedRequest(endpoint=endpoint, is_balanced=True)
        return RoutedRequest(endpoint=None, is_balanced=True, has_no_backend=not backends)


def create_balancer_app(
    create_front_end: Callable[[Callable[[Scope], RoutedRequest]], ASGIApp],
) -> Callable[[Balancer, str], ASGIApp]:
    """Return a function that creates a forwarding rule's app; *create_front_end* makes a front end for a router."""

    def create_app(balancer: Balancer, rule: str) -> ASGIApp:
        def route(scope: Scope) -> RoutedRequest:
            return balancer.route(
                rule, read_host(scope["headers"]), scope["path"], scope["query_string"].decode("latin-1")
            )

        return create_front_end(route)

    return create_app


def _certificate_map(proxy: Document) -> str:
    return str(proxy["certificateMap"]).removeprefix(CERTIFICATE_MANAGER)


def _is_https(rule: Document) -> bool:
    return "/targetHttpsProxies/" in rule["target"]


def _host_matches(host: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _path_matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) or path == pattern[:-2] if pattern.endswith("/*") else path == pattern


def _build_redirect(redirect: Document, host: str, path: str, query: str) -> tuple[int, str]:
    scheme = "https" if redirect.get("httpsRedirect") else "http"
    new_host = redirect.get("hostRedirect") or host
    new_path = redirect.get("pathRedirect") or path
    if prefix := redirect.get("prefixRedirect"):
        new_path = prefix.rstrip("/") + path
    new_path = re.sub(r"[\r\n]", "", new_path)
    query_part = f"?{query}" if query and not redirect.get("stripQuery") else ""
    code = _CODES[redirect.get("redirectResponseCode") or "MOVED_PERMANENTLY_DEFAULT"]
    return code, f"{scheme}://{new_host}{new_path}{query_part}"
