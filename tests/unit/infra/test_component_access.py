"""Who may call, a domain in front, several regions, the registries: under mocks, through the whole program."""

import json
import runpy
from pathlib import Path

import pulumi
import pytest

from pulumi_mcpfleet.fleet import FleetError

ROOT = Path(__file__).parents[3]

GRANT = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
IAP_GRANT = "gcp:iap/webCloudRunServiceIamMember:WebCloudRunServiceIamMember"
IAP_SETTINGS = "gcp:iap/settings:Settings"
AGENT = "gcp:projects/serviceIdentity:ServiceIdentity"
API = "gcp:projects/service:Service"
REPOSITORY = "gcp:artifactregistry/repository:Repository"
ENTRY = "gcp:agentregistry/service:Service"
SERVICE = "gcp:cloudrunv2/service:Service"
COMPUTE = "gcp:compute/"

EXISTING = {"source": {"image": "docker.io/acme/toolbox:1"}}
CLIENT = {"client_id": "1-a.apps.googleusercontent.com", "secret": "projects/vault/secrets/iap", "version": "1"}


@pytest.fixture(name="run")
def _run(deploy):
    """Run `__main__.py` with one server `echo`, or with a whole fleet."""

    def run(server=None, *, known=True, **fleet):
        fleet_config = {"region": "europe-west1", "servers": {"echo": {**EXISTING, **(server or {})}}, **fleet}
        config = {"gcp:project": "p", "mcpfleet:fleet": json.dumps(fleet_config)}
        return deploy(lambda: runpy.run_path(str(ROOT), run_name="__main__"), config=config, cloud_answers=known)

    return run


def apis(plan):
    return {api.inputs["service"].partition(".")[0] for api in plan.of(API)}


ALWAYS = {"artifactregistry", "cloudresourcemanager", "iam", "iamcredentials", "run"}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, set()),
        ({"secrets": {"A": {"secret": "a", "version": "1"}}}, {"secretmanager"}),
        ({"sidecars": {"x": {"image": "a/b", "secrets": {"A": {"secret": "a", "version": "1"}}}}}, {"secretmanager"}),
        ({"volumes": {"v": {"gcs": {"bucket": "b-1"}, "mount": "/v"}}}, {"storage"}),
        ({"vpc": {"network": "n"}}, {"compute"}),
        ({"domain": "mcp.acme.dev"}, {"compute"}),
        ({"vpc": {"connector": "mcp"}}, {"vpcaccess"}),
        ({"cloudsql_instances": ["acme-dev:europe-west1:tools"]}, {"sqladmin"}),
        ({"binary_authorization": "default"}, {"binaryauthorization"}),
        ({"access": {"iap": {"oauth_client": CLIENT}}}, {"iap", "secretmanager"}),
        ({"agent_registry": "entry"}, {"agentregistry"}),
    ],
)
def test_just_the_apis_that_the_fleet_needs_are_enabled(run, keys, expected):
    assert apis(run(keys)) == ALWAYS | expected


def test_public_is_by_a_switch_with_its_reason_beside_it_and_grants_nothing(run):
    plan = run({"access": {"public": {"reason": "documentation without private data"}}})
    inputs = plan.service().inputs
    assert inputs["invokerIamDisabled"] is True
    assert inputs["annotations"] == {
        "mcpfleet/access": "public",
        "mcpfleet/public-reason": "documentation without private data",
    }
    assert plan.of(GRANT) == []
    assert plan.exports["servers"]["echo"]["public_reason"] == "documentation without private data"


def test_oauth_lets_every_caller_reach_the_server_and_tells_it_whose_tokens_to_take(run):
    oauth = {"issuer": "https://login.acme.dev", "scopes": ["mcp:use", "mcp:admin"]}
    plan = run({"access": {"oauth": oauth}})
    assert plan.service().inputs["invokerIamDisabled"] is True
    environment = plan.environment()
    assert environment["MCPFLEET_OAUTH_ISSUER"] == "https://login.acme.dev"
    assert environment["MCPFLEET_OAUTH_AUDIENCE"] == "https://mcp-echo-4711.europe-west1.run.app/mcp", "the MCP URL"
    assert environment["MCPFLEET_OAUTH_SCOPES"] == "mcp:use,mcp:admin"
    with_audience = run({"access": {"oauth": {**oauth, "audience": "https://api.acme.dev"}}})
    assert with_audience.environment()["MCPFLEET_OAUTH_AUDIENCE"] == "https://api.acme.dev"
    for run_plan in (plan, with_audience):
        audience = run_plan.environment()["MCPFLEET_OAUTH_AUDIENCE"]
        assert run_plan.exports["servers"]["echo"]["oauth"] == {**oauth, "audience": audience}, "for who verifies it"


