"""Tests of the protocol between host and gateway container: each parser accepts its encoder's output, or refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.gateway import protocol
from mcpfleet_local_cloud.gateway.protocol import Answer, FrameParser, IncomingConnection, ProtocolError, Purpose, Query

KEY, OTHER_KEY = b"k" * protocol.KEY_SIZE, b"o" * protocol.KEY_SIZE
HOST_NONCE, GATEWAY_NONCE = b"h" * protocol.NONCE_SIZE, b"g" * protocol.NONCE_SIZE

ports = st.integers(1, 65535)
ips = st.ip_addresses(v=4).map(str)
messages = st.binary(min_size=protocol.DNS_HEADER_SIZE, max_size=protocol.MAX_QUERY_SIZE)


def challenge(key=KEY):
    return protocol.create_challenge(key, protocol.create_hello(HOST_NONCE), GATEWAY_NONCE)[0]


@pytest.mark.parametrize("purpose", Purpose)
def test_a_peer_with_the_key_proves_it_with_its_purpose(purpose):
    said, nonce = protocol.create_challenge(KEY, protocol.create_hello(HOST_NONCE), GATEWAY_NONCE)
    proved = protocol.create_proof(KEY, purpose, HOST_NONCE, said)
    assert nonce == HOST_NONCE
    assert (len(said), len(proved)) == (protocol.CHALLENGE_SIZE, protocol.PROOF_SIZE)
    assert protocol.verify_proof(KEY, nonce, GATEWAY_NONCE, proved) is purpose


def test_both_sides_refuse_a_peer_with_another_key():
    with pytest.raises(ProtocolError, match="does not have"):
        protocol.create_proof(KEY, Purpose.DIAL, HOST_NONCE, challenge(OTHER_KEY))
    with pytest.raises(ProtocolError, match="does not have"):
        protocol.verify_proof(
            KEY,
            HOST_NONCE,
            GATEWAY_NONCE,
            protocol.create_proof(OTHER_KEY, Purpose.DIAL, HOST_NONCE, challenge(OTHER_KEY)),
        )


def test_a_proof_is_valid_for_one_connection_and_one_purpose():
    proved = protocol.create_proof(KEY, Purpose.NAMES, HOST_NONCE, challenge())
    for host_nonce, gateway_nonce, said in (
        (HOST_NONCE, b"x" * protocol.NONCE_SIZE, proved),  # replayed to the gateway
        (b"x" * protocol.NONCE_SIZE, GATEWAY_NONCE, proved),
        (HOST_NONCE, GATEWAY_NONCE, Purpose.DIAL.value + proved[1:]),  # turned to another purpose
        (HOST_NONCE, GATEWAY_NONCE, b"X" + proved[1:]),
    ):
        with pytest.raises(ProtocolError):
            protocol.verify_proof(KEY, host_nonce, gateway_nonce, said)


def test_a_reflected_challenge_is_no_proof():
    """Reflection: whoever has no key has the other side answer its own challenge."""
    said = challenge()
    with pytest.raises(ProtocolError, match="does not have"):
        protocol.verify_proof(KEY, HOST_NONCE, GATEWAY_NONCE, Purpose.DIAL.value + said[protocol.NONCE_SIZE :])
    proved = protocol.create_proof(KEY, Purpose.DIAL, HOST_NONCE, said)
    with pytest.raises(ProtocolError, match="does not have"):
        protocol.create_proof(KEY, Purpose.DIAL, HOST_NONCE, GATEWAY_NONCE + proved[1:])


def test_an_unknown_purpose_is_refused_even_with_the_key():
    mac = protocol._mac(KEY, b"host X", HOST_NONCE, GATEWAY_NONCE)
    with pytest.raises(ProtocolError, match="unknown purpose"):
        protocol.verify_proof(KEY, HOST_NONCE, GATEWAY_NONCE, b"X" + mac)


@given(st.binary(max_size=2 * protocol.CHALLENGE_SIZE))
def test_no_random_bytes_are_accepted_as_a_handshake(said):
    for read in (
        lambda: protocol.create_challenge(KEY, said, GATEWAY_NONCE),
        lambda: protocol.create_proof(KEY, Purpose.DIAL, HOST_NONCE, said),
        lambda: protocol.verify_proof(KEY, HOST_NONCE, GATEWAY_NONCE, said),
    ):
        with pytest.raises(ProtocolError):
            read()


@given(ports, ips, st.integers(0, 65535))
def test_an_incoming_connection_is_decoded_as_encoded(port, ip, caller_port):
    arrival = IncomingConnection(port, (ip, caller_port))
    assert len(arrival.pack()) == protocol.INCOMING_SIZE
    assert IncomingConnection.unpack(arrival.pack()) == arrival


@given(ips, ports)
def test_an_address_is_decoded_as_encoded(ip, port):
    packed = protocol.pack_address((ip, port))
    assert len(packed) == protocol.ADDRESS_SIZE
    assert protocol.unpack_address(packed) == (ip, port)


@pytest.mark.parametrize("address", [("127.0.0.1", 0), ("127.0.0.1", 65536), ("::1", 80), ("localhost", 80), ("", 80)])
def test_an_invalid_address_is_not_dialed(address):
    with pytest.raises(ValueError, match=r"."):
        protocol.pack_address(address)


@given(st.integers(0, 2**32 - 1), ips, ips, messages, st.data())
def test_queries_and_answers_are_the_same_in_any_chunks(number, caller, asked, message, data):
    query = Query(number, caller, asked, message)
    answers = [Answer(number, message), Answer(number, b""), Answer(number, bytes(65000))]
    stream = query.pack() + b"".join(answer.pack() for answer in answers)
    frames = FrameParser()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    first, *rest = [frame for part in parts for frame in frames.feed(part)]
    assert Query.unpack(first) == query
    assert [Answer.unpack(each) for each in rest] == answers


@given(st.lists(st.binary(max_size=3000), max_size=5))
def test_any_stream_is_parsed_into_frames_or_refused(parts):
    frames = FrameParser()
    for frame in (frame for part in parts for frame in frames.feed(part)):
        for kind in (Query, Answer):
            try:
                kind.unpack(frame)
            except ProtocolError:
                continue
    assert len(frames._pending) < 65537 + 3000


@pytest.mark.parametrize("size", [protocol.DNS_HEADER_SIZE - 1, protocol.MAX_QUERY_SIZE + 1])
def test_a_query_that_is_too_short_or_too_long_is_refused(size):
    (frame,) = FrameParser().feed(Query(1, "127.0.0.1", "127.0.0.1", bytes(size)).pack())
    with pytest.raises(ProtocolError, match="a query of"):
        Query.unpack(frame)
