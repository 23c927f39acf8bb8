"""Tests of the containers' DNS server: its answers, and the names that it forwards."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.gateway.names import answer_query

HOST = "hello-481516234200.europe-west1.run.app"
GATEWAY = "172.18.0.1"


def query(name, kind=1, number=7, group=1):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, group)


def read(said):
    number, flags, _, answers, _, _ = struct.unpack("!HHHHHH", said[:12])
    return number, flags & 15, answers, said[-4:] if answers else b""


def ours(name):
    return name in (HOST, "weather")


@pytest.mark.parametrize("name", [HOST, HOST.upper(), "weather"])
def test_a_name_of_this_cloud_resolves_to_the_gateway(name):
    assert read(answer_query(query(name), GATEWAY, ours)) == (7, 0, 1, bytes([172, 18, 0, 1]))


def test_other_record_types_of_a_name_are_empty_without_an_error():
    assert read(answer_query(query(HOST, kind=28), GATEWAY, ours))[1:3] == (0, 0)


def test_every_other_name_is_forwarded():
    assert answer_query(query("example.org"), GATEWAY, ours) == b""


def test_an_unknown_short_name_is_not_forwarded_to_docker():
    assert read(answer_query(query("mcpfleet-neighbour"), GATEWAY, ours))[1:3] == (3, 0)


def test_a_query_of_another_class_is_refused_and_not_forwarded():
    assert read(answer_query(query("version.bind", kind=16, group=3), GATEWAY, ours))[1:3] == (5, 0)


@pytest.mark.parametrize(
    ("at", "byte"),
    [(2, 0x29), (2, 0x81), (4, 1), (5, 0), (5, 2)],  # a dynamic update; an answer; 257 questions, none, two
)
def test_a_message_without_exactly_one_question_is_a_format_error(at, byte):
    asked = bytearray(query(HOST))
    asked[at] = byte
    assert read(answer_query(bytes(asked), GATEWAY, ours))[1:3] == (1, 0)


@given(st.binary(min_size=12, max_size=1024))
def test_any_message_is_answered_or_forwarded(asked):
    said = answer_query(asked, GATEWAY, ours)
    assert not said or said[:2] == asked[:2]
