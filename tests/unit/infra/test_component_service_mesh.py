"""Clients in the service mesh: what leads from a short name to a server. Decided here without a cloud."""

import json
import runpy
from pathlib import Path

import pytest

from pulumi_mcpfleet.fleet import FleetError, parse_fleet

ROOT = Path(__file__).parents[3]
API = "gcp:projects/service:Service"
BACKEND = "gcp:compute/backendService:BackendService"
GRANT = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
GROUP = "gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup"
MESH = "gcp:networkservices/mesh:Mesh"
RECORD = "gcp:dns/recordSet:RecordSet"
ROLE = "gcp:projects/iAMMember:IAMMember"
ROUTE = "gcp:networkservices/httpRoute:HttpRoute"
SERVICE_MESH = "mcpfleet:index:ServiceMesh"
ZONE = "gcp:dns/managedZone:ManagedZone"
OF_A_MESH = (MESH, ROUTE, ZONE, RECORD)

SERVERS = {
    "reference": {"source": {"build": "./mcp_server"}},
    "toolbox": {"source": {"image": "docker.io/acme/tool:1", "port": 5000}, "path": "/tools"},
    "alone": {"source": {"image": "docker.io/acme/alone:1"}},
}
SOURCE = {"image": "docker.io/acme/assistant:1"}
MESHED = {"source": SOURCE, "calls": ["reference"], "topology": "mesh", "vpc": {"network": "default"}}


@pytest.fixture(name="build")
def _build(deploy):
    """The whole program, with these clients of the servers."""

    def build(servers=SERVERS, fleet=None, **clients):
        raw = {"servers": servers, "clients": clients, **(fleet or {"region": "europe-west1"})}
        config = {"gcp:project": "p", "mcpfleet:fleet": json.dumps(raw)}
        return deploy(lambda: runpy.run_path(str(ROOT), run_name="__main__"), config=config)

    return build


def test_a_client_joins_the_mesh_and_is_told_short_names_and_no_audience(build):
    plan = build(assistant={**MESHED, "calls": ["reference", "toolbox"]})
    service = plan.service("assistant").inputs
    assert service["template"]["serviceMesh"] == {"mesh": "fleet-id"}
    assert service["launchStage"] == "BETA", "Google takes a preview feature in a preview stage only"
    assert service["template"]["vpcAccess"]["networkInterfaces"] == [{"network": "default", "subnetwork": "default"}]
    assert json.loads(plan.environment("assistant")["MCP_SERVERS"]) == {
        "reference": {"url": "http://mcp-reference/mcp"},
        "toolbox": {"url": "http://mcp-toolbox/tools"},
    }


def test_its_account_may_read_the_mesh_send_traces_and_call_just_its_servers(build):
    plan = build(assistant={**MESHED, "roles": ["roles/cloudtrace.agent", "roles/aiplatform.user"]})
    account = "serviceAccount:mcp-assistant@p.iam.gserviceaccount.com"
    assert len(plan.of(ROLE)) == 3, "a role that is written twice is granted once"
    assert {(grant.inputs["role"], grant.inputs["member"]) for grant in plan.of(ROLE)} == {
        ("roles/cloudtrace.agent", account),
        ("roles/aiplatform.user", account),
        ("roles/trafficdirector.client", account),
    }
    assert [(grant.inputs["name"], grant.inputs["member"]) for grant in plan.of(GRANT)] == [("mcp-reference", account)]


def test_a_short_name_leads_through_a_route_and_a_backend_to_the_service(build):
    servers = {"reference": {**SERVERS["reference"], "timeout": 900}}
    plan = build(servers, assistant=MESHED)
    assert plan.one(MESH).inputs["name"] == "mcpfleet"
    assert plan.one(GROUP).inputs["cloudRun"] == {"service": "mcp-reference"}
    backend = plan.one(BACKEND).inputs
    assert (backend["loadBalancingScheme"], backend["backends"]) == (
        "INTERNAL_SELF_MANAGED",
        [{"group": "mcp-reference-mesh-europe-west1-id"}],
    )
    route = plan.one(ROUTE).inputs
    assert (route["hostnames"], route["meshes"]) == (["mcp-reference"], ["fleet-id"])
    (rule,) = route["rules"]
    assert rule["action"]["timeout"] == "900s", "the server's own"
    (destination,) = rule["action"]["destinations"]
    assert destination == {"serviceName": "projects/p/locations/global/backendServices/mcp-reference-mesh"}


