"""Two of everything that the APIs of a cloud list, made by its APIs."""

import json
from typing import Any

from mcpfleet_local_cloud.registry import ImageName
from mcpfleet_local_cloud.services.cloudbuild.model import KIND as BUILD

PROJECT = "projects/mcpfleet-local"
PLACE = f"{PROJECT}/locations/europe-west1"
GLOBAL = f"{PROJECT}/locations/global"
COMPUTE = f"/compute/v1/{PROJECT}"
CERTIFICATES = f"/certificatemanager/v1/{GLOBAL}"
APIS = (
    *("agentregistry", "artifactregistry", "certificatemanager", "cloudbuild", "cloudresourcemanager", "compute"),
    *("dns", "iam", "logging", "networkservices", "run", "secretmanager", "storage", "networksecurity"),
    *("trafficdirector", "sts"),
)
TEMPLATE = {"containers": [{"image": "docker.io/acme/hello:1"}]}


Sent = list[tuple[str, Any]]
"""Path and body of each POST."""


def fill(running: Any) -> Sent:
    """Make them; the deployer is an owner from then on. What was sent for the last ones."""
    running.enable(*APIS)
    running.grant("roles/owner", f"serviceAccount:deployer@{running.project}.iam.gserviceaccount.com")
    sent: Sent = []
    for name in ("aa", "bb"):
        sent = []
        _make(running, sent, name)
    return sent


def made(running: Any, sent: Sent, path: str, body: Any) -> Any:
    answer = running.call("POST", path, body)
    assert answer.status_code == 200, f"{path}: {answer.text}"
    sent.append((path, body))
    return answer.json()