@pytest.mark.parametrize("access", [{"iam": {"invokers": ["group:a@b.dev"]}}, {"iap": {"oauth_client": CLIENT}}])
def test_cloud_runs_own_check_stays_on_where_google_checks_the_caller(run, access):
    plan = run({"access": access})
    assert "invokerIamDisabled" not in plan.service().inputs
    assert not any(name.startswith("MCPFLEET_OAUTH") for name in plan.environment())


@pytest.mark.parametrize(
    ("access", "kind"),
    [
        ({}, "iam"),
        ({"access": {"iam": {"invokers": ["group:a@b.dev"]}}}, "iam"),
        ({"access": {"oauth": {"issuer": "https://login.acme.dev"}}}, "oauth"),
        ({"access": {"public": {"reason": "documentation without private data"}}}, "public"),
    ],
)
def test_a_container_is_told_who_has_checked_its_callers(run, access, kind):
    environment = run(access).environment()
    assert environment["MCPFLEET_ACCESS"] == kind
    assert "MCPFLEET_IAP_AUDIENCE" not in environment


def test_behind_iap_a_container_is_told_for_what_assertions_are_made_in_each_region(run):
    regions = {"regions": ["europe-west1", "us-east1"], "servers": {"echo": EXISTING | {"domain": "mcp.acme.dev"}}}
    regions["servers"]["echo"]["access"] = {"iap": {"oauth_client": CLIENT}}
    plan = run(region=None, **regions)
    for service in plan.of(SERVICE):
        environment = {
            variable["name"]: variable.get("value") for variable in service.inputs["template"]["containers"][0]["envs"]
        }
        assert environment["MCPFLEET_ACCESS"] == "iap"
        assert environment["MCPFLEET_IAP_AUDIENCE"] == (
            "/projects/4711/locations/europe-west1/services/mcp-echo,/projects/4711/locations/us-east1/services/mcp-echo"
        )


@pytest.mark.parametrize("place", ["env", "secrets"])
@pytest.mark.parametrize("name", ["MCPFLEET_ACCESS", "MCPFLEET_IAP_AUDIENCE"])
def test_nobody_but_the_fleet_says_who_has_checked_the_callers(run, place, name):
    value = "iam" if place == "env" else {"secret": "a", "version": "1"}
    with pytest.raises((pulumi.RunError, FleetError), match=f"{name} is set by mcpfleet"):
        run({place: {name: value}})


def test_behind_iap_its_agent_is_the_only_invoker_and_members_pass_iap(run):
    members = ["group:a@b.dev", "user:c@b.dev"]
    plan = run({"access": {"iap": {"members": members}}}, organization="481516234200")
    assert plan.service().inputs["iapEnabled"] is True
    (invoker,) = plan.of(GRANT)
    assert invoker.inputs["member"] == "serviceAccount:service-4711@gcp-sa-iap.test"
    assert [grant.inputs["member"] for grant in plan.of(IAP_GRANT)] == members
    for grant in plan.of(IAP_GRANT):
        assert grant.inputs["role"] == "roles/iap.httpsResourceAccessor"
        assert (grant.inputs["cloudRunServiceName"], grant.inputs["location"]) == ("mcp-echo", "europe-west1")
    assert plan.one(AGENT).inputs["service"] == "iap.googleapis.com"
    assert plan.of(IAP_SETTINGS) == [], "Google's own OAuth client needs none"


def test_iaps_settings_hold_the_clients_and_the_secret_stays_one(run):
    iap = {"oauth_client": CLIENT, "programmatic_clients": ["2-b.apps.googleusercontent.com"]}
    plan = run({"access": {"iap": iap}})
    settings = plan.one(IAP_SETTINGS)
    assert settings.inputs["name"] == "projects/4711/iap_web/cloud_run-europe-west1/services/mcp-echo"
    assert settings.inputs["accessSettings"]["oauthSettings"] == {
        "clientId": "1-a.apps.googleusercontent.com",
        "clientSecret": "s3cr3t",
        "programmaticClients": ["2-b.apps.googleusercontent.com"],
    }
    assert any(path.endswith(("clientSecret", "accessSettings")) for path in settings.secrets)


@pytest.mark.parametrize(
    ("access", "reached", "proxied"),
    [
        ({"iam": {"invokers": []}}, "proxy", True),
        ({"iap": {"oauth_client": CLIENT}}, "url", False),
        ({"oauth": {"issuer": "https://login.acme.dev"}}, "url", False),
        ({"public": {"reason": "documentation without private data"}}, "url", False),
    ],
)
def test_clients_go_through_the_proxy_just_where_google_wants_its_token(run, access, reached, proxied):
    output = run({"access": access}).exports["servers"]["echo"]
    (entry,) = output["client_config"]["mcpServers"].values()
    assert output["reached"] == reached
    assert (entry["url"] == "http://127.0.0.1:3000/mcp") == proxied
    assert (entry["url"] == output["mcp_url"]) != proxied
    assert (output["proxy_command"] is not None) == proxied
    assert output["proxy_port"] == (3000 if proxied else None)


