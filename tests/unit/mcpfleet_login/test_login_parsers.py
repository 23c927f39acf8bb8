"""Redirect URIs, members, sealed values and settings, by properties and by examples."""

import base64
import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_login import redirects
from mcpfleet_login.members import GOOGLE, Account, Members
from mcpfleet_login.sealing import Sealer, SealError, parse_key
from mcpfleet_login.settings import load_settings
from mcpfleet_server.environment import SettingsError
from tests.unit.mcpfleet_login.login_world import KEY, RESOURCE

GOOD_URIS = [
    "https://claude.ai/api/mcp/auth_callback",
    "https://chatgpt.com/connector_platform_oauth_redirect",
    "http://127.0.0.1:33418",
    "http://127.0.0.1:33418/",
    "http://localhost:6274/oauth/callback",
    "http://localhost/callback",
    "http://[::1]:1234/callback",
    "cursor://anysphere.cursor-retrieval/oauth/user-desk/callback",
    "https://vscode.dev/redirect?a=b&c=%20d",
]
PIECES = st.sampled_from(
    (
        *("http", "https", "://", ":", "/", "\\", "@", "#", "?", "%", "%2f", "..", ".", "127.0.0.1", "localhost"),
        *("[::1]", "evil.example", ":33418", "/callback", "\n", "\t", " ", "\u2028", "ß", "&", ";", "javascript"),
    )
)


@pytest.mark.parametrize("uri", GOOD_URIS)
def test_redirect_uris_of_known_clients_are_accepted(uri):
    redirects.check(uri)
    assert redirects.is_registered(uri, [uri])


@given(st.lists(PIECES, max_size=10).map("".join), st.sampled_from(GOOD_URIS))
def test_only_a_registered_host_can_be_redirected_to(requested, registered):
    if redirects.is_registered(requested, [registered]):
        left, right = urlsplit(requested), urlsplit(registered)
        assert (left.scheme, left.hostname, left.path) == (right.scheme, right.hostname, right.path)
        assert requested == registered or left.hostname in ("127.0.0.1", "localhost", "::1")


@given(st.sampled_from(GOOD_URIS), st.lists(PIECES, min_size=1, max_size=4).map("".join), st.integers(0, 80))
def test_a_changed_redirect_uri_leads_to_the_same_host_or_nowhere(registered, inserted, position):
    requested = registered[:position] + inserted + registered[position:]
    if redirects.is_registered(requested, [registered]):
        left, right = urlsplit(requested), urlsplit(registered)
        assert (left.hostname, left.path, left.query) == (right.hostname, right.path, right.query)


@given(st.text(max_size=60) | st.lists(PIECES, max_size=10).map("".join))
def test_no_text_breaks_the_check_of_redirect_uris(text):
    redirects.is_registered(text, [text])


GOOGLE_ADA = {"issuer": GOOGLE, "subject": "1", "email": "ada@acme.dev"}


@pytest.mark.parametrize(
    ("entries", "account", "expected"),
    [
        (["user:Ada@acme.dev"], Account(**GOOGLE_ADA), True),
        (["domain:acme.dev"], Account(**GOOGLE_ADA), False),
        (["domain:acme.dev"], Account(**GOOGLE_ADA, hosted_domain="acme.dev"), True),
        (["domain:acme.dev"], Account("https://login.acme.dev", "1", "ada@acme.dev"), True),
        (["domain:acme.dev"], Account("https://login.acme.dev", "1", "ada@sub.acme.dev"), False),
        (["domain:acme.dev"], Account("https://login.acme.dev", "1"), False),
        (["group:mcp"], Account("https://login.acme.dev", "1", groups=frozenset({"mcp"})), True),
        (["group:mcp"], Account("https://login.acme.dev", "1", groups=frozenset({"MCP"})), False),
        (["group:mcp"], Account("https://login.acme.dev", "1", "mcp"), False),
        ([], Account(**GOOGLE_ADA, hosted_domain="acme.dev", groups=frozenset({""})), False),
    ],
)
def test_members_are_who_the_entries_name(entries, account, expected):
    assert Members.parse(entries).allow(account) is expected


