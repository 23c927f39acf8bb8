"""Tests of the buffered transport: the writes of one loop iteration are one write, in order, with backpressure."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.network.gathering import BufferedTransport


class Wire:
    def __init__(self):
        self.writes = []
        self.closed = False

    def write(self, data):
        assert not self.closed
        self.writes.append(data)

    def close(self):
        self.closed = True

    abort = close

    def is_closing(self):
        return self.closed


def gathered(act):
    async def scenario():
        wire = Wire()
        act(BufferedTransport(wire, asyncio.get_running_loop()))
        at_once = list(wire.writes)
        await asyncio.sleep(0)
        return at_once, wire

    return asyncio.run(scenario())


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_writes_of_one_loop_iteration_are_combined_without_loss(parts):
    at_once, wire = gathered(lambda out: [out.write(part) for part in parts])
    assert at_once == []
    assert wire.writes == ([b"".join(parts)] if parts else [])


def test_a_large_write_is_sent_at_once():
    at_once, wire = gathered(lambda out: [out.write(bytes(40_000)) for _ in range(3)])
    assert [len(each) for each in at_once] == [80_000]
    assert [len(each) for each in wire.writes] == [80_000, 40_000]


def test_a_close_sends_buffered_data_first():
    _, wire = gathered(lambda out: [out.write(b"the end"), out.close()])
    assert (wire.writes, wire.closed) == ([b"the end"], True)


@pytest.mark.parametrize("first", [b"", b"never"])
def test_nothing_is_sent_after_an_abort(first):
    _, wire = gathered(lambda out: [out.write(first), out.abort(), out.write(b"never")])
    assert (wire.writes, wire.closed) == ([], True)
