"""A server, a client and a foundation by themselves: a program without a fleet and without a config file."""

import json
import re
from pathlib import Path

import pulumi
import pulumi_gcp as gcp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet import Fleet, Foundation, McpClient, McpServer
from pulumi_mcpfleet.components.deferred import OUTPUT_LOCATIONS, Deferred, find_output_location
from tests.unit.infra.conftest import ACCOUNT, API, GRANT, IMAGE, REPOSITORY, SERVICE

ROOT = Path(__file__).parents[3]
SERVER = "mcpfleet:index:McpServer"
FOUNDATION = "mcpfleet:index:Foundation"
SECRET_GRANT = "gcp:secretmanager/secretIamMember:SecretIamMember"
BASE = {"project": "p", "region": "europe-west1", "source": {"image": "docker.io/acme/echo:1"}}


def refused(deploy, program):
    with pytest.raises(pulumi.RunError) as refusal:
        deploy(program)
    return str(refusal.value).splitlines()


# --- one server ---------------------------------------------------------------------------------------


def test_a_server_needs_its_project_its_region_and_its_source(deploy):
    def program():
        server = McpServer("echo", BASE)
        for name in ("service", "url", "mcp_url", "audience", "account"):
            pulumi.export(name, getattr(server, name))

    plan = deploy(program)
    assert plan.exports == {
        "service": "mcp-echo",
        "url": "https://mcp-echo-h4sh-ew.a.run.app",
        "mcp_url": "https://mcp-echo-h4sh-ew.a.run.app/mcp",
        "audience": "https://mcp-echo-h4sh-ew.a.run.app",
        "account": "mcp-echo@p.iam.gserviceaccount.com",
    }
    assert plan.one(FOUNDATION).parent == (SERVER, "echo")
    assert plan.of(REPOSITORY) == [], "nothing is built, so there is nothing to keep"


def test_nobody_may_call_it_unless_the_arguments_say_so(deploy):
    assert deploy(lambda: McpServer("echo", BASE)).of(GRANT) == []


