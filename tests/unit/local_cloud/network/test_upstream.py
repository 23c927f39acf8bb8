"""HTTP to a container: what it is sent, what of its answers is believed, what happens when either side breaks off."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.network.upstream import HttpUpstream, UpstreamError

PATIENCE = 5
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Wire:
    """asyncio's transport, and the container at its other end."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.sent = b""
        self.writes = 0
        self.closed = self.aborted = False
        self.reading = True
        self.resumed = asyncio.Event()
        protocol.connection_made(self)

    # The transport's.

    def set_write_buffer_limits(self, high): ...

    def write(self, data):
        assert not self.closed or not data, "written to a connection that is closed"
        self.sent += data
        self.writes += 1

    def is_closing(self):
        return self.closed

    def abort(self):
        self.aborted = True
        self.close()

    def close(self, reason=None):
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(reason)

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True
        self.resumed.set()

    # The container's.

    def says(self, data):
        assert self.reading
        self.protocol.data_received(data)

    def ends(self):
        self.protocol.eof_received()
        self.close()

    def resets(self):
        self.close(ConnectionResetError("reset"))


class Container:
    """Takes connections; `wires` are those that there were."""

    def __init__(self):
        self.wires = []
        self.refuses = None
        self.kind = Wire
        self.upstream = HttpUpstream("10.0.0.2", 8080, self._dial)

    async def _dial(self, host, port):
        assert (host, port) == ("10.0.0.2", 8080)
        if self.refuses is not None:
            raise self.refuses
        loop = asyncio.get_running_loop()

        async def create_connection(make, sock):
            self.wires.append(self.kind(make()))
            return self.wires[-1], self.wires[-1].protocol

        loop.create_connection = create_connection

    async def sent(self):
        """Return the bytes sent on the newest connection, once no more arrive."""
        before = None
        while before != (before := self.wires[-1].sent if self.wires else b"") or not before:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return before

    def send(self, method=b"GET", target=b"/mcp", headers=(), body=None):
        return self.upstream.send(method, target, [(b"host", b"x"), *headers], body)

    async def ask(self, *says, ends=False, **request):
        """Send a request, which the container answers with *says*; return status, headers and body."""

        async def answer():
            await self.sent()
            for each in says:
                self.wires[-1].says(each)
            if ends:
                self.wires[-1].ends()

        answering = asyncio.create_task(answer())
        try:
            async with asyncio.timeout(PATIENCE), self.send(**request) as answer:
                return answer.status, answer.headers, b"".join([chunk async for chunk in answer.body])
        finally:
            answering.cancel()
            with suppress(asyncio.CancelledError):
                await answering


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def container():
    return Container()


async def of(*chunks):
    for chunk in chunks:
        yield chunk


pytestmark = pytest.mark.anyio


async def test_a_request_is_sent_unchanged_and_its_response_returned(container):
    assert await container.ask(OK, headers=[(b"Accept", b"a/b")]) == (200, [(b"Content-Length", b"5")], b"hello")
    assert container.wires[0].sent == b"GET /mcp HTTP/1.1\r\nhost: x\r\nAccept: a/b\r\n\r\n"


async def test_a_small_request_and_its_body_are_one_write(container):
    await container.ask(OK, method=b"POST", headers=[(b"content-length", b"6")], body=of(b"abc", b"def"))
    assert container.wires[0].writes == 1


async def test_a_body_is_sent_with_a_length_or_in_chunks_by_its_headers(container):
    await container.ask(OK, method=b"POST", headers=[(b"content-length", b"6")], body=of(b"abc", b"def"))
    await container.ask(OK, method=b"POST", headers=[(b"transfer-encoding", b"chunked")], body=of(b"abc", b"x" * 17))
    first, _, second = container.wires[0].sent.partition(b"POST /mcp HTTP/1.1\r\nhost: x\r\ntransfer")
    assert first.endswith(b"\r\n\r\nabcdef")
    assert second.endswith(b"\r\n\r\n3\r\nabc\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n")


