"""`./dev up` twice, an edit, faults, and `./dev down`, end to end."""

import asyncio
import json
import stat
import threading

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from mcpfleet_local_cloud.commands.background import find_running
from mcpfleet_local_cloud.commands.leftovers import inventory
from mcpfleet_local_cloud.commands.processes import Processes
from mcpfleet_local_cloud.docker_engine import list_image_names
from tests.integration.checkout import ROOT, digest_of, eventually

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def checkout(make_checkout):
    return make_checkout("up", whole=True)


@pytest.fixture(scope="module")
def first(checkout):
    return checkout.ok("up")


def image_of(checkout, server):
    service = next(
        item
        for item in checkout.state.resources
        if item["type"] == "gcp:cloudrunv2/service:Service" and item["outputs"]["name"] == f"mcp-{server}"
    )
    return service["outputs"]["template"]["containers"][0]["image"]


async def call(checkout, server, tool, arguments, mode="2026-07-28"):
    target = checkout.servers[server]
    auth = checkout.who("ada", target["audience"])
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(target["mcp_url"], http_client=http), mode=mode) as client,
    ):
        await client.list_tools()  # the client checks the result against it, and may ask for it only after the call
        return await client.call_tool(tool, arguments)


def test_up_deploys_the_shipped_stack_and_verifies_its_servers_as_a_client(deployed, checkout):
    assert (checkout.place.root / "Pulumi.local.yaml").read_bytes() == (ROOT / "Pulumi.local.yaml").read_bytes()
    assert "26 checks of 3 servers and 1 client passed" in deployed
    assert "reference: no tool" not in deployed
    assert "toolbox: no tool" not in deployed
    types = sorted(item["type"].partition(":")[2] for item in checkout.state.resources)
    for expected in (
        "artifactregistry/repository:Repository",
        "cloudrunv2/service:Service",
        "cloudrunv2/serviceIamMember:ServiceIamMember",
        "index:Image",
        "projects/service:Service",
        "serviceaccount/account:Account",
    ):
        assert expected in types
    assert types.count("cloudrunv2/service:Service") == 4
    assert types.count("serviceaccount/account:Account") == 4, "each server and client runs as an account of its own"


def test_the_shipped_client_lists_the_tools_of_all_its_servers_as_its_own_account(deployed, checkout):
    target = checkout.state.outputs["clients"]["assistant"]
    auth = checkout.who("ada", target["url"])
    answer = httpx2.post(f"{target['url']}/ask", json={}, auth=auth, timeout=90, trust_env=False)
    assert answer.status_code == 200, answer.text
    tools = {name: {item["name"] for item in found["tools"]} for name, found in answer.json()["servers"].items()}
    known = {"reference": "add", "toolbox": "slugify", "time": "convert_time"}
    assert {name: {tool} & tools[name] for name, tool in known.items()} == {
        name: {tool} for name, tool in known.items()
    }


def test_only_the_user_can_read_the_clouds_state(deployed, checkout):
    assert stat.S_IMODE(checkout.place.state.stat().st_mode) == 0o700


def test_up_prints_how_to_connect_to_each_server(deployed, checkout):
    for name, server in checkout.servers.items():
        assert f"MCP URL   {server['mcp_url']}" in deployed
        assert f"audience  {server['audience']}" in deployed
        assert json.dumps(server["client_config"]) in deployed
        assert f"./dev proxy {name} --port" in deployed


def test_the_built_image_is_pinned_by_its_digest_in_the_registry(deployed, checkout):
    digest = digest_of(image_of(checkout, "reference"))
    path = image_of(checkout, "reference").partition("/")[2].partition("@")[0].partition(":")[0]
    key = json.loads((checkout.place.credentials / "deployer.json").read_text())
    from google.auth import jwt
    from google.oauth2 import service_account

    credentials = service_account.Credentials.from_service_account_info(
        key, scopes=["https://www.googleapis.com/auth/cloud-platform"], always_use_jwt_access=True
    )
    credentials.refresh(None)
    assert jwt.decode(credentials.token, verify=False)["iss"] == key["client_email"]
    answer = httpx2.get(
        f"{checkout.place.url}/v2/{path}/manifests/{digest}", auth=("oauth2accesstoken", credentials.token), timeout=30
    )
    assert (answer.status_code, answer.headers["docker-content-digest"]) == (200, digest)


def test_a_second_up_changes_nothing_and_reports_it(deployed, checkout, engine):
    before = {item.id for item in checkout.containers(engine)}
    assert "No changes" in checkout.ok("up")
    assert {item.id for item in checkout.containers(engine)} == before


