"""Tests of Cloud Run's front end: the decision table for credentials, with generated requests."""

import string
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet_local_cloud.front_end.routing import RoutedRequest

INVOKER, STRANGER = "ada@mcpfleet.test", "bob@mcpfleet.test"
SERVERLESS, AUTHORIZATION = b"x-serverless-authorization", b"authorization"
GOOD_AUDIENCES = (
    "http://127.0.0.1:18555",
    "http://127.0.0.1:18555/",
    "https://echo-1.europe-west1.run.app",
    "my-audience",
    "32555940559.apps.googleusercontent.com",
)
BAD_AUDIENCES = ("http://127.0.0.1:18556", "https://echo-1.europe-west1.run.app.evil.test", "", "My-Audience")


@dataclass(frozen=True)
class Sent:
    """A credential as sent: its header's value, and what the front end should make of it."""

    value: str
    verdict: str  # pass, stranger, invalid, none
    token: str = ""


@pytest.fixture(scope="module")
def credentials(signer):
    """A strategy for every kind of credential."""

    def token(email, audience, **options):
        return signer.mint_id_token(email=email, subject="1", audience=audience, **options)

    def sent(prefix, value, verdict):
        return Sent(f"{prefix}{value}", verdict, value)

    good = [token(INVOKER, audience) for audience in GOOD_AUDIENCES]
    stranger = [token(STRANGER, audience) for audience in GOOD_AUDIENCES[:2]]
    wrong = [token(INVOKER, audience) for audience in BAD_AUDIENCES]
    expired = token(INVOKER, GOOD_AUDIENCES[0], lifetime=-10)
    head, payload, signature = good[0].split(".")
    _, other_payload, _ = stranger[0].split(".")
    access, _ = signer.mint_access_token(email=INVOKER, scopes=["s"])
    forged = [
        f"{head}.{payload}.",
        f"{head}.{other_payload}.{signature}",
        f"{head}.{payload}.SIGNATURE_REMOVED_BY_GOOGLE",
        f"{payload}",
        "x.y.z",
        "...",
    ]
    kinds = [
        *(sent("Bearer ", each, "pass") for each in good),
        *(sent("bearer  ", each, "pass") for each in good[:1]),
        *(sent("Bearer ", each, "stranger") for each in stranger),
        *(sent("Bearer ", each, "invalid") for each in [*wrong, expired, access, *forged]),
        Sent("", "none"),
        Sent("   ", "none"),
        sent("Basic ", good[0], "none"),
        sent("", good[0], "none"),
    ]
    noise = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=40)
    return st.one_of(st.sampled_from(kinds), noise.map(lambda text: Sent(f"Bearer {text}", "invalid")))


def expected(sent):
    """The status by the table, for a service that wants an invoker."""
    return {"pass": 200, "stranger": 403, "invalid": 401, "none": 403}[sent.verdict]


junk_headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"x-forwarded-for",
                b"x-forwarded-proto",
                b"x-forwarded-host",
                b"forwarded",
                b"x-google-iap",
                b"keep-alive",
                b"te",
                b"proxy-authorization",
                b"x-custom",
                b"accept",
            ]
        ),
        st.sampled_from([b"6.6.6.6", b"http", b"claimed"]),
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_combination_of_credentials_has_its_result_in_the_table(front, kit, credentials, data):
    serverless = data.draw(st.none() | credentials)
    authorization = data.draw(st.none() | credentials)
    public = data.draw(st.booleans())
    iam_disabled = data.draw(st.booleans())
    junk = data.draw(junk_headers)
    instance = kit.Instance()
    rights = kit.May(INVOKER, *([None] if public else []))
    headers = [*junk, (b"connection", b"x-hop, close"), (b"x-hop", b"1")]
    if authorization:
        headers.append((AUTHORIZATION, authorization.value.encode()))
    if serverless:
        headers.append((SERVERLESS, serverless.value.encode()))

    exchange = front(
        instance, headers=headers, rights=rights, door=replace(kit.door, invoker_iam_disabled=iam_disabled)
    )

    checked = serverless if serverless is not None else authorization
    open_to_all = public or iam_disabled
    if not open_to_all:
        assert exchange.status == (403 if checked is None else expected(checked))
    else:
        assert exchange.status == 200
    assert len(instance.requests) == (1 if exchange.status == 200 else 0), "a refused request never reaches the app"
    for _, _, received, _ in instance.requests:
        names = [name for name, _ in received]
        assert not {b"x-hop", b"te", b"keep-alive", b"proxy-authorization", b"connection"} & set(names)
        assert not any(name.startswith(b"x-google") for name in names)
        assert [value for name, value in received if name == b"x-forwarded-for"] == [b"127.0.0.9"]
        assert [value for name, value in received if name == b"x-forwarded-proto"] == [b"https"]
        assert [value for name, value in received if name == b"forwarded"] == [b'for="127.0.0.9";proto=https']
        assert b"x-forwarded-host" not in names
        if not open_to_all:
            header = SERVERLESS if serverless is not None else AUTHORIZATION
            unsigned = checked.token.rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"
            assert dict(received)[header] == f"Bearer {unsigned}".encode()
            if serverless is not None and authorization is not None:
                assert dict(received)[AUTHORIZATION] == authorization.value.encode(), "the app's own credential"


