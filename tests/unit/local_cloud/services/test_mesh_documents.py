"""A service mesh and its names as documents: by the API and the plugin, and what Google would refuse."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.message_parser import parse_body
from mcpfleet_local_cloud.rest.schemas import load_api
from mcpfleet_local_cloud.services.dns.model import Dns
from mcpfleet_local_cloud.services.networkservices import NetworkServices
from mcpfleet_local_cloud.state.store import Store
from tests.unit.local_cloud.front_end.meshes import (
    BACKEND_KIND,
    GROUP_KIND,
    MESH,
    MESH_KIND,
    MESHES,
    NETWORK,
    PRIVATE,
    PROJECT,
    RECORD_KIND,
    ROUTE_KIND,
    ROUTES,
    ZONE_KIND,
    ZONES,
    mesh_resources,
    prepared,
    service,
)


@pytest.fixture
def api(running):
    return prepared(running)


@pytest.fixture
def meshed(api, program):
    service(api)
    return mesh_resources(program)


def test_a_program_creates_reruns_and_destroys_a_mesh(api, program, meshed):
    for kind, inputs, created in meshed:
        read = program.read(kind, created)
        assert program.diff(kind, read, inputs) == {}, kind
        assert read.resource_id == created.resource_id
    assert meshed[0][2].resource_id == MESH
    assert len(api.cloud.inventory()["records"]) == len(meshed)
    for kind, _, created in reversed(meshed):
        program.delete(kind, created)
        assert program.read(kind, created) is None
    assert api.cloud.inventory()["records"] == []


def test_a_resource_in_use_is_not_deleted(program, meshed):
    by_kind = {kind: created for kind, _, created in meshed}
    for kind in (GROUP_KIND, BACKEND_KIND):
        with pytest.raises(Exception, match="is already being used by"):
            program.delete(kind, by_kind[kind])
    with pytest.raises(Exception, match=f"{MESH} is in use by {PROJECT}/locations/global/httpRoutes/mcp"):
        program.delete(MESH_KIND, by_kind[MESH_KIND])
    with pytest.raises(Exception, match="cannot be deleted because it contains one or more"):
        program.delete(ZONE_KIND, by_kind[ZONE_KIND])


def test_changes_are_in_place_as_on_google(api, program, meshed):
    by_kind = {kind: (inputs, created) for kind, inputs, created in meshed}
    program.requests.clear()
    inputs, created = by_kind[ROUTE_KIND]
    news = {**inputs, "hostnames": ["mcp-hello", "hello.mesh"], "labels": {"team": "a"}}
    changed = program.update(ROUTE_KIND, created, news)
    assert changed.properties["hostnames"] == ["mcp-hello", "hello.mesh"]
    assert [request for request in program.requests if request.startswith("PATCH")] == [
        f"PATCH {ROUTES}/mcp?alt=json&updateMask=hostnames%2Clabels"
    ]
    inputs, created = by_kind[RECORD_KIND]
    assert program.update(RECORD_KIND, created, {**inputs, "rrdatas": ["10.9.9.9"]}).properties["rrdatas"] == [
        "10.9.9.9"
    ]
    inputs, created = by_kind[ZONE_KIND]
    assert program.update(ZONE_KIND, created, {**inputs, "description": "x"}).properties["description"] == "x"
    assert program.replaced(ZONE_KIND, created, {**inputs, "dnsName": "other."}) == ["dnsName"]
    inputs, created = by_kind[MESH_KIND]
    assert program.update(MESH_KIND, created, {**inputs, "description": "x"}).properties["description"] == "x"


def test_every_resource_of_a_mesh_can_be_imported(program, meshed):
    for kind, identity in (
        (MESH_KIND, "mcpfleet-local/global/fleet"),
        (ROUTE_KIND, "mcpfleet-local/mcp"),
        (ZONE_KIND, "mcp"),
        (RECORD_KIND, "mcp/mcp-hello./A"),
    ):
        result = program.imported(kind, identity)
        assert result.resource_id == next(created.resource_id for item, _, created in meshed if item == kind)


RULES = [{"action": {"destinations": [{"serviceName": f"{PROJECT}/locations/global/backendServices/mcp"}]}}]


def route(**extra):
    return {"hostnames": ["mcp-other"], "meshes": [MESH], "rules": RULES, **extra}


def action(**extra):
    return [{"action": {"destinations": RULES[0]["action"]["destinations"], **extra}}]


ELSEWHERE = [{"action": {"destinations": [{"serviceName": f"{PROJECT}/locations/global/backendServices/none"}]}}]
BALANCED = [{"action": {"destinations": [{"serviceName": f"{PROJECT}/locations/global/backendServices/lb"}]}}]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (f"{ROUTES}?httpRouteId=x", route(meshes=[f"{MESH}-none"]), 404, f"{MESH}-none"),
        (f"{ROUTES}?httpRouteId=x", route(rules=ELSEWHERE), 404, "backendServices/none"),
        (f"{ROUTES}?httpRouteId=x", route(rules=BALANCED), 400, "INTERNAL_SELF_MANAGED"),
        (f"{ROUTES}?httpRouteId=x", route(rules=[]), 400, "rules"),
        (f"{ROUTES}?httpRouteId=x", route(rules=RULES * 2), 501, "rules[1]"),
        (f"{ROUTES}?httpRouteId=x", route(rules=[{"matches": [{"prefixMatch": "/"}]}]), 501, "matches"),
        (
            f"{ROUTES}?httpRouteId=x",
            route(rules=action(timeout="soon")),
            400,
            "Invalid value at 'http_route.rules[0].action.timeout'",
        ),
        (f"{ROUTES}?httpRouteId=x", route(rules=action(retryPolicy={"numRetries": 1})), 501, "action.retryPolicy"),
        (f"{ROUTES}?httpRouteId=x", route(rules=action(destinations=[])), 501, "destinations"),
        (f"{ROUTES}?httpRouteId=x", route(hostnames=["mcp-hello"]), 400, "'mcp-hello' is a name of"),
        (f"{ROUTES}?httpRouteId=x", route(hostnames=["*.mesh"]), 501, "hostnames"),
        (f"{ROUTES}?httpRouteId=x", route(hostnames=["No_Host"]), 400, "'No_Host' is no host name"),
        (f"{ROUTES}?httpRouteId=x", route(hostnames=[]), 400, "hostnames"),
        (f"{ROUTES}?httpRouteId=x", route(gateways=["g"]), 501, "gateways"),
        (f"{ROUTES}?httpRouteId=x", route(hosts=["g"]), 400, 'Unknown name "hosts"'),
        (f"{ROUTES}?httpRouteId=X", route(), 400, "Resource ID 'X'"),
        (f"{ROUTES}?httpRouteId=mcp", route(), 409, "already exists"),
        (f"{MESHES}?meshId=x", {"interceptionPort": 1}, 501, "interceptionPort"),
        (f"{MESHES.replace('global', 'europe-west1')}?meshId=x", {}, 400, "locations/global"),
        (ZONES, {"name": "x", "dnsName": "x.", "visibility": "public"}, 501, "visibility"),
        (ZONES, {"name": "x", "dnsName": "x", **PRIVATE}, 400, "dnsName"),
        (ZONES, {"name": "x", "dnsName": "*.x.", **PRIVATE}, 400, "dnsName"),
        (ZONES, {"name": "X", "dnsName": "x.", **PRIVATE}, 400, "managedZone.name"),
        (ZONES, {"name": "mcp", "dnsName": "x.", **PRIVATE}, 409, "already exists"),
        (ZONES, {"name": "x", "dnsName": "mcp-hello.", **PRIVATE}, 400, "is already visible in the network"),
        (
            ZONES,
            {"name": "x", "dnsName": "x.", "peeringConfig": {"targetNetwork": {"networkUrl": "x"}}, **PRIVATE},
            501,
            "peeringConfig",
        ),
        (
            ZONES,
            {
                "name": "x",
                "dnsName": "x.",
                "visibility": "private",
                "privateVisibilityConfig": {"networks": [{"networkUrl": f"{NETWORK}-none"}]},
            },
            400,
            "was not found",
        ),
        (f"{ZONES}/none/changes", {"additions": []}, 404, "none"),
        (
            f"{ZONES}/mcp/changes",
            {"additions": [{"name": "mcp-hello.", "type": "A", "rrdatas": ["10.0.0.2"]}]},
            409,
            "already exists",
        ),
        (
            f"{ZONES}/mcp/changes",
            {"additions": [{"name": "other.", "type": "A", "rrdatas": ["10.0.0.2"]}]},
            400,
            "'other.'",
        ),
        (
            f"{ZONES}/mcp/changes",
            {"additions": [{"name": "mcp-hello.", "type": "TXT", "rrdatas": ["x"]}]},
            501,
            "type = TXT",
        ),
        (
            f"{ZONES}/mcp/changes",
            {"additions": [{"name": "a.mcp-hello.", "type": "A", "rrdatas": ["10.0.0.256"]}]},
            400,
            "'10.0.0.256'",
        ),
        (
            f"{ZONES}/mcp/changes",
            {"deletions": [{"name": "mcp-hello.", "type": "A", "rrdatas": ["10.0.0.2"]}]},
            404,
            "does not exist",
        ),
    ],
)
def test_invalid_and_unsupported_fields_are_refused_by_name(api, program, meshed, path, body, status, message):
    program.create(BACKEND_KIND, {"name": "lb", "loadBalancingScheme": "EXTERNAL_MANAGED"})
    answer = api.call("POST", path, body)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text


def test_a_change_of_records_is_atomic(api, meshed):
    valid_record = {"name": "a.mcp-hello.", "type": "A", "ttl": 1, "rrdatas": ["10.0.0.2"]}
    existing_record = {"name": "mcp-hello.", "type": "A", "ttl": 1, "rrdatas": ["10.0.0.2"]}
    assert api.call("POST", f"{ZONES}/mcp/changes", {"additions": [valid_record, existing_record]}).status_code == 409
    assert [rrset["name"] for rrset in api.call("GET", f"{ZONES}/mcp/rrsets").json()["rrsets"]] == ["mcp-hello."]


def test_a_load_balancer_cannot_use_a_backend_of_a_mesh(api, meshed):
    body = {"name": "x", "defaultService": f"{PROJECT}/global/backendServices/mcp"}
    answer = api.call("POST", f"/compute/v1/{PROJECT}/global/urlMaps", body)
    assert (answer.status_code, "HTTP routes" in answer.json()["error"]["message"]) == (501, True)


@pytest.mark.parametrize("path", [ROUTES, MESHES, ZONES, f"{ZONES}/mcp/rrsets"])
def test_an_account_without_permission_sees_no_mesh_resources(api, meshed, path):
    assert api.call("GET", path).status_code == 200
    assert api.call("GET", path, as_="bob@mcpfleet.test").status_code == 403


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def fuzzed():
    """The three models over one store, without an app: what they refuse, they refuse as Google does."""
    store = Store()
    backend = {"loadBalancingScheme": "INTERNAL_SELF_MANAGED"}
    dns = Dns(store, lambda network: network == NETWORK, lambda: 0.0)
    services = NetworkServices(store, {f"{PROJECT}/global/backendServices/mcp": backend}.get, lambda: 0.0)
    services.create("networkservices.mesh", MESH, {})
    dns.create(PROJECT, {"name": "mcp", "dnsName": "mcp-a.", **PRIVATE})
    return dns, services


ROUTE = load_api("networkservices.v1").methods[
    "POST /networkservices/v1/projects/{project}/locations/{location}/httpRoutes"
]
ZONE = load_api("dns.v1").methods["POST /dns/v1/projects/{project}/managedZones"]
CHANGE = load_api("dns.v1").methods["POST /dns/v1/projects/{project}/managedZones/{zone}/changes"]


def read_as(method, body):
    return parse_body(json.dumps(body).encode(), method)


def outcome(do):
    """Return the document, or the status code of the error."""
    try:
        return do(), None
    except GoogleError as refusal:
        return None, refusal.http_code


@given(value=JSON, field=st.sampled_from(["hostnames", "meshes", "rules", "gateways", "labels", "description"]))
def test_no_route_causes_more_than_a_refusal(fuzzed, value, field):
    _, services = fuzzed
    path = f"{PROJECT}/locations/global/httpRoutes/x"
    created, code = outcome(
        lambda: services.create("networkservices.httpRoute", path, read_as(ROUTE, route(**{field: value})))
    )
    assert code in (None, 400, 404, 501)
    if created:
        assert json.loads(json.dumps(created))["hostnames"]
        assert services.resolve_backend(MESH, created["hostnames"][0]) in (
            (f"{PROJECT}/global/backendServices/mcp", None),
            None,
        )
        services.delete("networkservices.httpRoute", path)


@given(value=JSON, field=st.sampled_from(["name", "dnsName", "visibility", "privateVisibilityConfig", "labels"]))
def test_no_zone_causes_more_than_a_refusal(fuzzed, value, field):
    dns, _ = fuzzed
    created, code = outcome(
        lambda: dns.create(PROJECT, read_as(ZONE, {"name": "x", "dnsName": "x.", **PRIVATE, field: value}))
    )
    assert code in (None, 400, 409, 501)
    if created:
        dns.delete(f"{PROJECT}/managedZones/{created['name']}")


@given(value=JSON, field=st.sampled_from(["name", "type", "ttl", "rrdatas", "kind", ""]))
def test_no_record_causes_more_than_a_refusal(fuzzed, value, field):
    dns, _ = fuzzed
    record = {"name": "mcp-a.", "type": "A", "ttl": 1, "rrdatas": ["10.0.0.1"]}
    change = [{**record, field: value}] if field else value
    path = f"{PROJECT}/managedZones/mcp"
    _, code = outcome(lambda: dns.apply(path, read_as(CHANGE, {"additions": change})))
    assert code in (None, 400, 409, 501)
    dns.apply(path, {"deletions": dns.records(path)})
    assert dns.records(path) == []
