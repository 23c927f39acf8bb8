"""Who may pass to a service, and with which headers: the checks of Cloud Run's front end (docs/google-apis.md 5.1).

Pure decisions: no socket, no ASGI. `ingress.py` carries them out.
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
from mcpfleet_local_cloud.identity.tokens import REMOVED, Claims, TokenError
from mcpfleet_local_cloud.network.upstream import Headers

GCLOUD_CLIENT_ID: Final = "32555940559.apps.googleusercontent.com"
"""The audience of the ID tokens that `gcloud auth print-identity-token` makes; Cloud Run lets it pass."""
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
"""What `Connection` has no right to name: where a request is for, what its body is, whose it is and what was checked of
that. A caller who has the checked credential left behind leaves the container with the one that nobody has checked."""
_VIA: Final = (b"via", b"1.1 google")
_DIRECT: Final = RoutedRequest(door=None)
_OURS_IN: Final = frozenset({b"forwarded", b"traceparent", b"x-cloud-trace-context", b"expect"})
_OURS_IN_PREFIXES: Final = (b"x-forwarded-", b"x-google-")
_TRACEPARENT: Final = re.compile(
    rb"00-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f](?P<flags>[0-9a-f])"
)
_CLOUD_TRACE: Final = re.compile(rb"(?!0{32})(?P<trace>[0-9a-f]{32})(?:/\d{1,20})?(?:;o=(?P<flags>[0-3]))?")


class Verifier(Protocol):
    """The part of `tokens.Identity` that is needed here."""

    def verify_id_token(self, token: str) -> Claims:
        """Everything but the audience; raises `TokenError`."""
        ...


class Proxy(Protocol):
    """What is asked of Identity-Aware Proxy (`iap.py`)."""

    def protection(self, door: ServiceEndpoint) -> iap.Protection:
        """How the service is protected."""
        ...

    def headers(self, claims: Claims, audience: str) -> Headers:
        """What the container is told of whoever passed."""
        ...


class Rights(Protocol):
    """The part of `policy.Policies` that is needed here."""

    def allows(self, email: str | None, permission: str, resource: str) -> bool:
        """Whether *email* (None: nobody) has *permission* on *resource*."""
        ...


@dataclass(frozen=True)
class Denied:
    """The answer to who may not pass, and the reason for the log, which the caller does not see."""

    page: pages.Page
    reason: str


@dataclass(frozen=True)
class Allowed:
    """A request that may pass."""

    checked: bytes | None = None
    """The name of the header whose token was checked; None where none had to be."""
    token: str = ""
    told: tuple[tuple[bytes, bytes], ...] = ()
    """What Identity-Aware Proxy tells the container, in the place of whatever the caller did."""


class Authorizer:
    """Decides about requests.

    Args:
        identity: checks ID tokens.
        policies: knows who may invoke what.
        stands: whether a token's holder is still who they were when it was made (a service account may be disabled, or
            deleted and made anew under its old name); asked at each request.
        clock: seconds since the epoch.
        proxy: Identity-Aware Proxy, for the services behind it.
    """

    def __init__(
        self,
        identity: Verifier,
        policies: Rights,
        stands: Callable[[Claims], bool] = lambda _: True,
        clock: Callable[[], float] = time.time,
        proxy: Proxy | None = None,
    ) -> None:
        self._identity = identity
        self._policies = policies
        self._stands = stands
        self._clock = clock
        self._proxy = proxy
        self._verified: dict[str, Claims] = {}

    def check(self, arrival: RoutedRequest, headers: Headers, path: str) -> Allowed | Denied:
        """Whether a request for *path* that arrived so may pass."""
        door = arrival.door
        if door is None:
            return Denied(pages.not_found(path), "no service has this address")
        if reserved(path):
            return Denied(pages.not_found(path), f"{path} is reserved by Google's front end; use another path")
        if not arrival.balanced and not _routed(door, headers, arrival.port):
            return Denied(pages.not_found(path), "the Host header names no host of this service")
        if not arrival.balanced and not door.default_uri:
            return Denied(pages.not_found(path), "the service's default URL is disabled")
        if not _admitted(door.ingress, arrival):
            return Denied(pages.not_found(path), f"the service's ingress is {door.ingress}")
        if door.iap and self._proxy is not None:
            return self._pass_proxy(door, headers, self._proxy)
        if door.invoker_iam_disabled or self._policies.allows(None, INVOKE, door.service):
            return Allowed()
        return self._authenticate(door, headers, path)

    def _authenticate(self, door: ServiceEndpoint, headers: Headers, path: str) -> Allowed | Denied:
        name, values = credential(headers)
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
            claims = self._claims(token)
        except TokenError as reason:
            return Denied(pages.unauthorized(path), f"The access token could not be verified: {reason}")
        if not _meant_for(door, claims.audience):
            return Denied(
                pages.unauthorized(path),
                f"The token's audience is {claims.audience}; the service's are {', '.join(sorted(door.audiences))}",
            )
        if not self._stands(claims):
            return Denied(pages.unauthorized(path), f"{claims.email} is disabled, or not the account that it was")
        if not self._policies.allows(claims.email, INVOKE, door.service):
            return Denied(
                pages.forbidden(path),
                f"The request was not authorized to invoke this service: {claims.email} lacks {INVOKE} on "
                f"{door.service} (roles/run.invoker grants it).",
            )
        return Allowed(name, token)

    def _pass_proxy(self, door: ServiceEndpoint, headers: Headers, proxy: Proxy) -> Allowed | Denied:
        """Identity-Aware Proxy's checks; then it calls the service with an identity of its own."""
        protection = proxy.protection(door)
        try:
            name, token = iap.shown(headers)
            claims = self._claims(token)
            if claims.audience not in protection.audiences:
                raise TokenError(f"JWT audience doesn't match this application ('aud' claim ({claims.audience}))")
            if not self._stands(claims):
                raise TokenError("the account is disabled or gone")
        except TokenError as reason:
            return Denied(iap.invalid_credentials(str(reason)), f"Identity-Aware Proxy: {reason}")
        if not self._policies.allows(claims.email, iap.ACCESS, protection.resource):
            why = f"{claims.email} lacks {iap.ACCESS} on {protection.resource} (in roles/iap.httpsResourceAccessor)"
            return Denied(iap.no_access(claims.email), f"Identity-Aware Proxy: {why}")
        if not door.invoker_iam_disabled and not self._policies.allows(protection.agent, INVOKE, door.service):
            return Denied(
                iap.not_provisioned(),
                f"Identity-Aware Proxy: {protection.agent} lacks {INVOKE} on {door.service}: grant it "
                "roles/run.invoker there",
            )
        return Allowed(name, token, tuple(proxy.headers(claims, protection.assertion_audience)))

    def _claims(self, token: str) -> Claims:
        """The token's claims; the signature is checked once for each token, its end of life every time."""
        known = self._verified.get(token)
        if known is not None and self._clock() < known.expires:
            return known
        self._verified.pop(token, None)
        claims = self._identity.verify_id_token(token)
        if len(self._verified) >= _CACHED_TOKENS:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = claims
        return claims


