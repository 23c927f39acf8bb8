"""Tests of forged identity headers: from a caller through the front end to the container's reader."""

import asyncio
import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.front_end.authorizer import Allowed, Authorizer, caller_headers, container_headers
from mcpfleet_local_cloud.front_end.container_router import with_iap_keys, with_storage
from mcpfleet_local_cloud.front_end.iap import IdentityAwareProxy, Signer
from mcpfleet_local_cloud.front_end.routing import RoutedRequest
from mcpfleet_local_cloud.identity.tokens import Identity
from mcpfleet_local_cloud.services.iap.model import KEYS_HOST, KEYS_PATH
from mcpfleet_server.caller import caller_of_claims, cloud_run_caller
from mcpfleet_server.iap import AssertionVerifier, NoAssertionError

NUMBER = 481516234200
SERVICE = "projects/mcpfleet-local/locations/europe-west1/services/hello"
URL = f"https://hello-{NUMBER}.europe-west1.run.app"
CLIENT = "123-abc.apps.googleusercontent.com"
ADA, EVE = "ada@mcpfleet.test", "eve@mcpfleet.test"
FRONT, APP, PROXY = b"x-serverless-authorization", b"authorization", b"proxy-authorization"


class Everybody:
    def allows(self, email, permission, resource):
        return bool(email)


class Clients:
    def audiences(self, resource):
        return frozenset({CLIENT})


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    return Identity(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    return IdentityAwareProxy(Clients(), Signer(tmp_path_factory.mktemp("keys")), NUMBER)


def claimed(email):
    """Return a forged token in the form in which the front end passes tokens on."""
    claims = {"iss": "https://accounts.google.com", "sub": email, "email": email, "email_verified": True}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "RS256"}, claims)]
    return b"Bearer " + b".".join(parts) + b".SIGNATURE_REMOVED_BY_GOOGLE"


NAMES = [FRONT, APP, PROXY, b"x-goog-iap-jwt-assertion", b"x-goog-authenticated-user-email", b"x-forwarded-user", b"x"]
lies = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from([claimed(ADA), claimed(ADA)[7:], b"accounts.google.com:" + ADA.encode(), b"Bearer ", b""]),
    ),
    max_size=5,
)
options = st.lists(
    st.sampled_from([*NAMES, b"X-Serverless-Authorization", b"host", b"close", b" authorization ", b"mcp-session-id"]),
    max_size=4,
).map(b" , ".join)


def sent(identity, door, headers, proxy=None):
    """Return the headers that the container gets, or None if the request is refused."""
    guard = Authorizer(identity, Everybody(), proxy=proxy)
    verdict = guard.check(RoutedRequest(endpoint=door, is_balanced=True), headers, "/mcp")
    return container_headers(headers, verdict, "10.0.0.1") if isinstance(verdict, Allowed) else None


@settings(max_examples=300, derandomize=True, deadline=None)
@given(lies=lies, options=options, name=st.sampled_from([FRONT, APP]), at=st.integers(0, 5))
def test_with_iam_no_header_changes_the_callers_identity(identity, lies, options, name, at):
    token = identity.mint_id_token(email=EVE, subject=EVE, audience=URL)
    headers = [*lies, (b"connection", options)]
    headers.insert(at, (name, f"Bearer {token}".encode()))
    door = ServiceEndpoint(service=SERVICE, audiences=frozenset({URL}), hosts=frozenset())
    received = sent(identity, door, headers)
    if received is not None:
        caller = cloud_run_caller(received)
        assert caller is None or caller.subject == EVE


def test_with_iam_connection_cannot_remove_the_checked_header(identity):
    token = identity.mint_id_token(email=EVE, subject=EVE, audience=URL)
    door = ServiceEndpoint(service=SERVICE, audiences=frozenset({URL}), hosts=frozenset())
    for option in (
        b"x-serverless-authorization",
        b"X-Serverless-Authorization, close",
        b"close,x-serverless-authorization",
    ):
        headers = [(FRONT, f"Bearer {token}".encode()), (APP, claimed(ADA)), (b"connection", option)]
        received = sent(identity, door, headers)
        assert cloud_run_caller(received).email == EVE


