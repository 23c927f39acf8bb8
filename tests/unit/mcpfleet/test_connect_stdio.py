"""Lines in, lines out: the pipe side of `mcpfleet connect`."""

import asyncio
import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet import stdio

BOUND = 10

pytestmark = pytest.mark.anyio


class Echo:
    """A relay that gives each line back, and keeps how it was closed."""

    def __init__(self, emit):
        self.emit = emit
        self.closed = None

    async def take(self, line):
        if line == b"bug":
            raise ValueError("a bug")
        self.emit(b"<" + line + b">")

    async def aclose(self, grace):
        self.closed = grace


@pytest.fixture
def pipes():
    ends = [os.pipe(), os.pipe()]
    yield ends
    for end in (end for pair in ends for end in pair):
        with contextlib.suppress(OSError):
            os.close(end)


async def served(pipes, data):
    (source, into), (out, sink) = pipes
    made = []
    os.write(into, data)
    os.close(into)
    await asyncio.wait_for(stdio.serve(lambda emit: made.append(Echo(emit)) or made[0], source, sink), BOUND)
    os.close(sink)
    with os.fdopen(out, "rb", closefd=False) as file:
        return file.read(), made[0]


async def test_each_line_is_taken_and_each_answer_is_a_line_until_the_client_leaves(pipes):
    said, relay = await served(pipes, b'{"a":1}\n\n{"b":2}')
    assert said == b'<{"a":1}>\n<>\n<{"b":2}>\n'
    assert relay.closed == stdio.GRACE_SECONDS, "what runs may finish"


async def test_a_client_that_reads_no_more_ends_it(pipes):
    (source, into), (out, sink) = pipes
    made = []
    os.close(out)
    os.write(into, b"x\n")
    await asyncio.wait_for(stdio.serve(lambda emit: made.append(Echo(emit)) or made[0], source, sink), BOUND)
    assert made[0].closed == 0


async def test_a_bug_is_not_passed_over(pipes):
    with pytest.raises(ValueError, match="a bug"):
        await served(pipes, b"bug\n")


@given(st.binary(max_size=200), st.lists(st.integers(1, 20), max_size=40))
def test_lines_are_the_same_however_the_bytes_arrive(data, sizes):
    chunks = []
    rest = data
    for size in sizes:
        if rest:
            chunks.append(rest[:size])
            rest = rest[size:]
    chunks += [rest] if rest else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stdio.os, "read", lambda _source, _size: chunks.pop(0) if chunks else b"")
        lines = list(stdio._lines(0))
    expected = data.split(b"\n")
    assert lines == (expected if expected[-1] else expected[:-1])
