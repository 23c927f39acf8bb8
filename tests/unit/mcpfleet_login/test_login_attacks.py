"""Attacks on a login: none lets anybody in, and a copied token ends the login that it was copied from."""

import asyncio
import base64
import json
import re
import secrets
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest

from mcpfleet_server.caller import LOGIN_HEADER
from tests.unit.mcpfleet_login.login_world import (
    BASE_URL,
    CLIENT_CALLBACK,
    ISSUER,
    ISSUER_SECRET,
    RESOURCE,
    OauthClient,
    World,
    allow,
    log_in,
    logged_in,
)

pytestmark = pytest.mark.anyio

OTHER_URL = "https://payroll-123.europe-west1.run.app"


async def registered(world: World, **metadata) -> OauthClient:
    client = OauthClient(world, world.http())
    assert (await client.register(**metadata)).status_code == 201
    return client


# --- authorization requests ---------------------------------------------------------------------------

BAD_REQUESTS = {
    "no PKCE": {"code_challenge": None, "code_challenge_method": None},
    "no PKCE method": {"code_challenge_method": None},
    "PKCE plain": {"code_challenge_method": "plain"},
    "short challenge": {"code_challenge": "x"},
    "another server": {"resource": f"{OTHER_URL}/mcp"},
    "another path": {"resource": f"{BASE_URL}/other"},
    "a longer host": {"resource": f"{BASE_URL}.evil.example/mcp"},
    "implicit flow": {"response_type": "token"},
    "unknown client": {"client_id": "gAAAAAB"},
    "no client": {"client_id": None},
    "no redirect URI": {"redirect_uri": None},
    "foreign redirect URI": {"redirect_uri": "https://evil.example/callback"},
    "longer path": {"redirect_uri": f"{CLIENT_CALLBACK}/../evil"},
    "longer path without dots": {"redirect_uri": f"{CLIENT_CALLBACK}/evil"},
    "more query": {"redirect_uri": f"{CLIENT_CALLBACK}?next=https://evil.example"},
    "fragment": {"redirect_uri": f"{CLIENT_CALLBACK}#x"},
    "user": {"redirect_uri": "http://127.0.0.1:33418@evil.example/callback"},
    "backslash": {"redirect_uri": "http://127.0.0.1:33418\\@evil.example/callback"},
    "another loopback host": {"redirect_uri": "http://localhost:33418/callback"},
    "another scheme": {"redirect_uri": "https://127.0.0.1:33418/callback"},
    "upper case": {"redirect_uri": "HTTP://127.0.0.1:33418/callback"},
    "escaped": {"redirect_uri": "http://127.0.0.1:33418/%63allback"},
    "decimal host": {"redirect_uri": "http://2130706433:33418/callback"},
    "line feed": {"redirect_uri": f"{CLIENT_CALLBACK}\n"},
    "long state": {"state": "s" * 5000},
}


