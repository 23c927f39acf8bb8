"""The domains of local load balancers: where they are, and how a request gets there under its own name."""

import asyncio

import httpx2

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.domains import DomainTransport, parse_balancer_addresses

HELD = {
    "loadBalancers": [
        {"name": "https", "url": "https://127.0.0.1:19501", "domains": ["mcp.acme.dev"]},
        {"name": "http", "url": "http://127.0.0.1:19502", "domains": []},
        {"name": "away", "url": "https://127.0.0.1:0", "domains": ["x.dev"]},
    ]
}


def test_a_domain_resolves_to_its_load_balancer_if_it_listens():
    assert parse_balancer_addresses(HELD) == {"mcp.acme.dev": ("127.0.0.1", 19501)}
    assert parse_balancer_addresses({}) == {}


def test_a_request_is_sent_to_the_address_and_keeps_its_host(tmp_path):
    seen = []

    def answer(request):
        seen.append((str(request.url), request.headers["host"], request.extensions.get("sni_hostname")))
        return httpx2.Response(200)

    folder = CloudFolder(root=tmp_path, state=tmp_path)

    async def scenario():
        transport = DomainTransport(folder, parse_balancer_addresses(HELD), httpx2.MockTransport(answer))
        for _ in range(2):  # each client closes it
            async with httpx2.AsyncClient(transport=transport) as client:
                await client.get("https://mcp.acme.dev/mcp")
        async with httpx2.AsyncClient(transport=transport) as client:
            await client.get("https://other.dev/")

    asyncio.run(scenario())
    assert seen == [
        ("https://127.0.0.1:19501/mcp", "mcp.acme.dev", "mcp.acme.dev"),
        ("https://127.0.0.1:19501/mcp", "mcp.acme.dev", "mcp.acme.dev"),
        ("https://other.dev/", "other.dev", None),
    ]
