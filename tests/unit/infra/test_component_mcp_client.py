"""Clients of the fleet: who they are, what they may call, and what they find. Decided here without a cloud."""

import json
import runpy
from pathlib import Path

import pytest

from infra.fleet import FleetError, parse_fleet

ROOT = Path(__file__).parents[3]
ACCOUNT = "gcp:serviceaccount/account:Account"
CLIENT = "mcpfleet:index:McpClient"
GRANT = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
ROLE = "gcp:projects/iAMMember:IAMMember"
SERVICE = "gcp:cloudrunv2/service:Service"
IMAGE = {"image": "docker.io/acme/tool:1", "port": 5000}

SERVERS = {
    "reference": {"source": {"build": "./mcp_server"}},
    "toolbox": {"source": IMAGE, "access": {"iam": {"invokers": ["user:ada@acme.dev"]}}},
    "open": {"source": {**IMAGE, "port": 5001}, "access": {"public": {"reason": "documentation"}}, "path": "/tools"},
}


@pytest.fixture(name="build")
def _build(deploy):
    """The whole program, with one client `assistant` of these servers."""

    def build(servers=SERVERS, fleet=None, **client):
        assistant = {"source": {"image": "docker.io/acme/assistant:1"}, "calls": ["reference", "open"], **client}
        raw = {"region": "europe-west1", "servers": servers, "clients": {"assistant": assistant}, **(fleet or {})}
        config = {"gcp:project": "p", "mcpfleet:fleet": json.dumps(raw)}
        return deploy(lambda: runpy.run_path(str(ROOT), run_name="__main__"), config=config)

    return build


def test_a_client_has_an_account_of_its_own_which_may_call_just_its_servers(build):
    plan = build(calls=["reference"])
    assert plan.one(ACCOUNT, "assistant").inputs["accountId"] == "mcp-assistant"
    account = "mcp-assistant@p.iam.gserviceaccount.com"
    assert plan.service("assistant").inputs["template"]["serviceAccount"] == account
    held = {(one.inputs["name"], one.inputs["role"]) for one in plan.of(GRANT) if account in one.inputs["member"]}
    assert held == {("mcp-reference", "roles/run.invoker")}
    others = {one.inputs["member"] for one in plan.of(GRANT) if account not in one.inputs["member"]}
    assert others == {"user:ada@acme.dev"}


def test_it_finds_where_its_servers_answer_and_what_tokens_are_for(build):
    url = "https://mcp-{}-4711.europe-west1.run.app"
    found = json.loads(build().environment("assistant")["MCP_SERVERS"])
    assert found == {
        "reference": {"url": url.format("reference") + "/mcp", "audience": url.format("reference")},
        "open": {"url": url.format("open") + "/tools"},
    }


def test_a_server_that_lets_in_everybody_needs_no_grant(build):
    assert not [one for one in build(calls=["open"]).of(GRANT) if one.parent == (CLIENT, "assistant")]


def test_beside_a_client_servers_start_before_it_on_ports_of_their_own_and_take_no_requests(build):
    plan = build(topology="sidecar", calls=["reference", "toolbox"])
    client, reference, toolbox = plan.service("assistant").inputs["template"]["containers"]
    assert (client["name"], client["dependsOns"]) == ("client", ["reference", "toolbox"])
    assert client["ports"] == {"containerPort": 8080}
    assert json.loads(plan.environment("assistant")["MCP_SERVERS"]) == {
        "reference": {"url": "http://localhost:8081/mcp"},
        "toolbox": {"url": "http://localhost:5000/mcp"},
    }
    for one, port in ((reference, 8081), (toolbox, 5000)):
        assert "ports" not in one, "Cloud Run sends requests to one container"
        assert {entry["name"]: entry["value"] for entry in one["envs"]}["PORT"] == str(port)
    assert reference["startupProbe"]["httpGet"] == {"path": "/health", "port": 8081}
    assert toolbox["startupProbe"]["tcpSocket"] == {"port": 5000}
    assert reference["image"] == plan.container("reference")["image"], "it is built once"
    assert not [one for one in plan.of(GRANT) if one.parent == (CLIENT, "assistant")]