@pytest.mark.parametrize("changes", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_a_bad_authorization_request_shows_an_error_and_redirects_nowhere(world, changes):
    client = await registered(world)
    answer = await world.http().get(client.authorize_url(**changes))
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert "text/html" in answer.headers["content-type"]


@pytest.mark.parametrize("name", ["redirect_uri", "resource", "client_id", "state", "code_challenge"])
async def test_a_parameter_that_occurs_twice_is_refused(world, name):
    client = await registered(world)
    url = client.authorize_url()
    value = parse_qs(urlsplit(url).query)[name][0]
    answer = await world.http().get(f"{url}&{urlencode({name: value})}")
    assert answer.status_code == 400


async def test_a_loopback_client_may_take_another_port(world):
    client = await registered(world)
    client.redirect_uri = "http://127.0.0.1:50000/callback"
    answer = await log_in(world, world.http(), client.authorize_url())
    assert answer.headers["location"].startswith("http://127.0.0.1:50000/callback?")


@pytest.mark.parametrize(
    "uri",
    [
        "javascript://x/%0aalert(1)",
        "data://text/html",
        "http://evil.example/callback",
        "https://desk.example/callback#x",
        "https://user@desk.example/callback",
        "file:///etc/passwd",
        "urn:ietf:wg:oauth:2.0:oob",
        "https://desk.example/" + "x" * 600,
    ],
)
async def test_a_client_can_not_register_a_dangerous_redirect_uri(world, uri):
    answer = await OauthClient(world, world.http(), redirect_uri=uri).register()
    assert answer.status_code == 400
    assert answer.json()["error"] in ("invalid_redirect_uri", "invalid_client_metadata")


async def test_registration_that_is_switched_off_has_no_endpoint_and_accepts_no_earlier_client(world):
    client = await registered(world)
    http = world.http(world.gate(MCP_LOGIN_REGISTRATION="false"))
    assert (await http.post("/oauth/register", json={})).status_code == 404
    assert "registration_endpoint" not in (await http.get("/.well-known/oauth-authorization-server")).json()
    assert (await http.get(client.authorize_url())).status_code == 400


async def test_registrations_store_nothing_and_end(world):
    client = await registered(world)
    assert world.store.objects == {}
    world.time.now += 180 * 24 * 3600 + 1
    assert (await world.http().get(client.authorize_url())).status_code == 400


async def test_a_huge_registration_is_refused(world):
    answer = await world.http().post("/oauth/register", content=b"[" * 100_000)
    assert answer.status_code == 413


# --- the person's browser -----------------------------------------------------------------------------


async def test_the_consent_page_names_client_destination_and_server_and_can_not_be_framed(world):
    client = await registered(world, client_name='<script>alert("x")</script>')
    page = await world.http().get(client.authorize_url(), follow_redirects=True)
    assert "&lt;script&gt;alert(" in page.text
    assert "<script" not in page.text
    for text in ("127.0.0.1:33418", "weather-123.europe-west1.run.app", "login.acme.dev"):
        assert text in page.text
    assert page.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"


async def test_every_login_asks_again_even_in_the_same_browser(world):
    client = await registered(world)
    browser = world.http()
    await log_in(world, browser, client.authorize_url())
    page = await browser.get(client.authorize_url(), follow_redirects=True)
    assert "Allow access?" in page.text


async def test_a_form_of_another_browser_is_refused(world):
    client = await registered(world)
    page = await world.http().get(client.authorize_url(), follow_redirects=True)
    sealed = unescape(re.search(r'name="request" value="([^"]+)"', page.text)[1])
    victim = world.http()
    await victim.get(client.authorize_url(), follow_redirects=True)  # has a cookie of its own
    answer = await victim.post("/oauth/consent", data={"request": sealed, "decision": "allow"})
    assert answer.status_code == 403
    without_cookie = await world.http().post("/oauth/consent", data={"request": sealed, "decision": "allow"})
    assert without_cookie.status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{BASE_URL}.evil.example", "http://weather-123"])
async def test_a_form_that_another_page_sends_is_refused(world, origin):
    client = await registered(world)
    browser = world.http()
    page = await browser.get(client.authorize_url(), follow_redirects=True)
    sealed = unescape(re.search(r'name="request" value="([^"]+)"', page.text)[1])
    answer = await browser.post(
        "/oauth/consent", data={"request": sealed, "decision": "allow"}, headers={"origin": origin}
    )
    assert answer.status_code == 403


async def test_the_request_of_the_consent_pages_url_is_no_consent(world):
    client = await registered(world)
    browser = world.http()
    answer = await browser.get(client.authorize_url())
    sealed = parse_qs(urlsplit(answer.headers["location"]).query)["request"][0]
    await browser.get(answer.headers["location"])
    refused = await browser.post("/oauth/consent", data={"request": sealed, "decision": "allow"})
    assert refused.status_code == 400


async def test_a_victim_who_is_sent_to_the_issuer_after_the_attackers_consent_gets_no_code(world):
    """The confused deputy: the attacker consents, and sends the victim the issuer's URL."""
    client = await registered(world)
    sent = await allow(world.http(), client.authorize_url())
    callback = world.issuer.log_in(sent.headers["location"])
    answer = await world.http().get(callback)
    assert answer.status_code == 403
    assert "location" not in answer.headers
    assert world.store.objects == {}


async def test_two_logins_in_one_browser_can_not_be_exchanged(world):
    client, other = await registered(world), await registered(world)
    other.redirect_uri = client.redirect_uri
    browser = world.http()
    first = await allow(browser, client.authorize_url())
    second = await allow(browser, other.authorize_url())
    first_callback = urlsplit(world.issuer.log_in(first.headers["location"]))
    second_callback = urlsplit(world.issuer.log_in(second.headers["location"]))
    code = parse_qs(first_callback.query)["code"][0]
    state = parse_qs(second_callback.query)["state"][0]
    answer = await browser.get(f"/oauth/callback?{urlencode({'code': code, 'state': state})}")
    assert answer.status_code == 403
    assert world.store.objects == {}


async def test_a_callback_works_once(world):
    client = await registered(world)
    browser = world.http()
    sent = await allow(browser, client.authorize_url())
    callback = world.issuer.log_in(sent.headers["location"])
    assert (await browser.get(callback)).status_code == 303
    assert (await browser.get(callback)).status_code == 403


async def test_a_login_that_takes_too_long_is_refused(world):
    client = await registered(world)
    browser = world.http()
    sent = await allow(browser, client.authorize_url())
    world.time.now += 601
    assert (await browser.get(world.issuer.log_in(sent.headers["location"]))).status_code == 403


async def test_a_response_of_another_issuer_is_refused(world):
    client = await registered(world)
    browser = world.http()
    sent = await allow(browser, client.authorize_url())
    callback = world.issuer.log_in(sent.headers["location"])
    assert (await browser.get(f"{callback}&iss=https%3A%2F%2Fevil.example")).status_code == 403


async def test_cookies_belong_to_this_host_alone(world):
    client = await registered(world)
    browser = world.http()
    await browser.get(client.authorize_url(), follow_redirects=True)
    answer = await browser.get(client.authorize_url())
    answer = await browser.get(answer.headers["location"])
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert {"HttpOnly", "Secure", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))


