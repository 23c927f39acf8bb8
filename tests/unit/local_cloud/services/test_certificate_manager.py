"""Certificate Manager: its documents by the API and the plugin, and which names a load balancer serves."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.message_parser import parse_body
from mcpfleet_local_cloud.rest.schemas import load_api
from mcpfleet_local_cloud.services.certificatemanager import CertificateManager
from mcpfleet_local_cloud.state.store import Store

PLACE = "projects/mcpfleet-local/locations/global"
BASE = f"/certificatemanager/v1/{PLACE}"
COMPUTE = "/compute/v1/projects/mcpfleet-local/global"
OWN = "projects/mcpfleet-local/global"
MAP = f"{PLACE}/certificateMaps/m"
ENTRIES = f"{BASE}/certificateMaps/m/certificateMapEntries"
TYPE = "gcp:certificatemanager/"
AUTHORIZATION = f"{TYPE}dnsAuthorization:DnsAuthorization"
CERTIFICATE = f"{TYPE}certificate:Certificate"
MAP_TYPE = f"{TYPE}certificateMap:CertificateMap"
ENTRY = f"{TYPE}certificateMapEntry:CertificateMapEntry"
PROXY = "gcp:compute/targetHttpsProxy:TargetHttpsProxy"
URL_MAP = "gcp:compute/uRLMap:URLMap"
RULE = "gcp:compute/globalForwardingRule:GlobalForwardingRule"
REDIRECT = {"defaultUrlRedirect": {"httpsRedirect": True, "stripQuery": False}}


@pytest.fixture
def api(running: Any) -> Any:
    running.enable("compute", "certificatemanager")
    return running


@pytest.fixture
def mapped(api: Any, program: Any) -> list[tuple[str, dict[str, Any], Any]]:
    """A load balancer with a certificate map of one domain: the resources by kind, in the order of their making."""
    states: list[tuple[str, dict[str, Any], Any]] = []

    def create(kind: str, inputs: dict[str, Any]) -> str:
        states.append((kind, inputs, program.create(kind, inputs)))
        return str(states[-1][2].resource_id)

    proof = create(AUTHORIZATION, {"name": "d", "domain": "mcp.acme.dev"})
    managed = {"domains": ["mcp.acme.dev", "*.mcp.acme.dev"], "dnsAuthorizations": [proof]}
    certificate = create(CERTIFICATE, {"name": "c", "managed": managed, "labels": {"team": "a"}})
    create(MAP_TYPE, {"name": "m"})
    create(ENTRY, {"name": "e", "map": "m", "hostname": "mcp.acme.dev", "certificates": [certificate]})
    routes = create(URL_MAP, {"name": "u", **REDIRECT})
    map_url = f"//certificatemanager.googleapis.com/{MAP}"
    target = create(PROXY, {"name": "p", "urlMap": routes, "certificateMap": map_url})
    create(RULE, {"name": "r", "target": target, "portRange": "443"})
    return states


def test_a_program_creates_reruns_and_destroys_a_certificate_map(api: Any, program: Any, mapped: Any) -> None:
    for kind, inputs, state in mapped:
        read_ = program.read(kind, state)
        assert program.diff(kind, read_, inputs) == {}, kind
        assert read_.resource_id == state.resource_id
    assert len(api.cloud.inventory()["records"]) == len(mapped)
    for kind, _, state in reversed(mapped):
        program.delete(kind, state)
        assert program.read(kind, state) is None
    assert api.cloud.inventory()["records"] == []


def test_a_certificate_is_active_at_once_and_has_its_dns_authorization_record(api: Any, mapped: Any) -> None:
    by_kind = {kind: state.properties for kind, _, state in mapped}
    certificate = api.call("GET", f"{BASE}/certificates/c").json()
    assert certificate["managed"]["state"] == "ACTIVE"
    assert certificate["sanDnsnames"] == ["mcp.acme.dev", "*.mcp.acme.dev"]
    assert certificate["labels"]["team"] == "a"
    assert by_kind[CERTIFICATE]["managed"]["authorizationAttemptInfos"][0] == {
        "domain": "mcp.acme.dev",
        "state": "AUTHORIZED",
    }
    (record,) = by_kind[AUTHORIZATION]["dnsResourceRecords"]
    assert (record["name"], record["type"]) == ("_acme-challenge.mcp.acme.dev.", "CNAME")
    assert record["data"].endswith(".authorize.certificatemanager.goog.")


def test_dns_authorization_records_of_several_projects_can_coexist(api: Any) -> None:
    body = {"domain": "a.dev", "type": "PER_PROJECT_RECORD"}
    api.call("POST", f"{BASE}/dnsAuthorizations?dnsAuthorizationId=x", body)
    name = api.call("GET", f"{BASE}/dnsAuthorizations/x").json()["dnsResourceRecord"]["name"]
    assert name.startswith("_acme-challenge_")
    assert name.endswith(".a.dev.")


def test_a_map_lists_its_load_balancers(api: Any, mapped: Any) -> None:
    assert api.call("GET", f"{BASE}/certificateMaps/m").json()["gclbTargets"] == [
        {
            "targetHttpsProxy": f"//compute.googleapis.com/{OWN}/targetHttpsProxies/p",
            "ipConfigs": [{"ipAddress": "127.0.0.1", "ports": [443]}],
        }
    ]


def test_a_resource_in_use_is_not_deleted(program: Any, mapped: Any) -> None:
    for kind, _, state in mapped[:3]:
        with pytest.raises(Exception, match="in use by"):
            program.delete(kind, state)


def test_an_update_sends_only_mutable_fields(program: Any, mapped: Any) -> None:
    kind, inputs, state = mapped[3]
    other = {"name": "c2", "managed": {"domains": ["mcp.acme.dev"]}}
    second = program.create(CERTIFICATE, other).resource_id
    program.requests.clear()
    program.update(kind, state, {**inputs, "certificates": [*inputs["certificates"], second]})
    assert [entry for entry in program.requests if entry.startswith("PATCH")] == [
        f"PATCH {ENTRIES}/e?alt=json&updateMask=certificates"
    ]
    assert program.replaced(kind, state, {**inputs, "hostname": "b.dev"}) == ["hostname"]
    kind, inputs, state = mapped[1]
    changed = {**inputs, "managed": {**inputs["managed"], "domains": ["b.dev"]}}
    assert program.replaced(kind, state, changed) == ["managed.domains[0]", "managed.domains[1]"]


def test_a_project_number_in_a_response_is_no_change(program: Any, mapped: Any) -> None:
    kind, inputs, state = mapped[3]
    state.properties["certificates"] = [entry.replace("mcpfleet-local", "4711") for entry in inputs["certificates"]]
    assert program.diff(kind, state, inputs) == {}


def test_a_proxy_can_change_to_another_map_or_to_certificates(api: Any, program: Any, mapped: Any) -> None:
    kind, inputs, state = next(entry for entry in mapped if entry[0] == PROXY)
    program.create(MAP_TYPE, {"name": "n"})
    program.requests.clear()
    other = {**inputs, "certificateMap": inputs["certificateMap"][:-1] + "n"}
    assert program.update(kind, state, other).properties["certificateMap"].endswith("/n")
    assert f"POST {COMPUTE}/targetHttpsProxies/p/setCertificateMap?alt=json" in program.requests
    assert api.cloud.balancer.domains() == set()
    refused = api.call("POST", f"{COMPUTE}/targetHttpsProxies/p/setCertificateMap", {"certificateMap": ""})
    assert refused.status_code == 400


def test_a_load_balancer_has_certificates_for_the_names_of_its_map(api: Any, program: Any, mapped: Any) -> None:
    balancer = api.cloud.balancer
    assert balancer.domains() == {"mcp.acme.dev"}
    assert balancer.has_certificate("mcp.acme.dev")
    assert not balancer.has_certificate("a.mcp.acme.dev"), "there is no entry for it, and no primary one"
    certificates = mapped[3][1]["certificates"]
    program.create(ENTRY, {"name": "w", "map": "m", "hostname": "*.mcp.acme.dev", "certificates": certificates})
    assert balancer.has_certificate("a.mcp.acme.dev")
    assert not balancer.has_certificate("a.b.mcp.acme.dev"), "a wildcard is one label"
    assert not balancer.has_certificate("acme.dev")
    wrong = {"name": "x", "map": "m", "hostname": "b.dev", "certificates": certificates}
    program.create(ENTRY, wrong)
    assert not balancer.has_certificate("b.dev"), "its certificate is another domain's"
    routed = balancer.route_by_host("a.mcp.acme.dev", "/mcp", "")
    assert routed is not None
    assert routed.redirect is not None


def test_the_primary_entry_applies_to_all_other_hosts(api: Any, program: Any, mapped: Any) -> None:
    program.delete(ENTRY, mapped[3][2])
    certificates = mapped[3][1]["certificates"]
    program.create(ENTRY, {"name": "e", "map": "m", "matcher": "PRIMARY", "certificates": certificates})
    assert api.cloud.balancer.has_certificate("a.mcp.acme.dev")
    assert not api.cloud.balancer.has_certificate("b.dev")
    assert api.cloud.balancer.domains() == {"mcp.acme.dev", "*.mcp.acme.dev"}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("certificates?certificateId=x", {}, 400, "one of managed and self_managed"),
        ("certificates?certificateId=x", {"selfManaged": {"pemCertificate": "x"}}, 501, "only managed certificates"),
        ("certificates?certificateId=x", {"managed": {"issuanceConfig": "x"}}, 501, "own authority"),
        ("certificates?certificateId=x", {"managed": {"domains": []}}, 400, "1 to 100"),
        ("certificates?certificateId=x", {"managed": {"domains": ["*.a.dev"]}}, 400, "no DNS authorization"),
        ("certificates?certificateId=x", {"managed": {"domains": ["a b"]}}, 400, "no domain"),
        ("certificates?certificateId=x", {"managed": {"domains": ["a.dev"], "dnsAuthorizations": ["d"]}}, 400, "form"),
        ("certificates?certificateId=x", {"managed": {"domains": ["a.dev"]}, "scope": "EDGE_CACHE"}, 501, "scope"),
        ("certificates?certificateId=1x", {"managed": {"domains": ["a.dev"]}}, 400, "Resource ID"),
        ("dnsAuthorizations?dnsAuthorizationId=x", {"domain": "*.a.dev"}, 400, "no domain"),
        ("dnsAuthorizations?dnsAuthorizationId=d", {"domain": "a.dev"}, 409, "already exists"),
        ("certificateMaps/none/certificateMapEntries?certificateMapEntryId=x", {"hostname": "a"}, 404, "none"),
        ("certificateMaps/m/certificateMapEntries?certificateMapEntryId=x", {"hostname": "a.dev"}, 400, "1 to 4"),
        ("certificateMaps/m/certificateMapEntries?certificateMapEntryId=x", {}, 400, "hostname and matcher"),
    ],
)
def test_invalid_and_unsupported_fields_are_refused_by_name(
    api: Any, mapped: Any, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    answer = api.call("POST", f"{BASE}/{path}", body)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text


def test_a_second_entry_for_a_name_is_refused(api: Any, mapped: Any) -> None:
    body = {"hostname": "mcp.acme.dev", "certificates": [f"{PLACE}/certificates/c"]}
    answer = api.call("POST", f"{ENTRIES}?certificateMapEntryId=x", body)
    assert answer.status_code == 400
    assert "is in" in answer.json()["error"]["message"]


def test_changes_of_immutable_fields_are_refused(api: Any, mapped: Any) -> None:
    answer = api.call("PATCH", f"{BASE}/dnsAuthorizations/d?updateMask=domain", {"domain": "b.dev"})
    assert answer.status_code == 400
    assert "cannot be changed" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("map_name", "status"),
    [
        (f"//certificatemanager.googleapis.com/{PLACE}/certificateMaps/none", 404),
        (MAP, 400),
        ("//certificatemanager.googleapis.com/m", 400),
    ],
)
def test_a_proxys_map_must_exist_and_have_its_full_name(api: Any, mapped: Any, map_name: str, status: int) -> None:
    body = {"name": "x", "urlMap": f"{OWN}/urlMaps/u", "certificateMap": map_name}
    assert api.call("POST", f"{COMPUTE}/targetHttpsProxies", body).status_code == status


def test_a_proxy_has_certificates_or_a_map(api: Any, mapped: Any) -> None:
    answer = api.call("POST", f"{COMPUTE}/targetHttpsProxies", {"name": "x", "urlMap": f"{OWN}/urlMaps/u"})
    assert answer.status_code == 400
    assert "resource.sslCertificates" in answer.json()["error"]["message"]


def test_certificates_of_a_region_are_refused_by_name(api: Any) -> None:
    answer = api.call("GET", BASE.replace("global", "europe-west1") + "/certificates")
    assert answer.status_code == 501


def test_an_editor_can_create_and_cannot_delete(api: Any) -> None:
    api.grant("roles/certificatemanager.editor", "user:ada@mcpfleet.test")
    state = api.call("POST", f"{BASE}/certificateMaps?certificateMapId=n", {}, as_="ada@mcpfleet.test")
    assert state.status_code == 200, state.text
    assert api.call("DELETE", f"{BASE}/certificateMaps/n", as_="ada@mcpfleet.test").status_code == 403
    assert (
        api.call("GET", f"{BASE}/certificateMaps").json()["certificateMaps"][0]["name"] == f"{PLACE}/certificateMaps/n"
    )


METHODS = load_api("certificatemanager.v1").methods
CREATE = METHODS["POST /certificatemanager/v1/projects/{project}/locations/{location}/certificates"]
HOSTS = st.text("a-.*Aß\n", max_size=6)


@given(st.lists(HOSTS, max_size=3), HOSTS, st.sampled_from(["hostname", "matcher"]))
def test_any_domains_are_refused_or_stored_and_cover_no_others(
    tmp_path_factory: pytest.TempPathFactory, domains: list[str], host: str, domain_suffix: str
) -> None:
    store = Store(tmp_path_factory.mktemp("store") / "cloud.db")
    manager = CertificateManager(store, lambda _: [], lambda _: [], lambda: 1e9)
    manager.create(MAP, {})
    with suppress(GoogleError):
        body = parse_body(json.dumps({"managed": {"domains": domains}}).encode(), CREATE)
        certificate = manager.create(f"{PLACE}/certificates/c", body)
        named = {"hostname": host} if domain_suffix == "hostname" else {"matcher": "PRIMARY"}
        manager.create(f"{MAP}/certificateMapEntries/e", {**named, "certificates": [certificate["name"]]})
    assert manager.names(MAP) <= set(domains)
    store.close()
