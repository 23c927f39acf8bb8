"""One load balancer for all domains of a fleet: under mocks, through the whole program."""

import json
import runpy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import FleetError, parse_fleet

ROOT = Path(__file__).parents[3]
COMPUTE = "gcp:compute/"
MANAGER = "gcp:certificatemanager/"
URL_MAP = f"{COMPUTE}uRLMap:URLMap"
PROXY = f"{COMPUTE}targetHttpsProxy:TargetHttpsProxy"
RULE = f"{COMPUTE}globalForwardingRule:GlobalForwardingRule"
ENTRY = f"{MANAGER}certificateMapEntry:CertificateMapEntry"
CERTIFICATE = f"{MANAGER}certificate:Certificate"
SOURCE = {"source": {"image": "docker.io/acme/toolbox:1"}}
DOMAIN = "mcp.acme.dev"
WEATHER = {**SOURCE, "domain": DOMAIN, "domain_path": "/weather", "path": "/weather/mcp"}
MAPS = {**SOURCE, "domain": DOMAIN, "domain_path": "/maps", "path": "/maps"}
OTHER = {**SOURCE, "domain": "other.acme.dev"}


def fleet(servers, load_balancer="shared", **keys):
    return {"region": "europe-west1", "load_balancer": load_balancer, "servers": servers, **keys}


@pytest.fixture(name="run")
def _run(deploy):
    def run(servers, load_balancer="shared", **keys):
        config = {"gcp:project": "p", "mcpfleet:fleet": json.dumps(fleet(servers, load_balancer, **keys))}
        return deploy(lambda: runpy.run_path(str(ROOT), run_name="__main__"), config=config)

    return run


def test_all_domains_share_one_address_and_two_forwarding_rules(run):
    plan = run({"weather": WEATHER, "maps": MAPS, "other": OTHER}, labels={"team": "a"})
    assert len(plan.of(f"{COMPUTE}globalAddress:GlobalAddress")) == 1
    assert {rule.inputs["portRange"] for rule in plan.of(RULE)} == {"80", "443"}
    assert {rule.inputs["loadBalancingScheme"] for rule in plan.of(RULE)} == {"EXTERNAL_MANAGED"}
    assert plan.of(f"{COMPUTE}managedSslCertificate:ManagedSslCertificate") == []
    labelled = [resource for resource in plan.resources if resource.type.startswith(MANAGER) or resource.type == RULE]
    assert {json.dumps(resource.inputs["labels"]) for resource in labelled} == {'{"team": "a"}'}


def test_each_domain_has_a_certificate_by_a_dns_record_and_an_entry_of_the_one_map(run):
    plan = run({"weather": WEATHER, "maps": MAPS, "other": OTHER})
    assert {entry.inputs["hostname"] for entry in plan.of(ENTRY)} == {DOMAIN, "other.acme.dev"}
    certificate = plan.one(CERTIFICATE, DOMAIN)
    assert certificate.inputs["managed"] == {"domains": [DOMAIN], "dnsAuthorizations": [f"{DOMAIN}-id"]}
    certificate_map = plan.one(PROXY).inputs["certificateMap"]
    assert certificate_map == "//certificatemanager.googleapis.com/fleet-id"


def test_each_host_and_path_leads_to_its_server_and_anything_else_to_none(run):
    oauth = {"access": {"oauth": {"issuer": "https://login.acme.dev"}}}
    plan = run({"weather": {**WEATHER, **oauth}, "maps": MAPS, "other": OTHER})
    routes = plan.one(URL_MAP, "fleet").inputs
    assert routes["defaultService"] == "fleet-nowhere-id"
    matchers = {matcher["name"]: matcher for matcher in routes["pathMatchers"]}
    led = {host: matchers[rule["pathMatcher"]] for rule in routes["hostRules"] for host in rule["hosts"]}
    assert led["other.acme.dev"]["defaultService"] == "other-id"
    assert led[DOMAIN]["defaultService"] == "fleet-nowhere-id"
    assert {matcher["service"]: matcher["paths"] for matcher in led[DOMAIN]["pathRules"]} == {
        "weather-id": [
            "/weather",
            "/weather/*",
            "/.well-known/oauth-protected-resource/weather",
            "/.well-known/oauth-protected-resource/weather/*",
        ],
        "maps-id": ["/maps", "/maps/*"],
    }
    assert "backends" not in plan.one(f"{COMPUTE}backendService:BackendService", "fleet-nowhere").inputs


def test_a_server_without_a_path_has_the_rest_of_the_domain(run):
    plan = run({"weather": WEATHER, "rest": {**SOURCE, "domain": DOMAIN}})
    (matcher,) = plan.one(URL_MAP, "fleet").inputs["pathMatchers"]
    assert matcher["defaultService"] == "rest-id"