def _make(running: Any, sent: Sent, name: str) -> None:
    """Create a resource of each kind with the name *name*."""
    fixed = {
        f"/agentregistry/v1/{PLACE}/services?serviceId={name}": {"endpointSpec": {"type": "NO_SPEC"}},
        f"/artifactregistry/v1/{PLACE}/repositories?repositoryId={name}": {
            "format": "DOCKER",
            "mode": "STANDARD_REPOSITORY",
        },
        f"/iam/v1/{PROJECT}/serviceAccounts": {"accountId": f"account-{name}"},
        f"/secretmanager/v1/{PROJECT}/secrets?secretId={name}": {"replication": {"automatic": {}}},
        f"/storage/v1/b?project={running.project}": {"name": f"bucket-{name}", "location": "EU"},
        f"/iam/v1/{GLOBAL}/workloadIdentityPools?workloadIdentityPoolId=pool-{name}": {},
        f"{CERTIFICATES}/dnsAuthorizations?dnsAuthorizationId={name}": {"domain": f"{name}.dev"},
        f"{CERTIFICATES}/certificates?certificateId={name}": {"managed": {"domains": [f"{name}.dev"]}},
        f"{CERTIFICATES}/certificateMaps?certificateMapId={name}": {},
        f"{CERTIFICATES}/certificateMaps/aa/certificateMapEntries?certificateMapEntryId={name}": {
            "hostname": f"{name}.dev",
            "certificates": [f"{GLOBAL}/certificates/{name}"],
        },
        f"/networkservices/v1/{GLOBAL}/meshes?meshId={name}": {},
        f"/run/v2/{PLACE}/services?serviceId={name}": {"template": TEMPLATE},
        f"/dns/v1/{PROJECT}/managedZones": {
            "name": name,
            "dnsName": f"{name}.acme.",
            "description": "",
            "visibility": "private",
            "privateVisibilityConfig": {"networks": [{"networkUrl": f"{PROJECT}/global/networks/default"}]},
        },
        f"{COMPUTE}/global/addresses": {"name": name},
        f"{COMPUTE}/global/networks": {"name": name, "autoCreateSubnetworks": False},
        f"{COMPUTE}/global/sslCertificates": {
            "name": name,
            "type": "MANAGED",
            "managed": {"domains": [f"{name}.dev"]},
        },
        f"{COMPUTE}/regions/europe-west1/subnetworks": {
            "name": name,
            "ipCidrRange": "10.7.0.0/24" if name == "aa" else "10.8.0.0/24",
            "network": f"{PROJECT}/global/networks/{name}",
        },
        f"{COMPUTE}/regions/europe-west1/networkEndpointGroups": {
            "name": name,
            "networkEndpointType": "SERVERLESS",
            "cloudRun": {"service": name},
        },
        f"{COMPUTE}/global/backendServices": {
            "name": name,
            "loadBalancingScheme": "EXTERNAL_MANAGED",
            "backends": [{"group": f"{PROJECT}/regions/europe-west1/networkEndpointGroups/{name}"}],
        },
        f"{COMPUTE}/global/urlMaps": {"name": name, "defaultService": f"{PROJECT}/global/backendServices/{name}"},
        f"{COMPUTE}/global/targetHttpProxies": {"name": name, "urlMap": f"{PROJECT}/global/urlMaps/{name}"},
        f"{COMPUTE}/global/targetHttpsProxies": {
            "name": name,
            "urlMap": f"{PROJECT}/global/urlMaps/{name}",
            "sslCertificates": [f"{PROJECT}/global/sslCertificates/{name}"],
        },
        f"{COMPUTE}/global/forwardingRules": {
            "name": name,
            "portRange": "443",
            "loadBalancingScheme": "EXTERNAL_MANAGED",
            "IPAddress": f"{PROJECT}/global/addresses/{name}",
            "target": f"{PROJECT}/global/targetHttpsProxies/{name}",
        },
    }
    for path, body in fixed.items():
        done = made(running, sent, path, body)
        if path.startswith("/run/"):
            made(running, sent, f"/run/v2/{done['name']}:wait", {})
    # Below the first of each.
    made(running, sent, f"/secretmanager/v1/{PROJECT}/secrets/aa:addVersion", {"payload": {"data": "eA=="}})
    issuer = {"oidc": {"issuerUri": "https://ci.acme.dev"}, "attributeMapping": {"google.subject": "assertion.sub"}}
    providers = f"/iam/v1/{GLOBAL}/workloadIdentityPools/pool-aa/providers"
    made(running, sent, f"{providers}?workloadIdentityPoolProviderId=provider-{name}", issuer)
    record = {"name": f"{name}.aa.acme.", "type": "A", "ttl": 300, "rrdatas": ["10.0.0.1"]}
    made(running, sent, f"/dns/v1/{PROJECT}/managedZones/aa/changes", {"additions": [record]})
    internal = {"loadBalancingScheme": "INTERNAL_SELF_MANAGED", "name": f"mesh-{name}"}
    group = f"{PROJECT}/regions/europe-west1/networkEndpointGroups/{name}"
    made(running, sent, f"{COMPUTE}/global/backendServices", {**internal, "backends": [{"group": group}]})
    destination = {"serviceName": f"{GLOBAL}/backendServices/mesh-{name}"}
    route = {
        "hostnames": [name],
        "meshes": [f"{GLOBAL}/meshes/aa"],
        "rules": [{"action": {"destinations": [destination]}}],
    }
    made(running, sent, f"/networkservices/v1/{GLOBAL}/httpRoutes?httpRouteId={name}", route)
    sent = running.client.post(
        f"/upload/storage/v1/b/bucket-aa/o?uploadType=media&name={name}", content=b"x", headers=running.headers()
    )
    assert sent.status_code == 200, sent.text
    running.call("PATCH", f"/run/v2/{PLACE}/services/aa", {"template": {**TEMPLATE, "revision": f"aa-{name}"}})
    _push(running, name)
    for place in (PLACE, GLOBAL):
        build = {"name": f"{place}/builds/{name}", "id": name, "createTime": "2026-01-01T00:00:00Z"}
        running.cloud.store.put(BUILD, build["name"], {**build, "status": "SUCCESS"})


def _push(running: Any, tag: str) -> None:
    image, catalog = ImageName("europe-west1", running.project, "aa", "hello"), running.cloud.catalog
    layer = catalog.blobs.put(tag.encode())
    catalog.link_blob(image, layer)
    document = {"config": {"digest": layer, "size": 2}, "layers": [{"digest": layer, "size": 2}]}
    catalog.put_manifest(image, tag, json.dumps(document).encode(), "application/vnd.oci.image.manifest.v1+json")
