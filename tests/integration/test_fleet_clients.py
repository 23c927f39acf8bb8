"""Clients of the fleet call servers with real tokens, from inside real containers."""

import json
import secrets

import httpx2
import pytest

from mcpfleet_local_cloud.commands.admin import AdminClient
from tests.integration.checkout import eventually

pytestmark = pytest.mark.integration

SOURCE = '{folder: ., dockerfile: mcp_client/Dockerfile, build_args: {BASE_IMAGE: "mcpfleet/base:python3.13"}}'
ADA = """access: {iam: {invokers: ["user:ada@mcpfleet.test"]}}"""
# A server for the project's own network; `assistant` is not in the network, which is all that keeps it out.
HIDDEN = """
      hidden:
        source:
          image: docker.io/mcpfleet-examples/toolbox:1
          port: 5000
          args: ["--port", "5000", "--host", "0.0.0.0"]
        ingress: internal
        access: {iam: {invokers: ["serviceAccount:mcp-assistant@mcpfleet-local.iam.gserviceaccount.com"]}}"""
CLIENTS = f"""
    clients:
      assistant: {{source: {SOURCE}, calls: [reference], health_path: /health, {ADA}}}
      near: {{source: {SOURCE}, calls: [reference], health_path: /health, topology: sidecar, {ADA}}}
      inside:
        source: {SOURCE}
        calls: [hidden]
        health_path: /health
        vpc: {{network: default, all_traffic: true}}
        {ADA}
      meshed:
        source: {SOURCE}
        calls: [reference]
        health_path: /health
        topology: mesh
        vpc: {{network: default}}
        {ADA}
      other:
        source: {SOURCE}
        calls: [toolbox, hidden]
        health_path: /health
        topology: mesh
        vpc: {{network: default, all_traffic: true}}
        {ADA}
      agent-adk: &agent
        source:
          folder: .
          dockerfile: examples/agent/Dockerfile
          build_args: {{BASE_IMAGE: "mcpfleet/base:python3.13", FRAMEWORK: adk}}
        calls: [reference]
        roles: [roles/aiplatform.user]
        env: {{MODEL: scripted}}
        health_path: /health
        memory: 1Gi
        {ADA}
      agent-pydantic-ai:
        <<: *agent
        source:
          folder: .
          dockerfile: examples/agent/Dockerfile
          build_args: {{BASE_IMAGE: "mcpfleet/base:python3.13", FRAMEWORK: pydantic-ai}}
encryptionsalt:"""

# Prints the status of a call of the URL, with an ID token for the audience under the header; 0 where nobody answers.
CALL = """
import sys, httpx2
from mcpfleet.auth import IdTokenAuth
url, audience, header = sys.argv[1:]
headers = {"accept": "application/json, text/event-stream"}
auth = IdTokenAuth(audience, header=header) if audience else None
ping = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
try:
    print(httpx2.post(url + "/mcp", json=ping, headers=headers, auth=auth, timeout=60).status_code)
except httpx2.ConnectError:
    print(0)
"""


@pytest.fixture(scope="module")
def checkout(make_checkout):
    made = make_checkout("clients")
    made.edit("Pulumi.local.yaml", "\nencryptionsalt:", HIDDEN + CLIENTS)
    made.ok("up")
    return made