def test_the_outputs_say_what_the_dns_needs(run):
    plan = run({"weather": WEATHER, "plain": SOURCE})
    output = plan.exports["servers"]["weather"]
    assert output["address"] == "203.0.113.7"
    assert output["dns_records"] == [
        {"name": f"{DOMAIN}.", "type": "A", "data": "203.0.113.7"},
        {"name": f"_acme-challenge.{DOMAIN}.", "type": "CNAME", "data": "x."},
    ]
    assert output["mcp_url"] == f"https://{DOMAIN}/weather/mcp"
    assert plan.exports["servers"]["plain"]["dns_records"] is None
    per_server = run({"other": OTHER}, "per-server").exports["servers"]["other"]
    assert per_server["dns_records"] == [{"name": "other.acme.dev.", "type": "A", "data": "203.0.113.7"}]


def test_servers_under_one_domain_have_audiences_of_their_own(run):
    """Whatever one of them is sent, it cannot be used at another."""
    client = {**SOURCE, "calls": ["weather", "maps"]}
    plan = run({"weather": {**WEATHER, "audiences": ["extra"]}, "maps": MAPS}, clients={"agent": client})
    weather = f"https://{DOMAIN}/weather"
    assert plan.service("weather").inputs["customAudiences"] == [weather, "extra"]
    environment = plan.environment("weather")
    assert (environment["MCPFLEET_BASE_URL"], environment["MCPFLEET_AUDIENCE"]) == (
        f"https://{DOMAIN}",
        f"{weather},extra",
    )
    output = plan.exports["servers"]["weather"]
    assert output["audience"] == weather
    assert f"--url {weather}/mcp --audience {weather} " in output["proxy_command"]
    called = json.loads(plan.environment("agent")["MCP_SERVERS"])
    assert {name: server["audience"] for name, server in called.items()} == {
        "weather": weather,
        "maps": f"https://{DOMAIN}/maps",
    }


def test_a_fleet_without_domains_has_no_load_balancer_and_needs_no_api_for_it(run):
    def apis(plan):
        return {resource.inputs["service"] for resource in plan.of("gcp:projects/service:Service")}

    plan = run({"plain": SOURCE})
    assert not [resource for resource in plan.resources if resource.type.startswith((COMPUTE, MANAGER))]
    assert "certificatemanager.googleapis.com" not in apis(plan)
    assert "certificatemanager.googleapis.com" in apis(run({"other": OTHER}))
    assert "certificatemanager.googleapis.com" not in apis(run({"other": OTHER}, "per-server"))


REFUSED = [
    (
        {"aa": WEATHER, "bb": WEATHER},
        "shared",
        "bb.domain_path: mcp.acme.dev/weather leads to aa already; write another",
    ),
    (
        {"aa": OTHER, "bb": OTHER},
        "shared",
        "bb.domain: other.acme.dev leads to aa already; write another, or domain_path: /NAME to share it",
    ),
    ({"aa": OTHER, "bb": OTHER}, "both", "bb.domain: other.acme.dev leads to aa already; write another"),
    (
        {"aa": WEATHER},
        "per-server",
        "aa.domain_path: /weather needs one load balancer for all; write load_balancer: shared in the fleet",
    ),
    ({"aa": {**WEATHER, "path": "/mcp"}}, "shared", "aa.path: /mcp is not below domain_path; write path: /weather/mcp"),
    (
        {"aa": {**WEATHER, "path": "/weatherman"}},
        "shared",
        "aa.path: /weatherman is not below domain_path; write path: /weather/weatherman",
    ),
    (
        {"aa": {**WEATHER, "transports": ["streamable-http", "sse"], "max_instances": 1}},
        "shared",
        "aa.transports: sse is at /sse, which is not below domain_path; leave it out",
    ),
    (
        {"aa": {**SOURCE, "domain_path": "/mcp"}},
        "shared",
        "aa.domain_path: needs a domain; add domain: mcp.acme.dev, or remove it",
    ),
]


@pytest.mark.parametrize(("servers", "kind", "line"), REFUSED, ids=[line[:40] for *_, line in REFUSED])
def test_what_cannot_share_a_domain_is_one_line(servers, kind, line):
    with pytest.raises(FleetError) as refusal:
        parse_fleet(fleet(servers, kind), root=ROOT)
    assert f"fleet.servers.{line}" in [message_line.strip(" -") for message_line in str(refusal.value).splitlines()]


LABELS = st.text("ab-1", min_size=1, max_size=30).filter(lambda one: one[0] != "-" and one[-1] != "-")
DOMAINS = st.lists(LABELS, min_size=2, max_size=6).map(".".join)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(DOMAINS, DOMAINS)
def test_what_is_a_domains_alone_has_a_name_that_google_takes_and_no_other_domain_has(domain, other):
    domain_id = naming.domain_id(domain)
    assert naming.re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", domain_id)
    assert (domain_id == naming.domain_id(other)) == (domain == other)
