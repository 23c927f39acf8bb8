"""A server without tool annotations, and a client that is public or cut off from its server.

No command calls such a tool unless its user names it; none passes what lets in everybody, or does not do its work.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import service_account

pytestmark = pytest.mark.integration

BASE = {"BASE_IMAGE": "mcpfleet/base:python3.13"}
ADA = {"iam": {"invokers": ["user:ada@mcpfleet.test"]}}
ORDERS = '''
import os

from mcp.server.mcpserver import MCPServer

server = MCPServer("orders")


@server.tool()
def cancel_order(order: str = "1") -> str:
    """Cancel an order."""
    print(f"cancelled {order}", flush=True)
    return order


if __name__ == "__main__":
    server.run("streamable-http", host="0.0.0.0", port=int(os.environ["PORT"]), stateless_http=True)
'''
SERVICES = "projects/mcpfleet-local/locations/europe-west1/services"


@pytest.fixture(scope="module")
def checkout(make_checkout):
    made = make_checkout("harm")
    orders = made.place.root / "orders"
    orders.mkdir()
    (orders / "server.py").write_text(ORDERS)
    (orders / "requirements.txt").write_text((made.place.root / "examples/weather/requirements.txt").read_text())
    file = made.place.root / "Pulumi.local.yaml"
    stack = yaml.safe_load(file.read_text())
    fleet = stack["config"]["mcpfleet:fleet"]
    del fleet["servers"]["toolbox"]
    fleet["servers"]["orders"] = {"source": {"folder": "./orders", "build_args": BASE}, "access": ADA}
    client = {"folder": ".", "dockerfile": "mcp_client/Dockerfile", "build_args": BASE}
    fleet["clients"] = {
        "assistant": {"source": client, "calls": ["orders", "reference"], "access": ADA, "health_path": "/health"}
    }
    file.write_text(yaml.safe_dump(stack, sort_keys=False))
    return made


@pytest.fixture(scope="module")
def first(checkout):
    return checkout.ok("up")


def cancelled(checkout):
    return [line for line in checkout.ok("logs", "orders").splitlines() if "cancelled" in line]


def mcpfleet(checkout, *arguments):
    command = str(Path(sys.executable).with_name("mcpfleet"))
    done = subprocess.run(
        [command, *arguments], cwd=checkout.place.root, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_no_command_calls_a_tool_without_annotations(deployed, checkout):
    assert "19 checks of 2 servers and 1 client passed" in deployed
    assert "orders: no tool was called: none has readOnlyHint" in deployed
    assert "reference: no tool was called" not in deployed
    before = cancelled(checkout)
    checkout.ok("up")
    checkout.ok("verify")
    checkout.ok("status")
    assert mcpfleet(checkout, "verify")[0] == 0
    assert mcpfleet(checkout, "doctor", "orders")[0] == 0
    code, said = mcpfleet(checkout, "verify", "--call", "cancel_order")
    assert (code, "Use --call SERVER/TOOL" in said) == (2, True)
    assert cancelled(checkout) == before


def test_a_named_tool_is_called_once(deployed, checkout):
    before = cancelled(checkout)
    checkout.ok("verify", "--call", "orders/cancel_order", "--arguments", json.dumps({"order": "seven"}))
    assert cancelled(checkout) == [*before, "cancelled seven"]
    code, said = mcpfleet(checkout, "verify", "orders", "--call", "cancel_order")
    assert (code, "cancel_order called" in said) == (0, True), said
    assert cancelled(checkout) == [*before, "cancelled seven", "cancelled 1"]


@pytest.fixture
def session(deployed, checkout):
    """Requests to the cloud's APIs as the deployer."""
    credentials = service_account.Credentials.from_service_account_file(
        checkout.place.credentials / "deployer.json",
        scopes=["https://www.googleapis.com/auth/cloud-platform"],
        always_use_jwt_access=True,
    )
    with AuthorizedSession(credentials) as session:
        yield session


@pytest.fixture
def opened(session, checkout):
    """Let all users call the client, during the test."""

    def set_open(to_all):
        url = f"{checkout.place.url}/run/v2/{SERVICES}/mcp-assistant"
        service = session.get(url, timeout=30).json()
        answer = session.patch(url, json={**service, "invokerIamDisabled": to_all}, timeout=60)
        assert answer.ok, answer.text

    set_open(True)
    yield
    set_open(False)


@pytest.fixture
def cut_off(session, checkout):
    """Remove the client's permission to call one of its servers, during the test."""
    url = f"{checkout.place.url}/run/v2/{SERVICES}/mcp-orders"
    policy = session.get(f"{url}:getIamPolicy", timeout=30).json()
    ada = [{"role": "roles/run.invoker", "members": ["user:ada@mcpfleet.test"]}]

    def bind(bindings):
        body = {"policy": {"bindings": bindings}}
        assert session.post(f"{url}:setIamPolicy", json=body, timeout=30).ok

    bind(ada)
    yield
    bind(policy["bindings"])


def test_a_client_without_permission_on_its_server_fails_every_verification(cut_off, checkout):
    code, said = checkout.dev("verify")
    assert code == 1
    wrong = (
        "through it, orders does not answer: 403: serviceAccount:mcp-assistant@mcpfleet-local.iam.gserviceaccount.com"
    )
    assert f"assistant: {wrong} may not call" in said
    code, said = mcpfleet(checkout, "verify", "assistant", "--json")
    found = json.loads(said[said.index("{") :])["clients"]["assistant"]
    assert code == 1
    assert [line.partition(" may not call")[0] for line in found["failed"]] == [wrong]
    assert any(line.startswith("through it, reference answers: ") for line in found["passed"])


def test_a_client_that_anyone_can_call_fails_every_verification(opened, checkout):
    before = cancelled(checkout)
    code, said = checkout.dev("verify")
    assert code == 1
    assert "assistant: without a token: 403: GET http" in said
    assert "returned 200" in said
    code, said = mcpfleet(checkout, "verify", "--json")
    found = json.loads(said[said.index("{") :])
    assert (code, found["ok"]) == (1, False)
    assert [bool(item["failed"]) for item in found["servers"].values()] == [False, False]
    refused = [line for line in found["clients"]["assistant"]["passed"] if "40" in line]
    assert refused == []
    assert cancelled(checkout) == before, "nothing was called through it"


def test_a_tool_is_called_by_name_and_each_outcome_has_its_exit_code(deployed, checkout):
    assert mcpfleet(checkout, "call", "orders", "cancel_order", "--arguments", '{"order": "nine"}') == (0, "nine\n")
    code, said = mcpfleet(checkout, "call", "reference", "add", "--arguments", '{"a": "x"}', "--json")
    assert (code, json.loads(said)["outcome"]) == (3, "tool_error")
    code, said = mcpfleet(checkout, "call", "orders", "cancel_order", "--token-command", "echo made-up")
    assert code in {1, 5}, said


def test_a_deployed_fleet_is_as_it_was_locked(deployed, checkout):
    assert mcpfleet(checkout, "tools", "lock")[0] == 0
    code, said = mcpfleet(checkout, "tools", "diff")
    assert (code, sorted(said.splitlines())) == (0, ["orders: as locked", "reference: as locked"])
