"""Clients of the fleet: who they are, what they may call, and what they find. Decided here without a cloud."""

import json
import runpy
from pathlib import Path

import pytest

from pulumi_mcpfleet.fleet import FleetError, parse_fleet

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
    grants = {
        (grant.inputs["name"], grant.inputs["role"]) for grant in plan.of(GRANT) if account in grant.inputs["member"]
    }
    assert grants == {("mcp-reference", "roles/run.invoker")}
    others = {grant.inputs["member"] for grant in plan.of(GRANT) if account not in grant.inputs["member"]}
    assert others == {"user:ada@acme.dev"}


def test_it_finds_where_its_servers_answer_and_what_tokens_are_for(build):
    url = "https://mcp-{}-4711.europe-west1.run.app"
    servers = json.loads(build().environment("assistant")["MCP_SERVERS"])
    assert servers == {
        "reference": {"url": url.format("reference") + "/mcp", "audience": url.format("reference")},
        "open": {"url": url.format("open") + "/tools"},
    }


def test_a_server_that_lets_in_everybody_needs_no_grant(build):
    assert not [grant for grant in build(calls=["open"]).of(GRANT) if grant.parent == (CLIENT, "assistant")]


def test_beside_a_client_servers_start_before_it_on_ports_of_their_own_and_take_no_requests(build):
    plan = build(topology="sidecar", calls=["reference", "toolbox"])
    client, reference, toolbox = plan.service("assistant").inputs["template"]["containers"]
    assert (client["name"], client["dependsOns"]) == ("client", ["reference", "toolbox"])
    assert client["ports"] == {"containerPort": 8080, "name": "http1"}
    assert json.loads(plan.environment("assistant")["MCP_SERVERS"]) == {
        "reference": {"url": "http://localhost:8081/mcp"},
        "toolbox": {"url": "http://localhost:5000/mcp"},
    }
    assert plan.environment("assistant")["MCPFLEET_ACCESS"] == "iam"
    for sidecar, port in ((reference, 8081), (toolbox, 5000)):
        assert "ports" not in sidecar, "Cloud Run sends requests to one container"
        access = {entry["name"]: entry["value"] for entry in sidecar["envs"]}["MCPFLEET_ACCESS"]
        assert access == "public", "what comes over localhost has passed no front end"
        assert {entry["name"]: entry["value"] for entry in sidecar["envs"]}["PORT"] == str(port)
    assert reference["startupProbe"]["httpGet"] == {"path": "/health", "port": 8081}
    assert toolbox["startupProbe"]["tcpSocket"] == {"port": 5000}
    assert reference["image"] == plan.container("reference")["image"], "it is built once"
    assert not [sidecar for sidecar in plan.of(GRANT) if sidecar.parent == (CLIENT, "assistant")]


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
    assert "aiplatform.googleapis.com" in {grant.inputs["service"] for grant in plan.of("gcp:projects/service:Service")}
    members = {grant.inputs["member"] for grant in plan.of(GRANT) if grant.inputs["name"] == "mcp-assistant"}
    assert members == {"group:staff@acme.dev"}


def test_a_built_client_is_asked_only_whether_it_listens_unless_it_says_a_path(build):
    container = build(source={"build": "./mcp_client"}).container("assistant")
    assert container["startupProbe"]["tcpSocket"] == {"port": 8080}
    assert "httpGet" not in container["startupProbe"]
    assert "livenessProbe" not in container


def test_a_path_of_probes_may_be_a_clients_own_mcp_endpoint(build):
    assert build(health_path="/mcp").container("assistant")["startupProbe"]["httpGet"]["path"] == "/mcp"


@pytest.mark.parametrize(("profile", "protected"), [("dev", False), ("prod", True)])
def test_the_profile_protects_clients_as_it_does_servers(build, profile, protected):
    digest = "@sha256:" + "0a" * 32
    servers = {"reference": {"source": {"build": "./mcp_server"}}}
    source = {"image": f"docker.io/acme/assistant{digest}"}
    plan = build(servers, {"profile": profile}, calls=["reference"], source=source)
    assert plan.service("assistant").inputs["deletionProtection"] is protected


def test_the_export_says_where_a_client_answers_and_as_whom_it_calls(build):
    outputs = build().exports["clients"]["assistant"]
    assert outputs == {
        "url": "https://mcp-assistant-h4sh-ew.a.run.app",
        "service": "mcp-assistant",
        "region": "europe-west1",
        "project": "p",
        "account": "mcp-assistant@p.iam.gserviceaccount.com",
        "calls": ["reference", "open"],
        "topology": "service",
        "access": "iam",
        "public_reason": None,
        "invokers": [],
        "program_audience": None,
        "health_path": None,
    }


