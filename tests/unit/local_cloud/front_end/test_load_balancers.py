"""Networks and load balancers: their documents, by the API and the plugin, and which way a request goes."""

import asyncio
from dataclasses import replace

import pytest

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.front_end.authorizer import Allowed, Authorizer
from mcpfleet_local_cloud.front_end.balancer import Balancer
from mcpfleet_local_cloud.front_end.routing import RoutedRequest
from mcpfleet_local_cloud.identity.tokens import Claims

GLOBAL = "/compute/v1/projects/mcpfleet-local/global"
URL = f"https://www.googleapis.com{GLOBAL}"
SERVICES = "/run/v2/projects/mcpfleet-local/locations/europe-west1/services"
DOMAIN = "mcp.acme.dev"
TYPE = "gcp:compute/"
ADDRESS = "gcp:compute/globalAddress:GlobalAddress"
CERTIFICATE = "gcp:compute/managedSslCertificate:ManagedSslCertificate"
GROUP = "gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup"
BACKEND = "gcp:compute/backendService:BackendService"
MAP = "gcp:compute/uRLMap:URLMap"
HTTPS = "gcp:compute/targetHttpsProxy:TargetHttpsProxy"
HTTP = "gcp:compute/targetHttpProxy:TargetHttpProxy"
RULE = "gcp:compute/globalForwardingRule:GlobalForwardingRule"
NETWORK = "gcp:compute/network:Network"
SUBNETWORK = "gcp:compute/subnetwork:Subnetwork"


@pytest.fixture
def api(running):
    running.enable("run", "compute")
    return running


def service(api, name="hello", **more):
    body = {"template": {"containers": [{"image": "docker.io/acme/hello:1"}], **more.pop("template", {})}, **more}
    answer = api.call("POST", f"{SERVICES}?serviceId={name}", body)
    if answer.status_code == 200:
        api.call("POST", f"/run/v2/{answer.json()['name']}:wait", {})
    return answer


@pytest.fixture
def balanced(api, program):
    """The resources that components.custom_domain creates: kind, inputs and the resource, in order."""
    service(api)
    return domain_resources(program)


def domain_resources(program):
    made = []

    def create(kind, inputs):
        made.append((kind, inputs, program.create(kind, inputs)))
        return made[-1][2].resource_id

    address = create(ADDRESS, {"name": "mcp"})
    certificate = create(CERTIFICATE, {"name": "cert", "managed": {"domains": [DOMAIN]}})
    cloud_run = {"region": "europe-west1", "networkEndpointType": "SERVERLESS", "cloudRun": {"service": "hello"}}
    group = create(GROUP, {"name": "mcp", **cloud_run})
    scheme = {"loadBalancingScheme": "EXTERNAL_MANAGED"}
    backend = create(BACKEND, {"name": "mcp", "protocol": "HTTPS", "backends": [{"group": group}], **scheme})
    routes = create(MAP, {"name": "mcp", "defaultService": backend})
    proxy = create(HTTPS, {"name": "mcp", "urlMap": routes, "sslCertificates": [certificate]})
    redirect = {"httpsRedirect": True, "redirectResponseCode": "MOVED_PERMANENTLY_DEFAULT", "stripQuery": False}
    redirects = create(MAP, {"name": "mcp-redirect", "defaultUrlRedirect": redirect})
    plain = create(HTTP, {"name": "mcp", "urlMap": redirects})
    for name, port, target in (("mcp-https", "443", proxy), ("mcp-http", "80", plain)):
        create(RULE, {"name": name, "ipAddress": address, "portRange": port, "target": target, **scheme})
    return made


def test_a_program_creates_reruns_and_destroys_a_load_balancer(api, program, balanced):
    for kind, inputs, made in balanced:
        read = program.read(kind, made)
        assert program.diff(kind, read, inputs) == {}, kind
        assert read.resource_id == made.resource_id
    assert balanced[0][2].properties["address"] == "127.0.0.1"
    assert len(api.cloud.inventory()["records"]) == len(balanced)
    for kind, _, made in reversed(balanced):
        program.delete(kind, made)
        assert program.read(kind, made) is None
    assert api.cloud.inventory()["records"] == []


