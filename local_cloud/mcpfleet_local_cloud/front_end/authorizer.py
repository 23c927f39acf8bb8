"""Decides who may call a service, with which headers: the checks of Cloud Run's front end (docs/google-apis.md 5.1).

This module only decides, without sockets or ASGI; `ingress.py` applies the decisions.
"""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.front_end import iap, pages
from mcpfleet_local_cloud.front_end.routing import RoutedRequest
from mcpfleet_local_cloud.identity.tokens import REMOVED_SIGNATURE, Claims, TokenError
from mcpfleet_local_cloud.network.upstream import Headers

GCLOUD_CLIENT_ID: Final = "32555940559.apps.googleusercontent.com"
"""The audience of the ID tokens of `gcloud auth print-identity-token`, which Cloud Run accepts."""
INVOKE: Final = "run.routes.invoke"
AFFINITY: Final = b"GAESA"
"""The cookie of session affinity (cloud.google.com/run/docs/configuring/session-affinity); it lives 30 days."""
_CREDENTIALS: Final = (b"x-serverless-authorization", b"authorization")
_CACHED_TOKENS: Final = 1024
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_END_TO_END: Final = frozenset(
    {b"authorization", b"cookie", b"forwarded", b"host", b"origin", b"set-cookie", b"traceparent", b"tracestate"}
)
_END_TO_END_PREFIXES: Final = (
    b"content-",
    b"mcp-",
    b"sec-",
    b"x-cloud-",
    b"x-forwarded-",
    b"x-goog-",
    b"x-google-",
    b"x-serverless-",
)
"""Headers that `Connection` must not drop: the request's target, its body, its caller and the checked credential. If a
caller could drop the checked credential, the container would get only the unchecked one."""
_VIA: Final = (b"via", b"1.1 google")
_DIRECT: Final = RoutedRequest(endpoint=None)
_SET_BY_FRONT_END: Final = frozenset({b"forwarded", b"traceparent", b"x-cloud-trace-context", b"expect"})
_SET_BY_FRONT_END_PREFIXES: Final = (b"x-forwarded-", b"x-google-")
_TRACEPARENT: Final = re.compile(
    rb"00-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f](?P<flags>[0-9a-f])"
)
_CLOUD_TRACE: Final = re.compile(rb"(?!0{32})(?P<trace>[0-9a-f]{32})(?:/\d{1,20})?(?:;o=(?P<flags>[0-3]))?")


class Verifier(Protocol):
    """The part of `tokens.Identity` that this module needs."""

    def verify_id_token(self, token: str) -> Claims:
        """Verify all but the audience; raises `TokenError`."""
        ...


class Proxy(Protocol):
    """The part of Identity-Aware Proxy (`iap.py`) that this module needs."""

    def protection(self, endpoint: ServiceEndpoint) -> iap.Protection:
        """The protection of the service."""
        ...

    def headers(self, claims: Claims, audience: str) -> Headers:
        """The headers that describe an admitted caller to the container."""
        ...


class Permissions(Protocol):
    """The part of `policy.Policies` that this module needs."""

    def allows(self, email: str | None, permission: str, resource: str) -> bool:
        """Return whether *email* (None: an anonymous caller) has *permission* on *resource*."""
        ...


@dataclass(frozen=True)
class Denied:
    """A rejected request: the response, and the reason for the log, which the caller does not see."""

    page: pages.Page
    reason: str


@dataclass(frozen=True)
class Allowed:
    """An admitted request."""

    checked_header: bytes | None = None
    """The name of the header whose token was checked; None if no token is required."""
    token: str = ""
    proxy_headers: tuple[tuple[bytes, bytes], ...] = ()
    """The headers of Identity-Aware Proxy for the container; they replace those of the caller."""


