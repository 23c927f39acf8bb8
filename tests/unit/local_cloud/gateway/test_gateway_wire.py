"""What host and gateway container say to each other: a parser takes what its packer gives, or refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.gateway import wire
from mcpfleet_local_cloud.gateway.wire import Answer, Arrival, Frames, Purpose, Query, WireError

KEY, OTHER_KEY = b"k" * wire.KEY_SIZE, b"o" * wire.KEY_SIZE
HOST_NONCE, GATEWAY_NONCE = b"h" * wire.NONCE_SIZE, b"g" * wire.NONCE_SIZE

ports = st.integers(1, 65535)
ips = st.ip_addresses(v=4).map(str)
messages = st.binary(min_size=wire.DNS_HEADER, max_size=wire.LONGEST_QUERY)


def challenge(key=KEY):
    return wire.challenge(key, wire.hello(HOST_NONCE), GATEWAY_NONCE)[0]


@pytest.mark.parametrize("purpose", Purpose)
def test_who_has_the_key_proves_it_and_says_for_what(purpose):
    said, nonce = wire.challenge(KEY, wire.hello(HOST_NONCE), GATEWAY_NONCE)
    proved = wire.proof(KEY, purpose, HOST_NONCE, said)
    assert nonce == HOST_NONCE
    assert (len(said), len(proved)) == (wire.CHALLENGE_SIZE, wire.PROOF_SIZE)
    assert wire.purpose_of(KEY, nonce, GATEWAY_NONCE, proved) is purpose


def test_neither_side_believes_one_with_another_key():
    with pytest.raises(WireError, match="does not have"):
        wire.proof(KEY, Purpose.DIAL, HOST_NONCE, challenge(OTHER_KEY))
    with pytest.raises(WireError, match="does not have"):
        wire.purpose_of(
            KEY, HOST_NONCE, GATEWAY_NONCE, wire.proof(OTHER_KEY, Purpose.DIAL, HOST_NONCE, challenge(OTHER_KEY))
        )


def test_a_proof_is_good_for_one_connection_and_one_purpose_alone():
    proved = wire.proof(KEY, Purpose.NAMES, HOST_NONCE, challenge())
    for host_nonce, gateway_nonce, said in (
        (HOST_NONCE, b"x" * wire.NONCE_SIZE, proved),  # replayed to the gateway
        (b"x" * wire.NONCE_SIZE, GATEWAY_NONCE, proved),
        (HOST_NONCE, GATEWAY_NONCE, Purpose.DIAL.value + proved[1:]),  # turned to another purpose
        (HOST_NONCE, GATEWAY_NONCE, b"X" + proved[1:]),
    ):
        with pytest.raises(WireError):
            wire.purpose_of(KEY, host_nonce, gateway_nonce, said)


def test_a_challenge_that_is_sent_back_proves_nothing():
    """Reflection: whoever has no key has the other side answer its own challenge."""
    said = challenge()
    with pytest.raises(WireError, match="does not have"):
        wire.purpose_of(KEY, HOST_NONCE, GATEWAY_NONCE, Purpose.DIAL.value + said[wire.NONCE_SIZE :])
    proved = wire.proof(KEY, Purpose.DIAL, HOST_NONCE, said)
    with pytest.raises(WireError, match="does not have"):
        wire.proof(KEY, Purpose.DIAL, HOST_NONCE, GATEWAY_NONCE + proved[1:])


def test_an_unknown_purpose_of_somebody_with_the_key_is_refused():
    mac = wire._mac(KEY, b"host X", HOST_NONCE, GATEWAY_NONCE)
    with pytest.raises(WireError, match="unknown purpose"):
        wire.purpose_of(KEY, HOST_NONCE, GATEWAY_NONCE, b"X" + mac)


@given(st.binary(max_size=2 * wire.CHALLENGE_SIZE))
def test_no_made_up_bytes_pass_for_a_handshake(said):
    for read in (
        lambda: wire.challenge(KEY, said, GATEWAY_NONCE),
        lambda: wire.proof(KEY, Purpose.DIAL, HOST_NONCE, said),
        lambda: wire.purpose_of(KEY, HOST_NONCE, GATEWAY_NONCE, said),
    ):
        with pytest.raises(WireError):
            read()


@given(ports, ips, st.integers(0, 65535))
def test_an_arrival_comes_as_it_was_sent(port, ip, caller_port):
    arrival = Arrival(port, (ip, caller_port))
    assert len(arrival.pack()) == wire.ARRIVAL_SIZE
    assert Arrival.unpack(arrival.pack()) == arrival


@given(ips, ports)
def test_an_address_comes_as_it_was_sent(ip, port):
    packed = wire.pack_address((ip, port))
    assert len(packed) == wire.ADDRESS_SIZE
    assert wire.unpack_address(packed) == (ip, port)


@pytest.mark.parametrize("address", [("127.0.0.1", 0), ("127.0.0.1", 65536), ("::1", 80), ("localhost", 80), ("", 80)])
def test_what_is_no_address_is_not_dialed(address):
    with pytest.raises(ValueError, match=r"."):
        wire.pack_address(address)


@given(st.integers(0, 2**32 - 1), ips, ips, messages, st.data())
def test_queries_and_answers_come_as_they_were_sent_however_they_are_cut(number, caller, asked, message, data):
    query = Query(number, caller, asked, message)
    answers = [Answer(number, message), Answer(number, b""), Answer(number, bytes(65000))]
    stream = query.pack() + b"".join(answer.pack() for answer in answers)
    frames = Frames()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    first, *rest = [frame for part in parts for frame in frames.feed(part)]
    assert Query.unpack(first) == query
    assert [Answer.unpack(each) for each in rest] == answers


@given(st.lists(st.binary(max_size=3000), max_size=5))
def test_a_stream_of_anything_is_frames_that_are_read_or_refused(parts):
    frames = Frames()
    for frame in (frame for part in parts for frame in frames.feed(part)):
        for kind in (Query, Answer):
            try:
                kind.unpack(frame)
            except WireError:
                continue
    assert len(frames._held) < 65537 + 3000


@pytest.mark.parametrize("size", [wire.DNS_HEADER - 1, wire.LONGEST_QUERY + 1])
def test_a_query_that_is_too_short_or_too_long_is_refused(size):
    (frame,) = Frames().feed(Query(1, "127.0.0.1", "127.0.0.1", bytes(size)).pack())
    with pytest.raises(WireError, match="a query of"):
        Query.unpack(frame)
