"""One server's resources. Decided here without a cloud; that they deploy and answer is tests/integration's."""

import pulumi
import pytest

from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet
from pulumi_mcpfleet.components.mcp_server import McpServer, ServerInFleet
from pulumi_mcpfleet.fleet import parse_fleet

ACCOUNT = "gcp:serviceaccount/account:Account"
API = "gcp:projects/service:Service"
GRANT = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
IMAGE = "docker-build:index:Image"
SERVER = "mcpfleet:index:McpServer"
SERVICE = "gcp:cloudrunv2/service:Service"

BUILD = {"build": "./mcp_server"}
EXISTING = {"image": "docker.io/acme/toolbox:1", "port": 5000}
DIGEST = "sha256:" + "d1" * 32
IAP_CLIENT = {"client_id": "4711-abc.apps.googleusercontent.com", "secret": "iap-client", "version": "1"}


def server(source, *, opts=None, labels=None, platform="linux/amd64", **keys):
    """Build one server `echo` beside a foundation, as `__main__.py` does."""
    fleet = parse_fleet({"region": "europe-west1", "servers": {"echo": {"source": source, **keys}}})
    foundation = Foundation.in_fleet("fleet", FoundationInFleet(project="p", region="europe-west1", platform=platform))
    return McpServer.in_fleet(
        "echo",
        ServerInFleet(
            project="p",
            regions=fleet.all_regions,
            foundation=foundation,
            spec=fleet.servers["echo"],
            labels=labels or {},
        ),
        opts,
    )


@pytest.fixture(name="build")
def _build(deploy):
    return lambda source=BUILD, **keys: deploy(lambda: server(source, **keys))


def test_every_child_hangs_off_the_component_wherever_that_hangs(deploy):
    def program():
        outer = pulumi.ComponentResource("test:index:Outer", "outer")
        server(
            BUILD,
            access={"iam": {"invokers": ["user:a@b.dev"]}},
            opts=pulumi.ResourceOptions(parent=outer, aliases=[pulumi.Alias(name="old")]),
        )

    plan = deploy(program)
    children = [plan.one(type_) for type_ in (ACCOUNT, IMAGE, SERVICE, GRANT)]
    assert {child.parent for child in children} == {(SERVER, "echo")}
    assert plan.one(SERVICE).aliases == (), "the caller's aliases are the component's, not its children's"


@pytest.mark.parametrize("type_", [ACCOUNT, IMAGE, SERVICE, GRANT])
def test_a_replacement_that_failed_half_way_can_be_taken_back(build, type_):
    # Otherwise the engine creates it again and then deletes it, by the same name, as the one that it replaced.
    assert build(access={"iam": {"invokers": ["user:a@b.dev"]}}).one(type_).delete_before_replace


def test_the_server_runs_as_its_own_account(build):
    plan = build()
    assert plan.one(ACCOUNT).inputs["accountId"] == "mcp-echo"
    assert plan.one(SERVICE).inputs["template"]["serviceAccount"] == "mcp-echo@p.iam.gserviceaccount.com"


def test_nobody_may_call_a_server_by_default(build):
    assert build().of(GRANT) == []


def test_each_invoker_gets_one_grant_on_this_service_only(build):
    members = ["user:ada@acme.dev", "group:team@acme.dev"]
    plan = build(access={"iam": {"invokers": members}})
    assert [grant.inputs["member"] for grant in plan.of(GRANT)] == members
    for grant in plan.of(GRANT):
        assert grant.inputs["role"] == "roles/run.invoker"
        assert (grant.inputs["name"], grant.inputs["location"]) == ("mcp-echo", "europe-west1")


def test_the_urls_are_known_only_after_the_grants(deploy):
    class Reader(pulumi.CustomResource):
        def __init__(self, name, url):
            super().__init__("test:index:Reader", name, {"url": url})

    def program():
        built = server(BUILD, access={"iam": {"invokers": ["user:ada@acme.dev"]}})
        Reader("reads-url", built.url)
        Reader("reads-mcp-url", built.mcp_url)

    plan = deploy(program)
    grant = (GRANT, "echo-europe-west1-invoker-user:ada@acme.dev")
    for reader in plan.of("test:index:Reader"):
        assert grant in reader.dependencies, f"{reader.name} would call before it may"