class Authorizer:
    """Decides whether requests are admitted.

    Args:
        identity: Verifies ID tokens.
        policies: The IAM policies.
        is_active: Whether a token's account is still the one that it was issued for (a service account may be disabled,
            or deleted and created again under its old name); called for each request.
        clock: Seconds since the epoch.
        proxy: Identity-Aware Proxy, for the services behind it.
    """

    def __init__(
        self,
        identity: Verifier,
        policies: Permissions,
        is_active: Callable[[Claims], bool] = lambda _: True,
        clock: Callable[[], float] = time.time,
        proxy: Proxy | None = None,
    ) -> None:
        self._identity = identity
        self._policies = policies
        self._is_active = is_active
        self._clock = clock
        self._proxy = proxy
        self._verified: dict[str, Claims] = {}

    def check(self, request: RoutedRequest, headers: Headers, path: str) -> Allowed | Denied:
        """Decide whether *request*, for *path* with *headers*, is admitted."""
        endpoint = request.endpoint
        if endpoint is None:
            return Denied(pages.not_found(path), "no service has this address")
        if is_reserved(path):
            return Denied(pages.not_found(path), f"{path} is reserved by Google's front end; use another path")
        if not request.is_balanced and not _has_service_host(endpoint, headers, request.port):
            return Denied(pages.not_found(path), "the Host header names no host of this service")
        if not request.is_balanced and not endpoint.default_uri:
            return Denied(pages.not_found(path), "the service's default URL is disabled")
        if not _is_ingress_allowed(endpoint.ingress, request):
            return Denied(pages.not_found(path), f"the service's ingress is {endpoint.ingress}")
        if endpoint.iap and self._proxy is not None:
            return self._check_proxy(endpoint, headers, self._proxy)
        if endpoint.invoker_iam_disabled or self._policies.allows(None, INVOKE, endpoint.service):
            return Allowed()
        return self._authenticate(endpoint, headers, path)

    def _authenticate(self, endpoint: ServiceEndpoint, headers: Headers, path: str) -> Allowed | Denied:
        name, values = find_credential(headers)
        if not values or not values[0].strip():
            return Denied(
                pages.forbidden(path),
                "The request was not authenticated. Either allow unauthenticated invocations or set the proper "
                "Authorization header. Read more at https://cloud.google.com/run/docs/securing/authenticating. "
                "Empty Authorization header value.",
            )
        scheme, _, token = values[0].strip().partition(" ")
        token = token.strip()
        if len(values) > 1:
            return Denied(pages.unauthorized(path), f"there are {len(values)} {name.decode()} headers")
        if scheme.lower() != "bearer":
            return Denied(pages.forbidden(path), f"The {name.decode()} header is not `Bearer <ID token>`.")
        try:
            claims = self._verify_token(token)
        except TokenError as reason:
            return Denied(pages.unauthorized(path), f"The access token could not be verified: {reason}")
        if not _has_audience(endpoint, claims.audience):
            return Denied(
                pages.unauthorized(path),
                f"The token's audience is {claims.audience}; the service's are {', '.join(sorted(endpoint.audiences))}",
            )
        if not self._is_active(claims):
            return Denied(pages.unauthorized(path), f"{claims.email} is disabled, or not the account that it was")
        if not self._policies.allows(claims.email, INVOKE, endpoint.service):
            return Denied(
                pages.forbidden(path),
                f"The request was not authorized to invoke this service: {claims.email} lacks {INVOKE} on "
                f"{endpoint.service} (roles/run.invoker grants it).",
            )
        return Allowed(name, token)

    def _check_proxy(self, endpoint: ServiceEndpoint, headers: Headers, proxy: Proxy) -> Allowed | Denied:
        """Apply the checks of Identity-Aware Proxy, which calls the service with its own identity."""
        protection = proxy.protection(endpoint)
        try:
            name, token = iap.find_token(headers)
            claims = self._verify_token(token)
            if claims.audience not in protection.audiences:
                raise TokenError(f"JWT audience doesn't match this application ('aud' claim ({claims.audience}))")
            if not self._is_active(claims):
                raise TokenError("the account is disabled or gone")
        except TokenError as reason:
            return Denied(iap.invalid_credentials(str(reason)), f"Identity-Aware Proxy: {reason}")
        if not self._policies.allows(claims.email, iap.ACCESS, protection.resource):
            detail = f"{claims.email} lacks {iap.ACCESS} on {protection.resource} (in roles/iap.httpsResourceAccessor)"
            return Denied(iap.no_access(claims.email), f"Identity-Aware Proxy: {detail}")
        if not endpoint.invoker_iam_disabled and not self._policies.allows(protection.agent, INVOKE, endpoint.service):
            return Denied(
                iap.not_provisioned(),
                f"Identity-Aware Proxy: {protection.agent} lacks {INVOKE} on {endpoint.service}: grant it "
                "roles/run.invoker there",
            )
        return Allowed(name, token, tuple(proxy.headers(claims, protection.assertion_audience)))

    def _verify_token(self, token: str) -> Claims:
        """Return the token's claims. The signature is verified once for each token, the expiry every time."""
        cached = self._verified.get(token)
        if cached is not None and self._clock() < cached.expires:
            return cached
        self._verified.pop(token, None)
        claims = self._identity.verify_id_token(token)
        if len(self._verified) >= _CACHED_TOKENS:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = claims
        return claims


def _is_ingress_allowed(ingress: str, request: RoutedRequest) -> bool:
    if ingress == "INGRESS_TRAFFIC_ALL" or request.is_internal:
        return True
    return ingress == "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER" and request.is_balanced


def is_reserved(path: str) -> bool:
    """Return whether Google's front end reserves *path*.

    Cloud Run's known issues name `/eventlog`, `/_ah/` and "some paths ending with z", of which only `/healthz` is known
    to be reserved. Other paths ending with z reach the service.
    """
    return path in ("/healthz", "/eventlog") or path.startswith("/_ah/")


def find_credential(headers: Headers) -> tuple[bytes, list[str]]:
    """Find the header with the credential, and its values: `X-Serverless-Authorization` takes precedence if present."""
    for name in _CREDENTIALS:
        values = [value.decode("latin-1") for header, value in headers if header == name]
        if values:
            return name, values
    return _CREDENTIALS[-1], []


def read_affinity_cookie(headers: Headers) -> str:
    """Read the value of the caller's affinity cookie; empty without one."""
    for name, value in headers:
        if name != b"cookie":
            continue
        for pair in value.split(b";"):
            key, _, cookie_value = pair.strip().partition(b"=")
            if key == AFFINITY:
                return cookie_value.decode("latin-1")
    return ""


