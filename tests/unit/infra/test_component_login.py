"""`access: login`: the container in front of the server, its image, its bucket and its rights, under mocks."""

import json

import pytest

from mcpfleet_login.settings import load_settings
from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet, required_apis
from pulumi_mcpfleet.components.mcp_server import McpServer, ServerInFleet
from pulumi_mcpfleet.fleet import FleetError, parse_fleet
from tests.unit.mcpfleet_login.login_world import KEY

BUCKET = "gcp:storage/bucket:Bucket"
BUCKET_GRANT = "gcp:storage/bucketIAMMember:BucketIAMMember"
SECRET_GRANT = "gcp:secretmanager/secretIamMember:SecretIamMember"
IMAGE = "docker-build:index:Image"
SERVICE_GRANT = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
SERVICE = "gcp:cloudrunv2/service:Service"

EXISTING = {"image": "docker.io/acme/toolbox:1", "port": 5000}
CLIENT = {"client_id": "4711-abc.apps.googleusercontent.com", "secret": "oauth-client", "version": "2"}
LOGIN = {
    "google": {"client": CLIENT},
    "members": ["user:ada@acme.dev", "domain:acme.dev"],
    "key": {"secret": "echo-login-key", "version": "1"},
}


@pytest.fixture(name="build")
def _build(deploy, tmp_path):
    def build(source=EXISTING, login=LOGIN, **keys):
        server = {"source": source, "access": {"login": login}, **keys}
        fleet = parse_fleet({"region": "europe-west1", "servers": {"echo": server}})

        def program():
            foundation = Foundation.in_fleet(
                "fleet",
                FoundationInFleet(project="p", region=fleet.all_regions[0], root=tmp_path, apis=required_apis(fleet)),
            )
            McpServer.in_fleet(
                "echo",
                ServerInFleet(
                    project="p", regions=fleet.all_regions, foundation=foundation, spec=fleet.servers["echo"]
                ),
            )

        return deploy(program)

    return build


def containers(plan):
    return {one.get("name"): one for one in plan.service().inputs["template"]["containers"]}


def variables(container):
    return {entry["name"]: entry.get("value") for entry in container["envs"]}


def test_the_logins_container_takes_the_requests_and_the_server_has_no_port_of_the_service(build):
    found = containers(build(health_path="/ready"))
    assert list(found) == ["login", "server"]
    assert found["login"]["ports"] == {"containerPort": 18080, "name": "http1"}
    assert found["login"]["dependsOns"] == ["server"]
    assert "ports" not in found["server"]
    assert variables(found["server"])["PORT"] == "5000"
    assert variables(found["server"])["MCPFLEET_ACCESS"] == "login"
    assert found["server"]["startupProbe"]["httpGet"] == {"path": "/ready", "port": 5000}


def test_the_program_of_the_container_reads_what_the_fleet_sets(build):
    plan = build(health_path="/ready", path="/tools/mcp", allowed_origins=["https://app.acme.dev"])
    environment = {name: value for name, value in variables(containers(plan)["login"]).items() if value}
    secrets = {"MCPFLEET_LOGIN_CLIENT_SECRET": "x", "MCPFLEET_LOGIN_KEYS": KEY}
    settings = load_settings(environment | secrets)
    assert settings.resource == "https://mcp-echo-4711.europe-west1.run.app/tools/mcp"
    assert (settings.application_port, settings.health_path) == (5000, "/ready")
    assert settings.issuer == "https://accounts.google.com"
    assert settings.client_id == CLIENT["client_id"]
    assert settings.members.users == {"ada@acme.dev"}
    assert settings.bucket == plan.one(BUCKET).inputs["name"]
    assert settings.registration
    assert [origin.scheme for origin in settings.allowed_origins] == ["https"]


def test_without_members_the_container_starts_and_nobody_can_log_in(build):
    found = variables(containers(build(login={**LOGIN, "members": []}))["login"])
    secrets = {"MCPFLEET_LOGIN_CLIENT_SECRET": "x", "MCPFLEET_LOGIN_KEYS": KEY}
    members = load_settings({name: value for name, value in found.items() if value} | secrets).members
    assert (members.users, members.domains, members.groups) == (frozenset(),) * 3


def test_secrets_are_references_of_the_logins_container_alone(build):
    found = containers(build())
    references = {
        entry["name"]: entry["valueSource"]["secretKeyRef"]
        for entry in found["login"]["envs"]
        if "valueSource" in entry
    }
    assert references == {
        "MCPFLEET_LOGIN_CLIENT_SECRET": {"secret": "oauth-client", "version": "2"},
        "MCPFLEET_LOGIN_KEYS": {"secret": "echo-login-key", "version": "1"},
    }
    assert "echo-login-key" not in json.dumps(found["server"])


