"""A fleet with every feature that one machine supports, deployed by `./dev up`; each effect is checked.

In the container (variables, files, folders), at the ingress (who passes), at the load balancer (TLS, redirect).
"""

import base64
import ssl

import httpx2
import pytest
import requests
import yaml
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from mcpfleet_local_cloud.commands.admin import AdminClient

pytestmark = pytest.mark.integration

PROJECT = "mcpfleet-local"
ORGANIZATION = "108152342316"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GCLOUD = "32555940559.apps.googleusercontent.com"
TOOLBOX = "docker.io/mcpfleet-examples/toolbox:1"
ADA = "user:ada@mcpfleet.test"
DOMAIN = "mcp.acme.dev"


def source(port):
    return {"image": TOOLBOX, "port": port, "args": ["--port", str(port), "--host", "0.0.0.0"]}  # noqa: S104


PLAIN = {
    "toolbox": {"source": source(5000), "access": {"iam": {"invokers": [ADA]}}},
    "far": {
        "source": source(5000),
        "access": {"iam": {"invokers": [ADA]}},
        "domain": DOMAIN,
        "ingress": "internal-and-lb",
        "vpc": {"network": "default", "all_traffic": True},
    },
}
RENAMED = "far-tools"
"""The name of the service of `far` from the second deployment on; its load balancer stays."""
SERVERS = {
    "toolbox": {
        **PLAIN["toolbox"],
        "secrets": {
            "DB_PASSWORD": {"secret": "toolbox-db", "version": "1"},
            "/config/tools.yaml": {"secret": "toolbox-config", "version": "latest"},
        },
        "roles": ["roles/logging.logWriter"],
        "volumes": {
            "scratch": {"memory": "64Mi", "mount": "/scratch"},
            "data": {"gcs": {"bucket": "acme-data", "read_only": False}, "mount": "/data"},
        },
        "sidecars": {
            "helper": {
                "image": TOOLBOX,
                "args": ["--port", "5001", "--host", "0.0.0.0"],  # noqa: S104
                "memory": "256Mi",
                "cpu": "0.5",
                "startup": {"port": 5001, "period": 1, "failures": 60},
            }
        },
        "depends_on": ["helper"],
    },
    "far": {**PLAIN["far"], "service_name": RENAMED, "domain_path": "/mcp"},
    "proxied": {
        "source": source(5000),
        "access": {"iap": {"members": [ADA], "programmatic_clients": [GCLOUD]}},
        "agent_registry": "entry",
    },
    "open": {
        "source": source(5000),
        "access": {"public": {"reason": "a test of what everybody may call"}},
        "agent_registry": "functional-type",
    },
}

CLIENTS = {
    "caller": {
        "source": {
            "folder": ".",
            "dockerfile": "mcp_client/Dockerfile",
            "build_args": {"BASE_IMAGE": "mcpfleet/base:python3.13"},
        },
        "calls": ["proxied"],
        "access": {"iam": {"invokers": [ADA]}},
        "health_path": "/health",
        "secrets": {
            "CRM_TOKEN": {"secret": "toolbox-db", "version": "1"},
            "/keys/tools.yaml": {"secret": "toolbox-config", "version": "1"},
        },
        "volumes": {
            "scratch": {"memory": "8Mi", "mount": "/scratch"},
            "data": {"gcs": {"bucket": "acme-data"}, "mount": "/data"},
        },
    }
}


def write(checkout, servers, **more):
    path = checkout.place.root / "Pulumi.local.yaml"
    stack = yaml.safe_load(path.read_text())
    stack["config"]["mcpfleet:fleet"] |= {"servers": servers, **more}
    path.write_text(yaml.safe_dump(stack, sort_keys=False))


