"""Tests of forged identities and stolen sessions on a local cloud, with IAM and Identity-Aware Proxy."""

import base64
import json

import httpx2
import pytest
import yaml

from mcpfleet.token_sources import source_from_file

pytestmark = pytest.mark.integration

ADA, BOB = "user:ada@mcpfleet.test", "user:bob@mcpfleet.test"
GCLOUD = "32555940559.apps.googleusercontent.com"
BASE = {"BASE_IMAGE": "mcpfleet/base:python3.13"}
REFERENCE = {"source": {"folder": ".", "dockerfile": "mcp_server/Dockerfile", "build_args": BASE}}
TIME = {"source": {"stdio": {"pypi": "mcp-server-time==2026.10.19"}, "build_args": BASE}}
IAP = {"access": {"iap": {"members": [ADA, BOB], "programmatic_clients": [GCLOUD]}}}
SERVERS = {
    "private": {**REFERENCE, "access": {"iam": {"invokers": [ADA, BOB]}}},
    "proxied": {**REFERENCE, **IAP},
    "bridged": {**TIME, **IAP, "sessions": "stateful", "max_instances": 1},
    "open": {**REFERENCE, "access": {"public": {"reason": "a test of what everybody may call"}}},
}
GREETING = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


def forged():
    """Return a forged token of a missing account, in the form in which the front end passes tokens on."""
    claims = {"iss": "https://accounts.google.com", "sub": "1", "email": "eve@mcpfleet.test", "email_verified": True}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "RS256"}, claims)]
    return "Bearer " + b".".join(parts).decode() + ".SIGNATURE_REMOVED_BY_GOOGLE"


LIES = {
    "X-Goog-Authenticated-User-Email": "accounts.google.com:eve@mcpfleet.test",
    "X-Goog-Authenticated-User-Id": "accounts.google.com:1",
    "X-Goog-IAP-JWT-Assertion": forged().removeprefix("Bearer "),
}


@pytest.fixture(scope="module")
def deployed(make_checkout):
    checkout = make_checkout("callers")
    path = checkout.place.root / "Pulumi.local.yaml"
    stack = yaml.safe_load(path.read_text())
    fleet = stack["config"]["mcpfleet:fleet"]
    fleet |= {"servers": SERVERS, "organization": "481516234200"}
    fleet.pop("clients", None)
    path.write_text(yaml.safe_dump(stack, sort_keys=False))
    checkout.ok("up")
    return checkout


def uri_of(checkout, server):
    services = [item["outputs"] for item in checkout.state.resources if item["type"].endswith("/service:Service")]
    return next(item["uri"] for item in services if item.get("name") == f"mcp-{server}")


def bearer(checkout, name, audience):
    token = source_from_file(checkout.place.credentials / f"{name}.json").fetch(audience)
    return f"Bearer {getattr(token, 'value', token)}"


def asked(url, headers, method="tools/call", params=None):
    """The answer to a request of protocol versions with a handshake."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {"name": "whoami", "arguments": {}}}
    accept = {"accept": "application/json, text/event-stream"}
    return httpx2.post(f"{url}/mcp", json=body, headers={**accept, **headers}, timeout=60, trust_env=False)


def caller(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]["structuredContent"]["caller"]


def test_with_iam_the_caller_is_read_from_the_checked_token_only(deployed):
    url = uri_of(deployed, "private")
    mine = bearer(deployed, "bob", url)
    assert caller(asked(url, {"Authorization": mine})) == "bob@mcpfleet.test"
    both = {"X-Serverless-Authorization": mine, "Authorization": forged(), **LIES}
    assert caller(asked(url, both)) == "bob@mcpfleet.test"
    assert caller(asked(url, {**both, "Connection": "x-serverless-authorization"})) == "bob@mcpfleet.test"
    assert asked(url, {"X-Serverless-Authorization": forged(), "Authorization": mine}).status_code == 401


def test_with_iap_the_caller_is_read_from_the_proxys_assertion(deployed):
    url = uri_of(deployed, "proxied")
    mine = bearer(deployed, "bob", GCLOUD)
    assert caller(asked(url, {"Authorization": mine})) == "bob@mcpfleet.test"
    worst = {"Proxy-Authorization": mine, "Authorization": forged(), "X-Serverless-Authorization": forged(), **LIES}
    assert caller(asked(url, worst)) == "bob@mcpfleet.test"
    named = {**worst, "Connection": "x-goog-iap-jwt-assertion, x-serverless-authorization"}
    assert caller(asked(url, named)) == "bob@mcpfleet.test"


@pytest.mark.parametrize("server", ["proxied", "bridged"])
def test_with_iap_a_container_refuses_requests_that_bypass_the_proxy(deployed, engine, server):
    labels = {"dev.mcpfleet.service": f"mcp-{server}", "dev.mcpfleet.container": "0"}
    found = next(item for item in deployed.containers(engine) if labels.items() <= item.labels.items())
    (network,) = found.attrs["NetworkSettings"]["Networks"].values()
    direct = f"http://{network['IPAddress']}:8080"
    for headers in ({}, {"Authorization": forged()}, {"X-Serverless-Authorization": forged(), **LIES}):
        answer = asked(direct, {**headers, "Host": "127.0.0.1"})
        assert answer.status_code == 401, answer.text
        assert "Identity-Aware Proxy" in answer.text


def test_a_bridge_session_is_usable_only_by_its_caller(deployed):
    url = uri_of(deployed, "bridged")
    ada, bob = ({"Authorization": bearer(deployed, name, GCLOUD)} for name in ("ada", "bob"))
    opened = asked(url, ada, "initialize", GREETING)
    assert opened.status_code == 200, opened.text
    session = {"mcp-session-id": opened.headers["mcp-session-id"]}
    assert asked(url, {**bob, **session}, "tools/list", {}).status_code == 404
    assert asked(url, {**ada, **session}, "tools/list", {}).status_code == 200


def test_a_public_server_identifies_no_caller(deployed):
    url = uri_of(deployed, "open")
    for headers in ({}, {"Authorization": forged()}, {"X-Serverless-Authorization": forged(), **LIES}):
        assert caller(asked(url, headers)) is None