def container_headers(headers: Headers, allowed: Allowed, client: str, request: RoutedRequest = _DIRECT) -> Headers:
    """The headers that the container gets.

    The checked token loses its signature, so that the container can read but not replay it; the other of the two
    headers is unchanged (cloud.google.com/run/docs/authenticating/service-to-service). The front end's headers about
    the connection, and Identity-Aware Proxy's about the caller, replace the client's. Hop-by-hop headers are removed
    (RFC 9110, 7.6.1).

    Through a load balancer `X-Forwarded-For` is `<the client's own value>,<client>,<load balancer>`, so only its last
    two addresses are trustworthy (cloud.google.com/load-balancing/docs/https#x-forwarded-for_header).
    """
    dropped = hop_by_hop_options(headers)
    proxy_names = {name for name, _ in allowed.proxy_headers}
    result: Headers = []
    chunked = False
    for name, value in headers:
        chunked = chunked or name == b"transfer-encoding"
        if (
            name in _HOP_BY_HOP
            or name in dropped
            or name in _SET_BY_FRONT_END
            or name.startswith(_SET_BY_FRONT_END_PREFIXES)
        ):
            continue
        if allowed.proxy_headers and (name in proxy_names or name.startswith(iap.OWN_HEADERS)):
            continue
        result.append((name, _remove_signature(allowed.token) if name == allowed.checked_header else value))
    if chunked:
        result = [(name, value) for name, value in result if name != b"content-length"]
        result.append((b"transfer-encoding", b"chunked"))
    trace, sampled = _parse_trace(headers) or (
        b"%032x" % (random.getrandbits(128) or 1),
        1,
    )  # an identifier, not a secret
    span = random.getrandbits(63) or 1
    address, protocol = client.encode(), b"https" if request.is_https else b"http"
    hops = [address]
    if request.balancer_address:
        claimed = [value for name, value in headers if name == b"x-forwarded-for" and value.strip()]
        hops = [*claimed, address, request.balancer_address.encode()]
        result.append(_VIA)
    result += allowed.proxy_headers
    result += [
        (b"x-forwarded-for", b",".join(hops)),
        (b"x-forwarded-proto", protocol),
        (b"forwarded", b'for="%s";proto=%s' % (address, protocol)),
        (b"x-cloud-trace-context", b"%s/%d;o=%d" % (trace, span, sampled)),
        (b"traceparent", b"00-%s-%016x-%02x" % (trace, span, sampled)),
    ]
    return result


def _parse_trace(headers: Headers) -> tuple[bytes, int] | None:
    """Parse the caller's trace id and whether it is sampled: from W3C's header, else from Google's older one.

    Google's header without options leaves the sampling decision to the front end.
    """
    for header, pattern in ((b"traceparent", _TRACEPARENT), (b"x-cloud-trace-context", _CLOUD_TRACE)):
        for name, value in headers:
            if name == header and (parent := pattern.fullmatch(value)):
                return parent["trace"], int(parent["flags"] or b"1", 16) & 1
    return None


def caller_headers(headers: Headers, status: int, request: RoutedRequest = _DIRECT) -> Headers:
    """The response headers for the caller, from the container's response."""
    options = hop_by_hop_options(headers)
    dropped = _HOP_BY_HOP | options | {b"server"}
    result = [(name.lower(), value) for name, value in headers if name.lower() not in dropped]
    chunked = any(name.lower() == b"transfer-encoding" for name, _ in headers)
    # A 204 and a 304 have no body, whatever their length header; chunks override a length (RFC 9112, 6.3).
    if status in (204, 304) or chunked:
        result = [(name, value) for name, value in result if name != b"content-length"]
    result.append((b"server", b"Google Frontend"))
    if request.balancer_address:
        result.append(_VIA)
    return result


def hop_by_hop_options(headers: Headers) -> frozenset[bytes]:
    """The header names that `Connection` declares as hop-by-hop, without those that must not be dropped."""
    options = (
        option.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    )
    return frozenset(
        option_name
        for option_name in options
        if option_name not in _END_TO_END and not option_name.startswith(_END_TO_END_PREFIXES)
    )


def _has_service_host(endpoint: ServiceEndpoint, headers: Headers, port: int) -> bool:
    """Return whether Host names the service, as on Google (against DNS rebinding), or its loopback port."""
    hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return False
    name, _, host_port = hosts[0].rpartition(":") if re.search(r":\d+$", hosts[0]) else (hosts[0], "", "")
    if port and name in ("127.0.0.1", "localhost"):
        return host_port in ("", str(port))
    return name in endpoint.hosts


def _has_audience(endpoint: ServiceEndpoint, audience: str) -> bool:
    return audience == GCLOUD_CLIENT_ID or audience.rstrip("/") in {valid.rstrip("/") for valid in endpoint.audiences}


def _remove_signature(token: str) -> bytes:
    return f"Bearer {token.rpartition('.')[0]}.{REMOVED_SIGNATURE}".encode("latin-1")