def test_a_short_name_has_a_private_address_in_the_clients_networks(build):
    vpc = {"network": "projects/host/global/networks/shared"}
    plan = build(assistant=MESHED, second={**MESHED, "vpc": vpc})
    zone = plan.one(ZONE).inputs
    assert (zone["dnsName"], zone["visibility"]) == ("mcp-reference.", "private")
    assert [network["networkUrl"] for network in zone["privateVisibilityConfig"]["networks"]] == [
        "projects/p/global/networks/default",
        "projects/host/global/networks/shared",
    ]
    record = plan.one(RECORD).inputs
    assert (record["name"], record["type"], record["rrdatas"]) == ("mcp-reference.", "A", ["10.0.0.1"])


def test_clients_share_one_mesh_which_holds_the_servers_that_they_call_and_no_others(build):
    plan = build(assistant=MESHED, second={**MESHED, "calls": ["reference", "toolbox"]})
    assert len(plan.of(MESH)) == 1
    assert plan.names(ROUTE) == plan.names(ZONE) == {"mcp-reference-mesh", "mcp-toolbox-mesh"}
    assert {resource.parent for kind in OF_A_MESH for resource in plan.of(kind)} == {(SERVICE_MESH, "fleet")}


def test_routes_names_and_rights_are_there_before_the_client(build):
    plan = build(assistant=MESHED)
    dependencies = plan.before(plan.service("assistant"))
    for kind in (*OF_A_MESH, GRANT, ROLE):
        assert {(resource.type, resource.name) for resource in plan.of(kind)} <= dependencies, kind
    apis = {(API, resource.name) for resource in plan.of(API)}
    assert apis <= plan.before(plan.one(ZONE))


def test_the_apis_of_the_mesh_are_enabled_where_a_client_is_in_it(build):
    def enabled(plan):
        return {resource.inputs["service"].partition(".")[0] for resource in plan.of(API)}

    expected = {"compute", "dns", "networksecurity", "networkservices", "trafficdirector"}
    assert expected <= enabled(build(assistant=MESHED))
    plan = build(assistant={"source": SOURCE, "calls": ["reference"]})
    assert not expected & enabled(plan)
    assert not [api for kind in OF_A_MESH for api in plan.of(kind)]


def test_a_server_lets_in_its_short_name_where_it_is_called_by_it(build):
    plan = build(assistant=MESHED)
    assert plan.environment("reference")["MCPFLEET_ALLOWED_HOSTS"] == "mcp-reference-*.run.app,mcp-reference"
    assert plan.environment("alone")["MCPFLEET_ALLOWED_HOSTS"] == "mcp-alone-*.run.app"


def test_a_server_in_several_regions_has_a_group_in_each_beside_those_of_its_domain(build):
    servers = {"reference": {**SERVERS["reference"], "domain": "mcp.acme.dev"}}
    plan = build(servers, {"regions": ["europe-west1", "us-east1"]}, assistant=MESHED)
    groups = {
        (group.inputs["name"], group.inputs["region"]) for group in plan.of(GROUP) if group.parent[0] == SERVICE_MESH
    }
    assert groups == {("mcp-reference-mesh", "europe-west1"), ("mcp-reference-mesh", "us-east1")}
    names = [(group.inputs["name"], group.inputs["region"]) for group in plan.of(GROUP)]
    assert len(set(names)) == len(names) == 4


@pytest.mark.parametrize(
    ("client", "server", "message"),
    [
        ({"vpc": None}, {}, "vpc: missing; the mesh needs a VPC network for the client's requests, add vpc"),
        ({"vpc": {"subnetwork": "s"}}, {}, "vpc.network: missing; the mesh's names are resolved in a network, so"),
        ({}, {"domain": "a.dev", "default_url": False}, "calls[0]: toolbox has default_url: false, and the mesh calls"),
        ({}, {"access": {"oauth": {"issuer": "https://id.acme.dev"}}}, "calls[0]: toolbox requires an OAuth"),
        (
            {},
            {"ingress": "internal"},
            "calls[0]: toolbox accepts requests only from the project's networks (ingress: internal)",
        ),
    ],
)
def test_a_client_that_cannot_be_in_the_mesh_is_refused_under_its_path(client, server, message):
    servers = {**SERVERS, "toolbox": {**SERVERS["toolbox"], **server}}
    config = {**MESHED, "calls": ["toolbox"], **client}
    clients = {"assistant": {key: value for key, value in config.items() if value is not None}}
    with pytest.raises(FleetError) as refusal:
        parse_fleet({"region": "europe-west1", "servers": servers, "clients": clients})
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"fleet.clients.assistant.{message}"), line
