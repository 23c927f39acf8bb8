import asyncio
import logging
import threading

import httpx2
import jwt
import pytest

from mcpfleet.auth import IdTokenAuth, IdTokens
from mcpfleet.errors import CredentialsRefusedError, TokenEndpointUnavailableError

AUDIENCE = "https://echo.run.app"
URL = f"{AUDIENCE}/mcp"
BOUND = 10  # seconds; only a broken build waits this long

pytestmark = pytest.mark.anyio


class Deferred:
    """Holds refreshes back until the test lets them run."""

    def __init__(self):
        self.work = []

    def __call__(self, work):
        self.work.append(work)

    def run(self):
        while self.work:
            self.work.pop(0)()


def at_once(work):
    work()


@pytest.fixture
def tokens(source, clock):
    return IdTokens(source, AUDIENCE, clock=clock, start=at_once)


@pytest.fixture
def service(front_end):
    return front_end(AUDIENCE)


def client_of(service, tokens, **options):
    return httpx2.AsyncClient(transport=service, auth=IdTokenAuth(AUDIENCE, tokens=tokens, **options))


async def test_a_private_service_accepts_the_token_and_the_authorization_header_is_kept(service, tokens):
    async with client_of(service, tokens) as client:
        response = await client.get(URL, headers={"Authorization": "Bearer the-apps-own"})
    assert response.status_code == 200
    assert service.claims[0]["aud"] == AUDIENCE
    assert service.requests[0].headers["authorization"] == "Bearer the-apps-own"


async def test_the_token_can_be_sent_in_authorization(google, service, tokens):
    async with client_of(service, tokens, header="Authorization") as client:
        await client.get(URL)
    sent = service.requests[0].headers
    assert google.verify(sent["authorization"], AUDIENCE)
    assert "x-serverless-authorization" not in sent


def test_the_synchronous_client_is_supported(service, tokens):
    with httpx2.Client(transport=service, auth=IdTokenAuth(AUDIENCE, tokens=tokens)) as client:
        assert client.get(URL).status_code == 200


async def test_one_token_serves_many_requests(service, source, tokens):
    async with client_of(service, tokens) as client:
        for _ in range(5):
            await client.get(URL)
    assert source.fetched == 1


async def test_a_session_continues_after_its_token_expires_without_a_refused_request(clock, service, source, tokens):
    async with client_of(service, tokens) as client:
        for _ in range(40):  # ten hours, a request each quarter
            assert (await client.get(URL)).status_code == 200
            clock.advance(900)
    assert 10 <= source.fetched <= 14


async def test_a_refresh_starts_five_minutes_before_expiry_and_delays_no_request(clock, source):
    deferred = Deferred()
    tokens = IdTokens(source, AUDIENCE, clock=clock, start=deferred)
    waiting = asyncio.ensure_future(tokens.aget())
    await asyncio.sleep(0)
    deferred.run()
    first = await asyncio.wait_for(waiting, BOUND)

    clock.advance(3600 - 301)
    assert await tokens.aget() is first
    assert deferred.work == []

    clock.advance(1)
    assert await asyncio.wait_for(tokens.aget(), BOUND) is first, "the old one serves while the new one is fetched"
    assert await tokens.aget() is first
    assert len(deferred.work) == 1, "one refresh at a time"
    deferred.run()
    assert await tokens.aget() is not first


async def test_concurrent_tasks_share_one_refresh(clock, source):
    deferred = Deferred()
    tokens = IdTokens(source, AUDIENCE, clock=clock, start=deferred)
    callers = [asyncio.ensure_future(tokens.aget()) for _ in range(20)]
    await asyncio.sleep(0)
    deferred.run()
    content = await asyncio.wait_for(asyncio.gather(*callers), BOUND)
    assert source.fetched == 1
    assert len({token.value for token in content}) == 1


def test_concurrent_threads_share_one_refresh(clock, source):
    tokens = IdTokens(source, AUDIENCE, clock=clock)
    together, got = threading.Barrier(8), []

    def call():
        together.wait(BOUND)
        got.append(tokens.get().value)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert len(got) == 8
    assert source.fetched == 1


async def test_a_slow_token_endpoint_does_not_block_the_event_loop(clock, source):
    released = threading.Event()
    fetch = source.fetch

    def slow(audience):
        assert released.wait(BOUND), "the loop never ran while the fetch was under way"
        return fetch(audience)

    source.fetch = slow
    tokens = IdTokens(source, AUDIENCE, clock=clock)
    asyncio.get_running_loop().call_soon(released.set)
    assert await asyncio.wait_for(tokens.aget(), 2 * BOUND)


async def test_cancelling_one_caller_does_not_cancel_the_others(clock, source):
    deferred = Deferred()
    tokens = IdTokens(source, AUDIENCE, clock=clock, start=deferred)
    leaves, stays = asyncio.ensure_future(tokens.aget()), asyncio.ensure_future(tokens.aget())
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.sleep(0)
    deferred.run()
    assert (await asyncio.wait_for(stays, BOUND)).audience == AUDIENCE
    assert leaves.cancelled()


