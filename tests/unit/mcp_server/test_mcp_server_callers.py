"""The trusted caller under each access mode, and the isolation of callers' sessions, streams and state."""

import asyncio
import base64
import json
import time

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import MCPServer

import mcpfleet_server.hosting.application as parts
from mcp_server.app import build_server
from mcpfleet_server import iap
from mcpfleet_server.caller import Caller, caller_of_claims, cloud_run_caller, current_caller
from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.settings import Settings, SettingsError, load_settings
from mcpfleet_server.iap import AssertionVerifier, KeysError, NoAssertionError
from tests.unit.mcp_server.assertions import AUDIENCE, LIFE, OTHER, asserted, assertion, published
from tests.unit.mcp_server.tokens import ADA, BOB, GOOGLE, id_token
from tests.unit.mcp_server.wire import Request, call, get, message, post, scope_of, started

pytestmark = pytest.mark.anyio

IAP = {"MCP_ACCESS": "iap", "MCP_IAP_AUDIENCE": AUDIENCE}
FRONT, APP = b"x-serverless-authorization", b"authorization"


def unsigned(claims, name=APP, scheme="Bearer"):
    return (name, f"{scheme} {id_token(claims)}".encode())


@pytest.fixture(autouse=True)
def google(monkeypatch):
    """Google's published keys, without a network."""
    monkeypatch.setattr(parts, "AssertionVerifier", lambda audiences: AssertionVerifier(audiences, published))


def shop(**environment):
    server = MCPServer("shop")

    @server.tool()
    async def who() -> str:
        caller, access = current_caller(), get_access_token()
        return f"{caller.name if caller else None} {access.subject if access else None}"

    return build_app(server, Settings(**environment))


async def asked(app, headers, *, modern=True):
    """The tool's own words about the caller, or the status."""
    status, answer = await call(app, "who", modern=modern, headers=headers).answer()
    return answer["result"]["content"][0]["text"] if status == 200 else status


# --- who is believed ----------------------------------------------------------------------------------------


def named_by_gate(name: str, **claims) -> tuple[bytes, bytes]:
    """Return the header that the gate of `access: login` adds to a request of this person."""
    account = {"iss": "https://login.acme.dev", "sub": f"{name}-1", "email": f"{name}@acme.dev", "email_verified": True}
    return b"x-mcpfleet-caller", base64.urlsafe_b64encode(json.dumps(account | claims).encode())


FORGED = [
    [unsigned(ADA)],
    [unsigned(ADA, FRONT)],
    [unsigned(ADA, FRONT), unsigned(BOB)],
    [(b"x-goog-authenticated-user-email", b"accounts.google.com:ada@mcpfleet.test")],
    [(b"x-goog-authenticated-user-id", b"accounts.google.com:1001")],
    [(b"x-goog-iap-jwt-assertion", id_token(ADA).encode())],
    asserted(assertion()),
    [(b"x-forwarded-email", b"ada@mcpfleet.test"), (b"x-forwarded-user", b"1001")],
    [named_by_gate("ada")],
]


@pytest.mark.parametrize("environment", [{}, {"MCP_ACCESS": "public"}], ids=["unset", "public"])
@pytest.mark.parametrize("headers", FORGED)
async def test_a_public_server_identifies_no_caller(environment, headers):
    async with started(shop(**environment)) as app:
        assert await asked(app, headers) == "None None"


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
async def test_with_iam_the_caller_is_read_from_the_checked_token(modern):
    async with started(shop(MCP_ACCESS="iam")) as app:
        assert await asked(app, [unsigned(ADA)], modern=modern) == "ada@mcpfleet.test 1001"
        assert await asked(app, [unsigned(ADA, FRONT)], modern=modern) == "ada@mcpfleet.test 1001"
        forged = [unsigned(BOB), unsigned(ADA, FRONT)]
        for headers in (forged, forged[::-1]):
            assert await asked(app, headers, modern=modern) == "ada@mcpfleet.test 1001"
        assert await asked(app, [], modern=modern) == "None None", "and nothing is left of who called before"