def test_a_server_inside_the_network_has_no_configuration_for_desktops(run):
    output = run({"ingress": "internal"}).exports["servers"]["echo"]
    assert (output["reached"], output["client_config"]) == ("network", None)
    assert (output["proxy_command"], output["proxy_port"]) == (None, None)


# --- domain and regions -----------------------------------------------------------------------------


def test_a_domain_gets_a_load_balancer_with_a_certificate_and_a_way_from_http(run):
    plan = run({"domain": "mcp.acme.dev", "ingress": "internal-and-lb"})
    (certificate,) = plan.of(f"{COMPUTE}managedSslCertificate:ManagedSslCertificate")
    assert certificate.inputs["managed"] == {"domains": ["mcp.acme.dev"]}
    (group,) = plan.of(f"{COMPUTE}regionNetworkEndpointGroup:RegionNetworkEndpointGroup")
    assert (group.inputs["cloudRun"], group.inputs["networkEndpointType"]) == ({"service": "mcp-echo"}, "SERVERLESS")
    backend = plan.one(f"{COMPUTE}backendService:BackendService").inputs
    assert (backend["loadBalancingScheme"], backend["protocol"]) == ("EXTERNAL_MANAGED", "HTTPS")
    assert "timeoutSec" not in backend, "serverless groups refuse one"
    forwarding = plan.of(f"{COMPUTE}globalForwardingRule:GlobalForwardingRule")
    rules = {rule.inputs["portRange"]: rule.inputs for rule in forwarding}
    assert set(rules) == {"443", "80"}
    assert rules["443"]["ipAddress"] == rules["80"]["ipAddress"]
    redirect = plan.one(f"{COMPUTE}uRLMap:URLMap", "echo-redirect").inputs["defaultUrlRedirect"]
    assert (redirect["httpsRedirect"], redirect["redirectResponseCode"]) == (True, "PERMANENT_REDIRECT")


def test_the_address_and_the_rules_of_a_domain_carry_the_labels(run):
    plan = run({"domain": "mcp.acme.dev", "labels": {"own": "b"}}, labels={"team": "a"})
    for kind in ("GlobalAddress", "GlobalForwardingRule"):
        for resource in (resource for resource in plan.resources if resource.type.endswith(f":{kind}")):
            assert resource.inputs["labels"] == {"team": "a", "own": "b"}


def test_a_domain_is_audience_base_url_and_allowed_host_by_itself(run):
    plan = run({"domain": "mcp.acme.dev", "audiences": ["extra"]})
    assert plan.service().inputs["customAudiences"] == ["https://mcp.acme.dev", "extra"]
    environment = plan.environment()
    assert environment["MCPFLEET_BASE_URL"] == "https://mcp.acme.dev"
    assert environment["MCPFLEET_AUDIENCE"] == "https://mcp.acme.dev,extra"
    assert environment["MCPFLEET_ALLOWED_HOSTS"] == "mcp-echo-*.run.app,mcp.acme.dev"
    output = plan.exports["servers"]["echo"]
    assert (output["mcp_url"], output["audience"]) == ("https://mcp.acme.dev/mcp", "https://mcp.acme.dev")
    assert (output["domain"], output["address"]) == ("mcp.acme.dev", "203.0.113.7")
    assert output["proxy_command"] == (
        "mcpfleet proxy --url https://mcp.acme.dev/mcp --audience https://mcp.acme.dev --port 3000"
    )


def test_without_its_default_url_a_server_answers_at_its_domain_only(run):
    plan = run({"domain": "mcp.acme.dev", "default_url": False})
    assert plan.service().inputs["defaultUriDisabled"] is True
    assert plan.exports["servers"]["echo"]["urls"] == {"europe-west1": ""}
    assert "defaultUriDisabled" not in run().service().inputs


def test_each_region_has_a_service_behind_the_one_domain_and_images_stay_in_the_first(run):
    plan = run(
        {"domain": "mcp.acme.dev", "access": {"iam": {"invokers": ["group:a@b.dev"]}}},
        region=None,
        regions=["europe-west1", "us-central1"],
    )
    assert plan.names(SERVICE) == {"echo-europe-west1", "echo-us-central1"}
    assert {service.inputs["name"] for service in plan.of(SERVICE)} == {"mcp-echo"}
    assert {grant.inputs["location"] for grant in plan.of(GRANT)} == {"europe-west1", "us-central1"}
    groups = plan.of(f"{COMPUTE}regionNetworkEndpointGroup:RegionNetworkEndpointGroup")
    assert {group.inputs["region"] for group in groups} == {"europe-west1", "us-central1"}
    assert len(plan.one(f"{COMPUTE}backendService:BackendService").inputs["backends"]) == 2
    assert plan.one(REPOSITORY).inputs["location"] == "europe-west1"
    assert set(plan.exports["servers"]["echo"]["urls"]) == {"europe-west1", "us-central1"}