def test_a_managed_certificate_is_active_at_once(api, balanced):
    found = api.call("GET", f"{GLOBAL}/sslCertificates/cert").json()
    assert found["managed"] == {"domains": [DOMAIN], "status": "ACTIVE", "domainStatus": {DOMAIN: "ACTIVE"}}


def test_a_resource_in_use_is_not_deleted(api, program, balanced):
    by_kind = {kind: made for kind, _, made in balanced}
    for kind in (ADDRESS, CERTIFICATE, GROUP, BACKEND, HTTPS):
        with pytest.raises(Exception, match="is already being used by"):
            program.delete(kind, by_kind[kind])


def test_a_missing_referenced_resource_is_named(api):
    body = {"name": "x", "urlMap": "projects/mcpfleet-local/global/urlMaps/none", "sslCertificates": ["x"]}
    answer = api.call("POST", f"{GLOBAL}/targetHttpsProxies", body)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == (
        "The resource 'projects/mcpfleet-local/global/urlMaps/none' was not found"
    )


@pytest.mark.parametrize(
    ("collection", "body", "status", "said"),
    [
        ("backendServices", {"loadBalancingScheme": "INTERNAL_MANAGED"}, 501, "loadBalancingScheme"),
        ("backendServices", {"enableCDN": True}, 501, "enableCDN"),
        ("backendServices", {"iap": {"enabled": True}}, 501, "backendService.iap"),
        ("addresses", {"addressType": "INTERNAL"}, 501, "addressType"),
        ("addresses", {"purpose": "VPC_PEERING"}, 501, "purpose"),
        ("urlMaps", {}, 400, "exactly one of defaultService and defaultUrlRedirect"),
        ("urlMaps", {"defaultUrlRedirect": {"nonsense": 1}}, 400, "nonsense"),
        ("sslCertificates", {"managed": {"domains": []}}, 400, "At least one domain"),
        ("sslCertificates", {}, 400, "resource.managed"),
        ("nonsense", {}, 404, "has no method"),
    ],
)
def test_invalid_and_unsupported_fields_are_refused_by_name(api, collection, body, status, said):
    answer = api.call("POST", f"{GLOBAL}/{collection}", {"name": "x", **body})
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text


def test_the_timeout_of_a_serverless_backend_is_refused_as_google_does(api, program, balanced):
    group = next(made.resource_id for kind, _, made in balanced if kind == GROUP)
    answer = api.call(
        "POST", f"{GLOBAL}/backendServices", {"name": "x", "timeoutSec": 9, "backends": [{"group": group}]}
    )
    assert "Timeout sec is not supported for a backend service" in answer.json()["error"]["message"]


def test_each_change_is_in_place_or_a_replacement_as_on_google(api, program, balanced):
    by_kind = {kind: (inputs, made) for kind, inputs, made in balanced}
    inputs, made = by_kind[HTTPS]
    program.create(CERTIFICATE, {"name": "other", "managed": {"domains": ["b.dev"]}})
    other = {**inputs, "sslCertificates": ["projects/mcpfleet-local/global/sslCertificates/other"]}
    assert program.update(HTTPS, made, other).properties["sslCertificates"] == [f"{URL}/sslCertificates/other"]
    assert api.cloud.balancer.domains() == {"b.dev"}
    inputs, made = by_kind[CERTIFICATE]
    assert program.replaced(CERTIFICATE, made, {**inputs, "managed": {"domains": ["c.dev"]}}) == ["managed.domains[0]"]
    inputs, made = by_kind[RULE]
    assert program.replaced(RULE, made, {**inputs, "portRange": "8080"}) == ["portRange"]
    inputs, made = by_kind[BACKEND]
    changed = program.update(BACKEND, made, {**inputs, "description": "x"})
    assert changed.properties["description"] == "x"


def test_a_change_of_scheme_is_in_place_and_refused_without_a_migration(program, balanced):
    """The real provider patches the scheme; Google changes it after the states of a migration alone."""
    by_kind = {kind: (inputs, made) for kind, inputs, made in balanced}
    for kind, call in ((BACKEND, "PUT"), (RULE, "PATCH")):
        inputs, made = by_kind[kind]
        program.requests.clear()
        with pytest.raises(Exception, match=r"resource\.loadBalancingScheme"):
            program.update(kind, made, {**inputs, "loadBalancingScheme": "EXTERNAL"})
        assert [item.partition(" ")[0] for item in program.requests] == [call]