def test_everything_a_client_says_reaches_its_service(build):
    plan = build(
        access={"iam": {"invokers": ["group:staff@acme.dev"]}},
        health_path="/health",
        timeout=120,
        cpu="2",
        memory="1Gi",
        concurrency=7,
        max_instances=5,
        env={"GREETING": "hello"},
        roles=["roles/aiplatform.user"],
        vpc={"network": "default", "all_traffic": True},
        description="Answers the field teams",
    )
    service = plan.service("assistant").inputs
    revision = service["template"]
    (container,) = revision["containers"]
    assert service["description"] == "Answers the field teams"
    assert (revision["timeout"], revision["maxInstanceRequestConcurrency"]) == ("120s", 7)
    assert revision["scaling"] == {"maxInstanceCount": 5}
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    assert container["startupProbe"]["httpGet"]["path"] == "/health"
    assert revision["vpcAccess"]["egress"] == "ALL_TRAFFIC"
    assert plan.environment("assistant")["GREETING"] == "hello"
    assert plan.one(ROLE).inputs["role"] == "roles/aiplatform.user"
    members = {one.inputs["member"] for one in plan.of(GRANT) if one.inputs["name"] == "mcp-assistant"}
    assert members == {"group:staff@acme.dev"}


@pytest.mark.parametrize(("profile", "protected"), [("dev", False), ("prod", True)])
def test_the_profile_protects_clients_as_it_does_servers(build, profile, protected):
    digest = "@sha256:" + "0a" * 32
    servers = {"reference": {"source": {"build": "./mcp_server"}}}
    source = {"image": f"docker.io/acme/assistant{digest}"}
    plan = build(servers, {"profile": profile}, calls=["reference"], source=source)
    assert plan.service("assistant").inputs["deletionProtection"] is protected


def test_the_export_says_where_a_client_answers_and_as_whom_it_calls(build):
    found = build().exports["clients"]["assistant"]
    assert found == {
        "url": "https://mcp-assistant-h4sh-ew.a.run.app",
        "service": "mcp-assistant",
        "region": "europe-west1",
        "project": "p",
        "account": "mcp-assistant@p.iam.gserviceaccount.com",
        "calls": ["reference", "open"],
        "topology": "service",
        "access": "iam",
        "invokers": [],
    }


SECRET = {"secrets": {"DB": {"secret": "db", "version": "3"}}}

REFUSED = [
    ({"calls": ["referense"]}, {}, "calls[0]: 'referense' is not a server; there is reference, toolbox, open"),
    ({"calls": []}, {}, "calls: is empty"),
    ({"calls": ["open", "open"]}, {}, "calls: 'open' is in the list twice"),
    ({"topology": "mash"}, {}, "topology: \"mash\" is not known; write one of 'service', 'sidecar' or 'mesh'"),
    ({"env": {"MCP_SERVERS": "{}"}}, {}, "env.MCP_SERVERS: is set by the fleet"),
    ({"env": {"API_TOKEN": "hunter22hunter"}}, {}, "env.API_TOKEN: looks like a secret"),
    ({"source": {"stdio": {"npm": "x@1.0.0"}}}, {}, "source.stdio: is a kind of server"),
    (
        {"topology": "sidecar", "calls": ["toolbox"], "source": {"image": "a/b", "port": 5000}},
        {},
        "calls: toolbox listens on 5000, as the client does",
    ),
    ({"topology": "sidecar", "calls": ["toolbox"]}, SECRET, "calls[0]: toolbox has secrets, volumes or sidecars"),
    (
        {"calls": ["toolbox"]},
        {"access": {"oauth": {"issuer": "https://id.acme.dev"}}},
        "calls[0]: toolbox asks for a login that an account's ID token is not",
    ),
    (
        {"calls": ["toolbox"]},
        {"access": {"iam": {"invokers": []}}, "ingress": "internal"},
        "calls[0]: toolbox lets in the project's networks only (ingress: internal); add vpc",
    ),
]


@pytest.mark.parametrize(("client", "toolbox", "said"), REFUSED)
def test_a_client_that_cannot_be_is_refused_under_its_path(client, toolbox, said):
    servers = {**SERVERS, "toolbox": {**SERVERS["toolbox"], **toolbox}}
    clients = {"assistant": {"source": {"image": "a/b"}, "calls": ["reference"], **client}}
    with pytest.raises(FleetError) as refusal:
        parse_fleet({"region": "europe-west1", "servers": servers, "clients": clients})
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"fleet.clients.assistant.{said}"), line


def test_a_client_and_a_server_cannot_share_a_name():
    clients = {"reference": {"source": {"image": "a/b"}, "calls": ["toolbox"]}}
    with pytest.raises(FleetError, match=r"fleet\.clients\.reference: is a server's name, too"):
        parse_fleet({"region": "europe-west1", "servers": SERVERS, "clients": clients})


def test_a_server_that_lets_in_networks_only_is_called_through_the_clients_network():
    servers = {"near": {"source": IMAGE, "ingress": "internal"}}
    vpc = {"network": "default", "all_traffic": True}
    clients = {"assistant": {"source": {"image": "a/b"}, "calls": ["near"], "vpc": vpc}}
    assert parse_fleet({"region": "europe-west1", "servers": servers, "clients": clients}).clients["assistant"].vpc
