"""Tests of calls between services and through load balancers, on a local cloud with real containers.

The client is unmodified google-auth and httpx, and is told a URL as on Google; nothing in it knows where it runs.
"""

import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import requests
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from mcpfleet_local_cloud import docker_engine
from mcpfleet_local_cloud.data_plane import remove_docker_objects
from tests.integration.checkout import free_port

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NUMBER = "481516234200"
REGION = "europe-west1"
PROJECT = "mcpfleet-local"
BASE = "mcpfleet/base:python3.13"
CLIENT_IMAGE = "mcpfleet-test/caller:1"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
DOMAIN = "mcp.acme.dev"

DOCKERFILE = f"""FROM {BASE}
RUN python3 -m venv /v && /v/bin/pip install -q google-auth==2.48.0 requests==2.32.5 httpx==0.28.1
"""
# Calls what it is told, as itself; answers with what came back.
CLIENT = """
import http.server, json, os, urllib.parse, urllib.request
import httpx
from google.auth.transport.requests import Request
from google.oauth2 import id_token
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        query = dict(urllib.parse.parse_qsl(self.path.partition("?")[2]))
        url, audience = query["url"], query.get("audience", query["url"])
        headers = {}
        if audience != "none": headers["Authorization"] = "Bearer " + id_token.fetch_id_token(Request(), audience)
        try:
            answer = httpx.get(url, headers=headers, timeout=30)
            body = json.dumps({"status": answer.status_code, "text": answer.text}).encode()
        except Exception as broken:
            body = json.dumps({"status": 0, "text": repr(broken)}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        body = (os.environ["K_SERVICE"] + " at " + self.headers["host"]).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


class Cloud:
    """A local cloud in a process of its own, used by its deployer."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "cloud"
        self.port = free_port()
        command = [
            sys.executable,
            "-m",
            "mcpfleet_local_cloud",
            "serve",
            "--state",
            str(self.state),
            "--port",
            str(self.port),
        ]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        assert "is ready" in self.process.stdout.readline()
        key = folder / "credentials" / "deployer.json"
        credentials = service_account.Credentials.from_service_account_file(str(key), scopes=[SCOPE])
        with requests.Session() as session:
            credentials.refresh(Request(session))
        headers = {"Authorization": f"Bearer {credentials.token}"}
        self.api = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=120)
        for api in ("run", "iam", "compute"):
            self.ok("POST", f"/serviceusage/v1/projects/{PROJECT}/services/{api}.googleapis.com:enable", {})

    def ok(self, method, path, body=None):
        answer = self.api.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def account(self, name):
        self.ok("POST", f"/iam/v1/projects/{PROJECT}/serviceAccounts", {"accountId": name})
        return f"{name}@{PROJECT}.iam.gserviceaccount.com"

    def deploy(self, name, code, *, python="python3", image=BASE, template=None, **more):
        container = {"image": image, "command": [python, "-c"], "args": [code]}
        body = {"template": {"containers": [container], **(template or {})}, **more}
        base = f"/run/v2/projects/{PROJECT}/locations/{REGION}/services"
        operation = self.ok("POST", f"{base}?serviceId={name}", body)
        done = self.ok("POST", f"/run/v2/{operation['name']}:wait", {})
        assert "error" not in done, done
        return done["response"]

    def change(self, name, **more):
        path = f"/run/v2/projects/{PROJECT}/locations/{REGION}/services/{name}"
        current = self.ok("GET", path)
        kept = {"template": current["template"], **more}
        operation = self.ok("PATCH", path, kept)
        done = self.ok("POST", f"/run/v2/{operation['name']}:wait", {})
        assert "error" not in done, done

    def invokers(self, name, *members):
        policy = {"bindings": [{"role": "roles/run.invoker", "members": list(members)}] if members else []}
        path = f"/run/v2/projects/{PROJECT}/locations/{REGION}/services/{name}:setIamPolicy"
        self.ok("POST", path, {"policy": policy})


