"""Client ID metadata documents: only a public host can be asked, for a small document, for a short time."""

import json

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_login.documents import (
    MAX_DOCUMENT_BYTES,
    ClientDocuments,
    DocumentError,
    PublicNetwork,
    create_fetch,
    is_document_url,
    is_public,
)
from tests.unit.mcpfleet_login.login_world import OauthClient, World, allow

pytestmark = pytest.mark.anyio

URL = "https://desk.example/oauth/client.json"
REDIRECT = "http://127.0.0.1/callback"


def document(**changes) -> bytes:
    return json.dumps({"client_id": URL, "client_name": "Desk", "redirect_uris": [REDIRECT], **changes}).encode()


PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",  # noqa: S104
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fd00::1",
    "fd20:ce::254",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "ff02::1",
    "not an address",
    "127.1",
    "",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_inside_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888"])
def test_an_address_of_the_internet_is_public(address):
    assert is_public(address)


@given(st.ip_addresses(v=6))
def test_no_address_that_translates_to_ipv4_is_public(address):
    if is_public(str(address)):
        assert address.ipv4_mapped is None
        assert address.sixtofour is None
        assert address.teredo is None
        assert address.is_global


@pytest.mark.parametrize(
    "url",
    [
        "http://desk.example/client",
        "https://desk.example",
        "https://desk.example/",
        "https://desk.example:8443/client",
        "https://user@desk.example/client",
        "https://desk.example/client#x",
        "https://desk.example/a/../client",
        "https://desk.example/./client",
        "https://127.0.0.1/client",
        "https://2130706433/client",
        "https://0x7f.1/client",
        "https://[::1]/client",
        "https://localhost/client",
        "https://DESK.example/client",
        "https://desk.example\\@evil.example/client",
        "https://desk.example/cli\nent",
        "https://desk.example/" + "x" * 600,
    ],
)
async def test_what_is_no_plain_https_url_is_never_fetched(world, url):
    assert not is_document_url(url)
    client = OauthClient(world, world.http(), client_id=url)
    assert (await world.http().get(client.authorize_url())).status_code == 400
    assert world.fetches == []


class Backend(httpcore2.AsyncMockBackend):
    """Answers with prepared bytes, and remembers what was connected to."""

    def __init__(self, answer: bytes = b"") -> None:
        super().__init__([answer])
        self.connected: list[tuple[str, int]] = []

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):  # noqa: ASYNC109
        self.connected.append((host, port))
        return await super().connect_tcp(host, port, timeout, local_address, socket_options)


def http_answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


async def fetched(answer: bytes, addresses=("8.8.8.8",)) -> tuple[bytes, Backend]:
    backend = Backend(answer)

    async def resolve(host: str, port: int):
        assert (host, port) == ("desk.example", 443)
        return list(addresses)

    return await create_fetch(PublicNetwork(backend, resolve))(URL), backend


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to():
    body, backend = await fetched(http_answer(b"{}"))
    assert (body, backend.connected) == (b"{}", [("8.8.8.8", 443)])


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_host_with_an_address_inside_is_never_connected_to(address):
    backend = Backend(http_answer(b"{}"))

    async def resolve(host: str, port: int):
        return ["8.8.8.8", address]

    with pytest.raises(DocumentError, match="public address"):
        await create_fetch(PublicNetwork(backend, resolve))(URL)
    assert backend.connected == []


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(b"", "302 Found", "location: http://169.254.169.254/\r\n"),
        http_answer(b"{}", "404 Not Found"),
        http_answer(b" " * (MAX_DOCUMENT_BYTES + 1)),
        http_answer(b"{}", headers="content-encoding: gzip\r\n"),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 9,
        b"garbage\r\n\r\n",
        b"",
    ],
    ids=["redirect", "missing", "large", "compressed", "large in chunks", "no HTTP", "nothing"],
)
async def test_an_answer_that_is_no_small_document_is_refused(answer):
    with pytest.raises(DocumentError):
        await fetched(answer)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[" * 9000,
        b'{"client_id": "https://desk.example/oauth/other.json"}',
        document(client_id=None),
        document(redirect_uris=[]),
        document(redirect_uris="http://127.0.0.1/callback"),
        document(redirect_uris=[1]),
        document(redirect_uris=["javascript://x/%0aalert(1)"]),
        document(redirect_uris=[f"https://desk.example/{number}" for number in range(11)]),
        document(token_endpoint_auth_method="client_secret_post"),
        document(token_endpoint_auth_method="private_key_jwt"),
        document(token_endpoint_auth_method=["none"]),
        b"\xff\xfe",
    ],
)
async def test_a_document_with_a_mistake_is_no_client(world, body):
    world.documents[URL] = body
    client = OauthClient(world, world.http(), client_id=URL)
    answer = await world.http().get(client.authorize_url())
    assert (answer.status_code, answer.headers.get("location")) == (400, None)
    token = await client.redeem("x")
    assert token.status_code == 401


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
async def test_no_value_of_a_document_breaks_the_server(value):
    for name in ("redirect_uris", "client_name", "token_endpoint_auth_method", "grant_types", "scope", "jwks"):
        world = World()
        world.documents[URL] = document(**{name: value})
        client = OauthClient(world, world.http(), client_id=URL, redirect_uri=REDIRECT)
        assert (await world.http().get(client.authorize_url())).status_code in (302, 400)


async def test_the_consent_page_names_the_host_that_published_the_document(world):
    world.documents[URL] = document(client_name="Your bank")
    client = OauthClient(world, world.http(), client_id=URL)
    page = await world.http().get(client.authorize_url(), follow_redirects=True)
    assert "Published by" in page.text
    assert "desk.example" in page.text


async def test_a_document_is_fetched_again_only_after_a_while_and_a_failure_too():
    times = [0.0]
    calls: list[str] = []

    async def fetch(url: str) -> bytes:
        calls.append(url)
        if len(calls) == 1:
            raise DocumentError("down")
        return document()

    documents = ClientDocuments(fetch, lambda: times[-1])
    for now, count in ((0.0, 1), (29.0, 1), (30.0, 2), (600.0, 2), (630.0, 3)):
        times.append(now)
        try:
            await documents.get(URL)
        except DocumentError:
            assert count == 1
        assert len(calls) == count


async def test_a_flood_of_document_urls_keeps_the_cache_small():
    async def fetch(url: str) -> bytes:
        raise DocumentError("down")

    documents = ClientDocuments(fetch)
    for number in range(1000):
        with pytest.raises(DocumentError):
            await documents.get(f"https://desk.example/{number}")
    assert len(documents._cache) <= 256


async def test_a_client_with_a_document_logs_in_on_any_loopback_port(world):
    world.documents[URL] = document()
    client = OauthClient(world, world.http(), client_id=URL, redirect_uri="http://127.0.0.1:53123/callback")
    assert (await allow(world.http(), client.authorize_url())).status_code == 303
    tokens = await client.redeem(await client.get_code())
    assert (await client.call(tokens.json()["access_token"])).status_code == 200