def test_the_component_registers_its_outputs(build):
    assert build(path="/v1/mcp").component_outputs[(SERVER, "echo")] == {
        "service": "mcp-echo",
        "url": "https://mcp-echo-h4sh-ew.a.run.app",
        "mcp_url": "https://mcp-echo-h4sh-ew.a.run.app/v1/mcp",
        "urls": {"europe-west1": "https://mcp-echo-h4sh-ew.a.run.app"},
        "audience": "https://mcp-echo-h4sh-ew.a.run.app",
        "account": "mcp-echo@p.iam.gserviceaccount.com",
    }


@pytest.mark.parametrize("account", [None, "own@p.iam.gserviceaccount.com"])
def test_nothing_is_created_before_the_apis_are_enabled(build, account):
    plan = build(EXISTING, service_account=account, roles=["roles/a.b"], secrets={"A": {"secret": "a", "version": "1"}})
    apis = {(API, name) for name in plan.names(API)}
    for resource in plan.resources:
        if resource.parent == (SERVER, "echo"):
            assert apis <= plan.before(resource), resource.type


def test_a_built_image_is_deployed_by_its_digest_never_by_its_tag(build):
    plan = build()
    assert plan.container()["image"] == f"europe-west1-docker.pkg.dev/p/mcpfleet/echo@{DIGEST}"
    assert (IMAGE, "echo") in plan.one(SERVICE).dependencies


def test_an_image_is_built_for_cloud_runs_platform_and_pushed_to_the_stacks_registry(build):
    image = build({**BUILD, "build_args": {"BASE_IMAGE": "x"}}).one(IMAGE).inputs
    assert image["platforms"] == ["linux/amd64"]
    assert image["push"] is True
    assert image["tags"] == ["europe-west1-docker.pkg.dev/p/mcpfleet/echo:latest"]
    assert image["buildArgs"] == {"BASE_IMAGE": "x"}


def test_the_build_context_stays_relative_so_that_state_is_the_same_in_every_checkout(build):
    assert build().one(IMAGE).inputs["context"] == {"location": "./mcp_server"}


def test_the_push_logs_in_to_the_registrys_host_and_the_token_is_a_secret(build):
    image = build().one(IMAGE)
    (login,) = image.inputs["registries"]
    assert login == {
        "address": "europe-west1-docker.pkg.dev",
        "username": "oauth2accesstoken",
        "password": "ya29.short-lived",
    }
    assert image.secrets == {"registries[0].password"}


def test_a_preview_builds_no_image(build):
    assert build().one(IMAGE).inputs["buildOnPreview"] is False


def test_a_stack_may_have_images_built_for_the_machine_that_builds(build):
    assert "platforms" not in build(BUILD, platform="native").one(IMAGE).inputs


def test_an_existing_image_is_used_as_named_and_nothing_is_built(build):
    plan = build(EXISTING)
    assert plan.of(IMAGE) == []
    assert plan.container()["image"] == "docker.io/acme/toolbox:1"


def test_an_existing_image_gets_its_port_arguments_and_program(build):
    container = build({**EXISTING, "args": ["--port", "5000"], "command": ["/toolbox"]}).container()
    assert container["ports"] == {"containerPort": 5000, "name": "http1"}
    assert (container["args"], container["commands"]) == (["--port", "5000"], ["/toolbox"])


def test_an_images_own_program_and_arguments_stay_when_none_are_given(build):
    assert {"args", "commands"} & set(build(EXISTING).container()) == set()


def test_a_built_server_is_probed_at_its_health_path(build):
    container = build().container()
    assert container["startupProbe"]["httpGet"] == {"path": "/health", "port": 8080}
    assert container["livenessProbe"]["httpGet"] == {"path": "/health", "port": 8080}