def test_the_account_may_read_both_secrets_and_use_its_own_bucket_before_the_service_exists(build):
    plan = build()
    before = plan.before(plan.service())
    grants = plan.of(SECRET_GRANT)
    assert {grant.inputs["secretId"] for grant in grants} == {"oauth-client", "echo-login-key"}
    (grant,) = plan.of(BUCKET_GRANT)
    assert grant.inputs["role"] == "roles/storage.objectUser"
    assert {(one.type, one.name) for one in (*grants, grant)} <= before


def test_the_bucket_is_private_and_forgets(build):
    bucket = build().one(BUCKET).inputs
    assert bucket["publicAccessPrevention"] == "enforced"
    assert bucket["uniformBucketLevelAccess"] is True
    assert bucket["lifecycleRules"] == [{"action": {"type": "Delete"}, "condition": {"age": 31}}]
    assert bucket["softDeletePolicy"] == {"retentionDurationSeconds": 0}


def test_the_bucket_waits_for_the_api_of_cloud_storage(build):
    plan = build()
    before = {name for _, name in plan.before(plan.one(BUCKET))}
    assert {"fleet-storage", "fleet-secretmanager"} <= before


def test_cloud_run_lets_every_caller_through_and_the_service_says_why(build):
    service = build().service().inputs
    assert service["invokerIamDisabled"] is True
    assert service["annotations"] == {"mcpfleet/access": "login"}
    assert build().of(SERVICE_GRANT) == []


def test_the_image_of_the_login_is_built_beside_an_existing_image(build, tmp_path):
    plan = build()
    image = plan.one(IMAGE)
    assert image.name == "echo-login"
    assert "mcpfleet_login" in image.inputs["dockerfile"]["inline"]
    context = tmp_path / ".mcpfleet/sources/login-echo"
    assert {path.name for path in context.iterdir()} == {"mcpfleet_login", "mcpfleet_server", "requirements.txt"}
    assert (context / "mcpfleet_server/hosting/oauth.py").is_file()
    assert (
        containers(plan)["login"]["image"].endswith("echo-login@sha256:" + "1" * 64)
        or "@" in containers(plan)["login"]["image"]
    )


def test_a_server_at_the_logins_port_moves_the_login(build):
    found = containers(build(source={**EXISTING, "port": 18080}))
    assert found["login"]["ports"]["containerPort"] == 18081


def test_sidecars_stay_behind(build):
    found = containers(build(sidecars={"redis": {"image": "docker.io/library/redis:7"}}, depends_on=["redis"]))
    assert list(found) == ["login", "server", "redis"]
    assert found["server"]["dependsOns"] == ["redis"]


def test_a_domain_is_the_issuer(build):
    found = variables(containers(build(domain="mcp.acme.dev"))["login"])
    assert found["MCPFLEET_BASE_URL"] == "https://mcp.acme.dev"


REFUSED = {
    "internal": ({"ingress": "internal"}, "ingress: internal keeps out the browsers"),
    "domain path": (
        {"domain": "mcp.acme.dev", "domain_path": "/echo", "path": "/echo/mcp"},
        "domain_path: can't be combined with access: login",
    ),
    "http2": ({"use_http2": True}, "use_http2: can't be combined with access: login"),
    "path": ({"path": "/oauth/mcp"}, "path: /oauth/mcp is below a path of the login"),
    "health path": ({"health_path": "/.well-known/x"}, "health_path: /.well-known/x is below a path of the login"),
    "sidecar": ({"sidecars": {"login": {"image": "a/b"}}}, "sidecars.login: is the name of the container"),
    "port": (
        {"sidecars": {"x": {"image": "a/b", "startup": {"port": 18080}}}},
        "sidecars.x.startup.port: 18080 is the container of access: login",
    ),
}


@pytest.mark.parametrize(("keys", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_login_can_not_be_combined_with_is_refused_under_its_path(keys, message):
    server = {"source": EXISTING, "access": {"login": LOGIN}, **keys}
    with pytest.raises(FleetError) as caught:
        parse_fleet({"region": "europe-west1", "servers": {"echo": server}})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"fleet.servers.echo.{message}")


@pytest.mark.parametrize(
    ("login", "message"),
    [
        ({"key": LOGIN["key"]}, "oidc: say where people log in"),
        ({**LOGIN, "members": ["group:a@b.dev"]}, "members: group:a@b.dev can't be checked"),
        ({**LOGIN, "members": ["serviceAccount:a@b.dev"]}, "members[0]: 'serviceAccount:a@b.dev' is not a member"),
        ({**LOGIN, "members": ["allUsers"]}, "members[0]: 'allUsers' is not a member"),
        ({"google": LOGIN["google"]}, "key: missing"),
    ],
)
def test_a_login_with_a_mistake_is_refused_under_its_path(login, message):
    server = {"source": EXISTING, "access": {"login": login}}
    with pytest.raises(FleetError) as caught:
        parse_fleet({"region": "europe-west1", "servers": {"echo": server}})
    assert f"fleet.servers.echo.access.login.{message}" in str(caught.value)