@pytest.mark.parametrize(
    "headers",
    [
        [(FRONT, b""), unsigned(ADA)],
        [(FRONT, b"Bearer x"), unsigned(ADA)],
        [unsigned(ADA), unsigned(BOB)],
        [unsigned(ADA, FRONT), unsigned(BOB, FRONT)],
        [unsigned(ADA, scheme="Basic")],
        [(APP, f"Bearer {id_token(ADA, 'c2lnbmVk')}".encode())],
        [(APP, b"Bearer " + b"x" * 20_000)],
        FORGED[3],
        FORGED[4],
        FORGED[8],
        asserted(assertion()),
    ],
)
async def test_with_iam_no_other_header_identifies_a_caller(headers):
    async with started(shop(MCP_ACCESS="iam")) as app:
        assert await asked(app, headers) == "None None"


async def test_with_login_only_the_gates_header_identifies_the_caller():
    lies = [unsigned(BOB), unsigned(BOB, FRONT), *asserted(assertion())]
    async with started(shop(MCP_ACCESS="login")) as app:
        assert await asked(app, [named_by_gate("ada"), *lies]) == "ada@acme.dev ada-1"
        assert await asked(app, [named_by_gate("ada", email_verified=False)]) == "https://login.acme.dev ada-1 ada-1"
        assert await asked(app, [named_by_gate("ada", email=1)]) == "https://login.acme.dev ada-1 ada-1"
        for headers in (
            lies,
            [named_by_gate("ada"), named_by_gate("bob")],
            [named_by_gate("ada", sub="")],
            [named_by_gate("ada", iss=1)],
            [(b"x-mcpfleet-caller", b"!")],
            [(b"x-mcpfleet-caller", b"WzFd")],
            [(b"x-mcpfleet-caller", b"e30" * 20_000)],
        ):
            assert await asked(app, headers) == "None None"


def test_a_callers_key_is_its_issuer_and_subject():
    google, other = (caller_of_claims({"iss": iss, "sub": "1"}) for iss in (GOOGLE["iss"], "https://b.test"))
    assert google.identity != other.identity
    assert caller_of_claims({"iss": "a b", "sub": "c"}).identity != Caller("a", "b c").identity
    assert other.name == "https://b.test 1"


async def test_with_iap_only_the_proxys_assertion_identifies_the_caller():
    # The proxy calls Cloud Run as itself; whatever else a caller has written means nothing.
    proxy = unsigned(GOOGLE | {"sub": "9", "email": "service-1@gcp-sa-iap.iam.gserviceaccount.com"}, FRONT)
    lies = [proxy, unsigned(BOB), (b"x-goog-authenticated-user-email", b"accounts.google.com:bob@mcpfleet.test")]
    async with started(shop(**IAP)) as app:
        for headers in (asserted(assertion()), [*lies, *asserted(assertion())]):
            assert await asked(app, headers) == "ada@mcpfleet.test accounts.google.com:1001"
        status, answer = await call(app, "who", headers=lies).answer()
    assert status == 401
    assert "Identity-Aware Proxy" in answer["error"]["message"]


FALSE_ASSERTIONS = [
    assertion(key=OTHER),
    assertion(key=OTHER, kid="unknown"),
    assertion(kid=None),
    assertion(aud="/projects/481516234200/locations/europe-west1/services/mcp-other"),
    assertion(aud=None),
    assertion(iss="https://accounts.google.com"),
    assertion(iss=None),
    assertion(sub=None),
    assertion(exp=None),
    assertion(exp=int(time.time()) - 60),
    assertion(exp=2.0**33),
    assertion(iat=int(time.time()) + 12 * 3600),
    assertion(iat=None),
    assertion(key="x" * 32, algorithm="HS256"),
    jwt.encode({"iss": iap.ISSUER, "aud": AUDIENCE, "sub": "a", "iat": 0, "exp": 2**33}, None, algorithm="none"),
    assertion()[:-6] + "AAAAAA",
    id_token({"iss": iap.ISSUER, "aud": AUDIENCE, "sub": "a", "iat": 0, "exp": 2**33}),
    "",
    "a.b.c",
    "x" * 20_000,
]