@settings(max_examples=200, derandomize=True, deadline=None)
@given(lies=lies, options=options, name=st.sampled_from([PROXY, APP]), at=st.integers(0, 5))
def test_with_iap_no_header_changes_the_callers_identity(identity, proxy, lies, options, name, at):
    token = identity.mint_id_token(email=EVE, subject=EVE, audience=CLIENT)
    headers = [*lies, (b"connection", options)]
    headers.insert(at, (name, f"Bearer {token}".encode()))
    door = ServiceEndpoint(service=SERVICE, audiences=frozenset({URL}), hosts=frozenset(), iap=True)
    received = sent(identity, door, headers, proxy)
    if received is None:
        return
    assertions = AssertionVerifier([f"/projects/{NUMBER}/locations/europe-west1/services/hello"], published(proxy))
    caller = caller_of_claims(asyncio.run(assertions.verify(received)))
    assert (caller.subject, caller.email) == (f"accounts.google.com:{EVE}", EVE)
    # Read as on a service without the proxy, it would be the proxy itself, and in no case somebody whom Eve chose.
    other = cloud_run_caller(received)
    assert other is None or other.email == f"service-{NUMBER}@gcp-sa-iap.iam.gserviceaccount.com"


def test_an_assertion_for_one_service_is_invalid_for_another(identity, proxy):
    token = identity.mint_id_token(email=EVE, subject=EVE, audience=CLIENT)
    door = ServiceEndpoint(service=SERVICE, audiences=frozenset({URL}), hosts=frozenset(), iap=True)
    received = sent(identity, door, [(APP, f"Bearer {token}".encode())], proxy)
    other = AssertionVerifier([f"/projects/{NUMBER}/locations/europe-west1/services/other"], published(proxy))
    with pytest.raises(NoAssertionError):
        asyncio.run(other.verify(received))


def get(app, path=KEYS_PATH, method="GET", host=KEYS_HOST):
    said = []

    async def send(message):
        said.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", host.encode())]}
    asyncio.run(app(scope, None, send))
    return said[0]["status"], said[1].get("body", b"")


async def front(scope, receive, send):
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def published(proxy):
    """Gets the keys as a container does, at Google's own address."""
    return lambda: get(with_iap_keys(proxy, front))[1]


def test_only_the_keys_are_served_at_googles_url_for_them(proxy):
    app = with_iap_keys(proxy, front)
    status, body = get(app)
    assert (status, json.loads(body)) == (200, proxy.jwks())
    assert get(app, path="/else")[0] == 404
    assert get(app, method="POST")[0] == 404
    assert get(app, method="HEAD") == (200, b"")
    assert get(app, host="hello.run.app")[0] == 418


def test_containers_find_cloud_storage_at_its_own_host_and_nowhere_else():
    async def storage(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"storage"})

    app = with_storage(storage, front)
    assert get(app, host="storage.googleapis.com") == (200, b"storage")
    for host in ("hello.run.app", "storage.googleapis.com.evil.example", "secretmanager.googleapis.com"):
        assert get(app, host=host)[0] == 418


@settings(derandomize=True, deadline=None)
@given(options)
def test_identity_headers_pass_in_both_directions(options):
    mine = [(name, b"1") for name in (APP, b"host", b"cookie", b"mcp-session-id", b"origin", b"content-type")]
    crossed = container_headers([*mine, (b"connection", options)], Allowed(), "10.0.0.1")
    assert set(mine) <= set(crossed)
    answer = [(b"set-cookie", b"1"), (b"mcp-session-id", b"1"), (b"content-type", b"1")]
    assert set(answer) <= set(caller_headers([*answer, (b"connection", b"set-cookie, " + options)], 200))