# --- the issuer's ID tokens ---------------------------------------------------------------------------

BAD_TOKENS = {
    "another issuer": {"iss": "https://evil.example"},
    "another client": {"aud": "another-client"},
    "several clients": {"aud": ["our-client", "another"], "azp": "another"},
    "another login": {"nonce": "another"},
    "no nonce": {"nonce": ""},
    "ended": {"exp": 1},
    "future": {"iat": 99_999_999_999},
    "no time": {"exp": "soon"},
    "no subject": {"sub": ""},
}


@pytest.mark.parametrize("claims", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_an_id_token_that_proves_nothing_is_refused(world, claims):
    world.issuer.claims = claims
    client = await registered(world)
    answer = await log_in(world, world.http(), client.authorize_url())
    assert answer.status_code == 403
    assert world.store.objects == {}


@pytest.mark.parametrize(("key", "algorithm"), [("attacker", "RS256"), ("issuer", "HS256")])
async def test_an_id_token_with_another_signature_is_refused(world, key, algorithm):
    world.issuer.key, world.issuer.algorithm = key, algorithm
    client = await registered(world)
    assert (await log_in(world, world.http(), client.authorize_url())).status_code == 403


NOT_MEMBERS = {
    "somebody else": {"email": "mallory@acme.dev"},
    "not verified": {"email_verified": False},
    "verified in words": {"email_verified": "true"},
    "no address": {"email": None},
    "longer": {"email": "ada@acme.dev.evil.example"},
    "two addresses": {"email": "ada@acme.dev,mallory@evil.example"},
}


@pytest.mark.parametrize("person", NOT_MEMBERS.values(), ids=NOT_MEMBERS)
async def test_who_is_not_a_member_gets_no_code(world, person):
    world.issuer.person |= person
    client = await registered(world)
    answer = await log_in(world, world.http(), client.authorize_url())
    assert answer.status_code == 403
    assert world.store.objects == {}


async def test_without_members_nobody_gets_in():
    world = World(MCP_LOGIN_MEMBERS=" ")
    client = await registered(world)
    assert (await log_in(world, world.http(), client.authorize_url())).status_code == 403


# --- codes --------------------------------------------------------------------------------------------


async def test_a_code_without_its_verifier_is_worthless(world):
    client = await registered(world)
    code = await client.get_code()
    for verifier in (secrets.token_urlsafe(48), client.challenge(), "", None):
        answer = await client.redeem(code, code_verifier=verifier)
        assert answer.status_code == 400
    assert (await client.redeem(code)).status_code == 200


CODE_CHANGES = {
    "another redirect URI": {"redirect_uri": "http://127.0.0.1:50000/callback"},
    "no redirect URI": {"redirect_uri": None},
    "another resource": {"resource": f"{OTHER_URL}/mcp"},
    "another grant": {"grant_type": "client_credentials"},
}


@pytest.mark.parametrize("changes", CODE_CHANGES.values(), ids=CODE_CHANGES)
async def test_a_code_is_bound_to_its_request(world, changes):
    client = await registered(world)
    assert (await client.redeem(await client.get_code(), **changes)).status_code == 400


async def test_another_client_can_not_redeem_a_code(world):
    client, thief = await registered(world), await registered(world)
    thief.verifier = client.verifier
    code = await client.get_code()
    assert (await thief.redeem(code)).json()["error"] == "invalid_grant"
    assert (await client.redeem(code)).status_code == 200


async def test_a_code_ends_after_a_minute(world):
    client = await registered(world)
    code = await client.get_code()
    world.time.now += 61
    assert (await client.redeem(code)).json()["error"] == "invalid_grant"


async def test_a_code_that_comes_again_ends_the_login(world):
    client = await registered(world)
    code = await client.get_code()
    tokens = (await client.redeem(code)).json()
    assert (await client.redeem(code)).json()["error"] == "invalid_grant"
    assert (await client.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_of_many_requests_with_one_code_at_most_one_succeeds(world):
    client = await registered(world)
    code = await client.get_code()
    answers = await asyncio.gather(*(client.redeem(code) for _ in range(20)))
    assert sum(answer.status_code == 200 for answer in answers) <= 1


async def test_a_client_with_a_secret_needs_it(world):
    client = await registered(world, token_endpoint_auth_method="client_secret_post")
    code = await client.get_code()
    for secret in (None, "", "x" * 64):
        assert (await client.redeem(code, client_secret=secret)).status_code == 401


# --- refresh tokens -----------------------------------------------------------------------------------


async def test_a_stolen_refresh_token_ends_the_login_for_both(world):
    client, tokens = await logged_in(world)
    fresh = (await client.refresh(tokens["refresh_token"])).json()
    assert (await client.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await client.refresh(fresh["refresh_token"])).json()["error"] == "invalid_grant"


async def test_of_many_requests_with_one_refresh_token_at_most_one_succeeds(world):
    world.issuer.refresh_tokens = type("Reusable", (set,), {"discard": lambda *_: None})()
    client, tokens = await logged_in(world)
    answers = await asyncio.gather(*(client.refresh(tokens["refresh_token"]) for _ in range(20)))
    assert sum(answer.status_code == 200 for answer in answers) <= 1


async def test_another_client_can_not_use_a_refresh_token(world):
    _, tokens = await logged_in(world)
    thief = await registered(world)
    assert (await thief.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_who_has_left_loses_access_with_the_next_refresh(world):
    client, tokens = await logged_in(world)
    client.http = world.http(world.gate(MCP_LOGIN_MEMBERS="user:bob@acme.dev"))
    assert (await client.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    client.http = world.http()
    assert (await client.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_whose_account_is_closed_at_the_issuer_loses_access_with_the_next_refresh(world):
    client, tokens = await logged_in(world)
    world.issuer.refresh_tokens.clear()
    assert (await client.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_an_issuer_that_names_another_account_at_the_refresh_is_not_believed(world):
    client, tokens = await logged_in(world)
    world.issuer.claims = {"sub": "mallory-1"}
    assert (await client.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


# --- access tokens ------------------------------------------------------------------------------------


async def test_a_token_of_another_server_of_the_stack_is_worthless(world):
    client, tokens = await logged_in(world)
    other = world.gate(MCP_BASE_URL=OTHER_URL)
    client.http = world.http(other)
    assert (await client.call(tokens["access_token"])).status_code == 401
    assert (await client.refresh(tokens["refresh_token"])).status_code in (400, 401)


@pytest.mark.parametrize("wrong", ["refresh_token", "client_id", "code"])
async def test_no_other_sealed_value_is_an_access_token(world, wrong):
    client, tokens = await logged_in(world)
    value = {"refresh_token": tokens["refresh_token"], "client_id": client.client_id}.get(wrong)
    value = value or await client.get_code()
    assert (await client.call(value)).status_code == 401


async def test_an_access_token_ends_after_ten_minutes(world):
    client, tokens = await logged_in(world)
    world.time.now += 600
    assert (await client.call(tokens["access_token"])).status_code == 200
    world.time.now += 1
    refused = await client.call(tokens["access_token"])
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


def _forged() -> dict[str, str]:
    claims = {"iss": ISSUER, "sub": "ada-1", "aud": RESOURCE, "exp": 9_999_999_999, "scope": "mcp"}
    return {
        "none": jwt.encode(claims, "", "none"),
        "empty secret": jwt.encode(claims, "x" * 32, "HS256"),
        "another key": base64.urlsafe_b64encode(b"\x80" + bytes(90)).decode(),
        "empty": "",
        "long": "A" * 100_000,
        "other characters": "gAAAA\u00e9",
        "path": "../../families/x",
    }


@pytest.mark.parametrize("token", _forged().values(), ids=_forged())
async def test_a_forged_token_is_refused(world, token):
    client = await registered(world)
    headers = {"authorization": b"Bearer " + token.encode()}
    answer = await client.http.post("/mcp", json={}, headers=headers)
    assert answer.status_code == 401
    assert world.echo.requests == []


@pytest.mark.parametrize("change", range(0, 200, 7))
async def test_a_token_with_one_changed_character_is_refused(world, change):
    client, tokens = await logged_in(world)
    token = tokens["access_token"]
    changed = token[:change] + ("A" if token[change] != "A" else "B") + token[change + 1 :]
    assert (await client.call(changed)).status_code == 401


async def test_two_tokens_are_no_token(world):
    client, tokens = await logged_in(world)
    headers = [("authorization", f"Bearer {tokens['access_token']}"), ("authorization", "Bearer x")]
    assert (await client.http.post("/mcp", json={}, headers=headers)).status_code == 401


async def test_a_token_in_the_url_is_no_token(world):
    client, tokens = await logged_in(world)
    answer = await client.http.post(f"/mcp?access_token={tokens['access_token']}", json={})
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/", "/mcp/", "/health/", "/health/x", "/HEALTH", "/%2e%2e/mcp", "//mcp", "/sse"])
async def test_every_other_path_needs_a_token(world, path):
    assert (await world.http().get(path)).status_code == 401
    assert world.echo.requests == []


# --- what reaches the application ---------------------------------------------------------------------

FORGED = ("mallory", "mallory@evil.example")
FORGED_VALUE = base64.urlsafe_b64encode(json.dumps({"iss": ISSUER, "sub": "mallory"}).encode()).decode()


@pytest.mark.parametrize(
    "name",
    [
        LOGIN_HEADER.decode(),
        "X-Mcpfleet-Caller",
        "x_mcpfleet_caller",
        "X_Mcpfleet-Caller",
        "x-goog-iap-jwt-assertion",
        "x-goog-authenticated-user-email",
        "x-serverless-authorization",
    ],
)
async def test_nobody_outside_can_name_the_caller(world, name):
    client, tokens = await logged_in(world)
    answer = await client.call(tokens["access_token"], headers={name: FORGED_VALUE})
    values = [value for _, value in answer.json()["headers"]]
    assert FORGED_VALUE not in values
    callers = [value for key, value in answer.json()["headers"] if key == LOGIN_HEADER.decode()]
    assert len(callers) == 1
    assert json.loads(base64.urlsafe_b64decode(callers[0]))["sub"] == "ada-1"


async def test_the_application_gets_neither_the_token_nor_cookies_and_sets_none(world):
    client, tokens = await logged_in(world)
    answer = await client.call(tokens["access_token"], headers={"cookie": "__Host-mcpfleet-browser=x"})
    names = {name for name, _ in answer.json()["headers"]}
    assert not names & {"authorization", "cookie"}
    assert tokens["access_token"] not in answer.text
    assert "set-cookie" not in answer.headers


async def test_a_page_of_a_foreign_origin_can_not_call(world):
    client, tokens = await logged_in(world)
    assert (await client.call(tokens["access_token"], headers={"origin": "https://evil.example"})).status_code == 403


async def test_a_page_of_an_allowed_origin_can_call_and_read_refusals():
    world = World(MCP_ALLOWED_ORIGINS="https://app.example.com")
    client, tokens = await logged_in(world)
    headers = {"origin": "https://app.example.com"}
    for token, status in ((tokens["access_token"], 200), ("x", 401)):
        answer = await client.call(token, headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, headers["origin"])
    preflight = await client.http.options("/mcp", headers=headers | {"access-control-request-method": "POST"})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, headers["origin"])


async def test_logs_have_no_token_and_no_code(world, caplog):
    caplog.set_level("DEBUG")
    client = await registered(world)
    code = await client.get_code()
    tokens = (await client.redeem(code)).json()
    await client.redeem(code)
    text = caplog.text
    assert "ada@acme.dev has logged in" in text
    assert "came again" in text
    secrets_in_play = [code, tokens["access_token"], tokens["refresh_token"], ISSUER_SECRET, "the-issuers-"]
    assert not [secret for secret in secrets_in_play if secret in text]


async def test_what_others_write_can_not_forge_a_line_of_the_log(world, caplog):
    caplog.set_level("INFO")
    client = await registered(world, client_name="Desk\n2026 INFO mallory has logged in\u202e")
    await client.get_code()
    assert [record for record in caplog.records if "\n" in record.getMessage() or "\u202e" in record.getMessage()] == []


async def test_the_cookie_of_one_login_is_not_accepted_for_another(world):
    client = await registered(world)
    browser = world.http()
    first = await allow(browser, client.authorize_url())
    second = await allow(browser, client.authorize_url())
    states = [parse_qs(urlsplit(sent.headers["location"]).query)["state"][0] for sent in (first, second)]
    cookies = [browser.cookies[f"__Host-mcpfleet-{state}"] for state in states]
    exchanged = world.http(cookies={f"__Host-mcpfleet-{states[0]}": cookies[1]})
    assert (await exchanged.get(world.issuer.log_in(first.headers["location"]))).status_code == 403


async def test_a_finished_login_leaves_no_cookie(world):
    client = await registered(world)
    browser = world.http()
    await log_in(world, browser, client.authorize_url())
    assert [name for name in browser.cookies if name != "__Host-mcpfleet-browser"] == []