@pytest.fixture(scope="module")
def ask(checkout):
    """`ask(client, question)`: return the response of a client's `POST /ask` to an invoker."""

    def run(client, **question):
        target = checkout.state.outputs["clients"][client]
        auth = checkout.who("ada", target["url"])
        answer = httpx2.post(f"{target['url']}/ask", json=question, auth=auth, timeout=90, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()["servers"]

    return run


@pytest.fixture(scope="module")
def question(checkout):
    """`question(agent, text)`: return an agent's answer to an invoker."""

    def run(agent, text):
        target = checkout.state.outputs["clients"][agent]
        auth = checkout.who("ada", target["url"])
        answer = httpx2.post(f"{target['url']}/ask", json={"question": text}, auth=auth, timeout=90, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()["answer"]

    return run


@pytest.fixture(scope="module")
def address(checkout):
    """`address(server)`: return the URL of a server inside the cloud, as clients get it."""
    resources = [item for item in checkout.state.resources if item["type"] == "gcp:cloudrunv2/service:Service"]
    told = next(item for item in resources if item["outputs"]["name"] == "mcp-assistant")
    env = {item["name"]: item["value"] for item in told["outputs"]["template"]["containers"][0]["envs"]}
    reference = json.loads(env["MCP_SERVERS"])["reference"]["audience"]
    return lambda server: reference.replace("mcp-reference", f"mcp-{server}")


@pytest.fixture(scope="module")
def from_inside(checkout, engine):
    """`from_inside(url, audience, client)`: the status of a call from the client's container, as its account."""

    def run(url, audience="", client="assistant", header="X-Serverless-Authorization"):
        service = f"mcp-{client}"
        (container,) = [item for item in checkout.containers(engine) if item.labels["dev.mcpfleet.service"] == service]
        code, said = container.exec_run(["/opt/venv/bin/python", "-c", CALL, url, audience, header])
        assert code == 0, said.decode()
        return int(said)

    return run


def test_a_client_lists_and_calls_its_servers_tools_as_its_own_account(checkout, ask):
    tools = [tool["name"] for tool in ask("assistant")["reference"]["tools"]]
    assert "add" in tools
    found = ask("assistant", tool="whoami")["reference"]["result"]["structuredContent"]
    assert found["caller"] == checkout.state.outputs["clients"]["assistant"]["account"]
    assert found["service"] == "mcp-reference"


def test_an_unlisted_client_gets_403_and_a_token_is_valid_for_one_server_only(from_inside, address):
    assert from_inside(address("reference"), address("reference")) == 200
    assert from_inside(address("toolbox"), address("toolbox")) == 403
    assert from_inside(address("toolbox"), address("reference")) == 401


def test_a_servers_policy_has_only_its_invokers_and_its_clients(checkout):
    def members(service):
        from google.auth.transport.requests import AuthorizedSession
        from google.oauth2 import service_account

        credentials = service_account.Credentials.from_service_account_file(
            checkout.place.credentials / "deployer.json",
            scopes=["https://www.googleapis.com/auth/cloud-platform"],
            always_use_jwt_access=True,
        )
        path = f"run/v2/projects/mcpfleet-local/locations/europe-west1/services/{service}:getIamPolicy"
        with AuthorizedSession(credentials) as session:
            policy = session.get(f"{checkout.place.url}/{path}", timeout=30).json()
        assert {item["role"] for item in policy["bindings"]} == {"roles/run.invoker"}
        return {member for item in policy["bindings"] for member in item["members"]}

    ada = "user:ada@mcpfleet.test"
    clients = {name: f"serviceAccount:{item['account']}" for name, item in checkout.state.outputs["clients"].items()}
    agents = {clients["agent-adk"], clients["agent-pydantic-ai"]}
    assert members("mcp-reference") == {ada, clients["assistant"], clients["meshed"], *agents}
    assert members("mcp-toolbox") == {ada, clients["other"]}
    assert members("mcp-hidden") == {clients["assistant"], clients["inside"], clients["other"]}


def test_a_sidecar_server_answers_only_its_client(checkout, ask):
    found = ask("near", tool="whoami")["reference"]["result"]["structuredContent"]
    assert (found["service"], found["caller"]) == ("mcp-near", None)
    target = checkout.state.outputs["clients"]["near"]
    ping = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    auth = checkout.who("ada", target["url"])
    answer = httpx2.post(f"{target['url']}/mcp", json=ping, auth=auth, timeout=60, trust_env=False)
    assert answer.status_code == 404, "requests reach the client, which has no such path"


@pytest.mark.parametrize("agent", ["agent-adk", "agent-pydantic-ai"])
def test_an_agent_calls_the_tool_chosen_by_its_model_as_its_own_account(checkout, question, agent):
    answer = question(agent, 'reference_add {"a": 1, "b": 2}\nreference_whoami {}')
    assert "3" in answer.splitlines()[0]
    assert checkout.state.outputs["clients"][agent]["account"] in answer.splitlines()[1]


@pytest.mark.parametrize(
    ("client", "asked"),
    [
        ("assistant", {"tool": "add", "arguments": {"a": 1, "b": 2}}),
        ("near", {"tool": "add", "arguments": {"a": 1, "b": 2}}),
        ("agent-adk", {"question": 'reference_add {"a": 1, "b": 2}'}),
        ("agent-pydantic-ai", {"question": 'reference_add {"a": 1, "b": 2}'}),
    ],
)
def test_the_logs_of_a_client_and_its_server_have_the_same_trace(checkout, client, asked):
    trace, target = secrets.token_hex(16), checkout.state.outputs["clients"][client]
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    auth = checkout.who("ada", target["url"])
    httpx2.post(f"{target['url']}/ask", json=asked, headers=headers, auth=auth, timeout=90, trust_env=False)

    def said(service):
        name = f"projects/mcpfleet-local/locations/europe-west1/services/{service}"
        lines = [line[line.index("{") :] for line in AdminClient(checkout.place).logs(name) if "{" in line]
        entries = [json.loads(line) for line in lines if trace in line]
        whole = f"projects/mcpfleet-local/traces/{trace}"
        assert {item["logging.googleapis.com/trace"] for item in entries} <= {whole}
        return {item["logging.googleapis.com/labels"]["logger"] for item in entries}

    services = {f"mcp-{client}", "mcp-near" if client == "near" else "mcp-reference"}
    both = {"agent" if "question" in asked else "mcp_client.calls", "mcp_server.calls"}
    eventually(lambda: both <= set().union(*map(said, services)), "both have logged the call", 20)


def test_a_client_accepts_no_callers_by_default(checkout):
    target = checkout.state.outputs["clients"]["assistant"]
    refused = [
        httpx2.post(f"{target['url']}/ask", json={}, auth=auth, timeout=60, trust_env=False).status_code
        for auth in (None, checkout.who("bob", target["url"]))
    ]
    assert refused == [403, 403]


def test_a_mesh_client_calls_its_server_by_short_name_with_an_added_token(checkout, ask):
    tools = [tool["name"] for tool in ask("meshed")["reference"]["tools"]]
    assert "add" in tools
    found = ask("meshed", tool="whoami")["reference"]["result"]["structuredContent"]
    assert found["caller"] == checkout.state.outputs["clients"]["meshed"]["account"]
    assert found["service"] == "mcp-reference"


def test_an_unlisted_mesh_client_gets_403_and_unused_names_do_not_resolve(from_inside):
    assert from_inside("http://mcp-reference", client="meshed") == 200
    assert from_inside("http://mcp-toolbox", client="meshed") == 403
    assert from_inside("http://mcp-near", client="meshed") == 0
    assert from_inside("http://mcp-reference", client="assistant") == 0, "it is not in the mesh"


def test_a_mesh_client_cannot_use_a_stolen_token(from_inside, address):
    stolen = address("reference")
    assert from_inside("http://mcp-toolbox", stolen, client="meshed") == 401
    as_itself = from_inside("http://mcp-toolbox", stolen, client="meshed", header="Authorization")
    assert as_itself == 403, "the mesh writes its own there"
    assert from_inside(address("toolbox"), stolen, client="meshed") == 401


def test_an_internal_server_answers_404_outside_the_network(ask, from_inside, address):
    assert {tool["name"] for tool in ask("inside")["hidden"]["tools"]} >= {"slugify"}
    assert {tool["name"] for tool in ask("other")["hidden"]["tools"]} >= {"slugify"}, "over the mesh, too"
    hidden = address("hidden")
    assert from_inside(hidden, hidden, client="inside") == 200
    assert from_inside(hidden, hidden, client="assistant") == 404, "an invoker outside of the network"


def test_a_second_up_changes_nothing(checkout):
    assert "No changes" in checkout.ok("up")