MEMBERS = "gcp:iap/webCloudRunServiceIamMember:WebCloudRunServiceIamMember"
OAUTH_CLIENT = "4711-cli.apps.googleusercontent.com"


def test_behind_iap_a_client_is_let_through_there_and_sends_its_token_where_iap_looks(build):
    iap = {"members": ["group:staff@acme.dev"], "programmatic_clients": [OAUTH_CLIENT]}
    servers = {"proxied": {"source": IMAGE, "access": {"iap": iap}}}
    plan = build(servers, {"organization": "108152342316"}, calls=["proxied"])
    assert plan.exports["servers"]["proxied"]["program_audience"] == OAUTH_CLIENT
    account = "serviceAccount:mcp-assistant@p.iam.gserviceaccount.com"
    grants = {
        (grant.inputs["member"], grant.inputs["role"], grant.inputs["cloudRunServiceName"])
        for grant in plan.of(MEMBERS)
    }
    role = "roles/iap.httpsResourceAccessor"
    assert grants == {("group:staff@acme.dev", role, "mcp-proxied"), (account, role, "mcp-proxied")}
    assert account not in {grant.inputs["member"] for grant in plan.of(GRANT)}, "IAP's agent is the invoker"
    url = "https://mcp-proxied-4711.europe-west1.run.app/mcp"
    assert json.loads(plan.environment("assistant")["MCP_SERVERS"]) == {
        "proxied": {"url": url, "audience": OAUTH_CLIENT, "header": "Authorization"}
    }


def test_an_oauth_client_of_ones_own_is_what_tokens_are_for_where_no_other_is_named(build):
    oauth = {"client_id": OAUTH_CLIENT, "secret": "iap", "version": "1"}
    servers = {"proxied": {"source": IMAGE, "access": {"iap": {"oauth_client": oauth}}}}
    plan = build(servers, calls=["proxied"])
    assert json.loads(plan.environment("assistant")["MCP_SERVERS"])["proxied"]["audience"] == OAUTH_CLIENT


def test_a_clients_secrets_and_volumes_are_mounted_and_readable_by_its_account_alone(build):
    plan = build(
        secrets={"CRM": {"secret": "crm", "version": "3"}, "/keys/a.pem": {"secret": "pem", "version": "1"}},
        volumes={
            "scratch": {"memory": "64Mi", "mount": "/scratch"},
            "notes": {"gcs": {"bucket": "acme-notes", "read_only": False}, "mount": "/notes"},
            "conf": {"secret": "conf", "version": "2", "file": "app.yaml", "mount": "/conf"},
        },
    )
    revision = plan.service("assistant").inputs["template"]
    (container,) = revision["containers"]
    env = {variable["name"]: variable for variable in container["envs"]}
    assert env["CRM"]["valueSource"]["secretKeyRef"] == {"secret": "crm", "version": "3"}
    mounts = {variable["mountPath"] for variable in container["volumeMounts"]}
    assert mounts == {"/scratch", "/notes", "/conf", "/keys"}
    assert len(revision["volumes"]) == 4
    assert revision["executionEnvironment"] == "EXECUTION_ENVIRONMENT_GEN2"
    member = "serviceAccount:mcp-assistant@p.iam.gserviceaccount.com"
    secrets = plan.of("gcp:secretmanager/secretIamMember:SecretIamMember")
    assert {(variable.inputs["secretId"], variable.inputs["member"]) for variable in secrets} == {
        (secret, member) for secret in ("crm", "pem", "conf")
    }
    (bucket,) = plan.of("gcp:storage/bucketIAMMember:BucketIAMMember")
    assert (bucket.inputs["bucket"], bucket.inputs["member"]) == ("acme-notes", member)
    assert bucket.inputs["role"] == "roles/storage.objectUser"
    enabled = {variable.inputs["service"] for variable in plan.of("gcp:projects/service:Service")}
    assert {"secretmanager.googleapis.com", "storage.googleapis.com"} <= enabled


def test_a_client_behind_iap_lets_in_its_members(build):
    iap = {"members": ["group:staff@acme.dev"]}
    plan = build(fleet={"organization": "108152342316"}, calls=["open"], access={"iap": iap})
    (member,) = plan.of(MEMBERS)
    assert (member.inputs["member"], member.inputs["cloudRunServiceName"]) == ("group:staff@acme.dev", "mcp-assistant")
    assert plan.service("assistant").inputs["iapEnabled"] is True


