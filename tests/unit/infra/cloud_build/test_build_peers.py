"""Who may call a provider: this user and root, by the kernel's tables; whoever cannot be named may not."""

import sys
from types import SimpleNamespace

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_mcpfleet.cloud_build import peers
from pulumi_mcpfleet.cloud_build.peers import REFUSAL, OwnUserInterceptor, find_owner, may_call

PEER, OURS = ("127.0.0.1", 0xAE62), ("127.0.0.1", 0x94E5)
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
NEAR, FAR = "0100007F:AE62", "0100007F:94E5"
MAPPED = "0000000000000000FFFF0000"

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the lines below are those of a little-endian kernel")


def line(near=NEAR, far=FAR, state="01", uid="1000", inode="68718"):
    """A connection, as proc(5) has it."""
    return f"   2: {near} {far} {state} 00000000:00000000 00:00000000 00000000 {uid:>5}        0 {inode} 2 0 20 4 30\n"


def test_the_user_of_the_other_end_is_named():
    # Our own end is in the table too, and belongs to us.
    table = HEAD + line(near=FAR, far=NEAR, uid="0", inode="5") + line(uid="1000")
    assert find_owner(PEER, OURS, table) == 1000


def test_a_program_that_uses_an_ipv6_socket_is_named_too():
    assert find_owner(PEER, OURS, HEAD + line(near=MAPPED + NEAR, far=MAPPED + FAR, uid="1001")) == 1001


@pytest.mark.parametrize(
    "table",
    [
        pytest.param("", id="an empty table"),
        pytest.param(HEAD, id="nobody"),
        pytest.param(HEAD + line(uid="0", inode="0"), id="it hung up, and looks like root's"),
        pytest.param(HEAD + line(state="05", uid="0", inode="0"), id="it is hanging up"),
        pytest.param(HEAD + line(state="06", uid="0", inode="0"), id="it is gone"),
        pytest.param(HEAD + line(far="0100007F:94E6"), id="a connection to another port"),
        pytest.param(HEAD + line(near="0200007F:AE62"), id="a connection from another address"),
        pytest.param(HEAD + line(near="00" + NEAR), id="an address that only ends like it"),
        pytest.param(HEAD + line(uid="0") + line(uid="1000"), id="two users at once"),
        pytest.param(HEAD + line(uid="-1"), id="no number"),
        pytest.param(HEAD + f"   2: {NEAR} {FAR} 01 0", id="a line that is cut off"),
    ],
)
def test_nobody_is_named_where_there_is_doubt(table):
    assert find_owner(PEER, OURS, table) is None


OTHERS = st.builds(
    line,
    near=st.sampled_from([NEAR, FAR, MAPPED + NEAR, "0100007F:0001"]),
    far=st.sampled_from([FAR, NEAR, MAPPED + FAR, "0100007F:0002"]),
    state=st.sampled_from(["01", "05", "06", "08", "0A"]),
    uid=st.just("0"),
    inode=st.sampled_from(["0", "7"]),
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(OTHERS | st.text(max_size=60), max_size=8), st.lists(OTHERS, max_size=4))
def test_no_other_line_makes_a_stranger_somebody_else(lines_before, after):
    """Whatever else the table holds, a stranger's open connection is the stranger's or nobody's."""
    table = HEAD + "".join(lines_before) + "\n" + line(uid="1001") + "".join(after)
    assert find_owner(PEER, OURS, table) in {1001, None}


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_read_without_an_error(text):
    assert find_owner(PEER, OURS, text) is None


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.setattr(peers.os, "geteuid", lambda: 1000)
    return tmp_path / "tcp", tmp_path / "tcp6"


@pytest.mark.parametrize(("uid", "may"), [("1000", True), ("0", True), ("1001", False), ("65534", False)])
@pytest.mark.parametrize("place", [0, 1])
def test_this_user_and_root_may_call_and_nobody_else(tables, uid, may, place):
    for table in tables:
        table.write_text(HEAD)
    prefix = MAPPED * place
    tables[place].write_text(HEAD + line(near=prefix + NEAR, far=prefix + FAR, uid=uid))
    assert may_call(PEER, OURS, tables) is may


def test_who_cannot_be_found_may_not_call(tables):
    tables[0].write_text(HEAD)
    assert not may_call(PEER, OURS, tables)


def test_a_table_that_cannot_be_read_admits_nobody(tables):
    tables[0].mkdir()
    assert not may_call(PEER, OURS, tables)


def test_where_there_are_no_tables_nothing_can_be_told(tables):
    assert may_call(PEER, OURS, tables)


class RefusedError(Exception):
    pass


class Context(SimpleNamespace):
    def peer(self):
        return self.address

    def abort(self, code, message):
        raise RefusedError(code, message)


def calling(guard, handler, address="ipv4:127.0.0.1:44642"):
    guarded = guard.intercept_service(lambda _details: handler, SimpleNamespace(method="/x"))
    run = guarded.unary_unary or guarded.unary_stream or guarded.stream_unary or guarded.stream_stream
    answer = run("request", Context(address=address))
    return list(answer) if guarded.response_streaming else answer


HANDLERS = [
    grpc.unary_unary_rpc_method_handler(lambda request, _context: [request]),
    grpc.stream_unary_rpc_method_handler(lambda request, _context: [request]),
    grpc.unary_stream_rpc_method_handler(lambda request, _context: iter([request])),
    grpc.stream_stream_rpc_method_handler(lambda request, _context: iter([request])),
]


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_stranger_is_refused_whatever_kind_of_method_it_calls(handler):
    lookups = []
    guard = OwnUserInterceptor(lambda peer, own_address: lookups.append((peer, own_address)))
    guard.port = 5
    with pytest.raises(RefusedError) as refused:
        calling(guard, handler)
    assert refused.value.args == (grpc.StatusCode.PERMISSION_DENIED, REFUSAL)
    assert lookups == [(("127.0.0.1", 44642), ("127.0.0.1", 5))]


@pytest.mark.parametrize("handler", HANDLERS)
def test_the_own_user_is_answered(handler):
    assert calling(OwnUserInterceptor(lambda _peer, _own_address: True), handler) == ["request"]


@pytest.mark.parametrize(
    "address",
    ["", "unix:/tmp/x", "ipv6:[::1]:44642", "ipv4:10.0.0.1:44642", "ipv4:127.0.0.1:44642\n", "ipv4:127.0.0.1"],
)
def test_a_caller_from_elsewhere_is_refused_unasked(address):
    with pytest.raises(RefusedError):
        calling(OwnUserInterceptor(lambda _peer, _own_address: True), HANDLERS[0], address)


def test_a_connection_is_looked_up_again_before_its_port_can_be_another_users():
    now, lookups = [0.0], []

    def admits(peer, _own_address):
        lookups.append(peer)
        return len(lookups) < 2

    guard = OwnUserInterceptor(admits, lambda: now[0])
    for now[0] in (0.0, 0.1, 0.2):
        calling(guard, HANDLERS[0])
    assert len(lookups) == 1, "the engine calls in bursts"
    now[0] = 0.3
    with pytest.raises(RefusedError):
        calling(guard, HANDLERS[0])


def test_an_unknown_method_stays_unknown():
    assert OwnUserInterceptor().intercept_service(lambda _details: None, SimpleNamespace(method="/x")) is None