def prepare(checkout):
    """The secrets and the bucket that a person makes before a stack uses them."""
    key = checkout.place.credentials / "deployer.json"
    credentials = service_account.Credentials.from_service_account_file(str(key), scopes=[SCOPE])
    with requests.Session() as session:
        credentials.refresh(Request(session))
    headers = {"Authorization": f"Bearer {credentials.token}"}
    secrets = f"/secretmanager/v1/projects/{PROJECT}/secrets"
    with httpx2.Client(base_url=checkout.place.url, headers=headers, trust_env=False) as api:

        def ok(path, body):
            answer = api.post(path, json=body)
            assert answer.is_success, answer.text

        for name in ("secretmanager", "storage"):
            ok(f"/serviceusage/v1/projects/{PROJECT}/services/{name}.googleapis.com:enable", {})
        for name, value in (("toolbox-db", b"swordfish"), ("toolbox-config", b"tools: []\n")):
            ok(f"{secrets}?secretId={name}", {"replication": {"automatic": {}}})
            ok(f"{secrets}/{name}:addVersion", {"payload": {"data": base64.b64encode(value).decode()}})
        ok(f"/storage/v1/b?project={PROJECT}", {"name": "acme-data", "location": "EU"})


@pytest.fixture(scope="module")
def checkout(make_checkout):
    checkout = make_checkout("features")
    write(checkout, PLAIN)
    checkout.ok("up")
    prepare(checkout)
    more = {"organization": ORGANIZATION, "registry": {"remote": "docker.io"}, "labels": {"team": "x"}}
    more |= {"load_balancer": "shared"}
    write(checkout, SERVERS, clients=CLIENTS, **more)
    return checkout


@pytest.fixture(scope="module")
def first(checkout):
    return checkout.ok("up")


def container(checkout, engine, server, index="0"):
    wanted = {"dev.mcpfleet.service": f"mcp-{server}", "dev.mcpfleet.container": index}
    return next(item for item in checkout.containers(engine) if wanted.items() <= item.labels.items())


def balancers(checkout):
    return {item["url"].partition(":")[0]: item for item in AdminClient(checkout.place).inventory()["loadBalancers"]}


def test_up_deploys_and_verifies_every_server(deployed):
    assert "checks of 4 servers and 1 client passed" in deployed


def test_a_second_up_changes_nothing(deployed, checkout):
    assert "no changes" in checkout.ok("up")


def test_the_container_has_its_secrets_and_volumes(deployed, checkout, engine):
    main = container(checkout, engine, "toolbox")
    said = main.exec_run(
        ["sh", "-c", "echo $DB_PASSWORD; cat /config/tools.yaml; stat -f -c %T /scratch; echo x > /data/made"]
    )
    assert said.output.decode().split("\n")[:3] == ["swordfish", "tools: []", "tmpfs"]
    assert (checkout.place.state / "cloud" / "storage" / "acme-data" / "made").read_text() == "x\n"
    helper = container(checkout, engine, "toolbox", "1")
    # The helper started first, because the server depends on it: the network is its.
    assert main.attrs["HostConfig"]["NetworkMode"] == f"container:{helper.id}"
    assert helper.attrs["HostConfig"]["Memory"] == 256 * 2**20
    assert not any(item.startswith(("PORT=", "DB_PASSWORD=")) for item in helper.attrs["Config"]["Env"])


def test_no_secret_is_in_the_state_the_logs_or_the_store(deployed, checkout):
    places = [checkout.place.state / "pulumi", checkout.place.state / "logs", checkout.place.state / "cloud"]
    for path in (file for place in places for file in place.rglob("*") if file.is_file()):
        inside = path.relative_to(checkout.place.state).parts[:2] == ("cloud", "mounts")
        assert inside or b"swordfish" not in path.read_bytes(), path


