"""Compute Engine's answers: what Google fills in and spells out where a request left it out or short."""

from typing import Any

import pytest

BASE = "/compute/v1/projects/mcpfleet-local"
GLOBAL = f"{BASE}/global"
URL = "https://www.googleapis.com" + BASE


@pytest.fixture
def api(running: Any) -> Any:
    running.enable("run", "compute")
    return running


def make(api: Any, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Create the document; its answer when it is read."""
    done = api.call("POST", url, body)
    assert done.status_code == 200, done.text
    return api.call("GET", f"{url}/{body['name']}").json()


@pytest.fixture
def balanced(api: Any) -> dict[str, dict[str, Any]]:
    """A load balancer's documents by collection, each made with references as short as Google takes them."""
    other_field = "projects/mcpfleet-local"
    result = {"addresses": make(api, f"{GLOBAL}/addresses", {"name": "a"})}
    result["sslCertificates"] = make(
        api, f"{GLOBAL}/sslCertificates", {"name": "c", "type": "MANAGED", "managed": {"domains": ["a.dev"]}}
    )
    result["networkEndpointGroups"] = make(
        api,
        f"{BASE}/regions/europe-west1/networkEndpointGroups",
        {"name": "n", "cloudRun": {"service": "s"}, "region": f"{other_field}/global/regions/europe-west1"},
    )
    group = f"{other_field}/regions/europe-west1/networkEndpointGroups/n"
    backend = {"group": group, "maxUtilization": None}
    result["backendServices"] = make(
        api,
        f"{GLOBAL}/backendServices",
        {"name": "b", "loadBalancingScheme": "EXTERNAL_MANAGED", "backends": [backend], "iap": None},
    )
    service = f"{other_field}/global/backendServices/b"
    matchers = [{"name": "m", "defaultService": service, "pathRules": [{"paths": ["/x"], "service": service}]}]
    result["urlMaps"] = make(
        api,
        f"{GLOBAL}/urlMaps",
        {
            "name": "m",
            "defaultService": f"http://127.0.0.1:1/compute/v1/{service}",
            "hostRules": [{"hosts": ["a.dev"], "pathMatcher": "m"}],
            "pathMatchers": matchers,
        },
    )
    proxy = {
        "urlMap": f"{other_field}/global/urlMaps/m",
        "sslCertificates": [f"{other_field}/global/sslCertificates/c"],
    }
    result["targetHttpsProxies"] = make(api, f"{GLOBAL}/targetHttpsProxies", {"name": "p", **proxy})
    rule = {"IPAddress": f"{other_field}/global/addresses/a", "target": f"{other_field}/global/targetHttpsProxies/p"}
    result["forwardingRules"] = make(
        api,
        f"{GLOBAL}/forwardingRules",
        {"name": "r", "portRange": "443", "loadBalancingScheme": "EXTERNAL_MANAGED", **rule},
    )
    return result


def test_references_are_returned_as_urls(balanced: Any) -> None:
    backend, routes = f"{URL}/global/backendServices/b", balanced["urlMaps"]
    assert balanced["networkEndpointGroups"]["region"] == f"{URL}/regions/europe-west1"
    assert balanced["backendServices"]["backends"] == [
        {
            "group": f"{URL}/regions/europe-west1/networkEndpointGroups/n",
            "balancingMode": "UTILIZATION",
            "capacityScaler": 1,
        }
    ]
    assert routes["defaultService"] == backend
    assert routes["pathMatchers"][0]["defaultService"] == backend
    assert routes["pathMatchers"][0]["pathRules"] == [{"paths": ["/x"], "service": backend}]
    assert balanced["targetHttpsProxies"]["urlMap"] == f"{URL}/global/urlMaps/m"
    assert balanced["targetHttpsProxies"]["sslCertificates"] == [f"{URL}/global/sslCertificates/c"]
    assert balanced["forwardingRules"]["target"] == f"{URL}/global/targetHttpsProxies/p"


def test_omitted_fields_get_defaults(api: Any, balanced: Any) -> None:
    rule, backend = balanced["forwardingRules"], balanced["backendServices"]
    assert (rule["IPAddress"], rule["portRange"], rule["IPProtocol"]) == ("127.0.0.1", "443-443", "TCP")
    assert (backend["protocol"], backend["timeoutSec"], backend["sessionAffinity"]) == ("HTTP", 30, "NONE")
    assert "iap" not in backend
    address = balanced["addresses"]
    assert (address["addressType"], address["ipVersion"], address["networkTier"]) == ("EXTERNAL", "IPV4", "PREMIUM")
    subnetwork = make(
        api,
        f"{BASE}/regions/europe-west1/subnetworks",
        {"name": "s", "network": "projects/mcpfleet-local/global/networks/default", "ipCidrRange": "10.9.0.0/24"},
    )
    assert subnetwork["network"] == f"{URL}/global/networks/default"
    assert (subnetwork["gatewayAddress"], subnetwork["purpose"]) == ("10.9.0.1", "PRIVATE")


def test_an_address_shows_whether_a_rule_uses_it(api: Any, balanced: Any) -> None:
    assert balanced["addresses"]["status"] == "RESERVED"
    now = api.call("GET", f"{GLOBAL}/addresses/a").json()
    assert (now["status"], now["users"]) == ("IN_USE", [f"{URL}/global/forwardingRules/r"])


def test_only_kinds_with_a_fingerprint_return_one(balanced: Any) -> None:
    assert {item for item, document in balanced.items() if "fingerprint" in document} == {
        "backendServices",
        "urlMaps",
        "targetHttpsProxies",
        "forwardingRules",
    }
    assert {item for item, document in balanced.items() if "labelFingerprint" in document} == {
        "addresses",
        "forwardingRules",
    }


@pytest.mark.parametrize("collection", ["backendServices", "urlMaps"])
def test_an_outdated_fingerprint_is_a_conflict(api: Any, balanced: Any, collection: str) -> None:
    read = balanced[collection]
    url = f"{GLOBAL}/{collection}/{read['name']}"
    assert api.call("PUT", url, {**read, "description": "first"}).status_code == 200
    stale = api.call("PUT", url, {**read, "description": "second"})
    assert (stale.status_code, "fingerprint" in stale.text) == (412, True)
    assert api.call("GET", url).json()["description"] == "first"


def test_labelling_a_rule_keeps_its_address(api: Any, balanced: Any) -> None:
    make(api, f"{GLOBAL}/addresses", {"name": "0-is-no-name"[2:]})
    rule = f"{GLOBAL}/forwardingRules/r"
    fingerprint = balanced["forwardingRules"]["labelFingerprint"]
    done = api.call("POST", f"{rule}/setLabels", {"labels": {"a": "b"}, "labelFingerprint": fingerprint})
    assert done.json()["operationType"] == "setLabels"
    assert api.call("POST", f"{rule}/setLabels", {"labels": {}, "labelFingerprint": fingerprint}).status_code == 412
    assert api.call("GET", rule).json()["labels"] == {"a": "b"}
    assert api.call("GET", f"{GLOBAL}/addresses/a").json()["status"] == "IN_USE"


@pytest.mark.parametrize(("url", "read"), [("", "GET"), ("/wait", "POST")])
def test_an_operation_keeps_its_fields_when_it_is_read_again(api: Any, url: str, read: str) -> None:
    done = api.call("POST", f"{GLOBAL}/addresses", {"name": "a"}).json()
    assert done["targetLink"] == f"{URL}/global/addresses/a"
    assert {"insertTime", "startTime", "endTime", "id"} <= done.keys()
    assert api.call(read, f"{GLOBAL}/operations/{done['name']}{url}").json() == done
    assert api.call("GET", f"{GLOBAL}/operations/operation-0").status_code == 404
    assert api.call("GET", f"{BASE}/regions/europe-west1/operations/{done['name']}").status_code == 404