def test_no_credential_gets_googles_403_page_byte_for_byte(front, kit):
    exchange = front(kit.Instance(), path="/mcp", rights=kit.May(INVOKER))
    assert exchange.status == 403
    assert exchange.headers[b"content-type"] == b"text/html; charset=UTF-8"
    assert b"www-authenticate" not in exchange.headers
    assert exchange.body == (
        b'\n<html><head>\n<meta http-equiv="content-type" content="text/html;charset=utf-8">\n'
        b"<title>403 Forbidden</title>\n</head>\n<body text=#000000 bgcolor=#ffffff>\n"
        b"<h1>Error: Forbidden</h1>\n<h2>Your client does not have permission to get URL <code>/mcp</code> "
        b"from this server.</h2>\n<h2></h2>\n</body></html>\n"
    )


def test_an_invalid_token_gets_googles_401_page_byte_for_byte(front, kit):
    exchange = front(kit.Instance(), path="/mcp", headers=[(AUTHORIZATION, b"Bearer a.b.c")], rights=kit.May(INVOKER))
    assert exchange.status == 401
    assert exchange.headers[b"www-authenticate"] == (
        b'Bearer error="invalid_token" error_description="The access token could not be verified"'
    )
    assert exchange.body == (
        b'\n<html><head>\n<meta http-equiv="content-type" content="text/html;charset=utf-8">\n'
        b"<title>401 Unauthorized</title>\n</head>\n<body text=#000000 bgcolor=#ffffff>\n"
        b"<h1>Error: Unauthorized</h1>\n<h2>Your client does not have permission to the requested URL "
        b"<code>/mcp</code>.</h2>\n<h2></h2>\n</body></html>\n"
    )


def test_the_path_in_a_page_cannot_carry_markup(front, kit):
    exchange = front(kit.Instance(), path="/<script>", rights=kit.May(INVOKER))
    assert b"<code>/&lt;script&gt;</code>" in exchange.body


def test_an_empty_serverless_header_is_refused_in_spite_of_a_valid_authorization(front, kit, signer):
    token = signer.mint_id_token(email=INVOKER, subject="1", audience="my-audience").encode()
    headers = [(SERVERLESS, b""), (AUTHORIZATION, b"Bearer " + token)]
    assert front(kit.Instance(), headers=headers, rights=kit.May(INVOKER)).status == 403


def test_two_authorization_headers_are_refused_because_only_one_would_be_checked(front, kit, signer):
    token = signer.mint_id_token(email=INVOKER, subject="1", audience="my-audience").encode()
    headers = [(AUTHORIZATION, b"Bearer " + token), (AUTHORIZATION, b"Bearer other")]
    exchange = front(kit.Instance(), headers=headers, rights=kit.May(INVOKER))
    assert exchange.status == 401


@pytest.mark.parametrize("path", ["/healthz", "/eventlog", "/_ah/warmup"])
def test_paths_reserved_by_google_get_its_404_page_before_any_check(front, kit, path):
    instance = kit.Instance()
    exchange = front(instance, path=path, rights=kit.May(None))
    assert (exchange.status, instance.requests) == (404, [])
    assert f"The requested URL <code>{path}</code> was not found on this server.".encode() in exchange.body


@pytest.mark.parametrize("path", ["/health", "/quiz", "/healthz/live"])
def test_other_paths_reach_the_container(front, kit, path):
    assert front(kit.Instance(), path=path).status == 200


def test_a_service_with_internal_ingress_is_404_from_outside(front, kit):
    door = replace(kit.door, ingress="INGRESS_TRAFFIC_INTERNAL_ONLY")
    assert front(kit.Instance(), door=door).status == 404


def test_an_address_without_a_service_is_not_found(front, kit):
    assert front(kit.Instance(), door=None).status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:18555", 200),
        ("localhost:18555", 200),
        ("LOCALHOST:18555", 200),
        ("echo-1.europe-west1.run.app", 200),
        ("echo-1.europe-west1.run.app:443", 200),
        ("127.0.0.1:18556", 404),
        ("evil.test", 404),
        ("echo-1.europe-west1.run.app.evil.test", 404),
        ("", 404),
    ],
)
def test_only_the_services_own_host_names_are_routed_as_on_google(front, kit, host, status):
    assert front(kit.Instance(), host=host).status == status


def test_a_verified_token_is_cached_until_its_expiry(kit, signer):
    from mcpfleet_local_cloud.front_end.authorizer import Allowed, Authorizer, Denied

    calls = []

    class Counting:
        def verify_id_token(self, token):
            calls.append(token)
            return signer.verify_id_token(token)

    token = signer.mint_id_token(email=INVOKER, subject="1", audience="my-audience")
    expires = signer.verify_id_token(token).expires
    now = [expires - 100.0]
    guard = Authorizer(Counting(), kit.May(INVOKER), clock=lambda: now[0])
    headers = [(b"host", b"127.0.0.1:18555"), (AUTHORIZATION, f"Bearer {token}".encode())]

    def check():
        return guard.check(RoutedRequest(endpoint=kit.door, port=kit.port), headers, "/")

    assert isinstance(check(), Allowed)
    assert isinstance(check(), Allowed)
    assert len(calls) == 1
    now[0] = expires
    check()
    assert len(calls) == 2, "asked again once it may have expired"
    other = RoutedRequest(endpoint=replace(kit.door, audiences=frozenset({"x"})), port=kit.port)
    assert isinstance(guard.check(other, headers, "/"), Denied)