def test_a_request_is_routed_by_the_url_map_to_the_service(api, balanced):
    arrival = api.cloud.balancer.route("projects/mcpfleet-local/global/forwardingRules/mcp-https", DOMAIN, "/mcp", "")
    assert (arrival.is_balanced, arrival.is_https, arrival.balancer_address) == (True, True, "127.0.0.1")
    assert arrival.endpoint.service.endswith("/services/hello")
    assert api.cloud.balancer.route_by_host("x.dev", "/", "") is None


def test_a_plain_request_is_redirected_with_its_path_and_query(api, balanced):
    rule = "projects/mcpfleet-local/global/forwardingRules/mcp-http"
    arrival = api.cloud.balancer.route(rule, DOMAIN, "/mcp", "a=b")
    assert arrival.redirect == (301, f"https://{DOMAIN}/mcp?a=b")
    assert not arrival.is_https


def test_hosts_and_paths_have_their_own_backends(api, program, balanced):
    service(api, "admin")
    group = program.create(GROUP, {"name": "admin", "region": "europe-west1", "cloudRun": {"service": "admin"}})
    backend = program.create(
        BACKEND,
        {"name": "admin", "loadBalancingScheme": "EXTERNAL_MANAGED", "backends": [{"group": group.resource_id}]},
    )
    by_kind = {kind: (inputs, made) for kind, inputs, made in balanced}
    inputs, made = next((inputs, made) for kind, inputs, made in balanced if kind == MAP)
    matcher = {
        "name": "m",
        "defaultService": by_kind[BACKEND][1].resource_id,
        "pathRules": [{"paths": ["/admin/*"], "service": backend.resource_id}],
    }
    program.update(
        MAP, made, {**inputs, "hostRules": [{"hosts": ["*.acme.dev"], "pathMatcher": "m"}], "pathMatchers": [matcher]}
    )

    def to(host, path):
        rule = "projects/mcpfleet-local/global/forwardingRules/mcp-https"
        return api.cloud.balancer.route(rule, host, path, "").endpoint.service.rpartition("/")[2]

    assert to(DOMAIN, "/admin/x") == "admin"
    assert to(DOMAIN, "/admin") == "admin"
    assert to(DOMAIN, "/administer") == "hello"
    assert to("other.dev", "/admin/x") == "hello"


def test_the_longest_path_pattern_takes_precedence(api, program, balanced):
    service(api, "admin")
    group = program.create(GROUP, {"name": "admin", "region": "europe-west1", "cloudRun": {"service": "admin"}})
    scheme = {"loadBalancingScheme": "EXTERNAL_MANAGED"}
    admin = program.create(BACKEND, {"name": "admin", **scheme, "backends": [{"group": group.resource_id}]}).resource_id
    by_kind = {kind: made for kind, _, made in balanced}
    hello = by_kind[BACKEND].resource_id
    inputs, made = next((inputs, made) for kind, inputs, made in balanced if kind == MAP)
    rules = [{"paths": ["/a", "/a/*"], "service": hello}, {"paths": ["/a/b", "/a/b/*"], "service": admin}]
    matcher = {"name": "m", "defaultService": hello, "pathRules": rules}
    program.update(
        MAP, made, {**inputs, "hostRules": [{"hosts": [DOMAIN], "pathMatcher": "m"}], "pathMatchers": [matcher]}
    )

    def to(path):
        rule = "projects/mcpfleet-local/global/forwardingRules/mcp-https"
        return api.cloud.balancer.route(rule, DOMAIN, path, "").endpoint.service.rpartition("/")[2]

    assert [to(path) for path in ("/a/b/c", "/a/b", "/a/c", "/b")] == ["admin", "admin", "hello", "hello"]


