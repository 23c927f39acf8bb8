"""Untrusted token endpoints: the result is a token, or an error with one message."""

import asyncio
import gzip
import itertools
import json

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet import google_transport
from mcpfleet.errors import AuthError, TokenEndpointUnavailableError
from mcpfleet.google_sources import MetadataServer
from mcpfleet.token_sources import Impersonation, source_from_file
from mcpfleet.tokens import IdToken

AUDIENCE = "https://echo.run.app"
LIMIT = 4096


class Pieces(httpx2.AsyncByteStream):
    """A streamed body that counts the chunks read from it."""

    def __init__(self, pieces):
        self._pieces, self.taken = pieces, 0

    async def __aiter__(self):
        for piece in self._pieces:
            self.taken += 1
            yield piece


class Slow(httpx2.AsyncByteStream):
    """A body whose next piece never comes."""

    async def __aiter__(self):
        yield b"{"
        await asyncio.Event().wait()


def answering(stream, status=200, **headers):
    def answer(request):
        return httpx2.Response(status, headers=headers, stream=stream, request=request)

    return google_transport.request_for("", httpx2.MockTransport(answer))


@pytest.fixture
def bounded(monkeypatch):
    monkeypatch.setenv("MCPFLEET_MAX_ANSWER", str(LIMIT))
    monkeypatch.setattr(google_transport, "ENDPOINT_SECONDS", 0.01)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("status", [200, 400, 404])
def test_an_endless_response_is_a_one_line_error_with_the_limit(login_file, status, kind):
    body = Pieces(itertools.repeat(b"x" * 1022 + b"\n\n"))
    with pytest.raises(TokenEndpointUnavailableError, match=rf"larger than {LIMIT} bytes.*MCPFLEET_MAX_ANSWER") as no:
        source_from_file(login_file(), answering(body, status, **{"content-type": kind})).fetch(AUDIENCE)
    assert body.taken <= LIMIT / 1024 + 1
    assert "\n" not in str(no.value)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("packed", ["gzip", "deflate", "br", "zstd", "gzip, identity", "GZIP"])
def test_a_compressed_response_is_not_decompressed(login_file, packed):
    bomb = Pieces([gzip.compress(b" " * LIMIT * 1000)])
    with pytest.raises(TokenEndpointUnavailableError, match="compressed"):
        source_from_file(login_file(), answering(bomb, **{"content-encoding": packed})).fetch(AUDIENCE)
    assert bomb.taken == 0


@pytest.mark.usefixtures("bounded")
def test_an_incomplete_response_is_an_error_after_the_timeout(login_file):
    with pytest.raises(TokenEndpointUnavailableError, match=r"not complete after 0\.01 s"):
        source_from_file(login_file(), answering(Slow())).fetch(AUDIENCE)


@pytest.mark.usefixtures("bounded")
def test_impersonation_has_the_same_limits(login_file):
    tokens = {"access_token": "ya29.s", "expires_in": 3599}
    body = Pieces(itertools.repeat(b"x" * 1024))

    def answer(request):
        if request.url.path.endswith(":generateIdToken"):
            return httpx2.Response(200, stream=body, request=request)
        return httpx2.Response(200, json=tokens, request=request)

    request = google_transport.request_for("", httpx2.MockTransport(answer))
    with pytest.raises(TokenEndpointUnavailableError, match="MCPFLEET_MAX_ANSWER"):
        Impersonation("bot@acme.iam.gserviceaccount.com", login_file(), environ={}, request=request).fetch(AUDIENCE)
    assert body.taken <= LIMIT / 1024 + 1


@pytest.mark.parametrize("status", [200, 400])
def test_a_response_that_is_no_text_is_reported(login_file, status):
    with pytest.raises(TokenEndpointUnavailableError, match="not text"):
        source_from_file(login_file(), answering(Pieces([b"\xff\xfe"]), status)).fetch(AUDIENCE)