ANSWERS = {
    "by length": (OK, b"hello"),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "in chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n",
        b"hello",
    ),
    "both, so chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    "lines without CR": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", b"hello"),
    "after others": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, b"hello"),
    "no content": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
async def test_a_response_ends_as_http_defines_and_the_connection_is_reused(container, kind):
    said, body = ANSWERS[kind]
    status, headers, got = await container.ask(said)
    assert (status, got) == (int(said.rpartition(b"HTTP/1.1 ")[2][:3]), body)
    assert b"Link" not in dict(headers)
    assert b"A" not in dict(headers)
    assert (await container.ask(OK))[2] == b"hello"
    assert len(container.wires) == 1


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 200), max_size=6))
def test_a_response_is_the_same_in_any_chunks(kind, cuts):
    said, body = ANSWERS[kind]
    cuts = sorted({min(cut, len(said)) for cut in cuts})
    parts = [said[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    assert asyncio.run(Container().ask(*(part for part in parts if part)))[2] == body


async def test_a_response_without_a_length_ends_with_the_connection(container):
    assert (await container.ask(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", ends=True))[2] == b"hello"
    assert (await container.ask(OK))[2] == b"hello"
    assert len(container.wires) == 2


async def test_a_response_to_head_has_no_body_for_any_content_length(container):
    status, headers, body = await container.ask(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", method=b"HEAD")
    assert (status, dict(headers), body) == (200, {b"Content-Length": b"5"}, b"")


NOT_AGAIN = {
    "it says so": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
    "it is HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "it says more than was asked for": OK + b"HTTP/1.1 200 OK\r\n",
    "it switches protocols": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("why", NOT_AGAIN)
async def test_an_unusable_connection_is_not_reused(container, why):
    await container.ask(NOT_AGAIN[why])
    assert container.wires[0].closed
    await container.ask(OK)
    assert len(container.wires) == 2


async def test_a_connection_with_unsolicited_data_is_closed(container):
    await container.ask(OK)
    container.wires[0].says(OK)
    assert container.wires[0].closed
    assert (await container.ask(OK))[2] == b"hello"


async def test_a_connection_that_was_idle_too_long_is_not_reused(container, monkeypatch):
    await container.ask(OK)
    loop = asyncio.get_running_loop()
    later = loop.time() + 4.1
    monkeypatch.setattr(loop, "time", lambda: later, raising=False)
    await container.ask(OK)
    assert container.wires[0].closed
    assert len(container.wires) == 2


async def test_an_early_response_arrives_while_the_body_is_being_sent(container):
    never = asyncio.Event()
    ended = asyncio.Event()

    async def endless():
        try:
            yield b"abc"
            await never.wait()
        finally:
            ended.set()

    headers = [(b"content-length", b"1000")]
    assert (await container.ask(OK, method=b"POST", headers=headers, body=endless()))[2] == b"hello"
    assert ended.is_set()
    assert container.wires[0].closed  # the container would read the next request as the rest of this one


@pytest.mark.parametrize("begun", [False, True])
async def test_an_error_in_the_body_iterator_is_raised(container, begun):
    go = asyncio.Event()

    async def broken():
        yield b"abc"
        await go.wait()
        raise LookupError("the caller is gone")

    async def exchange():
        async with container.send(b"POST", headers=[(b"content-length", b"9")], body=broken()) as answer:
            go.set()
            async for _ in answer.body:
                pass

    running = asyncio.create_task(exchange())
    await container.sent()
    if begun:
        container.wires[0].says(OK[:-1])
    else:
        go.set()
    with pytest.raises(LookupError):
        await asyncio.wait_for(running, PATIENCE)
    assert container.wires[0].aborted


@pytest.mark.parametrize("end", [Wire.ends, Wire.resets])
@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 2", OK[:-1], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n"]
)
async def test_a_truncated_response_is_distinguished_from_a_complete_one(container, end, said):
    async def exchange():
        async with container.send() as answer:
            return [chunk async for chunk in answer.body]

    running = asyncio.create_task(exchange())
    await container.sent()
    if said:
        container.wires[0].says(said)
    end(container.wires[0])
    with pytest.raises(UpstreamError):
        await asyncio.wait_for(running, PATIENCE)


async def test_data_before_a_lost_connection_is_passed_on_first(container):
    got = []

    async def exchange():
        async with container.send() as answer:
            async for chunk in answer.body:
                got.append(chunk)  # noqa: PERF401 - what came before the error counts

    running = asyncio.create_task(exchange())
    await container.sent()
    container.wires[0].says(OK[:-2])
    container.wires[0].resets()
    with pytest.raises(UpstreamError, match="reset"):
        await asyncio.wait_for(running, PATIENCE)
    assert got == [b"hel"]


async def test_closing_ends_requests_in_flight(container):
    async def exchange():
        async with container.send():
            pass

    running = asyncio.create_task(exchange())
    await container.sent()
    await container.upstream.close()
    with pytest.raises(UpstreamError, match="closed"):
        await asyncio.wait_for(running, PATIENCE)


async def test_a_cancelled_request_closes_the_connection(container):
    async def exchange():
        async with container.send(b"POST", headers=[(b"content-length", b"9")], body=of(b"abc")):
            pass

    running = asyncio.create_task(exchange())
    await container.sent()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert container.wires[0].aborted


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * 200_000,
    ],
    ids=["a head", "heads before the head", "a chunk's extension", "trailers"],
)
async def test_response_headers_have_a_size_limit(container, said):
    with pytest.raises(UpstreamError, match="KiB of headers"):
        await container.ask(*(said[at : at + 10_000] for at in range(0, len(said), 10_000)))


async def test_a_container_waits_for_a_slow_caller(container):
    async def exchange():
        async with container.send() as answer:
            await go.wait()
            return sum([len(chunk) async for chunk in answer.body])

    go = asyncio.Event()
    running = asyncio.create_task(exchange())
    await container.sent()
    wire = container.wires[0]
    wire.says(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    wire.says(b"x" * 80_000)
    assert not wire.reading
    go.set()
    await asyncio.wait_for(wire.resumed.wait(), PATIENCE)
    wire.says(b"x" * 20_000)
    assert await asyncio.wait_for(running, PATIENCE) == 100_000


async def test_a_caller_waits_for_a_slow_container(container):
    read = []

    async def body():
        for number in range(3):
            read.append(number)
            yield bytes(1 << 16)

    async def exchange():
        async with container.send(b"POST", headers=[(b"content-length", b"196608")], body=body()) as answer:
            return answer.status

    class Full(Wire):
        def write(self, data):
            super().write(data)
            if len(data) >= 1 << 16:
                self.protocol.pause_writing()

    container.kind = Full
    running = asyncio.create_task(exchange())
    for number in range(3):
        await container.sent()
        assert read == list(range(number + 1))
        container.wires[0].protocol.resume_writing()
    container.wires[0].says(OK)
    assert await asyncio.wait_for(running, PATIENCE) == 200


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b"])
async def test_a_header_with_a_line_break_is_not_sent(container, value):
    with pytest.raises(UpstreamError, match="break"):
        await container.ask(OK, headers=[(b"a", value)])


async def test_an_unreachable_container_is_a_connection_error(container):
    for refusal in (ConnectionRefusedError("nobody listens"), TimeoutError()):
        container.refuses = refusal
        with pytest.raises(UpstreamError):
            async with container.send():
                pass


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=4), st.booleans())
def test_any_output_of_a_container_is_a_response_or_an_error(parts, headed):
    async def scenario():
        container = Container()
        said = [b"HTTP/1.1 200 OK\r\n", *parts] if headed else parts
        with suppress(UpstreamError):
            async with asyncio.timeout(PATIENCE):
                await exchange(container, said)

    async def exchange(container, said):
        async def talk():
            await container.sent()
            for each in said:
                if not container.wires[-1].closed:
                    container.wires[-1].says(each)
            if not container.wires[-1].closed:
                container.wires[-1].ends()

        talking = asyncio.create_task(talk())
        try:
            async with container.send() as answer:
                async for _ in answer.body:
                    pass
        finally:
            await talking

    asyncio.run(scenario())