def test_two_servers_that_are_built_have_repositories_of_their_own(deploy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")

    def program():
        for name in ("first", "second"):
            McpServer(name, {**BASE, "source": {"build": "."}})

    plan = deploy(program)
    assert {repository.inputs["repositoryId"] for repository in plan.of(REPOSITORY)} == {
        "mcpfleet-first",
        "mcpfleet-second",
    }


def test_servers_may_share_a_foundation_which_enables_what_each_needs(deploy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")

    def program():
        foundation = Foundation("shared", {"project": "p", "region": "europe-west1", "registry": {"keep": 3}})
        built = {**BASE, "source": {"build": "."}, "foundation": foundation}
        McpServer("first", {**built, "secrets": {"A": {"secret": "a", "version": "1"}}})
        McpServer("second", {**built, "access": {"iap": {"members": ["user:ada@acme.dev"]}}, "organization": "481516"})

    plan = deploy(program)
    (repository,) = plan.of(REPOSITORY)
    assert repository.inputs["repositoryId"] == "mcpfleet"
    assert plan.names(FOUNDATION) == {"shared"}
    assert plan.names(IMAGE) == {"first", "second"}
    assert {"shared-secretmanager", "shared-iap", "shared-run"} <= plan.names(API)
    second = plan.one(SERVICE, "second-europe-west1")
    assert (API, "shared-iap") in plan.before(second)


@pytest.mark.parametrize("key", ["registry", "cloud_build", "platform"])
def test_what_is_the_foundations_is_not_an_argument_of_who_shares_it(deploy, key):
    def program():
        foundation = Foundation("shared", {"project": "p", "region": "europe-west1"})
        McpServer("echo", {**BASE, key: {}, "foundation": foundation})

    assert refused(deploy, program)[0].startswith(f"echo.{key}: is an argument of the foundation")


def test_every_mistake_is_reported_at_once_under_the_name_of_the_server(deploy, empty_plan):
    args = {
        "regin": "europe-west1",
        "source": {"image": "https://nowhere"},
        "access": {"iam": {"invokers": ["allUsers"]}},
        "registry": {"keep": 0},
        "cpu": "1",
        "max_instnces": 2,
    }
    with pytest.raises(pulumi.RunError) as refusal:
        deploy(lambda: McpServer("echo", {"project": "p", **args}), plan=empty_plan)
    assert {line.partition(": ")[0] for line in str(refusal.value).splitlines()} == {
        "echo.regin",
        "echo.region",
        "echo.registry.keep",
        "echo.source.image",
        "echo.access.iam.invokers[0]",
        "echo.max_instnces",
    }
    assert [resource.type for resource in empty_plan.resources] == ["pulumi:pulumi:Stack"]


def test_a_name_that_no_server_can_have_is_a_mistake(deploy):
    assert refused(deploy, lambda: McpServer("Bad Name", BASE))[0].startswith("Bad Name: ")


def test_a_missing_project_is_a_mistake(deploy):
    args = {key: value for key, value in BASE.items() if key != "project"}
    assert refused(deploy, lambda: McpServer("echo", args)) == [
        "echo.project: missing; add the id of the Google Cloud project"
    ]


# --- outputs of other resources -------------------------------------------------------------------------


def everything(value):
    """A server with an output in every place that may have one, each made by *value*."""
    return {
        **BASE,
        "source": {"image": value("docker.io/acme/echo:2")},
        "env": {"DATABASE": value("acme-dev:europe-west1:db"), "PLAIN": "plain"},
        "secrets": {"PASSWORD": {"secret": value("db-password"), "version": value("3")}},
        "volumes": {
            "data": {"gcs": {"bucket": value("acme-data")}, "mount": "/data"},
            "files": {"secret": value("files"), "items": {"a.pem": {"version": value("7")}}, "mount": "/files"},
            "share": {"nfs": {"server": value("10.0.0.2"), "path": "/share"}, "mount": "/share"},
        },
        "sidecars": {
            "redis": {
                "image": value("docker.io/library/redis:7"),
                "env": {"MODE": value("fast")},
                "secrets": {"KEY": {"secret": value("redis-key"), "version": "1"}},
            }
        },
        "access": {"iam": {"invokers": [value("serviceAccount:agent@p.iam.gserviceaccount.com")]}},
        "service_account": value("echo@p.iam.gserviceaccount.com"),
        "vpc": {"network": value("net"), "subnetwork": value("sub")},
        "cloudsql_instances": [value("acme-dev:europe-west1:db")],
        "encryption_key": value("projects/acme-dev/locations/europe-west1/keyRings/r/cryptoKeys/k"),
    }


def comparable(plan):
    """What each resource below the server gets, by its type; names of grants have the places of outputs in them."""
    inputs_by_type = {}
    for resource in plan.resources:
        inputs_by_type.setdefault(resource.type, []).append(json.dumps(resource.inputs, sort_keys=True))
    return {kind: sorted(inputs) for kind, inputs in inputs_by_type.items()}


def test_an_output_gives_every_resource_what_the_plain_value_gives_it(deploy):
    plain = deploy(lambda: McpServer("echo", everything(lambda value: value)))
    deferred = deploy(lambda: McpServer("echo", everything(pulumi.Output.from_input)))
    assert comparable(deferred) == comparable(plain)
    assert "mcpfleet-output" not in json.dumps([resource.inputs for resource in deferred.resources])
    assert "output-" not in json.dumps(deferred.component_outputs[SERVER, "echo"])


def test_in_a_preview_in_which_outputs_are_unknown_the_same_resources_are_planned(deploy):
    planned = deploy(
        lambda: McpServer("echo", everything(lambda _: pulumi.Output.from_input(pulumi.UNKNOWN))), cloud_answers=False
    )
    deployed = deploy(lambda: McpServer("echo", everything(pulumi.Output.from_input)))
    assert {(resource.type, resource.name) for resource in planned.resources} == {
        (resource.type, resource.name) for resource in deployed.resources
    }


def test_a_server_waits_for_the_resources_whose_outputs_it_has(deploy):
    def program():
        secret = gcp.secretmanager.Secret("db", secret_id="db", replication={"auto": {}})
        version = gcp.secretmanager.SecretVersion("db", secret=secret.id, secret_data="x")
        ref = {"secret": secret.secret_id, "version": version.secret.apply(lambda _: "1")}
        McpServer("echo", {**BASE, "secrets": {"PASSWORD": ref}})

    plan = deploy(program)
    dependencies = plan.before(plan.one(SERVICE))
    assert ("gcp:secretmanager/secretVersion:SecretVersion", "db") in dependencies
    assert plan.one(SECRET_GRANT).inputs["secretId"] == "db"


def test_a_secret_output_stays_a_secret(deploy):
    plan = deploy(lambda: McpServer("echo", {**BASE, "env": {"GREETING": pulumi.Output.secret("hush")}}))
    service = plan.one(SERVICE)
    index = [variable["name"] for variable in service.inputs["template"]["containers"][0]["envs"]].index("GREETING")
    assert f"template.containers[0].envs[{index}].value" in service.secrets


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        ("max_instances", 3, "echo.max_instances"),
        ("region", "europe-west1", "echo.region"),
        ("source", {"image": "a/b"}, "echo.source"),
        ("domain", "mcp.acme.dev", "echo.domain"),
        ("service_name", "tools", "echo.service_name"),
    ],
)
def test_an_output_that_decides_what_is_created_is_a_mistake(deploy, key, value, path):
    lines = refused(deploy, lambda: McpServer("echo", {**BASE, key: pulumi.Output.from_input(value)}))
    assert lines == [f"{path}: can't be an output, because it decides what is created; write a plain value"]


