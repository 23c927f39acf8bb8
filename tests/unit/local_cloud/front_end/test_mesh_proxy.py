"""Tests of the service mesh: the sidecar proxy, and the names of private zones."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.data_plane.contract import RolloutError
from mcpfleet_local_cloud.front_end.authorizer import Authorizer
from mcpfleet_local_cloud.front_end.mesh import create_proxy
from mcpfleet_local_cloud.front_end.routing import RoutedRequest
from mcpfleet_local_cloud.identity.metadata import Workload
from mcpfleet_local_cloud.services.dns.model import Dns
from mcpfleet_local_cloud.state.store import Store
from tests.unit.local_cloud.front_end.meshes import (
    ACCOUNT,
    CALLER,
    HOST,
    MESH,
    NETWORK,
    PRIVATE,
    PROJECT,
    RECORD_KIND,
    ROUTE_KIND,
    SERVICES,
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


INTERFACE = {"vpcAccess": {"networkInterfaces": [{"network": "default"}]}}


def join(api, mesh=MESH, launch="BETA", **template):
    return service(
        api,
        "client",
        launchStage=launch,
        template={"serviceMesh": {"mesh": mesh}, "serviceAccount": ACCOUNT, **INTERFACE, **template},
    )


def test_a_revision_joins_a_mesh_through_its_network(api, meshed):
    api.grant("roles/trafficdirector.client", f"serviceAccount:{ACCOUNT}")
    assert "error" not in join(api).json()
    revision = next(item for item in api.plane.running.values() if item.service == "client")
    assert (revision.mesh, revision.network) == (MESH, NETWORK)
    shown = api.call("GET", f"{SERVICES}/client").json()["template"]
    assert shown["serviceMesh"] == {"mesh": MESH}


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"mesh": f"{MESH}-none"}, f"{MESH}-none was not found"),
        ({"mesh": "fleet"}, "must be projects/PROJECT/locations/global/meshes/MESH"),
        ({"launch": "GA"}, "set the launch stage to BETA"),
        ({"vpcAccess": None}, "network egress to a VPC network is required"),
    ],
)
def test_a_revision_that_google_would_not_join_is_refused(api, meshed, wish, said):
    answer = join(api, **wish)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (400, True), answer.text


def test_without_the_role_to_read_routes_a_revision_does_not_start(api, meshed):
    error = join(api).json()["error"]["message"]
    assert "is not ready and cannot serve traffic" in error
    assert f"{ACCOUNT} lacks trafficdirector.networks.getConfigs" in error
    assert "roles/trafficdirector.client" in error


@pytest.mark.parametrize("name", ["trafficdirector", "networksecurity"])
def test_without_the_mesh_apis_a_revision_does_not_start(api, meshed, name):
    api.grant("roles/trafficdirector.client", f"serviceAccount:{ACCOUNT}")
    api.cloud.usage.disable(api.cloud.projects.get(api.project), f"{name}.googleapis.com")
    assert f"{name}.googleapis.com is not enabled" in join(api).json()["error"]["message"]


def test_a_revision_whose_mesh_was_deleted_does_not_start_again(api):
    revision = type("Revision", (), {"mesh": MESH, "name": "r", "project": "mcpfleet-local", "service_account": "a"})
    with pytest.raises(RolloutError, match="found no mesh"):
        api.cloud.mesh.check(revision)


def other(**more):
    return Workload(**{**vars(CALLER), **more})


def test_a_short_name_resolves_only_in_the_mesh_and_the_zones_network(api, meshed):
    mesh = api.cloud.mesh
    assert mesh.resolves("mcp-hello", CALLER)
    assert not mesh.resolves("mcp-none", CALLER)
    assert not mesh.resolves("a.mcp-hello", CALLER)
    assert not mesh.resolves("mcp-hello", other(mesh=""))
    assert not mesh.resolves("mcp-hello", other(network=f"{PROJECT}/global/networks/other"))
    assert not mesh.resolves("mcp-hello", None)


def test_a_name_with_a_public_address_does_not_belong_to_the_mesh(api, program, meshed):
    inputs, made = next((inputs, made) for kind, inputs, made in meshed if kind == RECORD_KIND)
    program.update(RECORD_KIND, made, {**inputs, "rrdatas": ["203.0.113.7"]})
    assert not api.cloud.mesh.resolves("mcp-hello", CALLER)


def test_a_request_is_routed_to_the_service_with_the_callers_identity(api, meshed):
    found = api.cloud.mesh.route("mcp-hello", CALLER)
    claims = api.cloud.identity.verify_id_token(found.token)
    assert (found.host, claims.email, claims.audience) == (HOST, ACCOUNT, f"https://{HOST}")
    assert api.cloud.mesh.route("mcp-none", CALLER) is None
    assert api.cloud.mesh.route("mcp-hello", other(mesh=f"{MESH}-other")) is None


def test_a_token_is_cached_per_account_until_it_is_old(api, meshed):
    def token(caller=CALLER):
        return api.cloud.mesh.route("mcp-hello", caller).token

    first = token()
    api.clock.pass_by(44 * 60)
    assert token() == first
    assert api.cloud.identity.verify_id_token(token(other(service_account="b@x.test"))).email == "b@x.test"
    api.clock.pass_by(2 * 60)
    assert token() != first
    assert api.cloud.identity.verify_id_token(token())


def ask(api, host, headers=(), caller=CALLER):
    """Status, body and what reached the front end of a request to port 80 of the gateway."""
    seen, sent = [], []

    async def front(scope, receive, send):
        seen.append(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"front", "more_body": False})

    async def metadata(scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"metadata", "more_body": False})

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "client": ("172.18.0.2", 1),
        "headers": [(b"host", host), *headers],
    }
    proxy = create_proxy(api.cloud.mesh, {"172.18.0.2": caller}.get, front, metadata)
    asyncio.run(proxy(scope, None, send))
    return sent[0]["status"], sent[1]["body"], seen


def test_the_proxy_sets_host_and_identity_and_keeps_other_headers(api, meshed):
    given = [(b"authorization", b"Bearer stolen"), (b"accept", b"x"), (b"mcp-session-id", b"1")]
    status, body, (headers,) = ask(api, b"mcp-hello:80", given)
    assert (status, body) == (200, b"front")
    found = dict(headers)
    assert len(headers) == len(found) == 4
    assert found[b"host"] == HOST.encode()
    assert api.cloud.identity.verify_id_token(found[b"authorization"].decode()[7:]).email == ACCOUNT
    assert (found[b"accept"], found[b"mcp-session-id"]) == (b"x", b"1")


def test_mesh_requests_are_authorized_only_by_the_services_policy(api, meshed):
    _, _, (headers,) = ask(api, b"mcp-hello")
    arrival = api.cloud.run.find_endpoint(f"{PROJECT}/locations/europe-west1/services/hello")
    guard = Authorizer(api.cloud.identity, api.cloud.policies)

    def verdict():
        return guard.check(RoutedRequest(endpoint=arrival), headers, "/mcp")

    assert verdict().page.status == 403
    api.grant("roles/run.invoker", f"serviceAccount:{ACCOUNT}", arrival.service)
    assert verdict().checked_header == b"authorization"


@pytest.mark.parametrize(("began", "said"), [(False, [504]), (True, [200])])
def test_a_request_that_exceeds_the_routes_timeout_is_ended(api, program, meshed, began, said):
    inputs, made = next((inputs, made) for kind, inputs, made in meshed if kind == ROUTE_KIND)
    (rule,) = inputs["rules"]
    program.update(ROUTE_KIND, made, {**inputs, "rules": [{"action": {**rule["action"], "timeout": "0.01s"}}]})
    sent = []

    async def front(scope, receive, send):
        if began:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    proxy = create_proxy(api.cloud.mesh, {"172.18.0.2": CALLER}.get, front, front)
    scope = {"type": "http", "client": ("172.18.0.2", 1), "headers": [(b"host", b"mcp-hello")]}
    asyncio.run(asyncio.wait_for(proxy(scope, None, send), 10))
    assert [item["status"] for item in sent if item["type"] == "http.response.start"] == said
    assert (sent[-1]["type"] == "http.response.body") != began, "what had begun is cut off"


def test_missing_routes_and_services_get_envoys_errors(api, program):
    made = mesh_resources(program, service="nobody")
    assert ask(api, b"mcp-hello")[:2] == (503, b"no healthy upstream")
    kind, _, route = next(item for item in made if item[0] == ROUTE_KIND)
    program.delete(kind, route)
    assert ask(api, b"mcp-hello")[:2] == (404, b"")


@pytest.mark.parametrize("host", [b"metadata.google.internal", b"172.18.0.1", b"mcp-none", b""])
def test_every_other_request_goes_to_the_metadata_server(api, meshed, host):
    assert ask(api, host)[:2] == (299, b"metadata")
    assert ask(api, b"mcp-hello", caller=other(mesh=""))[:2] == (299, b"metadata")


@pytest.fixture(scope="module")
def zones():
    dns = Dns(Store(), lambda network: network == NETWORK, lambda: 0.0)
    for name, dns_name in (("wide", "mesh."), ("deep", "a.mesh."), ("short", "mcp-a.")):
        dns.create(PROJECT, {"name": name, "dnsName": dns_name, **PRIVATE})

    def add(zone, name, address):
        record = {"name": name, "type": "A", "ttl": 1, "rrdatas": [address]}
        dns.apply(f"{PROJECT}/managedZones/{zone}", {"additions": [record]})

    add("wide", "*.mesh.", "10.0.0.1")
    add("wide", "plain.mesh.", "10.0.0.2")
    add("deep", "x.a.mesh.", "10.0.0.3")
    add("short", "mcp-a.", "10.0.0.4")
    return dns


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("mcp-a", ["10.0.0.4"]),
        ("mcp-a.", ["10.0.0.4"]),
        ("b.mcp-a", []),
        ("any.mesh", ["10.0.0.1"]),
        ("many.labels.mesh", ["10.0.0.1"]),
        ("plain.mesh", ["10.0.0.2"]),
        ("x.a.mesh", ["10.0.0.3"]),
        ("y.a.mesh", []),
        ("mesh", []),
        ("notmesh", []),
        ("", []),
    ],
)
def test_a_name_is_resolved_in_the_most_specific_zone(zones, host, found):
    assert zones.resolve(NETWORK, host) == found
    assert zones.resolve(f"{NETWORK}-other", host) == []


@given(host=st.text(max_size=300))
def test_no_name_makes_the_zones_fail(zones, host):
    assert set(zones.resolve(NETWORK, host)) <= {f"10.0.0.{last}" for last in range(1, 5)}