SECRET = {"secrets": {"DB": {"secret": "db", "version": "3"}}}

REFUSED = [
    ({"calls": ["referense"]}, {}, "calls[0]: 'referense' is not a server; available: reference, toolbox, open"),
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
        "calls[0]: toolbox requires an OAuth token, and an account's ID token is",
    ),
    ({"secrets": {"MCP_SERVERS": {"secret": "x", "version": "1"}}}, {}, "secrets.MCP_SERVERS: is set by the fleet"),
    (
        {"env": {"CRM": "x"}, "secrets": {"CRM": {"secret": "x", "version": "1"}}},
        {},
        "secrets.CRM: is set in env as well",
    ),
    (
        {
            "secrets": {"/keys/a": {"secret": "x", "version": "1"}},
            "volumes": {"keys": {"memory": "8Mi", "mount": "/keys"}},
        },
        {},
        "volumes.keys: is mounted at /keys, where the secret /keys/a is already",
    ),
    ({"source": {"image": "ghcr.io/a/b:1"}}, {}, "source.image: Cloud Run does not pull from ghcr.io"),
    ({"cpu": "4", "memory": "256Mi"}, {}, "memory: 256Mi"),
    ({"cpu": "0.5", "memory": "256Mi", "concurrency": 2}, {}, "concurrency: 2 needs a whole CPU and cpu is 0.5"),
    ({"access": {"iap": {}}}, {}, "access.iap: accepts only members of the project's organization with"),
    (
        {"calls": ["toolbox"]},
        {"access": {"iam": {"invokers": []}}, "ingress": "internal"},
        "calls[0]: toolbox accepts requests only from the project's networks (ingress: internal); add vpc",
    ),
]


@pytest.mark.parametrize(("client", "toolbox", "message"), REFUSED)
def test_a_client_that_cannot_be_is_refused_under_its_path(client, toolbox, message):
    servers = {**SERVERS, "toolbox": {**SERVERS["toolbox"], **toolbox}}
    clients = {"assistant": {"source": {"image": "a/b"}, "calls": ["reference"], **client}}
    with pytest.raises(FleetError) as refusal:
        parse_fleet({"region": "europe-west1", "servers": servers, "clients": clients})
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"fleet.clients.assistant.{message}"), line


def test_a_server_whose_iap_takes_no_programs_token_is_refused_by_name():
    servers = {"proxied": {"source": IMAGE, "access": {"iap": {"members": ["group:staff@acme.dev"]}}}}
    clients = {"assistant": {"source": {"image": "a/b"}, "calls": ["proxied"]}}
    fleet = {"region": "europe-west1", "organization": "108152342316", "servers": servers, "clients": clients}
    message = r"^fleet\.clients\.assistant\.calls\[0\]: proxied is behind IAP with Google's own OAuth client"
    with pytest.raises(FleetError, match=message):
        parse_fleet(fleet)


def test_the_mesh_does_not_lead_through_iap():
    iap = {"members": ["group:staff@acme.dev"], "programmatic_clients": [OAUTH_CLIENT]}
    servers = {"proxied": {"source": IMAGE, "access": {"iap": iap}}}
    vpc = {"network": "default", "all_traffic": True}
    meshed = {"source": {"image": "a/b"}, "calls": ["proxied"], "topology": "mesh", "vpc": vpc}
    fleet = {"region": "europe-west1", "organization": "108152342316", "servers": servers}
    with pytest.raises(
        FleetError, match=r"calls\[0\]: proxied is behind IAP, which does not accept the mesh's tokens;"
    ):
        parse_fleet({**fleet, "clients": {"assistant": meshed}})


def test_a_client_and_a_server_cannot_share_a_name():
    clients = {"reference": {"source": {"image": "a/b"}, "calls": ["toolbox"]}}
    with pytest.raises(FleetError, match=r"fleet\.clients\.reference: is also a server's name, and"):
        parse_fleet({"region": "europe-west1", "servers": SERVERS, "clients": clients})


def test_a_server_that_lets_in_networks_only_is_called_through_the_clients_network():
    servers = {"near": {"source": IMAGE, "ingress": "internal"}}
    vpc = {"network": "default", "all_traffic": True}
    clients = {"assistant": {"source": {"image": "a/b"}, "calls": ["near"], "vpc": vpc}}
    assert parse_fleet({"region": "europe-west1", "servers": servers, "clients": clients}).clients["assistant"].vpc