@pytest.mark.parametrize("text", FALSE_ASSERTIONS, ids=range(len(FALSE_ASSERTIONS)))
async def test_an_assertion_with_wrong_signature_audience_or_time_is_refused(text):
    async with started(shop(**IAP)) as app:
        assert await asked(app, asserted(text)) == 401


async def test_a_request_with_two_assertions_is_refused():
    async with started(shop(**IAP)) as app:
        assert await asked(app, [*asserted(assertion()), *asserted(assertion())]) == 401


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/sse", "/messages/", "/messages/x", "/own", "/nowhere"])
async def test_with_iap_every_route_except_the_probes_requires_an_assertion(path):
    content = message(params={"name": "who", "arguments": {}})
    async with started(shop(MCP_TRANSPORTS="streamable-http,sse", **IAP)) as app:
        scope = scope_of(content, path=path) | {"method": "GET" if path == "/sse" else "POST"}
        status, _ = await Request(app, scope, json.dumps(content).encode()).start()
        assert status == 401
        assert (await get(app, "/health").answer())[0] == 200


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MCP_ACCESS": "iap"}, "MCP_IAP_AUDIENCE"),
        ({"MCP_ACCESS": "iam", "MCP_IAP_AUDIENCE": AUDIENCE}, "MCP_IAP_AUDIENCE"),
        ({"MCP_ACCESS": "oauth"}, "MCP_OAUTH_ISSUER: required for MCP_ACCESS=oauth"),
        (
            {"MCP_ACCESS": "iam", "MCP_OAUTH_ISSUER": "https://a.test", "MCP_BASE_URL": "https://b.test"},
            "MCP_ACCESS=iam",
        ),
        ({"MCP_ACCESS": "private"}, "MCP_ACCESS"),
    ],
)
def test_an_access_mode_that_cannot_be_enforced_is_refused_at_startup(environment, said):
    with pytest.raises(SettingsError, match=said):
        load_settings(environment)


# --- the proxy's keys ---------------------------------------------------------------------------------------


class Google:
    """Publishes keys, and counts."""

    def __init__(self):
        self.asked, self.document, self.now = 0, published(), time.time()

    def fetch(self):
        self.asked += 1
        if self.document is None:
            raise KeysError("no route")
        return self.document

    def clock(self):
        return self.now


async def verified(assertions, text):
    return (await assertions.verify(asserted(text)))["sub"]


async def test_iap_keys_are_cached_and_refetched_for_unknown_key_ids_at_a_limited_rate():
    google = Google()
    verifier = AssertionVerifier([AUDIENCE], google.fetch, google.clock, google.clock)
    for _ in range(3):
        await verified(verifier, assertion())
    assert google.asked == 1
    for number in range(50):
        with pytest.raises(NoAssertionError):
            await verified(verifier, assertion(key=OTHER, kid=f"made-up-{number}"))
    assert google.asked == 1
    google.document = published(OTHER, "two")
    google.now += 11
    assert await verified(verifier, assertion(key=OTHER, kid="two")) == "accounts.google.com:1001"
    assert google.asked == 2


async def test_cached_keys_are_used_while_iap_is_down_and_without_keys_every_caller_is_refused():
    google = Google()
    verifier = AssertionVerifier([AUDIENCE], google.fetch, google.clock, google.clock)
    await verified(verifier, assertion())
    google.document = None
    google.now += 3700
    await verified(verifier, assertion(now=google.now))
    none = AssertionVerifier([AUDIENCE], google.fetch, google.clock, google.clock)
    with pytest.raises(KeysError):
        await verified(none, assertion(now=google.now))


