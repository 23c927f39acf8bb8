"""Allow-lists of hosts and origins: nothing outside the patterns passes."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpfleet_server.hosting.edge import Edge
from mcpfleet_server.hosting.settings import Settings

PATTERNS = "mcp-reference-*.run.app,mcp.example.org,fixed.example.org:8443,any.example.org:*"


async def _passed_on(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def answer(*headers: tuple[str, str], hosts: str = PATTERNS, origins: str = "") -> int:
    """The status of a POST to /mcp with exactly these headers; 204 means the edge let it pass."""
    settings = Settings(MCP_ALLOWED_HOSTS=hosts, MCP_ALLOWED_ORIGINS=origins)
    edge = Edge(
        _passed_on,
        _passed_on,
        hosts=settings.accepted_hosts,
        origins=settings.allowed_origins,
        path="/mcp",
        health_path="/health",
        stateless=True,
    )
    raw = [(name.encode(), value.encode("utf-8", "surrogatepass")) for name, value in headers]
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(edge({"type": "http", "method": "POST", "path": "/mcp", "headers": raw}, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    "host",
    [
        "mcp-reference-481516234200.europe-west1.run.app",
        "mcp-reference-x7yk2l-ew.a.run.app",
        "mcp-reference-x.run.app:443",
        "MCP-Reference-X.Run.App",
        "mcp.example.org",
        " mcp.example.org\t",
        "mcp.example.org:80",
        "fixed.example.org:8443",
        "any.example.org",
        "any.example.org:1",
        "localhost",
        "localhost:8080",
        "LOCALHOST:1",
        "127.0.0.1:35999",
        "[::1]:8080",
        "[::1]",
    ],
)
def test_listed_hosts_and_loopback_names_pass(host):
    assert answer(("host", host)) == 204


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        "mcp-reference-x.run.app.evil.test",
        "mcp-reference-x.run.app:443.evil.test",
        "mcp-reference-x.run.app:8080",
        "mcp-reference-x.run.app:",
        "mcp-reference-x.run.app:0443000",
        "mcp-reference-x.run.app:४४३",
        "mcp-reference-x.run.app.",
        "mcp-reference-x.run.app@evil.test",
        "evil.test@mcp-reference-x.run.app",
        "user:mcp-reference-x.run.app",
        "mcp-reference-x.run.app/evil.test",
        "mcp-reference-x.evil.test#.run.app",
        "mcp-reference-evil.test\\.run.app",
        "mcp-reference-x.run.app\n",
        "\x0bmcp-reference-x.run.app",
        "mcp-reference-x.run.app,evil.test",
        "mcp-reference-xrun.app",
        "mcp-reference-..run.app",
        "mcp-reference-.run.app",
        "xmcp-reference-x.run.app",
        "mcp-reference-\u017f.run.app",
        "mcp-reference-x.run.aPP\u0130",
        "mcp-reference-*.run.app",
        "sub.mcp.example.org",
        "fixed.example.org",
        "fixed.example.org:443",
        "localhost.evil.test",
        "localhost.",
        "127.0.0.1.evil.test",
        "127.0.0.2",
        "0.0.0.0",  # noqa: S104
        "[::1",
        "[::2]",
        "::1",
        "",
        "mcp-reference-" + "x" * 64 + ".run.app",
        "mcp-reference-" + "x." * 130 + "run.app",
    ],
)
def test_any_other_host_is_misdirected(host):
    assert answer(("host", host)) == 421


def test_a_request_names_exactly_one_host():
    assert answer() == 421
    assert answer(("host", "localhost"), ("host", "localhost")) == 421
    assert answer(("host", "localhost"), ("host", "evil.test")) == 421


label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
good_host = st.builds(
    lambda first, rest: f"mcp-reference-{'.'.join([first, *rest])}.run.app", label, st.lists(label, max_size=3)
)
nasty = st.text(
    alphabet=st.sampled_from("abz019.-_:@/\\#?*[]% \t\r\n\0,;\u017f\u212a\u3002\uff0e\u0130"), max_size=12
) | st.text(max_size=6)


@given(good_host, st.sampled_from(["", ":80", ":443"]))
@settings(max_examples=100, deadline=None)
def test_every_host_that_matches_the_pattern_passes(host, port):
    assert answer(("host", host + port)) == 204


@given(good_host, nasty, nasty, st.integers(0, 60))
@settings(max_examples=400, deadline=None)
def test_no_host_outside_the_pattern_passes(host, before, inside, position):
    candidate = before + host[:position] + inside + host[position:]
    if answer(("host", candidate), hosts="mcp-reference-*.run.app") == 204:
        # Said again without a regular expression: what passed is a name of ours and maybe a default port.
        name, _, port = candidate.strip(" \t").lower().partition(":")
        assert port in ("", "80", "443")
        assert candidate.count(":") == (1 if port else 0)
        assert name.startswith("mcp-reference-")
        assert name.endswith(".run.app")
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
        assert all(part and part == part.strip("-") for part in name.split("."))


@given(good_host, nasty.filter(lambda text: text.strip(" \t") not in ("", ":80", ":443", ":080", ":0443")))
@settings(max_examples=200, deadline=None)
def test_a_suffix_of_a_listed_host_makes_it_another_host(host, tail):
    passed = answer(("host", host + tail), hosts="mcp-reference-*.run.app") == 204
    assert not passed or tail.rstrip(" \t").lstrip(":").lstrip("0") in ("80", "443")


def test_requests_without_an_origin_pass_and_every_origin_is_refused_by_default():
    assert answer(("host", "localhost")) == 204
    for origin in ("http://localhost:6274", "https://mcp.example.org", "null", ""):
        assert answer(("host", "localhost"), ("origin", origin)) == 403


ORIGINS = "https://app.example.com, https://port.example.com:443, http://localhost:6274,https://*.corp.example.net"


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "https://app.example.com:443",
        "https://port.example.com",
        "HTTPS://App.Example.com",
        "http://localhost:6274",
        "https://a.b.corp.example.net",
    ],
)
def test_a_listed_origin_passes(origin):
    assert answer(("host", "localhost"), ("origin", origin), origins=ORIGINS) == 204


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example.com",
        "https://app.example.com:80",
        "https://app.example.com:8443",
        "https://app.example.com.evil.test",
        "https://app.example.com/",
        "https://app.example.com@evil.test",
        "app.example.com",
        "//app.example.com",
        "http://localhost",
        "http://localhost:62740",
        "null",
        "https://corp.example.net",
        "https://app.example.com https://evil.test",
    ],
)
def test_any_other_origin_is_forbidden(origin):
    assert answer(("host", "localhost"), ("origin", origin), origins=ORIGINS) == 403


def test_two_origins_are_forbidden_even_if_both_are_allowed():
    twice = [("origin", "https://app.example.com")] * 2
    assert answer(("host", "localhost"), *twice, origins=ORIGINS) == 403