def _admitted(ingress: str, arrival: RoutedRequest) -> bool:
    if ingress == "INGRESS_TRAFFIC_ALL" or arrival.inside:
        return True
    return ingress == "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER" and arrival.balanced


def reserved(path: str) -> bool:
    """Whether Google's front end keeps *path* for itself.

    `/healthz` is the one that is known to be kept of the "some paths ending with z" in Cloud Run's known issues;
    `/eventlog` and `/_ah/` are there by name. Other paths ending in z do reach the service.
    """
    return path in ("/healthz", "/eventlog") or path.startswith("/_ah/")


def credential(headers: Headers) -> tuple[bytes, list[str]]:
    """The header that counts, and its values: `X-Serverless-Authorization` where it is present at all."""
    for name in _CREDENTIALS:
        values = [value.decode("latin-1") for header, value in headers if header == name]
        if values:
            return name, values
    return _CREDENTIALS[-1], []


def affinity_cookie(headers: Headers) -> str:
    """The instance that the caller's affinity cookie names; empty without one."""
    for name, value in headers:
        if name != b"cookie":
            continue
        for pair in value.split(b";"):
            key, _, worth = pair.strip().partition(b"=")
            if key == AFFINITY:
                return worth.decode("latin-1")
    return ""


def forwarded(headers: Headers, passage: Allowed, client: str, arrival: RoutedRequest = _DIRECT) -> Headers:
    """The headers that the container gets.

    The checked token loses its signature, so that the container can read but never replay it, and the other of the two
    headers passes as it is (cloud.google.com/run/docs/authenticating/service-to-service). What the front end says about
    the connection, and Identity-Aware Proxy about the caller, replaces whatever the client claimed. Hop-by-hop headers
    end here (RFC 9110, 7.6.1).

    Through a load balancer `X-Forwarded-For` is `<what the client claimed>,<client>,<load balancer>`, so that only its
    last two addresses are to be believed (cloud.google.com/load-balancing/docs/https#x-forwarded-for_header).
    """
    named = connection_options(headers)
    own = {name for name, _ in passage.told}
    kept: Headers = []
    chunked = False
    for name, value in headers:
        chunked = chunked or name == b"transfer-encoding"
        if name in _HOP_BY_HOP or name in named or name in _OURS_IN or name.startswith(_OURS_IN_PREFIXES):
            continue
        if passage.told and (name in own or name.startswith(iap.OWN_HEADERS)):
            continue
        kept.append((name, _unsigned(passage.token) if name == passage.checked else value))
    if chunked:
        kept = [(name, value) for name, value in kept if name != b"content-length"]
        kept.append((b"transfer-encoding", b"chunked"))
    trace, sampled = _trace_of(headers) or (b"%032x" % (random.getrandbits(128) or 1), 1)  # an identifier, no secret
    span = random.getrandbits(63) or 1
    address, protocol = client.encode(), b"https" if arrival.secure else b"http"
    hops = [address]
    if arrival.address:
        claimed = [value for name, value in headers if name == b"x-forwarded-for" and value.strip()]
        hops = [*claimed, address, arrival.address.encode()]
        kept.append(_VIA)
    kept += passage.told
    kept += [
        (b"x-forwarded-for", b",".join(hops)),
        (b"x-forwarded-proto", protocol),
        (b"forwarded", b'for="%s";proto=%s' % (address, protocol)),
        (b"x-cloud-trace-context", b"%s/%d;o=%d" % (trace, span, sampled)),
        (b"traceparent", b"00-%s-%016x-%02x" % (trace, span, sampled)),
    ]
    return kept


