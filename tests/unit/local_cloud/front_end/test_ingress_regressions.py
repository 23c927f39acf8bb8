"""Regression tests of an attack on the ingress."""

import asyncio

import pytest

from mcpfleet_local_cloud.front_end.ingress import create_ingress
from mcpfleet_local_cloud.identity.tokens import Claims

INVOKER = "mcp-client@p.iam.gserviceaccount.com"


@pytest.mark.parametrize("status", [600, 999, 199, 100, 0])
def test_an_invalid_status_counts_as_a_failed_instance(front, kit, status):
    exchange = front(kit.Instance(status=status))
    assert (exchange.status, exchange.complete) == (503, True)


@pytest.mark.parametrize("status", [200, 299, 418, 599])
def test_an_unassigned_status_is_passed_on(front, kit, status):
    assert front(kit.Instance(status=status)).status == status


def test_chunked_encoding_overrides_a_content_length(front, kit):
    headers = [(b"Content-Length", b"2"), (b"Transfer-Encoding", b"chunked")]
    exchange = front(kit.Instance(headers=headers, chunks=[b"hello"]))
    assert b"content-length" not in exchange.headers
    assert (exchange.body, exchange.complete) == (b"hello", True)


def test_a_token_is_refused_as_soon_as_its_account_is_disabled(kit, signer):
    standing, asked = [True], []

    def stands(claims: Claims) -> bool:
        asked.append((claims.email, claims.subject))
        return standing[0]

    app = create_ingress(lambda _: kit.door, signer, kit.May(INVOKER), kit.Instance(), stands)
    token = signer.mint_id_token(email=INVOKER, subject="104", audience=kit.url)

    async def status():
        sent = []
        headers = [(b"host", f"127.0.0.1:{kit.port}".encode()), (b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b""}
        scope |= {"headers": headers, "server": ("127.0.0.1", kit.port), "client": ("127.0.0.1", 4)}

        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        async with asyncio.timeout(10):
            await app(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(status()) == 200
    standing[0] = False  # the token's signature is remembered by now
    assert asyncio.run(status()) == 401
    assert asked == [(INVOKER, "104")] * 2


@pytest.mark.parametrize("option", [b"host", b"content-length", b"Host, Content-Length"])
def test_connection_cannot_remove_framing_headers(front, kit, option):
    instance = kit.Instance()
    front(instance, headers=[(b"connection", option), (b"content-length", b"4")], method="POST", body=(b"abcd",))
    _, _, headers, body = instance.requests[0]
    assert (b"host", f"127.0.0.1:{kit.port}".encode()) in headers
    assert (b"content-length", b"4") in headers
    assert body == b"abcd"