async def test_a_cached_assertion_expires():
    google = Google()
    verifier = AssertionVerifier([AUDIENCE], google.fetch, google.clock, google.clock)
    text = assertion()
    await verified(verifier, text)
    google.now += LIFE + 31
    with pytest.raises(NoAssertionError):
        await verified(verifier, text)


@pytest.mark.parametrize("document", [b"", b"[]", b'{"keys": 3}', b'{"keys": []}', b'{"keys": [3, {"kty": "oct"}]}'])
async def test_invalid_keys_accept_no_caller(document):
    with pytest.raises(KeysError):
        await verified(AssertionVerifier([AUDIENCE], lambda: document), assertion())


async def test_without_the_keys_of_iap_a_client_is_told_to_retry(monkeypatch):
    def down():
        raise KeysError("no route")

    monkeypatch.setattr(parts, "AssertionVerifier", lambda audiences: AssertionVerifier(audiences, down))
    async with started(shop(**IAP)) as app:
        status, headers = await call(app, "who", headers=asserted(assertion())).start()
    assert (status, headers["retry-after"]) == (503, "10")


# --- what belongs to a caller -------------------------------------------------------------------------------

MODES = {
    "iam": ({"MCP_ACCESS": "iam"}, [unsigned(ADA)], [unsigned(BOB)]),
    "login": ({"MCP_ACCESS": "login"}, [named_by_gate("ada")], [named_by_gate("bob")]),
    "iap": (IAP, asserted(assertion()), asserted(assertion(sub="accounts.google.com:1002", email="bob@mcpfleet.test"))),
}


@pytest.fixture(params=MODES)
def two(request):
    """Environment, and the headers of Ada and of Bob. OAuth's two are in test_mcp_server_oauth.py."""
    return MODES[request.param]


async def opened(app, headers):
    greeting = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    request = post(app, message("initialize", greeting, modern=False), modern=False, headers=headers)
    status, answer = await request.start()
    await request.task
    return status, [(b"mcp-session-id", answer.get("mcp-session-id", "").encode())]


async def test_only_its_caller_can_use_stream_and_end_a_session(two):
    environment, ada, bob = two
    async with started(shop(MCP_STATELESS="false", **environment)) as app:
        status, session = await opened(app, ada)
        assert status == 200
        scope = scope_of(message("ping"), modern=False, headers=[*session, *bob])
        for method in ("GET", "DELETE"):
            assert (await Request(app, {**scope, "method": method}).start())[0] == 404
        assert (await call(app, "who", modern=False, headers=[*session, *bob]).start())[0] == 404
        if environment["MCP_ACCESS"] == "iam":
            assert (await call(app, "who", modern=False, headers=session).start())[0] == 404
        ada_call = call(app, "who", modern=False, headers=[*session, *ada])
        assert (await ada_call.start())[0] == 200
        assert "ada@" in (await ada_call.event())["result"]["content"][0]["text"]


async def test_only_the_caller_who_opened_a_stream_can_post_to_it(two):
    environment, ada, bob = two
    async with started(shop(MCP_TRANSPORTS="streamable-http,sse", **environment)) as app:
        stream = get(app, "/sse", headers=ada)
        assert (await stream.start())[0] == 200
        address = (await stream.part())[0].decode().partition("data: ")[2].strip()
        path, _, query = address.partition("?")
        content = message("ping", modern=False)
        scope = scope_of(content, modern=False, path=path) | {"query_string": query.encode()}

        async def sent(headers):
            request = Request(app, scope | {"headers": [*scope["headers"], *headers]}, json.dumps(content).encode())
            return (await request.start())[0]

        assert await sent(bob) == 404
        assert await sent(ada) == 202
        stream.hang_up()
        await asyncio.wait_for(stream.task, 5)