@pytest.mark.parametrize("entry", ["ada@acme.dev", "user:", "allUsers", "user:a b", "serviceAccount:x@y", "domain:*,x"])
def test_an_entry_of_another_form_is_refused(entry):
    with pytest.raises(ValueError, match="write user:EMAIL, domain:DOMAIN or group:NAME"):
        Members.parse([entry])


VALUES = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=4)


@given(VALUES)
def test_a_sealed_value_opens_for_its_purpose_only(value):
    sealer = Sealer([bytes(32)], RESOURCE)
    sealed = sealer.seal("code", value)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", sealed)
    assert sealer.open("code", sealed, 60) == value
    for purpose, resource, key in (("refresh", RESOURCE, 0), ("code", f"{RESOURCE}2", 0), ("code", RESOURCE, 1)):
        with pytest.raises(SealError):
            Sealer([bytes([key] * 32)], resource).open(purpose, sealed, 60)


@given(st.text() | st.binary().map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_nothing_else_opens(text):
    with pytest.raises(SealError):
        Sealer([bytes(32)], RESOURCE).open("code", text, None)


@pytest.mark.parametrize("text", ["", "x", "A" * 42, KEY[:-4], KEY + "AAAA", "é" * 43, " " * 44])
def test_a_key_of_another_length_is_refused(text):
    with pytest.raises(ValueError, match="openssl rand -base64 32"):
        parse_key(text)


ENVIRONMENT = {
    "MCPFLEET_BASE_URL": "https://weather.example.org",
    "MCPFLEET_LOGIN_ISSUER": GOOGLE,
    "MCPFLEET_LOGIN_CLIENT_ID": "c",
    "MCPFLEET_LOGIN_CLIENT_SECRET": "a-secret",
    "MCPFLEET_LOGIN_MEMBERS": "user:ada@acme.dev, domain:acme.dev",
    "MCPFLEET_LOGIN_KEYS": f"{KEY}\n{KEY}",
    "MCPFLEET_LOGIN_BUCKET": "logins",
}


def test_settings_are_read_from_the_fleets_variables():
    settings = load_settings(ENVIRONMENT)
    assert settings.resource == "https://weather.example.org/mcp"
    assert len(settings.keys) == 2
    assert settings.members.domains == {"acme.dev"}


@pytest.mark.parametrize("name", sorted(ENVIRONMENT.keys() - {"MCPFLEET_LOGIN_MEMBERS"}))
def test_a_setting_that_is_missing_is_named(name):
    with pytest.raises(SettingsError, match="required"):
        load_settings({key: value for key, value in ENVIRONMENT.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MCPFLEET_BASE_URL", "http://weather.example.org"),
        ("MCPFLEET_BASE_URL", "https://weather.example.org/x"),
        ("MCPFLEET_LOGIN_ISSUER", "http://login.example.org"),
        ("MCPFLEET_LOGIN_ISSUER", "https://user@login.example.org"),
        ("MCPFLEET_LOGIN_MEMBERS", "everybody"),
        ("MCPFLEET_LOGIN_KEYS", "short"),
        ("MCPFLEET_LOGIN_BUCKET", "../x"),
        ("MCPFLEET_PATH", "/oauth"),
        ("MCPFLEET_PATH", "/oauth/token"),
        ("MCPFLEET_HEALTH_PATH", "/.well-known/x"),
        ("MCPFLEET_ALLOWED_ORIGINS", "*"),
        ("PORT", "0"),
    ],
)
def test_a_setting_with_a_mistake_is_named_and_no_secret_is_shown(name, value):
    with pytest.raises(SettingsError) as caught:
        load_settings(ENVIRONMENT | {name: value})
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert "\n" not in text
    assert "a-secret" not in text
    assert KEY not in text
    assert name != "MCPFLEET_LOGIN_KEYS" or value not in text
