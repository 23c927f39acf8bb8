"""Tests of how the ingress forwards an allowed request: headers, bodies, limits and failures."""

import asyncio
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from mcpfleet_local_cloud.data_plane.pool import NoInstanceError, NoRevisionError
from mcpfleet_local_cloud.front_end.authorizer import Allowed, Authorizer, caller_headers, container_headers
from mcpfleet_local_cloud.front_end.ingress import LIMIT, create_front_end
from mcpfleet_local_cloud.front_end.routing import RoutedRequest

TRACE = "0af7651916cd43dd8448eb211c80319c"
BALANCED = RoutedRequest(endpoint=None, is_balanced=True, balancer_address="127.0.0.1")


def only(instance):
    """The one request that reached the instance."""
    (request,) = instance.requests
    return request


def test_method_path_query_body_and_host_reach_the_container_unchanged(front, kit):
    instance = kit.Instance()
    front(
        instance,
        method="POST",
        path="/a b",
        query=b"x=1&y=%20",
        headers=[(b"content-length", b"6"), (b"mcp-session-id", b"s")],
        body=(b"abc", b"def"),
    )
    method, target, headers, body = only(instance)
    assert (method, target, body) == (b"POST", b"/a b?x=1&y=%20", b"abcdef")
    assert dict(headers)[b"host"] == b"127.0.0.1:18555"
    assert dict(headers)[b"mcp-session-id"] == b"s"
    assert dict(headers)[b"content-length"] == b"6"


def test_a_body_of_unknown_length_is_passed_on_in_chunks(front, kit):
    instance = kit.Instance()
    front(instance, method="POST", headers=[(b"transfer-encoding", b"chunked")], body=(b"a", b"b"))
    _, _, headers, body = only(instance)
    assert (dict(headers)[b"transfer-encoding"], body) == (b"chunked", b"ab")
    assert b"content-length" not in dict(headers)


def test_a_request_without_a_body_is_sent_without_one(front, kit):
    instance = kit.Instance()
    front(instance)
    assert only(instance)[3] is None


def test_the_callers_trace_is_continued_with_a_new_span(front, kit):
    instance = kit.Instance()
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    front(instance, headers=[(b"traceparent", f"00-{trace}-{span}-01".encode())])
    headers = dict(only(instance)[2])
    parent = re.fullmatch(rf"00-{trace}-([0-9a-f]{{16}})-01", headers[b"traceparent"].decode())
    assert parent is not None
    assert parent[1] != span
    assert headers[b"x-cloud-trace-context"].decode() == f"{trace}/{int(parent[1], 16)};o=1"


@pytest.mark.parametrize(
    ("name", "value", "sampled"),
    [
        ("traceparent", f"00-{TRACE}-b7ad6b7169203331-00", 0),
        ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01", 1),
        ("x-cloud-trace-context", f"{TRACE}/123;o=0", 0),
        ("x-cloud-trace-context", f"{TRACE}/123;o=1", 1),
        ("x-cloud-trace-context", f"{TRACE}/123", 1),
    ],
)
def test_the_caller_decides_whether_a_trace_is_sampled(front, kit, name, value, sampled):
    instance = kit.Instance()
    front(instance, headers=[(name.encode(), value.encode())])
    headers = dict(only(instance)[2])
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-0{sampled}", headers[b"traceparent"].decode())
    assert re.fullmatch(rf"{TRACE}/[1-9]\d*;o={sampled}", headers[b"x-cloud-trace-context"].decode())