def test_the_domain_serves_its_certificate_and_redirects_plain_http(deployed, checkout):
    found = balancers(checkout)
    assert found["https"]["domains"] == [DOMAIN]
    trusted = ssl.create_default_context(cafile=str(checkout.place.state / "cloud" / "ca" / "ca.pem"))
    with httpx2.Client(verify=trusted, headers={"Host": DOMAIN}, trust_env=False) as client:
        url = found["https"]["url"]
        token = checkout.who("ada", f"https://{DOMAIN}/mcp")
        assert client.get(f"{url}/mcp", extensions={"sni_hostname": DOMAIN}).status_code == 403
        answer = client.post(f"{url}/mcp", extensions={"sni_hostname": DOMAIN}, auth=token, json={})
        assert answer.status_code not in (401, 403, 404)
        elsewhere = client.get(f"{url}/elsewhere", extensions={"sni_hostname": DOMAIN}, auth=token)
        assert elsewhere.status_code == 503, "a path of the domain that is no server's"
        redirect = client.get(f"{found['http']['url']}/mcp?a=b")
        assert redirect.status_code in (301, 308)
        assert redirect.headers["location"] == f"https://{DOMAIN}/mcp?a=b"


def uris(checkout):
    services = [item for item in checkout.state.resources if item["type"] == "gcp:cloudrunv2/service:Service"]
    return {item["outputs"]["name"]: item["outputs"]["uri"] for item in services}


def uri_of(checkout, server):
    return uris(checkout)[f"mcp-{server}"]


def test_an_internal_server_is_reached_only_through_the_load_balancer(deployed, checkout):
    url = uris(checkout)[RENAMED]
    assert checkout.get(f"{url}/mcp", checkout.who("ada", url)).status_code == 404


def test_renaming_a_service_replaces_it(deployed, checkout):
    assert "mcp-far" not in uris(checkout)
    assert checkout.state.outputs["servers"]["far"]["service"] == RENAMED


def test_identity_aware_proxy_accepts_only_its_members(deployed, checkout):
    url = f"{uri_of(checkout, 'proxied')}/mcp"

    def posted(name=None):
        auth = checkout.who(name, GCLOUD) if name else None
        if auth is not None:
            auth.header = "Authorization"  # the proxy looks at no other but Proxy-Authorization
        return httpx2.post(url, json={}, auth=auth, trust_env=False)

    assert posted().text == "Invalid IAP credentials: empty token"
    assert posted("bob").status_code == 403
    assert posted("ada").status_code not in (401, 403, 404)


def test_a_fleet_client_passes_identity_aware_proxy_as_its_own_account(deployed, checkout):
    caller = checkout.state.outputs["clients"]["caller"]
    question = {"tool": "slugify", "arguments": {"text": "Behind IAP"}}
    auth = checkout.who("ada", caller["url"])
    answer = httpx2.post(f"{caller['url']}/ask", json=question, auth=auth, timeout=90, trust_env=False)
    assert answer.json()["servers"]["proxied"]["result"]["structuredContent"] == {"result": "behind-iap"}


def test_a_client_has_its_secrets_and_volumes(deployed, checkout, engine):
    said = container(checkout, engine, "caller").exec_run(
        ["sh", "-c", "echo $CRM_TOKEN; cat /keys/tools.yaml; stat -f -c %T /scratch; touch /data/x 2>&1; ls /data"]
    )
    lines = said.output.decode().splitlines()
    assert lines[:3] == ["swordfish", "tools: []", "tmpfs"]
    assert "Read-only" in lines[3], "a bucket is read only unless said"


def test_a_public_server_accepts_calls_without_a_token(deployed, checkout):
    answer = httpx2.post(f"{uri_of(checkout, 'open')}/mcp", json={}, trust_env=False)
    assert answer.status_code not in (401, 403, 404)


def test_down_removes_everything_except_resources_created_by_hand(deployed, checkout, engine):
    assert container(checkout, engine, "toolbox").exec_run(["sh", "-c", "echo x > /data/made"]).exit_code == 0
    assert "Nothing is left" in checkout.ok("down")
    held = AdminClient(checkout.place)
    with pytest.raises(Exception, match="does not answer"):  # it is stopped as well
        held.inventory()
    assert (checkout.place.state / "cloud" / "storage" / "acme-data" / "made").exists()