def test_a_backend_without_groups_answers_503(api, program, balanced):
    """Google's load balancer has nowhere to send the request to; no service is missing."""
    nowhere = program.create(BACKEND, {"name": "nowhere", "loadBalancingScheme": "EXTERNAL_MANAGED"}).resource_id
    inputs, made = next((inputs, made) for kind, inputs, made in balanced if kind == MAP)
    program.update(MAP, made, {**inputs, "defaultService": nowhere})
    arrival = api.cloud.balancer.route("projects/mcpfleet-local/global/forwardingRules/mcp-https", DOMAIN, "/", "")
    assert (arrival.endpoint, arrival.has_no_backend) == (None, True)


def test_a_missing_service_has_no_endpoint(api, program):
    domain_resources(program)
    assert api.cloud.balancer.route_by_host(DOMAIN, "/", "").endpoint is None


# --- who is inside ----------------------------------------------------------------------------------------


class Everybody:
    def allows(self, email, permission, resource):
        return True

    def verify_id_token(self, token) -> Claims:
        raise AssertionError


INSIDE = {"is_internal": True}
BALANCED = {"is_balanced": True}


@pytest.mark.parametrize(
    ("ingress", "arrival", "passes"),
    [
        ("INGRESS_TRAFFIC_ALL", {}, True),
        ("INGRESS_TRAFFIC_ALL", BALANCED, True),
        ("INGRESS_TRAFFIC_INTERNAL_ONLY", {}, False),
        ("INGRESS_TRAFFIC_INTERNAL_ONLY", BALANCED, False),
        ("INGRESS_TRAFFIC_INTERNAL_ONLY", INSIDE, True),
        ("INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER", {}, False),
        ("INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER", BALANCED, True),
        ("INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER", INSIDE, True),
    ],
)
def test_ingress_accepts_its_sources_and_answers_404_to_others(ingress, arrival, passes):
    door = ServiceEndpoint(service="s", audiences=frozenset(), hosts=frozenset({"s-1.r.run.app"}), ingress=ingress)
    guard = Authorizer(Everybody(), Everybody())
    verdict = guard.check(RoutedRequest(endpoint=door, **arrival), [(b"host", b"s-1.r.run.app")], "/mcp")
    assert isinstance(verdict, Allowed) == passes
    assert passes or verdict.page.status == 404


def test_a_disabled_default_url_does_not_affect_load_balancers():
    door = ServiceEndpoint(service="s", audiences=frozenset(), hosts=frozenset({"s-1.r.run.app"}), default_uri=False)
    guard = Authorizer(Everybody(), Everybody())
    host = [(b"host", b"s-1.r.run.app")]
    assert not isinstance(guard.check(RoutedRequest(endpoint=door, **INSIDE), host, "/"), Allowed)
    assert not isinstance(guard.check(RoutedRequest(endpoint=door, port=1), [(b"host", b"127.0.0.1:1")], "/"), Allowed)
    assert isinstance(guard.check(RoutedRequest(endpoint=door, **BALANCED), [(b"host", DOMAIN.encode())], "/"), Allowed)


# --- networks ---------------------------------------------------------------------------------------------


def interfaces(*given, **more):
    return {"template": {"vpcAccess": {"networkInterfaces": list(given), **more}}}


@pytest.mark.parametrize("interface", [{"network": "default"}, {"subnetwork": "default"}])
def test_the_default_network_exists_and_completes_the_interface(api, interface):
    assert service(api, **interfaces(interface, egress="ALL_TRAFFIC")).status_code == 200
    access = api.call("GET", f"{SERVICES}/hello").json()["template"]["vpcAccess"]
    assert access == {
        "networkInterfaces": [{"network": "default", "subnetwork": "default"}],
        "egress": "ALL_TRAFFIC",
    }
    (revision,) = api.plane.running.values()
    assert revision.vpc_all_traffic


def test_egress_defaults_to_private_ranges_which_is_not_internal(api):
    service(api, **interfaces({"network": "default"}))
    (revision,) = api.plane.running.values()
    assert not revision.vpc_all_traffic


def test_a_network_or_subnetwork_that_does_not_exist_is_refused(api, running):
    for interface in ({"network": "none"}, {"subnetwork": "none"}, {"network": "none", "subnetwork": "default"}):
        refused = service(api, **interfaces(interface))
        assert refused.status_code == 400
        assert "was not found" in refused.json()["error"]["message"]


