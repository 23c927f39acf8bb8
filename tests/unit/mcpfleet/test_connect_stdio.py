"""Lines in, lines out: the pipe side of `mcpfleet connect`."""

import asyncio
import os
import threading

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

    async def handle_line(self, line):
        if line == b"bug":
            raise ValueError("a bug")
        self.emit(b"<" + line + b">")

    async def aclose(self, grace):
        self.closed = grace


class Pipes:
    """The input and output of `serve`; no descriptor is closed twice, since another file may have it by then."""

    def __init__(self):
        self.source, self.into = os.pipe()
        self.out, self.sink = os.pipe()
        self._open = {self.source, self.into, self.out, self.sink}

    def close(self, *ends):
        for end in self._open & set(ends):
            self._open.remove(end)
            os.close(end)

    def end(self):
        self.close(self.into)  # whoever still reads sees the end
        for thread in threading.enumerate():
            if thread.name == "mcpfleet-stdin":
                thread.join(BOUND)  # it would read from the next test's pipe, which gets the same number
        self.close(*self._open)


@pytest.fixture
def pipes():
    pipes = Pipes()
    yield pipes
    pipes.end()


async def served(pipes, data):
    relays = []
    os.write(pipes.into, data)
    pipes.close(pipes.into)
    serving = stdio.serve(lambda emit: relays.append(Echo(emit)) or relays[0], pipes.source, pipes.sink)
    await asyncio.wait_for(serving, BOUND)
    pipes.close(pipes.sink)
    with os.fdopen(pipes.out, "rb", closefd=False) as file:
        return file.read(), relays[0]


async def test_each_line_is_handled_and_each_answer_is_one_line_until_end_of_input(pipes):
    output, relay = await served(pipes, b'{"a":1}\n\n{"b":2}')
    assert output == b'<{"a":1}>\n<>\n<{"b":2}>\n'
    assert relay.closed == stdio.GRACE_SECONDS, "what runs may finish"


async def test_a_closed_output_ends_the_command(pipes):
    relays = []
    pipes.close(pipes.out)
    os.write(pipes.into, b"x\n")
    serving = stdio.serve(lambda emit: relays.append(Echo(emit)) or relays[0], pipes.source, pipes.sink)
    await asyncio.wait_for(serving, BOUND)
    assert relays[0].closed == 0


@pytest.mark.parametrize("end", ["\r", "\u2028", "\u2029", "\x85", "\v"])
async def test_text_with_any_kind_of_line_break_is_not_written(pipes, caplog, end):
    output, _ = await served(pipes, f"a{end}b\nc".encode())
    assert output == b"<c>\n"
    assert "with several lines" in caplog.text


async def test_an_unexpected_exception_is_raised(pipes):
    with pytest.raises(ValueError, match="a bug"):
        await served(pipes, b"bug\n")


@given(st.binary(max_size=200), st.lists(st.integers(1, 20), max_size=40))
def test_lines_are_the_same_in_any_chunks(data, sizes):
    chunks = []
    rest = data
    for size in sizes:
        if rest:
            chunks.append(rest[:size])
            rest = rest[size:]
    chunks += [rest] if rest else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stdio.os, "read", lambda _source, _size: chunks.pop(0) if chunks else b"")
        lines = list(stdio._read_lines(0))
    expected = data.split(b"\n")
    assert lines == (expected if expected[-1] else expected[:-1])