def _trace_of(headers: Headers) -> tuple[bytes, int] | None:
    """The trace that the caller takes part in, and whether it is sampled: W3C's header first, then Google's older one.

    Google's without options leaves the choice to the front end.
    """
    for wanted, pattern in ((b"traceparent", _TRACEPARENT), (b"x-cloud-trace-context", _CLOUD_TRACE)):
        for name, value in headers:
            if name == wanted and (parent := pattern.fullmatch(value)):
                return parent["trace"], int(parent["flags"] or b"1", 16) & 1
    return None


def returned(headers: Headers, status: int, arrival: RoutedRequest = _DIRECT) -> Headers:
    """The headers that the caller gets of a container's answer."""
    named = connection_options(headers)
    dropped = _HOP_BY_HOP | named | {b"server"}
    kept = [(name.lower(), value) for name, value in headers if name.lower() not in dropped]
    chunked = any(name.lower() == b"transfer-encoding" for name, _ in headers)
    # A 204 and a 304 have no body, whatever length it would have; chunks override a length (RFC 9112, 6.3).
    if status in (204, 304) or chunked:
        kept = [(name, value) for name, value in kept if name != b"content-length"]
    kept.append((b"server", b"Google Frontend"))
    if arrival.address:
        kept.append(_VIA)
    return kept


def connection_options(headers: Headers) -> frozenset[bytes]:
    """The header names that `Connection` declares to be for this hop only, and that may be."""
    named = (
        option.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    )
    return frozenset(one for one in named if one not in _END_TO_END and not one.startswith(_END_TO_END_PREFIXES))


def _routed(door: ServiceEndpoint, headers: Headers, port: int) -> bool:
    """Google routes by Host, and so keeps other names (DNS rebinding) out; at a loopback port its own names count."""
    hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return False
    name, _, given = hosts[0].rpartition(":") if re.search(r":\d+$", hosts[0]) else (hosts[0], "", "")
    if port and name in ("127.0.0.1", "localhost"):
        return given in ("", str(port))
    return name in door.hosts


def _meant_for(door: ServiceEndpoint, audience: str) -> bool:
    return audience == GCLOUD_CLIENT_ID or audience.rstrip("/") in {each.rstrip("/") for each in door.audiences}


def _unsigned(token: str) -> bytes:
    return f"Bearer {token.rpartition('.')[0]}.{REMOVED}".encode("latin-1")
