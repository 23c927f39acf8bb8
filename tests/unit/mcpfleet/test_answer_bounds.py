"""Servers' responses: limited in bytes, whatever their headers, and read in linear time."""

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpfleet import bounds, sse
from mcpfleet.bounds import ResponseLimit, TooLargeError
from mcpfleet.errors import UsageError

pytestmark = pytest.mark.anyio
LIMIT = 1024


class Pieces(httpx2.AsyncByteStream):
    def __init__(self, pieces):
        self.left = list(pieces)

    async def __aiter__(self):
        while self.left:
            yield self.left.pop(0)


async def read(pieces, max_total_bytes=None, times=1, brackets=1000, status=200, **headers):
    """The body as the client gets it, and the pieces that were never taken."""
    streams = [Pieces(pieces) for _ in range(times)]
    named = {key.replace("_", "-"): value for key, value in headers.items()}

    def answer(_request):
        stream = streams[min(answer.count, times - 1)]
        answer.count += 1
        return httpx2.Response(status, headers=named, stream=stream)

    answer.count = 0
    hooks = {"response": [ResponseLimit(LIMIT, max_total_bytes, brackets)]}
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), event_hooks=hooks) as client:
        for _ in range(times):
            body = (await client.get("https://a.dev")).content
    return body


async def test_a_response_within_the_limit_arrives_unchanged():
    assert await read([b"x" * 512, b"y" * 512]) == b"x" * 512 + b"y" * 512


@pytest.mark.parametrize("pieces", [[b"x" * 1025], [b"x" * 512] * 3, [b"x"] * 1025])
async def test_a_response_over_the_limit_is_an_error_that_names_the_limit(pieces):
    with pytest.raises(TooLargeError, match="larger than 1024 bytes; MCPFLEET_MAX_ANSWER"):
        await read(pieces, content_length="3")


async def test_a_long_stream_of_short_events_is_accepted():
    event = b"data: " + b"x" * 500 + b"\n\n"
    assert await read([event] * 100, content_type="text/event-stream") == event * 100
    with pytest.raises(TooLargeError):
        await read([event, *[b"data: " + b"x" * 100 + b"\n"] * 20], content_type="text/event-stream")


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_an_error_response_of_type_event_stream_has_the_limit_of_a_response(status):
    with pytest.raises(TooLargeError):
        await read([b"data: " + b"x" * 500 + b"\n\n"] * 3, status=status, content_type="text/event-stream")


async def test_a_short_response_with_too_many_json_objects_is_refused():
    for piece in (b"{},", b"[],", b"{"):
        with pytest.raises(TooLargeError, match="more than 10 objects"):
            await read([piece] * 11, brackets=10)
    assert await read([b"{},"] * 10, brackets=10) == b"{}," * 10


async def test_all_responses_of_a_check_have_a_common_limit():
    assert await read([b"x" * 1000], max_total_bytes=3000, times=3) == b"x" * 1000
    with pytest.raises(TooLargeError, match="together"):
        await read([b"x" * 1000], max_total_bytes=2999, times=3)


@pytest.mark.parametrize("packed", ["gzip", "deflate, gzip", "zstd", "br", "x" * 5000])
async def test_a_compressed_response_is_refused_before_it_is_read(packed):
    with pytest.raises(TooLargeError, match="compressed"):
        await read([b"x"], content_encoding=packed)


@pytest.mark.parametrize("text", ["much", "-1", "0", "nan", "1e99"])
async def test_an_invalid_limit_is_named(monkeypatch, text):
    monkeypatch.setenv("MCPFLEET_MAX_ANSWER", text)
    with pytest.raises(UsageError, match="MCPFLEET_MAX_ANSWER"):
        bounds.max_answer_bytes()
    monkeypatch.setenv("MCPFLEET_CHECK_SECONDS", text)
    with pytest.raises(UsageError, match="MCPFLEET_CHECK_SECONDS"):
        bounds.check_seconds()


# --- events -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [b"x", b"data: x\n", b": \r\n", b"data: x\r"])
async def test_an_endless_event_is_refused(monkeypatch, piece):
    monkeypatch.setenv("MCPFLEET_MAX_ANSWER", "1024")
    parser = sse.EventParser()
    with pytest.raises(TooLargeError):
        [event for _ in range(4096) for event in parser.feed(piece)]


@settings(max_examples=200, derandomize=True)
@given(st.lists(st.sampled_from([b"data: a", b"id: 1", b": c", b"", b"data"]), max_size=12), st.data())
def test_events_are_the_same_in_any_chunks_and_with_any_line_ends(lines, data):
    end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    text = end.join([*lines, b"", b""])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    single, many = sse.EventParser(), sse.EventParser()
    # A last byte that begins no event: a carriage return at the very end may yet be half of a line's end.
    assert [event for piece in [*pieces, b":"] for event in many.feed(piece)] == list(single.feed(text + b":"))