async def test_a_failing_refresh_does_not_lose_the_valid_token(clock, service, source, tokens, caplog):
    async with client_of(service, tokens) as client:
        await client.get(URL)
        source.error = TokenEndpointUnavailableError("metadata server away")
        clock.advance(3400)
        with caplog.at_level(logging.WARNING, "mcpfleet"):
            assert (await client.get(URL)).status_code == 200
        assert "valid for 200 s" in caplog.text
        assert "metadata server away" in caplog.text
        assert (await client.get(URL)).status_code == 200
        assert source.fetched == 2, "a failed refresh is not tried again at once"

        clock.advance(10)
        source.error = None
        await client.get(URL)
        assert source.fetched == 3
        clock.advance(1000)  # past the first token's end
        assert (await client.get(URL)).status_code == 200


async def test_a_failed_refresh_without_a_valid_token_raises_and_the_next_call_retries(clock, service, source, tokens):
    async with client_of(service, tokens) as client:
        await client.get(URL)
        clock.advance(3600)
        source.error = TokenEndpointUnavailableError("metadata server away")
        with pytest.raises(TokenEndpointUnavailableError, match="metadata server away"):
            await client.get(URL)
        source.error = None
        assert (await client.get(URL)).status_code == 200


async def test_a_source_that_returns_an_expired_token_is_an_error(source, tokens):
    source.lifetime = -1
    with pytest.raises(CredentialsRefusedError, match=r"test login has already expired.*clock"):
        await tokens.aget()


async def test_a_refused_token_is_replaced_at_a_limited_rate(clock, source, tokens, front_end):
    elsewhere = front_end("https://another-audience")
    async with client_of(elsewhere, tokens) as client:
        for _ in range(5):
            assert (await client.get(URL)).status_code == 401
        assert source.fetched == 1
        clock.advance(60)
        await client.get(URL)
        await client.get(URL)
        assert source.fetched == 2


async def test_a_failure_to_start_a_thread_fails_only_that_call(clock, source):
    def refuse(work):
        raise RuntimeError("can't start new thread")

    tokens = IdTokens(source, AUDIENCE, clock=clock, start=refuse)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="can't start"):
            await asyncio.wait_for(tokens.aget(), BOUND)


async def test_a_token_is_not_shown_by_repr(tokens):
    token = await tokens.aget()
    assert token.value not in repr(token)
    assert tokens.member == "user:ada@acme.dev"


async def test_a_request_whose_token_expired_in_transit_is_repeated_with_a_new_one(clock, source, tokens, google):
    source.lifetime = 30
    sent = []

    def slow(request):
        if not sent:
            clock.advance(31)
        sent.append(request.headers["x-serverless-authorization"])
        try:
            google.verify(sent[-1], AUDIENCE)
        except jwt.ExpiredSignatureError:
            return httpx2.Response(401, headers={"www-authenticate": 'Bearer error="invalid_token"'})
        return httpx2.Response(200)

    async with client_of(httpx2.MockTransport(slow), tokens) as client:
        assert (await client.post(URL, content=b"pay")).status_code == 200
    assert len(set(sent)) == 2


async def test_a_streamed_body_is_not_sent_twice(clock, tokens, front_end):
    async def body():
        yield b"pay"

    service = front_end("https://another.example")
    async with client_of(service, tokens) as client:
        await client.get(URL)
        clock.advance(600)
        assert (await client.post(URL, content=body())).status_code == 401
        assert len(service.requests) == 2
        await client.post(URL, content=b"pay")
        assert len(service.requests) == 3, "the token that was just fetched is not mistrusted"


async def test_the_synchronous_client_repeats_a_refused_request(clock, tokens, source, google):
    answers = [401, 200]
    refused = {"www-authenticate": 'Bearer error="invalid_token"'}
    transport = httpx2.MockTransport(lambda _request: httpx2.Response(answers.pop(0), headers=refused))
    tokens.get()
    clock.advance(600)
    with httpx2.Client(transport=transport, auth=IdTokenAuth(AUDIENCE, tokens=tokens)) as client:
        assert client.post(URL, content=b"x").status_code == 200
    assert source.fetched == 2


class Skewed:
    """A clock that is wrong by some seconds."""

    def __init__(self, clock, seconds):
        self.clock = clock
        self.seconds = seconds

    def __call__(self):
        return self.clock() + self.seconds


@pytest.mark.parametrize("seconds", [-7200, -600, -59, 59, 600, 3000, 7200])
async def test_a_wrong_clock_causes_no_refused_request(clock, service, source, google, seconds):
    source.issues_fresh_tokens = True
    tokens = IdTokens(source, AUDIENCE, clock=Skewed(clock, seconds), start=at_once)
    async with client_of(service, tokens) as client:
        for _ in range(60):  # five hours, a request every five minutes
            assert (await client.get(URL)).status_code == 200
            clock.advance(300)
    assert len(service.claims) == 60
    assert len(service.requests) == 60, "none was refused on the way"


async def test_a_clock_ahead_by_more_than_a_tokens_lifetime_is_reported(clock, source, caplog):
    source.issues_fresh_tokens = True
    with caplog.at_level(logging.WARNING):
        IdTokens(source, AUDIENCE, clock=Skewed(clock, 7200), start=at_once).get()
    assert "clock is ahead" in caplog.text


async def test_a_metadata_server_outage_within_a_tokens_lifetime_has_no_effect(clock, service, source, tokens):
    async with client_of(service, tokens) as client:
        await client.get(URL)
        clock.advance(3600 - 290)  # the refresh is due
        source.error = TokenEndpointUnavailableError("the metadata server did not answer")
        for _ in range(5):
            assert (await client.get(URL)).status_code == 200
            clock.advance(1)
        source.error = None
        clock.advance(10)
        for _ in range(30):
            assert (await client.get(URL)).status_code == 200
            clock.advance(60)