async def test_a_request_state_is_accepted_only_from_its_caller(two):
    environment, ada, bob = two
    app = build_app(build_server(Settings()), Settings(**environment))
    content = message(params={"name": "order_tea", "arguments": {"kind": "mint"}})
    content["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {"form": {}}}
    async with started(app):
        _, first_round = await post(app, content, headers=ada).answer()
        (name,) = first_round["result"]["inputRequests"]
        content["params"] |= {
            "inputResponses": {name: {"action": "accept", "content": {"cups": 3, "milk": False}}},
            "requestState": first_round["result"]["requestState"],
        }
        status, refused = await post(app, content, headers=bob).answer()
        _, answered = await post(app, content, headers=ada).answer()
    assert (status, refused["error"]["code"]) == (400, -32602)
    assert answered["result"]["structuredContent"]["cups"] == 3


async def test_one_caller_cannot_use_all_sessions(two):
    environment, ada, bob = two
    async with started(shop(MCP_STATELESS="false", MCP_MAX_SESSIONS="4", **environment)) as app:
        statuses = [(await opened(app, ada))[0] for _ in range(4)]
        assert statuses == [200, 200, 200, 503]
        assert (await opened(app, bob))[0] == 200


async def test_one_caller_cannot_use_all_streams_of_the_legacy_transport(two):
    environment, ada, bob = two
    async with started(shop(MCP_TRANSPORTS="streamable-http,sse", MCP_MAX_SESSIONS="4", **environment)) as app:
        streams = [get(app, "/sse", headers=ada) for _ in range(4)]
        assert [(await stream.start())[0] for stream in streams] == [200, 200, 200, 503]
        streams[0].hang_up()
        await asyncio.wait_for(streams[0].task, 5)
        others = [get(app, "/sse", headers=headers) for headers in (ada, bob, bob)]
        assert [(await stream.start())[0] for stream in others] == [200, 200, 503]
        for stream in (*streams[1:3], *others[:2]):
            stream.hang_up()
            await asyncio.wait_for(stream.task, 5)


async def test_unidentified_callers_share_all_sessions():
    async with started(shop(MCP_STATELESS="false", MCP_MAX_SESSIONS="3")) as app:
        assert [(await opened(app, []))[0] for _ in range(4)] == [200, 200, 200, 503]


# --- the reader ---------------------------------------------------------------------------------------------

PARTS = st.one_of(st.binary(max_size=40), st.sampled_from([id_token(ADA).encode(), id_token(BOB).encode(), b"", b"."]))
VALUES = st.tuples(st.sampled_from([b"Bearer ", b"bearer\t", b"", b"Basic ", b"Bearer"]), PARTS).map(b"".join)
NAMES = st.sampled_from([APP, FRONT, b"x-goog-iap-jwt-assertion", b"x-goog-authenticated-user-email", b"cookie"])


def model(headers):
    """The precedence as Google's documentation has it, written without looking at the code."""
    for name in (FRONT, APP):
        values = [value for header, value in headers if header == name]
        if values:
            break
    else:
        return None
    if max(sum(header == item for header, _ in headers) for item in (FRONT, APP)) > 1:
        return None
    scheme, _, token = values[0].strip(b" \t").partition(b" ")
    for claims in (ADA, BOB):
        if scheme.lower() == b"bearer" and token.strip(b" \t") == id_token(claims).encode():
            return claims["iss"], claims["sub"]
    return None


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_the_caller_is_read_from_the_checked_header_only(headers):
    caller = cloud_run_caller(headers)
    assert (None if caller is None else caller.identity) == model(headers)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.binary(max_size=200))
def test_no_claims_make_the_reader_fail(payload):
    token = base64.urlsafe_b64encode(payload).rstrip(b"=")
    for middle in (token, payload):
        caller = cloud_run_caller([(APP, b"Bearer e30." + middle + b".SIGNATURE_REMOVED_BY_GOOGLE")])
        assert caller is None or (caller.issuer and caller.subject)