def test_the_startup_probe_gives_up_before_cloud_run_does(build):
    probe = build().container()["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= 240
    assert probe["timeoutSeconds"] <= probe["periodSeconds"], "Cloud Run refuses a timeout above the period"


def test_an_existing_image_is_probed_as_cloud_run_does_by_default_but_at_the_port_that_is_asked_for(build):
    container = build(EXISTING).container()
    # What is left out is what the last revision had, its port too: a changed port would never be probed.
    default = {"tcpSocket": {"port": 5000}, "timeoutSeconds": 240, "periodSeconds": 240, "failureThreshold": 1}
    assert container["startupProbe"] == default
    assert "livenessProbe" not in container


def test_a_built_server_gets_its_port_said_because_an_image_in_its_place_may_have_had_another(build):
    assert build().container()["ports"] == {"containerPort": 8080, "name": "http1"}


def test_an_existing_image_with_a_health_path_is_probed_there(build):
    container = build(EXISTING, health_path="/ready").container()
    assert container["startupProbe"]["httpGet"] == {"path": "/ready", "port": 5000}
    assert container["livenessProbe"]["httpGet"] == {"path": "/ready", "port": 5000}


def test_the_container_gets_the_documented_environment_and_the_users(build):
    plan = build(path="/x", env={"LOG_LEVEL": "DEBUG"}, allowed_origins=["https://app.acme.dev"])
    expected = {
        "MCPFLEET_PATH": "/x",
        "MCPFLEET_ALLOWED_HOSTS": "mcp-echo-*.run.app",
        "MCPFLEET_ALLOWED_ORIGINS": "https://app.acme.dev",
        "FORWARDED_ALLOW_IPS": "*",
        "LOG_LEVEL": "DEBUG",
    }
    assert expected.items() <= plan.environment().items()


def test_an_image_of_somebody_elses_finds_no_name_that_may_mean_something_else_to_it(build):
    names = build(EXISTING, allowed_origins=["https://app.acme.dev"]).environment()
    assert [name for name in names if name.startswith(("MCP_", "FASTMCP_"))] == []


def test_a_source_finds_the_variables_that_its_code_reads_and_its_own_value_wins(build, tmp_path, monkeypatch):
    (tmp_path / "weather").mkdir()
    (tmp_path / "weather" / "Dockerfile").write_text("FROM scratch")
    (tmp_path / "weather" / "server.py").write_text("import fastmcp, os\nos.environ['MCP_ALLOWED_HOSTS']\n")
    monkeypatch.chdir(tmp_path)
    plan = build({"build": "./weather"}, domain="mcp.acme.dev", env={"FASTMCP_STATELESS_HTTP": "false"})
    environment = plan.environment()
    assert (environment["FASTMCP_PORT"], environment["FASTMCP_STATELESS_HTTP"]) == ("8080", "false")
    assert environment["MCP_ALLOWED_HOSTS"].split(",") == ["mcp-echo-4711.europe-west1.run.app", "mcp.acme.dev"]


@pytest.mark.parametrize(
    ("access", "origins", "named"),
    [
        ({"iam": {}}, ["https://app.acme.dev", "http://localhost:6274"], "https://app.acme.dev"),
        ({"iap": {"oauth_client": IAP_CLIENT}}, ["https://a.dev", "http://b.dev"], "https://a.dev, http://b.dev"),
        ({"iam": {}}, ["http://localhost:6274", "http://127.0.0.1:3000"], None),
        ({"iam": {}}, [], None),
        ({"public": {"reason": "documentation without secrets"}}, ["https://app.acme.dev"], None),
        ({"oauth": {"issuer": "https://login.acme.dev"}}, ["https://app.acme.dev"], None),
    ],
)
def test_a_preview_says_which_pages_need_a_proxy_because_a_browsers_preflight_has_no_token(
    build, monkeypatch, access, origins, named
):
    infos = []
    monkeypatch.setattr(pulumi, "info", lambda text, _resource=None: infos.append(text))
    build(access=access, allowed_origins=origins)
    notes = [text for text in infos if "allowed_origins" in text]
    assert len(notes) == (named is not None)
    if named is not None:
        assert f"pages of {named} can't call it directly" in notes[0]
        assert f"access: {next(iter(access))}" in notes[0]


def test_defaults_are_an_hour_a_cpu_and_scale_to_zero(build):
    plan = build()
    template = plan.one(SERVICE).inputs["template"]
    assert (template["timeout"], template["maxInstanceRequestConcurrency"]) == ("3600s", 80)
    assert template["scaling"] == {"maxInstanceCount": 3}
    assert plan.container()["resources"] == {
        "limits": {"cpu": "1", "memory": "512Mi"},
        "cpuIdle": True,
        "startupCpuBoost": True,
    }


def test_sizes_are_the_users(build):
    plan = build(timeout=60, concurrency=10, cpu=2, memory="1Gi", min_instances=1, max_instances=7, startup_boost=False)
    template = plan.one(SERVICE).inputs["template"]
    assert (template["timeout"], template["maxInstanceRequestConcurrency"]) == ("60s", 10)
    assert template["scaling"] == {"maxInstanceCount": 7}
    assert plan.service().inputs["scaling"] == {"minInstanceCount": 1}
    assert plan.container()["resources"] == {
        "limits": {"cpu": "2", "memory": "1Gi"},
        "cpuIdle": True,
        "startupCpuBoost": False,
    }


def test_scaling_is_declared_on_the_service_even_as_nothing_or_cloud_runs_answer_would_be_a_change(build):
    assert build().one(SERVICE).inputs["scaling"] == {"minInstanceCount": 0}


def test_the_service_has_its_plain_name_place_and_ingress(build):
    inputs = build().one(SERVICE).inputs
    assert (inputs["name"], inputs["project"], inputs["location"]) == ("mcp-echo", "p", "europe-west1")
    assert inputs["ingress"] == "INGRESS_TRAFFIC_ALL"


def test_what_the_user_does_not_say_is_not_sent(build):
    assert {"description", "customAudiences", "labels"} & set(build().one(SERVICE).inputs) == set()


def test_description_audiences_and_labels_reach_the_service(build):
    inputs = build(description="Echoes.", audiences=["https://mcp.acme.dev"], labels={"team": "x"}).one(SERVICE).inputs
    assert inputs["description"] == "Echoes."
    assert inputs["customAudiences"] == ["https://mcp.acme.dev"]
    assert inputs["labels"] == {"team": "x"}


@pytest.mark.parametrize("protected", [True, False])
def test_deletion_protection_is_always_said_because_the_providers_default_is_on(build, protected):
    assert build(deletion_protection=protected).one(SERVICE).inputs["deletionProtection"] is protected


def test_two_servers_with_the_same_keys_share_nothing(deploy):
    raw = {"source": EXISTING, "access": {"iam": {"invokers": ["user:ada@acme.dev"]}}}
    fleet = parse_fleet({"region": "europe-west1", "servers": {"one": raw, "two": raw}})

    def program():
        foundation = Foundation.in_fleet("fleet", FoundationInFleet(project="p", region="r-x1"))
        for name, spec in fleet.servers.items():
            McpServer.in_fleet(
                name,
                ServerInFleet(project="p", regions=["r-x1"], foundation=foundation, spec=spec),
            )

    plan = deploy(program)
    assert {account.inputs["accountId"] for account in plan.of(ACCOUNT)} == {"mcp-one", "mcp-two"}
    assert {(grant.parent[1], grant.inputs["name"]) for grant in plan.of(GRANT)} == {
        ("one", "mcp-one"),
        ("two", "mcp-two"),
    }


@pytest.mark.parametrize(
    ("keys", "end"),
    [
        ({"transports": ["sse"]}, "/sse"),
        ({"transports": ["sse"], "path": "/events"}, "/events"),
        ({"transports": ["streamable-http", "sse"]}, "/mcp"),
        ({"path": "/mcp/"}, "/mcp/"),
    ],
)
def test_the_url_of_a_server_is_that_of_what_it_speaks(keys, end):
    config = {"region": "europe-west1", "servers": {"echo": {"source": EXISTING, "max_instances": 1, **keys}}}
    assert parse_fleet(config).servers["echo"].endpoint == end