def test_the_local_proxy_serves_a_client_without_credentials(deployed, checkout):
    process = checkout.begin("proxy", "reference", "--port", "0")
    try:
        line = process.stdout.readline()
        url = line.split()[0]
        answer = httpx2.post(
            url,
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            headers={"accept": "application/json, text/event-stream"},
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
    finally:
        checkout.kill(process)


def test_env_prints_exports_that_a_shell_can_evaluate(deployed, checkout):
    exports = checkout.ok("env")
    assert "export PULUMI_DEBUG_PROVIDERS=gcp:" in exports
    assert f"GOOGLE_CLOUD_RUN_V2_CUSTOM_ENDPOINT={checkout.place.url}/run/v2/" in exports


def test_status_and_logs_show_the_running_services(deployed, checkout):
    status = checkout.ok("status")
    assert "running" in status
    assert checkout.servers["toolbox"]["mcp_url"] in status
    lines = [json.loads(line) for line in checkout.ok("logs", "reference").splitlines() if line.startswith("{")]
    assert any("severity" in line for line in lines)


def test_an_edit_creates_one_revision_and_the_old_one_finishes_its_calls(deployed, checkout, engine):
    old = image_of(checkout, "reference")
    toolbox = image_of(checkout, "toolbox")
    checkout.edit("mcp_server/app.py", "Add two whole numbers", "Add two numbers")
    results = []
    slow = threading.Thread(
        target=lambda: results.append(asyncio.run(call(checkout, "reference", "countdown", {"seconds": 8})))
    )
    process = checkout.begin("up")
    slow.start()
    output, _ = process.communicate(timeout=240)
    slow.join(timeout=60)
    assert process.returncode == 0, output
    assert "2 updated" in output, "the image and its service, and nothing else"
    assert [result.is_error for result in results] == [False]
    assert digest_of(image_of(checkout, "reference")) != digest_of(old)
    assert image_of(checkout, "toolbox") == toolbox
    eventually(lambda: len(checkout.containers(engine)) == 4, "the old revision's container is removed")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ('raise SystemExit("cannot start: no database")', ("cannot start: no database",)),
        (
            "import http.server as h; h.HTTPServer(('127.0.0.1', 8080), h.SimpleHTTPRequestHandler).serve_forever()",
            ("127.0.0.1", "0.0.0.0"),  # noqa: S104
        ),
    ],
    ids=["crashes", "listens on loopback"],
)
def test_a_revision_that_cannot_serve_fails_with_the_reason_and_the_last_one_keeps_serving(
    deployed, checkout, engine, broken, words
):
    file, stack = (checkout.place.root / name for name in ("mcp_server/__main__.py", "Pulumi.local.yaml"))
    good, whole = file.read_text(), stack.read_text()
    file.write_text(f"{broken}\n")
    # By default a server has a minute to start, and this one takes all that it is given.
    checkout.edit("Pulumi.local.yaml", "reference:\n", "reference:\n        probes: {startup: {failures: 8}}\n")
    try:
        code, output = checkout.dev("up")
        assert code == 1
        assert "is not ready and cannot serve traffic" in output
        for word in words:
            assert word in output
        assert not asyncio.run(call(checkout, "reference", "add", {"a": 1, "b": 2})).is_error
    finally:
        file.write_text(good)
        stack.write_text(whole)
    checkout.ok("up")
    eventually(lambda: len(checkout.containers(engine)) == 4, "nothing of the failed revision is left")


def test_a_failed_change_of_region_can_be_reverted(deployed, checkout):
    region, healthy = ("region: europe-west1", "WORKDIR /src")
    checkout.edit("Pulumi.local.yaml", region, "region: us-central1")
    checkout.edit("mcp_server/Dockerfile", healthy, "WORKDR /src")
    code, output = checkout.dev("up")
    assert (code, "WORKDR" in output) == (1, True), output
    checkout.edit("Pulumi.local.yaml", "region: us-central1", region)
    checkout.edit("mcp_server/Dockerfile", "WORKDR /src", healthy)
    assert "checks of 3 servers and 1 client passed" in checkout.ok("up")
    assert "No changes" in checkout.ok("up")


def test_a_killed_container_is_replaced_and_serves_again(deployed, checkout, engine):
    victim = next(item for item in checkout.containers(engine) if item.labels["dev.mcpfleet.service"] == "mcp-toolbox")
    victim.kill("SIGKILL")
    target = checkout.servers["toolbox"]
    auth = checkout.who("ada", target["audience"])
    ping = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"accept": "application/json, text/event-stream"}

    def answers():
        return httpx2.post(target["mcp_url"], json=ping, headers=accept, auth=auth, timeout=30).status_code == 200

    eventually(answers, "the service answers again")
    assert len(checkout.containers(engine)) == 4


def test_a_killed_local_cloud_restarts_with_its_services_still_running(deployed, checkout, engine):
    before = {item.id for item in checkout.containers(engine)}
    checkout.kill_cloud()
    output = checkout.ok("up")
    assert "No changes" in output
    assert {item.id for item in checkout.containers(engine)} == before, "containers are adopted, not doubled"


def test_down_leaves_nothing_and_succeeds_a_second_time(deployed, checkout, engine):
    cloud = find_running(checkout.place, "cloud")
    registry = inventory(checkout.place)["registry"]
    output = checkout.ok("down")
    assert "Nothing is left" in output
    label = {"label": f"dev.mcpfleet.cloud={cloud['id']}"}
    assert engine.containers.list(all=True, filters=label, ignore_removed=True) == []
    assert engine.networks.list(filters=label) == []
    assert [
        name for name in list_image_names(engine) if name.startswith(f"{registry}/") and "mcpfleet-public" not in name
    ] == []
    assert checkout.state.resources == []
    assert find_running(checkout.place, "cloud") is None
    assert find_running(checkout.place, "plugins") is None
    assert not Processes().is_alive(cloud["pid"])
    assert "Nothing is left" in checkout.ok("down")