@pytest.mark.parametrize("value", [f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{TRACE}-{'0' * 16}-01", "00-abc-01"])
def test_an_invalid_trace_is_replaced_by_a_new_one(front, kit, value):
    instance = kit.Instance()
    front(instance, headers=[(b"traceparent", value.encode())])
    sent = dict(only(instance)[2])[b"traceparent"].decode()
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01", sent)
    assert TRACE not in sent


@pytest.mark.parametrize(
    ("claimed", "found"),
    [
        ([], b"127.0.0.9,127.0.0.1"),
        ([b"10.1.2.3"], b"10.1.2.3,127.0.0.9,127.0.0.1"),
        ([b"10.1.2.3, 8.8.8.8", b"unknown"], b"10.1.2.3, 8.8.8.8,unknown,127.0.0.9,127.0.0.1"),
        ([b""], b"127.0.0.9,127.0.0.1"),
    ],
)
def test_a_load_balancer_appends_the_client_and_itself_to_what_the_client_claims(claimed, found):
    headers = [(b"x-forwarded-for", item) for item in claimed]
    sent = container_headers(headers, Allowed(), "127.0.0.9", BALANCED)
    assert [value for name, value in sent if name == b"x-forwarded-for"] == [found]


@given(st.lists(st.binary()))
def test_the_last_two_forwarded_addresses_are_correct_for_any_client_header(claimed):
    headers = [(b"x-forwarded-for", item) for item in claimed]
    (found,) = [
        value
        for name, value in container_headers(headers, Allowed(), "127.0.0.9", BALANCED)
        if name == b"x-forwarded-for"
    ]
    assert found.split(b",")[-2:] == [b"127.0.0.9", b"127.0.0.1"]


def test_a_request_through_a_load_balancer_reaches_the_container_with_its_headers(kit, signer):
    instance = kit.Instance()
    guard = Authorizer(signer, kit.May(None))
    app = create_front_end(lambda scope: replace(BALANCED, endpoint=kit.door, is_https=False), guard, instance)
    answer = TestClient(app).get("/mcp", headers={"x-forwarded-for": "10.0.0.7"})
    sent = dict(only(instance)[2])
    assert (sent[b"x-forwarded-for"], sent[b"x-forwarded-proto"]) == (b"10.0.0.7,testclient,127.0.0.1", b"http")
    assert answer.headers["via"] == "1.1 google"


@pytest.mark.parametrize(("secure", "protocol"), [(True, b"https"), (False, b"http")])
def test_the_protocol_is_the_forwarding_rules(secure, protocol):
    lies = [(b"x-forwarded-proto", b"gopher"), (b"forwarded", b"for=1.2.3.4;proto=gopher")]
    sent = dict(container_headers(lies, Allowed(), "127.0.0.9", replace(BALANCED, is_https=secure)))
    assert sent[b"x-forwarded-proto"] == protocol
    assert sent[b"forwarded"] == b'for="127.0.0.9";proto=' + protocol


def test_a_load_balancer_adds_its_via_header_in_both_directions():
    sent = container_headers([(b"via", b"1.1 squid")], Allowed(), "127.0.0.9", BALANCED)
    assert [value for name, value in sent if name == b"via"] == [b"1.1 squid", b"1.1 google"]
    assert (b"via", b"1.1 google") in caller_headers([], 200, BALANCED)
    assert b"via" not in dict(container_headers([], Allowed(), "127.0.0.9"))
    assert b"via" not in dict(caller_headers([], 200))


def test_a_request_without_a_trace_gets_one(front, kit):
    instance = kit.Instance()
    front(instance, headers=[(b"traceparent", b"nonsense")])
    headers = dict(only(instance)[2])
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", headers[b"traceparent"])


def test_status_headers_and_body_are_returned_without_hop_by_hop_headers(front, kit):
    instance = kit.Instance(
        status=201,
        headers=[
            (b"Content-Type", b"text/event-stream"),
            (b"Connection", b"X-Hop"),
            (b"X-Hop", b"1"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Server", b"uvicorn"),
            (b"Set-Cookie", b"a=1"),
            (b"Set-Cookie", b"b=2"),
        ],
        chunks=[b"one", b"two"],
    )
    exchange = front(instance)
    assert exchange.status == 201
    assert exchange.events[0]["headers"] == [
        (b"content-type", b"text/event-stream"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"server", b"Google Frontend"),
    ]
    assert exchange.body == b"onetwo"
    assert exchange.complete


def test_each_chunk_is_passed_on_before_the_next_one_exists(front, kit):
    async def hang_up_after_the_first_chunk(exchange, running):
        await exchange.body_began.wait()
        assert not running.done()
        exchange.hung_up.set()

    exchange = front(kit.Instance(chunks=[b"first"], hangs=True), during=hang_up_after_the_first_chunk)
    assert exchange.body == b"first"


def test_a_declared_length_ends_with_its_last_chunk(front, kit):
    instance = kit.Instance(headers=[(b"content-length", b"6")], chunks=[b"abc", b"def"])
    exchange = front(instance)
    assert [event.get("more_body") for event in exchange.events[1:]] == [True, False]


def test_a_304_keeps_no_length_because_it_has_no_body(front, kit):
    exchange = front(kit.Instance(status=304, headers=[(b"content-length", b"10")], chunks=[]))
    assert b"content-length" not in exchange.headers
    assert exchange.complete


def test_a_head_response_keeps_its_content_length(front, kit):
    exchange = front(kit.Instance(headers=[(b"content-length", b"10")], chunks=[]), method="HEAD")
    assert (exchange.headers[b"content-length"], exchange.complete) == (b"10", True)


def test_a_caller_that_hangs_up_ends_the_request_to_the_container(front, kit):
    instance = kit.Instance(chunks=[], hangs=True)

    async def hang_up(exchange, running):
        await exchange.began.wait()
        exchange.hung_up.set()

    front(instance, during=hang_up)
    assert (instance.given_up, instance.released) == (1, 1)


def test_a_request_that_exceeds_the_timeout_gets_504(front, kit):
    class Slow(kit.Instance):
        def send(self, *request):
            outer = super().send(*request)

            class Never:
                async def __aenter__(self):
                    await asyncio.Event().wait()

                __aexit__ = outer.__aexit__

            return Never()

    instance = Slow(timeout=0)
    exchange = front(instance)
    assert (exchange.status, exchange.body) == (504, b"upstream request timeout")
    assert instance.released == 1


def test_a_stream_that_exceeds_the_timeout_is_truncated(front, kit):
    exchange = front(kit.Instance(timeout=0.02, hangs=True))
    assert (exchange.status, exchange.complete) == (200, False)


def test_a_connection_lost_before_the_response_is_503(front, kit):
    instance = kit.Instance(breaks_before=True)
    exchange = front(instance)
    assert exchange.status == 503
    assert exchange.body.startswith(b"upstream connect error or disconnect/reset before headers.")
    assert instance.released == 1


def test_a_connection_lost_during_the_response_truncates_it(front, kit):
    exchange = front(kit.Instance(chunks=[b"a", b"b"], breaks_after=1))
    assert (exchange.status, exchange.body, exchange.complete) == (200, b"a", False)


def test_no_free_instance_is_googles_429(front, kit):
    exchange = front(kit.Instance(refuses=NoInstanceError()))
    assert (exchange.status, exchange.body) == (429, b"Rate exceeded.")


def test_a_service_without_a_ready_revision_is_503(front, kit):
    exchange = front(kit.Instance(refuses=NoRevisionError("s")))
    assert (exchange.status, exchange.body) == (503, b"Service Unavailable")


def test_a_declared_body_over_32_mib_is_413_before_it_is_read(front, kit):
    instance = kit.Instance()
    length = str(LIMIT + 1).encode()
    exchange = front(instance, method="POST", headers=[(b"content-length", length)])
    assert (exchange.status, instance.requests) == (413, [])


def test_a_chunked_body_over_32_mib_is_413(front, kit):
    piece = bytes(LIMIT // 2)
    exchange = front(
        kit.Instance(), method="POST", headers=[(b"transfer-encoding", b"chunked")], body=(piece, piece, b"x")
    )
    assert exchange.status == 413


def test_a_request_of_exactly_32_mib_passes(front, kit):
    instance = kit.Instance()
    exchange = front(instance, method="POST", headers=[(b"content-length", str(LIMIT).encode())], body=(bytes(LIMIT),))
    assert (exchange.status, len(only(instance)[3])) == (200, LIMIT)


def test_a_declared_response_over_32_mib_is_500_and_a_streamed_one_passes(front, kit):
    length = str(LIMIT + 1).encode()
    assert front(kit.Instance(headers=[(b"content-length", length)])).status == 500
    assert len(front(kit.Instance(chunks=[bytes(LIMIT), b"x"])).body) == LIMIT + 1


def test_a_websocket_upgrade_is_refused_with_the_reason(front, kit):
    instance = kit.Instance()
    exchange = front(instance, headers=[(b"upgrade", b"websocket"), (b"connection", b"upgrade")])
    assert (exchange.status, instance.requests) == (501, [])
    assert b"WebSocket" in exchange.body