def test_an_output_that_does_not_fit_its_place_fails_the_update_under_its_path(deploy):
    def program():
        member = pulumi.Output.from_input("agent@p.iam.gserviceaccount.com")
        McpServer("echo", {**BASE, "access": {"iam": {"invokers": [member]}}})

    with pytest.raises(pulumi.RunError, match=re.escape("echo.access.iam.invokers[0]: 'agent@p")):
        deploy(program)


@given(st.lists(st.sampled_from(["servers", "env", "secrets", "access", "iam", "x", "*", "[]", "secret"]), max_size=6))
def test_no_path_is_two_places_and_a_place_is_its_own_pattern(path):
    location = find_output_location(path)
    assert location is None or len(location.pattern) == len(path)
    assert all(find_output_location(place.pattern) is not None for place in OUTPUT_LOCATIONS)


@given(st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_arguments_without_outputs_stay_as_they_are(value):
    deferred = Deferred("europe-west1", 2, str)
    assert deferred.resolve(deferred.replace(value)) == value
    assert deferred.mistakes == []


# --- a domain -------------------------------------------------------------------------------------------

DOMAIN = {**BASE, "domain": "mcp.acme.dev"}
RULE = "gcp:compute/globalForwardingRule:GlobalForwardingRule"
BACKEND = "gcp:compute/backendService:BackendService"


def test_a_domain_has_a_load_balancer_of_its_own_unless_the_program_has_one(deploy):
    assert deploy(lambda: McpServer("echo", DOMAIN)).names(RULE) == {"echo-https", "echo-http"}

    def program():
        server = McpServer("echo", {**DOMAIN, "load_balancer": False})
        assert server.address is None
        pulumi.export("backend", server.backend_service)
        pulumi.export("url", server.url)

    plan = deploy(program)
    assert plan.of(RULE) == []
    assert plan.exports == {"backend": "echo-id", "url": "https://mcp.acme.dev"}
    assert plan.names(BACKEND) == {"echo"}


@pytest.mark.parametrize(
    ("args", "message"), [({**DOMAIN, "load_balancer": "no"}, "neither"), ({**BASE, "load_balancer": False}, "domain")]
)
def test_a_load_balancer_that_makes_no_sense_is_a_mistake(deploy, args, message):
    (line,) = refused(deploy, lambda: McpServer("echo", args))
    assert line.startswith("echo.load_balancer: ")
    assert message in line


def test_the_program_of_the_guide_deploys_what_the_guide_says(deploy):
    """docs/components.md: a load balancer and a database beside the server, and the server waits for the database."""
    page = (ROOT / "docs" / "components.md").read_text(encoding="utf-8")
    (program,) = (
        code for code in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if "gcp.sql" in code
    )
    code = compile(program, "docs/components.md", "exec")
    plan = deploy(lambda: exec(code, {}), config={"mcpfleet:ordersPassword": "x"})  # noqa: S102 - our own page
    service = plan.one(SERVICE)
    dependencies = plan.before(service)
    assert {kind for kind, _ in dependencies} >= {
        "gcp:sql/databaseInstance:DatabaseInstance",
        "gcp:secretmanager/secretVersion:SecretVersion",
    }
    (matcher,) = plan.one("gcp:compute/uRLMap:URLMap").inputs["pathMatchers"]
    assert matcher["defaultService"] == "orders-id"
    assert plan.exports == {"mcp_url": "https://mcp.acme.dev/mcp"}
    assert plan.one(GRANT).inputs["member"].startswith("serviceAccount:agent@")


# --- options --------------------------------------------------------------------------------------------


def test_a_provider_of_the_options_is_that_of_every_part(deploy):
    def program():
        provider = gcp.Provider("other", project="p", region="europe-west1")
        McpServer("echo", BASE, pulumi.ResourceOptions(providers=[provider], protect=True))

    plan = deploy(program)
    parts = [resource for resource in plan.resources if resource.type.startswith("gcp:")]
    assert len(parts) > 5
    assert all(resource.protect for resource in parts)
    assert {resource.provider.rpartition("::")[0].rpartition("::")[2] for resource in parts} == {"other"}


def test_transformations_of_the_options_see_every_part_and_an_output_is_still_put_in(deploy):
    types = []

    def note(args):
        types.append(args.type_)
        return None  # noqa: RET501 - nothing is changed

    def program():
        args = {**BASE, "env": {"A": pulumi.Output.from_input("a")}}
        McpServer("echo", args, pulumi.ResourceOptions(transformations=[note]))

    plan = deploy(program)
    assert {SERVER, SERVICE, ACCOUNT} <= set(types)
    assert plan.environment("echo")["A"] == "a"


# --- a client -------------------------------------------------------------------------------------------


def client(**keys):
    def program():
        source = {"image": "docker.io/acme/echo:1", "port": 9000}
        server = McpServer("echo", {**BASE, "source": source, "env": {"A": pulumi.Output.from_input("a")}})
        agent = {"project": "p", "region": "europe-west1", "source": {"image": "docker.io/acme/agent:1"}, **keys}
        McpClient("agent", {**agent, "calls": [server]})

    return program


def test_a_client_may_call_its_servers_and_finds_where_they_are(deploy):
    plan = deploy(client())
    (grant,) = plan.of(GRANT)
    assert grant.inputs["member"] == "serviceAccount:mcp-agent@p.iam.gserviceaccount.com"
    servers = json.loads(plan.environment("agent")["MCP_SERVERS"])
    assert servers["echo"]["url"] == "https://mcp-echo-4711.europe-west1.run.app/mcp"


def test_a_client_may_have_its_servers_beside_it(deploy):
    plan = deploy(client(topology="sidecar"))
    containers = plan.service("agent").inputs["template"]["containers"]
    assert [container["name"] for container in containers] == ["client", "echo"]
    assert {"name": "A", "value": "a"} in containers[1]["envs"]


def test_the_mesh_is_a_fleets(deploy):
    lines = refused(deploy, client(topology="mesh", vpc={"network": "default"}))
    assert lines == ["agent.topology: mesh needs a Fleet, which has the mesh; write service or sidecar"]


def test_mistakes_of_a_client_are_under_its_name(deploy):
    lines = refused(deploy, client(cpus="1"))
    assert [line.partition(":")[0] for line in lines] == ["agent.cpus"]


# --- a fleet --------------------------------------------------------------------------------------------


def test_a_fleet_takes_outputs_too_and_its_outputs_name_the_values(deploy):
    member = "serviceAccount:agent@p.iam.gserviceaccount.com"

    def program():
        server = {"source": BASE["source"], "access": {"iam": {"invokers": [pulumi.Output.from_input(member)]}}}
        fleet = Fleet("fleet", {"project": "p", "region": "europe-west1", "servers": {"echo": server}})
        pulumi.export("servers", fleet.servers)

    plan = deploy(program)
    assert plan.exports["servers"]["echo"]["invokers"] == [member]
    assert plan.one(GRANT).inputs["member"] == member