def test_a_second_region_changes_nothing_of_the_first(run):
    single_region = run({"domain": "mcp.acme.dev"})
    two = run({"domain": "mcp.acme.dev"}, region=None, regions=["europe-west1", "us-central1"])
    assert {(r.type, r.name) for r in single_region.resources} <= {(r.type, r.name) for r in two.resources}


# --- registries and agents --------------------------------------------------------------------------


def test_the_registry_is_the_fleets(run):
    inputs = run(registry={"repository": "images", "keep": 3, "dry_run": True}).one(REPOSITORY).inputs
    assert (inputs["repositoryId"], inputs["cleanupPolicyDryRun"]) == ("images", True)
    assert inputs["cleanupPolicies"][1]["mostRecentVersions"] == {"keepCount": 3}


def test_images_of_the_remote_registry_come_through_artifact_registry_and_others_as_named(run):
    servers = {
        "ours": {"source": {"image": "ghcr.io/acme/tool:1"}, "sidecars": {"x": {"image": "ghcr.io/acme/side:2"}}},
        "plain": EXISTING,
    }
    plan = run(servers=servers, registry={"remote": "ghcr.io"})
    remote = plan.one(REPOSITORY, "fleet-remote").inputs
    assert remote["mode"] == "REMOTE_REPOSITORY"
    assert remote["remoteRepositoryConfig"]["dockerRepository"] == {"customRepository": {"uri": "https://ghcr.io"}}
    images = [container["image"] for container in plan.service("ours").inputs["template"]["containers"]]
    uri = "europe-west1-docker.pkg.dev/p/mcpfleet-remote"
    assert images == [f"{uri}/acme/tool:1", f"{uri}/acme/side:2"]
    assert plan.container("plain")["image"] == "docker.io/acme/toolbox:1"


def test_each_remote_registry_has_a_repository_and_the_first_keeps_its_name(run):
    servers = {host: {"source": {"image": f"{host}.io/acme/tool:1"}} for host in ("ghcr", "quay")}
    plan = run(servers=servers, registry={"remote": ["ghcr.io", "quay.io"]})
    first, second = (plan.one(REPOSITORY, name).inputs for name in ("fleet-remote", "fleet-remote-quay.io"))
    assert first["repositoryId"] == "mcpfleet-remote"
    assert second["repositoryId"].startswith("mcpfleet-remote-quay-io-")
    assert second["remoteRepositoryConfig"]["dockerRepository"] == {"customRepository": {"uri": "https://quay.io"}}
    base = "europe-west1-docker.pkg.dev/p"
    assert plan.container("ghcr")["image"] == f"{base}/mcpfleet-remote/acme/tool:1"
    assert plan.container("quay")["image"] == f"{base}/{second['repositoryId']}/acme/tool:1"


def test_the_functional_type_is_set_only_when_asked_for_because_it_can_never_be_unset(run):
    plain = run().service().inputs
    assert "functionalType" not in plain
    assert plain["launchStage"] == "GA"  # said, so that the BETA of an earlier update does not stay
    with_type = run({"agent_registry": "functional-type"})
    assert with_type.service().inputs["functionalType"] == "FUNCTIONAL_TYPE_MCP_SERVER"
    assert with_type.of(ENTRY) == []


def test_an_entry_in_agent_registry_names_the_mcp_endpoint(run):
    plan = run({"agent_registry": "entry", "description": "Echoes."})
    assert "functionalType" not in plan.service().inputs
    entry = plan.one(ENTRY).inputs
    assert entry["interfaces"] == [{"protocolBinding": "JSONRPC", "url": "https://mcp-echo-h4sh-ew.a.run.app/mcp"}]
    assert (entry["serviceId"], entry["mcpServerSpec"], entry["description"]) == (
        "mcp-echo",
        {"type": "NO_SPEC"},
        "Echoes.",
    )


def test_a_preview_of_a_new_stack_asks_no_cloud_whatever_the_keys(run):
    everything = {
        "domain": "mcp.acme.dev",
        "access": {"iap": {"oauth_client": CLIENT, "members": ["group:a@b.dev"]}},
        "secrets": {"A": {"secret": "a", "version": "1"}},
        "agent_registry": "entry",
    }
    planned, deployed = run(everything, known=False), run(everything)
    assert {(r.type, r.name) for r in planned.resources} == {(r.type, r.name) for r in deployed.resources}
