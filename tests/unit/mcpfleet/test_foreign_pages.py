"""Requests that a web page can make a browser send, and which of them reach an application."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet.errors import UsageError
from mcpfleet.same_origin import SameOriginApp, page_refusal, parse_origins

pytestmark = pytest.mark.anyio
BOUND = 10  # seconds; only a broken build waits this long
JSON = (b"content-type", b"application/json")
HOST = (b"host", b"asker.acme.dev")


class App:
    """Notes the bodies that it is given."""

    def __init__(self):
        self.bodies = []

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.bodies.append(message["body"])
        assert message["more_body"] is False
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def status_of(headers, parts=(b"{}",), method="POST", client=("203.0.113.7", 1), app=None, **options):
    """The status of the answer, and the bodies that the application saw."""
    app, sent, waiting = app or App(), [], list(parts)

    async def receive():
        if not waiting:
            await asyncio.Event().wait()  # it drips no more
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting) or "drip" in options}

    async def send(message):
        sent.append(message)

    limits = {key: value for key, value in options.items() if key != "drip"}
    scope = {"type": "http", "method": method, "path": "/ask", "headers": list(headers), "client": client}
    await asyncio.wait_for(SameOriginApp(app, **limits)(scope, receive, send), BOUND)
    return sent[0]["status"], app.bodies


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([HOST, JSON], 200),
        ([HOST, (b"content-type", b"Application/JSON; charset=utf-8")], 200),
        ([HOST], 415),
        ([HOST, (b"content-type", b"text/plain")], 415),
        ([HOST, (b"content-type", b"text/plain; application/json")], 415),
        ([HOST, JSON, (b"content-type", b"text/plain")], 415),
        ([HOST, JSON, (b"origin", b"https://asker.acme.dev")], 200),
        ([HOST, JSON, (b"origin", b"https://asker.acme.dev:443")], 200),
        ([HOST, JSON, (b"origin", b"https://asker.acme.dev:8443")], 403),
        ([HOST, JSON, (b"origin", b"https://asker.acme.dev.evil.dev")], 403),
        ([HOST, JSON, (b"origin", b"https://asker.acme.dev@evil.dev")], 403),
        ([HOST, JSON, (b"origin", b"null")], 403),
        ([HOST, JSON, (b"origin", b"")], 403),
        ([JSON, (b"origin", b"https://asker.acme.dev")], 403),
        ([HOST, HOST, JSON, (b"origin", b"https://asker.acme.dev")], 403),
        ([HOST, JSON, (b"origin", b"https://asker.acme.dev"), (b"origin", b"https://evil.dev")], 400),
        ([HOST, JSON, (b"origin", b"https://evil.dev"), (b"sec-fetch-site", b"cross-site")], 403),
        ([HOST, JSON, (b"origin", b"https://x.acme.dev"), (b"sec-fetch-site", b"same-site")], 403),
        ([HOST, JSON, (b"sec-fetch-site", b"cross-site")], 403),
        ([HOST, JSON, (b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")], 400),
        # Through `mcpfleet proxy` the page is at localhost, and the Host is the service's.
        ([HOST, JSON, (b"origin", b"http://127.0.0.1:3001"), (b"sec-fetch-site", b"same-origin")], 200),
        ([HOST, JSON, (b"origin", b"https://console.acme.dev"), (b"sec-fetch-site", b"cross-site")], 200),
    ],
)
async def test_only_programs_and_own_pages_are_answered(headers, status):
    got, bodies = await status_of(headers, origins=("https://console.acme.dev",))
    assert got == status
    assert bodies == ([b"{}"] if status == 200 else [])


async def test_a_page_whose_host_name_resolves_to_loopback_is_refused():
    rebound = [
        (b"host", b"evil.dev:8080"),
        JSON,
        (b"origin", b"http://evil.dev:8080"),
        (b"sec-fetch-site", b"same-origin"),
    ]
    assert await status_of(rebound, client=("127.0.0.1", 1)) == (421, [])
    assert await status_of(rebound, client=("::1", 1)) == (421, [])
    own_headers = [
        (b"host", b"localhost:8080"),
        JSON,
        (b"origin", b"http://localhost:8080"),
        (b"sec-fetch-site", b"same-origin"),
    ]
    assert (await status_of(own_headers, client=("127.0.0.1", 1)))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
async def test_every_method_that_writes_requires_an_allowed_origin(method):
    assert (await status_of([HOST, JSON, (b"origin", b"https://evil.dev")], method=method))[0] == 403


async def test_a_body_is_limited_in_size_and_time_for_any_declared_length():
    assert await status_of([HOST, JSON], [b"x" * 60, b"x" * 60], body_bytes=100) == (413, [])
    assert await status_of([HOST, JSON, (b"content-length", b"101")], body_bytes=100) == (413, [])
    assert await status_of([HOST, JSON, (b"content-length", b"1" * 5000)], body_bytes=100) == (413, [])
    assert await status_of([HOST, JSON], [b"x"], drip=True, body_seconds=0.01) == (408, [])
    assert await status_of([HOST, JSON], [b"x" * 50, b"x" * 50], body_bytes=100) == (200, [b"x" * 100])


@given(st.lists(st.tuples(st.sampled_from([b"origin", b"Sec-Fetch-Site", b"host", b"Origin"]), st.binary(max_size=40))))
def test_no_header_bytes_raise_or_let_a_foreign_origin_pass(headers):
    foreign = [*headers, (b"Origin", b"https://evil.dev"), (b"Sec-Fetch-Site", b"cross-site"), HOST]
    assert page_refusal(foreign, "203.0.113.7") is not None
    page_refusal(headers, None)


@pytest.mark.parametrize("text", ["*", "https://", "https://a.dev/", "HTTPS://A.dev", "null", "https://a.dev,x"])
def test_an_invalid_origin_is_refused(text):
    with pytest.raises(UsageError, match="is not an origin"):
        parse_origins(text)
