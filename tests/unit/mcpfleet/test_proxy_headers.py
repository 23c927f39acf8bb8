import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet.proxy import request_headers, response_headers

TOKEN_HEADER = b"X-Serverless-Authorization"
HOP_BY_HOP = [  # RFC 9110 section 7.6.1, and Proxy-Connection, which old clients send
    b"Connection",
    b"Keep-Alive",
    b"Proxy-Authenticate",
    b"Proxy-Authorization",
    b"Proxy-Connection",
    b"TE",
    b"Trailer",
    b"Transfer-Encoding",
    b"Upgrade",
]
TCHAR = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SPECIAL = {name.lower() for name in [*HOP_BY_HOP, b"Host", b"Expect", b"Location", TOKEN_HEADER]}

names = st.text(TCHAR, min_size=1, max_size=12).map(str.encode).filter(lambda name: name.lower() not in SPECIAL)
values = st.binary(max_size=20).filter(lambda value: not set(value) & set(b"\r\n\0"))
ordinary = st.lists(st.tuples(names, values), max_size=8)


def case_of(name, upper):
    return name.upper() if upper else name.lower()


hop_by_hop = st.lists(st.tuples(st.builds(case_of, st.sampled_from(HOP_BY_HOP), st.booleans()), st.just(b"x")))


@given(st.data(), ordinary, hop_by_hop)
def test_hop_by_hop_headers_are_dropped_and_others_passed_on_in_order(data, end_to_end, hops):
    kept_pairs = [pair for pair in end_to_end if pair[0].lower() != b"x"]  # `Connection: x` names it
    mixed = list(kept_pairs)
    for hop in hops:
        mixed.insert(data.draw(st.integers(0, len(mixed))), hop)
    assert request_headers(mixed, b"echo.run.app", TOKEN_HEADER) == [(b"host", b"echo.run.app"), *kept_pairs]
    assert response_headers(mixed, "https://echo.run.app", "http://localhost:3000") == kept_pairs


@given(ordinary, st.lists(names, min_size=1, max_size=3), st.sampled_from([b"Connection", b"connection"]))
def test_headers_named_by_connection_are_dropped(end_to_end, named, connection):
    mixed = [*end_to_end, *((name, b"1") for name in named), (connection, b" , ".join(named).upper())]
    lower = {name.lower() for name in named}
    expected = [pair for pair in end_to_end if pair[0].lower() not in lower]
    assert response_headers(mixed, "https://echo.run.app", "http://localhost:3000") == expected
    assert request_headers(mixed, b"h", TOKEN_HEADER)[1:] == expected


@given(ordinary, values, st.booleans())
def test_the_service_gets_its_own_host_and_no_token_of_the_caller(end_to_end, value, upper):
    caller_headers = [(case_of(name, upper), value) for name in (b"Host", b"Expect", TOKEN_HEADER)]
    sent = request_headers([*caller_headers, *end_to_end], b"echo.run.app", TOKEN_HEADER)
    assert sent == [(b"host", b"echo.run.app"), *end_to_end]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"https://echo.run.app", b"http://localhost:3000"),
        (b"https://echo.run.app/mcp#x", b"http://localhost:3000/mcp#x"),
        (b"/mcp", b"/mcp"),
        (b"https://echo.run.app.evil.example/", b"https://echo.run.app.evil.example/"),
        (b"https://accounts.example/login", b"https://accounts.example/login"),
    ],
)
def test_only_redirects_to_the_service_are_rewritten_to_the_proxy(location, expected):
    (header,) = response_headers([(b"Location", location)], "https://echo.run.app", "http://localhost:3000")
    assert header == (b"Location", expected)


ESSENTIAL = [
    b"Authorization",
    b"Cookie",
    b"Content-Type",
    b"Mcp-Session-Id",
    b"Origin",
    b"X-Forwarded-For",
    b"traceparent",
]


@given(st.lists(st.sampled_from(ESSENTIAL), min_size=1, unique=True), st.booleans())
def test_connection_cannot_remove_identity_or_framing_headers(named, upper):
    essential = [(name, b"1") for name in ESSENTIAL]
    mixed = [*essential, (b"Connection", b",".join(case_of(name, upper) for name in named))]
    assert request_headers(mixed, b"h", TOKEN_HEADER)[1:] == essential
    assert response_headers(mixed, "https://echo.run.app", "http://localhost:3000") == essential


def test_a_local_caller_cannot_choose_the_identity_in_either_token_header():
    own_headers = [(b"X-Serverless-Authorization", b"Bearer mine"), (b"Proxy-Authorization", b"Bearer mine")]
    assert request_headers(own_headers, b"h", b"Authorization") == [(b"host", b"h")]