@pytest.fixture(scope="module")
def caller_image():
    """google-auth and httpx as their users have them."""
    client = docker_engine.create_client()
    try:
        subprocess.run(["docker", "build", "-q", "-t", CLIENT_IMAGE, "-"], input=DOCKERFILE, text=True, check=True)
        yield CLIENT_IMAGE
        client.images.remove(CLIENT_IMAGE, force=True)
    finally:
        client.close()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory, caller_image):
    folder = tmp_path_factory.mktemp("between")
    cloud = Cloud(folder)
    try:
        yield cloud
    finally:
        cloud.api.close()
        cloud.process.send_signal(signal.SIGTERM)
        cloud.process.communicate(timeout=30)
        remove_docker_objects((cloud.state / "id").read_text().strip())


@pytest.fixture(scope="module")
def fleet(cloud):
    """A server without invokers, and two clients, one of them with all its traffic in the VPC network."""
    cloud.deploy("server", SERVER)
    urls = {}
    everything = {"vpcAccess": {"egress": "ALL_TRAFFIC", "networkInterfaces": [{"network": "default"}]}}
    for name, network in (("client", {}), ("inside", everything)):
        template = {"serviceAccount": cloud.account(f"mcp-{name}"), **network}
        made = cloud.deploy(
            name, CLIENT, python="/v/bin/python", image=CLIENT_IMAGE, template=template, invokerIamDisabled=True
        )
        urls[name] = made["uri"]
    return urls


URL = f"https://server-{NUMBER}.{REGION}.run.app"