def test_without_the_compute_api_there_is_no_network(running):
    running.enable("run")
    assert "Compute Engine API is not enabled" in service(running, **interfaces({"network": "default"})).text


def test_a_network_created_by_the_program_is_used(api, program):
    network = program.create(NETWORK, {"name": "mcp", "autoCreateSubnetworks": False})
    inputs = {"name": "run", "network": network.resource_id, "ipCidrRange": "10.0.0.0/24", "region": "europe-west1"}
    subnetwork = program.create(SUBNETWORK, inputs)
    assert program.diff(SUBNETWORK, program.read(SUBNETWORK, subnetwork), inputs) == {}
    assert service(api, **interfaces({"network": "mcp", "subnetwork": "run"})).status_code == 200
    assert service(api, "second", **interfaces({"network": "mcp"})).status_code == 400
    with pytest.raises(Exception, match="is already being used by"):
        program.delete(NETWORK, network)
    program.delete(SUBNETWORK, subnetwork)
    program.delete(NETWORK, network)


# --- the listener -----------------------------------------------------------------------------------------


def test_a_forwarding_rule_opens_and_closes_its_listener(api, balanced, monkeypatch):
    opened, closed, taken = [], [], set()

    def port_of(url):
        return int(url.rpartition(":")[2])

    class Listeners:
        def __init__(self, host, tls=None):
            self.host, self.tls = host, tls

        def open(self, port):
            opened.append((self.host, port, self.tls))
            return port not in taken

        async def serve(self, app):
            pass

        async def close_all(self):
            closed.append(self.host)

    monkeypatch.setattr("mcpfleet_local_cloud.front_end.balancer.Listeners", Listeners)

    async def scenario():
        balancer = Balancer(api.cloud.compute, api.cloud.certificates, api.cloud.run.find_endpoint)
        await balancer.open(lambda *_: None, "tls")
        urls = [item["url"] for item in balancer.inventory()]
        await balancer.close()
        return urls

    first = asyncio.run(scenario())
    assert [url.rpartition(":")[0] for url in first] == ["http://127.0.0.1", "https://127.0.0.1"]
    assert opened == [("127.0.0.1", port_of(url), "tls" if "https" in url else None) for url in first]
    assert closed == ["127.0.0.1", "127.0.0.1"]
    assert asyncio.run(scenario()) == first, "the same after a restart"
    taken.add(port_of(first[0]))
    again = asyncio.run(scenario())
    assert port_of(again[0]) not in (port_of(first[0]), port_of(again[1])), "another program has the port now"
    assert again[1] == first[1]


# --- the same thing spelled differently ---------------------------------------------------------------------


def test_full_resource_urls_in_responses_are_no_change_for_short_names(program, balanced):
    """Answers are URLs, an IP and a range of ports; the program names, an address and one port."""
    by_kind = {kind: (inputs, made) for kind, inputs, made in balanced}
    inputs, made = by_kind[RULE]
    assert (made.properties["ipAddress"], made.properties["portRange"]) == ("127.0.0.1", "80-80")
    assert made.properties["target"] == f"{URL}/targetHttpProxies/mcp"
    assert by_kind[GROUP][1].properties["region"].endswith("/regions/europe-west1")
    inputs, made = by_kind[HTTPS]
    assert program.diff(HTTPS, made, {**inputs, "urlMap": "mcp", "sslCertificates": ["cert"]}) == {}
    assert list(program.diff(HTTPS, made, {**inputs, "urlMap": "mcp-redirect"})) == ["urlMap"]
    inputs, made = by_kind[GROUP]
    assert program.replaced(GROUP, made, {**inputs, "region": "europe-west4"}) == ["region"]
    inputs, made = by_kind[BACKEND]
    other = {"group": "projects/mcpfleet-local/regions/europe-west4/networkEndpointGroups/mcp"}
    assert list(program.diff(BACKEND, made, {**inputs, "backends": [other]})) == ["backends[0]"]


def test_an_older_states_short_names_cause_no_change(program, balanced):
    for kind, inputs, made in balanced:
        older = {**made.properties, **{name: value for name, value in inputs.items() if isinstance(value, str)}}
        assert program.diff(kind, replace(made, properties=older), inputs) == {}, kind