def test_a_token_is_fetched_while_an_event_loop_runs(google, login_file):
    body = {"access_token": "ya29.x", "expires_in": 10, "id_token": google.mint(AUDIENCE)}

    async def within():
        return source_from_file(login_file(), answering(Pieces([json.dumps(body).encode()]))).fetch(AUDIENCE)

    assert asyncio.run(within()).audience == AUDIENCE


def test_an_endpoints_error_is_shown_inert_and_shortened(google, google_answer, login_file):
    google.answer = lambda: google_answer(400, {"error": "\x1b[2J✓ all checks passed" + "x" * 100_000})
    with pytest.raises(AuthError) as no:
        source_from_file(login_file(), google).fetch(AUDIENCE)
    assert "\x1b" not in str(no.value)
    assert len(str(no.value)) < 1000


# --- answers of any shape -----------------------------------------------------------------------------------

WORDS = ["id_token", "access_token", "expires_in", "error", "error_description", "token", "accessToken", "expireTime"]
NUMBERS = st.sampled_from([0, -1, 1e308, 10**400, float("nan"), float("inf"), 3599])
CLAIMS = st.dictionaries(st.sampled_from(["exp", "iat", "email", "aud"]), NUMBERS | st.text(max_size=4) | st.none())


def jwt_of(claims):
    import base64

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}.c2ln"


LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=6) | CLAIMS.map(jwt_of) | st.lists(NUMBERS, max_size=2)
OBJECTS = st.dictionaries(st.sampled_from(WORDS), LEAVES | st.dictionaries(st.sampled_from(["message"]), LEAVES))
BODIES = (
    st.one_of(LEAVES, OBJECTS, st.lists(OBJECTS, max_size=2)).map(lambda one: json.dumps(one).encode())
    | st.binary(max_size=20)
    | st.sampled_from([b"[" * 100_000, b"9" * 5000, b"", b"null", b"\n\n", b'{"error":' * 3000])
    | CLAIMS.map(lambda claims: jwt_of(claims).encode())
)
KINDS = ["text/plain", "application/json", "application/json; charset=nothing"]


def fetched(source):
    """Return the token, or the error message."""
    try:
        return source.fetch(AUDIENCE), ""
    except AuthError as error:
        return None, str(error)


@pytest.mark.parametrize("kind", ["login", "key", "impersonation", "metadata"])
@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=BODIES, status=st.sampled_from([200, 200, 200, 201, 302, 400, 403, 404]), content=st.sampled_from(KINDS))
def test_any_response_is_a_token_or_a_one_line_error(monkeypatch, login_file, key_file, kind, body, status, content):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # google-auth's pauses between its attempts
    request = answering(Pieces([body]), status, **{"content-type": content})
    match kind:
        case "login":
            source = source_from_file(login_file(), request)
        case "key":
            source = source_from_file(key_file(), request)
        case "impersonation":
            source = Impersonation("bot@acme.iam.gserviceaccount.com", login_file(), environ={}, request=request)
        case _:
            source = MetadataServer(request)
    token, message = fetched(source)
    assert len(message.splitlines()) == (token is None)
    assert len(message) < 1000
    assert token is None or (token.value.isascii() and token.expires_at < float("inf"))


@settings(max_examples=300, derandomize=True)
@given(
    claims=CLAIMS | LEAVES,
    expires_at=st.integers(0, 200),
    put=st.sampled_from(["", "\n", "\r\n", " ", "\x00", "é", "\u2028"]),
)
def test_a_token_has_three_parts_valid_characters_and_an_expiry(claims, expires_at, put):
    text = jwt_of(claims)
    text = text[:expires_at] + put + text[expires_at:]
    try:
        token = IdToken.parse(text, "The command")
    except AuthError:
        return
    assert all(character.isascii() and character.isprintable() and character != " " for character in token.value)
    assert 0 <= abs(token.expires_at) < float("inf")