def called(fleet, name, **query):
    """Return the client's response from calling the server by its URL."""
    answer = httpx2.get(fleet[name], params={"url": f"{URL}/x", "audience": URL, **query}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def member(name):
    return f"serviceAccount:mcp-{name}@{PROJECT}.iam.gserviceaccount.com"


def test_a_service_calls_another_service_by_url_as_its_own_account(cloud, fleet):
    cloud.invokers("server", member("client"))
    assert called(fleet, "client") == {"status": 200, "text": f"server at server-{NUMBER}.{REGION}.run.app"}


def test_a_caller_without_permission_token_or_right_audience_is_refused(cloud, fleet):
    cloud.invokers("server", member("client"))
    assert called(fleet, "inside")["status"] == 403
    assert called(fleet, "client", audience="https://elsewhere.example")["status"] == 401
    assert called(fleet, "client", audience="none")["status"] == 403


def test_a_url_of_a_missing_service_is_not_found_and_never_resolved_upstream(cloud, fleet):
    assert called(fleet, "client", url=f"https://nobody-{NUMBER}.{REGION}.run.app/")["status"] == 404


def test_internal_ingress_accepts_only_callers_with_all_their_traffic_in_the_network(cloud, fleet):
    cloud.invokers("server", member("client"), member("inside"))
    cloud.change("server", ingress="INGRESS_TRAFFIC_INTERNAL_ONLY")
    try:
        assert called(fleet, "inside")["status"] == 200
        assert called(fleet, "client")["status"] == 404
        uri = cloud.ok("GET", f"/run/v2/projects/{PROJECT}/locations/{REGION}/services/server")["uri"]
        assert httpx2.get(uri).status_code == 404
    finally:
        cloud.change("server", ingress="INGRESS_TRAFFIC_ALL")


def test_a_disabled_default_url_answers_404_to_every_caller(cloud, fleet):
    cloud.invokers("server", member("client"), member("inside"))
    uri = cloud.ok("GET", f"/run/v2/projects/{PROJECT}/locations/{REGION}/services/server")["uri"]
    cloud.change("server", defaultUriDisabled=True)
    try:
        assert "uri" not in cloud.ok("GET", f"/run/v2/projects/{PROJECT}/locations/{REGION}/services/server")
        assert httpx2.get(uri).status_code == 404
        assert called(fleet, "inside")["status"] == 404
    finally:
        cloud.change("server")
    assert httpx2.get(uri).status_code == 403


def test_a_service_without_the_iam_check_accepts_calls_without_a_token(cloud, fleet):
    cloud.invokers("server")
    cloud.change("server", invokerIamDisabled=True)
    try:
        assert called(fleet, "client", audience="none")["status"] == 200
    finally:
        cloud.change("server")


def balancer(cloud):
    base = f"/compute/v1/projects/{PROJECT}"
    names = f"projects/{PROJECT}"
    scheme = {"loadBalancingScheme": "EXTERNAL_MANAGED"}
    redirect = {"httpsRedirect": True, "redirectResponseCode": "MOVED_PERMANENTLY_DEFAULT", "stripQuery": False}
    group = {"name": "neg", "networkEndpointType": "SERVERLESS", "cloudRun": {"service": "server"}}
    of_group = f"{names}/regions/{REGION}/networkEndpointGroups/neg"
    documents = [
        ("global/addresses", {"name": "ip"}),
        ("global/sslCertificates", {"name": "cert", "type": "MANAGED", "managed": {"domains": [DOMAIN]}}),
        (f"regions/{REGION}/networkEndpointGroups", group),
        ("global/backendServices", {"name": "be", "protocol": "HTTPS", "backends": [{"group": of_group}], **scheme}),
        ("global/urlMaps", {"name": "map", "defaultService": f"{names}/global/backendServices/be"}),
        ("global/urlMaps", {"name": "redirect", "defaultUrlRedirect": redirect}),
        (
            "global/targetHttpsProxies",
            {
                "name": "https",
                "urlMap": f"{names}/global/urlMaps/map",
                "sslCertificates": [f"{names}/global/sslCertificates/cert"],
            },
        ),
        ("global/targetHttpProxies", {"name": "http", "urlMap": f"{names}/global/urlMaps/redirect"}),
    ]
    for scheme_name, port in (("https", "443"), ("http", "80")):
        target = f"{names}/global/target{scheme_name.capitalize()}Proxies/{scheme_name}"
        rule = {"name": scheme_name, "IPAddress": f"{names}/global/addresses/ip", "portRange": port, "target": target}
        documents.append(("global/forwardingRules", {**rule, **scheme}))
    for collection, body in documents:
        cloud.ok("POST", f"{base}/{collection}", body)
    token = (cloud.state / "admin-token").read_text().strip()
    held = cloud.api.get("/_local/inventory", headers={"Authorization": f"Bearer {token}"}).json()
    return {item["name"].rpartition("/")[2]: item["url"] for item in held["loadBalancers"]}


def test_a_domain_reaches_a_service_whose_ingress_allows_only_load_balancers(cloud, fleet):
    urls = balancer(cloud)
    cloud.invokers("server")
    cloud.change(
        "server",
        ingress="INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
        defaultUriDisabled=True,
        invokerIamDisabled=True,
        customAudiences=[f"https://{DOMAIN}"],
    )
    trusted = ssl.create_default_context(cafile=str(cloud.state / "ca" / "ca.pem"))
    try:
        sni = {"sni_hostname": DOMAIN}
        with httpx2.Client(verify=trusted, headers={"Host": DOMAIN}, timeout=30) as client:
            answer = client.get(f"{urls['https']}/x", extensions=sni)
            assert (answer.status_code, answer.text) == (200, f"server at {DOMAIN}")
            plain = client.get(f"{urls['http']}/x?y=1")
            assert (plain.status_code, plain.headers["location"]) == (301, f"https://{DOMAIN}/x?y=1")
        # From a container too: the domain is a name like any other.
        assert called(fleet, "client", url=f"https://{DOMAIN}/x", audience="none")["text"] == f"server at {DOMAIN}"
        assert called(fleet, "client", audience="none")["status"] == 404
    finally:
        cloud.change("server")


def test_a_container_trusts_the_certificate_authorities_of_the_machine(cloud, fleet):
    bundle = (cloud.state / "ca" / "bundle.pem").read_text()
    system = Path("/etc/ssl/certs/ca-certificates.crt")
    assert not system.exists() or system.read_text().strip() in bundle
