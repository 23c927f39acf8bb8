"""The emulated providers under the real Pulumi engine, against the local cloud's control plane.

The cloud runs here, in a thread, with a data plane that only keeps book; no container is started and nothing is built.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pulumi_gcp as gcp
import pytest
from pulumi import automation

from tests.integration.attached import (
    APIS,
    ENDPOINTS,
    PROJECT,
    REGION,
    Deployment,
    Google,
    engine_of,
    fleet,
    loops_closed,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    google = Google(tmp_path_factory.mktemp("google"))
    google.start()
    yield google
    google.stop()


@pytest.fixture(scope="module")
def attached(google, tmp_path_factory):
    """The emulated providers as a user gets them: one process, found through its ready file."""
    ready = tmp_path_factory.mktemp("plugins") / "ready.json"
    environment = {
        **os.environ,
        **{name: f"http://127.0.0.1:{google.port}/{path}" for name, path in ENDPOINTS.items()},
        "GOOGLE_APPLICATION_CREDENTIALS": str(google.credentials / "deployer.json"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mcpfleet_local_cloud.plugins", "--ready-file", str(ready)], env=environment
    )
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert process.poll() is None, "the emulated providers ended"
        assert time.monotonic() < deadline, "the emulated providers did not start"
        time.sleep(0.02)
    yield json.loads(ready.read_text())["PULUMI_DEBUG_PROVIDERS"]
    process.terminate()
    assert process.wait(30) == 0
    assert not ready.exists(), "a ready file outlived its process"


@pytest.fixture
def deployment(attached, tmp_path, monkeypatch, request):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "test")
    name = f"t{abs(hash(request.node.name)) % 10**8}"
    with loops_closed():
        made = Deployment(attached, tmp_path, name)
        yield made
        made.stack.refresh(on_event=lambda _event: None, clear_pending_creates=True)
        made.stack.destroy(on_event=lambda _event: None)


def test_a_fleet_is_created_unchanged_updated_refreshed_and_destroyed(deployment, google):
    deployment.program = fleet("life")
    preview = deployment.stack.preview(on_event=lambda _event: None)
    assert preview.change_summary[automation.OpType.CREATE] == 5 + len(APIS)
    google.calls()
    up = deployment.up()
    assert up.outputs["uri"].value.startswith("http://127.0.0.1:")
    assert up.outputs["registry"].value == f"127.0.0.1:{google.port}/{REGION}/{PROJECT}/life-images"
    assert up.outputs["project"].value == "481516234200"
    service = f"projects/{PROJECT}/locations/{REGION}/services/mcp-life"
    assert up.outputs["invoker"].value == f"{service}/roles/run.invoker/user:ada@mcpfleet.test"
    assert deployment.resource("cloudrunv2/service:Service")["id"] == service
    google.calls()

    assert deployment.changes() == {}, "an update without an edit changed something"
    assert google.changes() == []
    deployment.stack.refresh(on_event=lambda _event: None)
    assert deployment.changes() == {}, "a refresh found differences in what the program gave"

    assert deployment.changes(fleet("life", memory="1Gi")) == {"update": 1}
    assert google.changes() == [f"PATCH /run/v2/{service}"]
    assert deployment.changes(fleet("life", memory="1Gi", location="europe-west4")) == {"replace": 2}

    state = deployment.file.read_text()
    assert "mcp-life" in state
    assert "hush" not in state, "a secret is in the state in the clear"

    deployment.stack.destroy(on_event=lambda _event: None)
    inventory = google.cloud.inventory()
    assert (inventory["services"], inventory["repositories"]) == ([], [])
    assert [item for item in inventory["serviceAccounts"] if "mcp-life" in item] == []


def test_a_failed_rollout_keeps_its_id_and_the_next_update_repairs_it(deployment, google):
    google.plane.broken = "The user-provided container failed to start and listen on the port."
    with pytest.raises(automation.CommandError) as failed:
        deployment.up(fleet("broken"))
    google.plane.broken = ""
    words = "Error waiting to create Service: Error waiting for Creating Service: Error code"
    assert words in str(failed.value)
    assert "failed to start and listen" in str(failed.value)
    service = deployment.resource("cloudrunv2/service:Service")
    assert service["id"].endswith("/services/mcp-broken")
    assert len(service["initErrors"]) == 1
    assert deployment.changes() == {"update": 1, "create": 1}
    assert "initErrors" not in deployment.resource("cloudrunv2/service:Service")
    assert deployment.changes() == {}


def test_continue_on_error_creates_resources_independent_of_the_failed_one(deployment, google):
    google.plane.broken = "The user-provided container failed to start and listen on the port."
    with pytest.raises(automation.CommandError) as failed:
        deployment.up(fleet("goes-on"), continue_on_error=True)
    google.plane.broken = ""
    assert "failed to start and listen" in str(failed.value)
    assert "mcp-goes-on@" in deployment.resource("serviceaccount/account:Account")["id"]
    assert deployment.changes() == {"update": 1, "create": 1}


def test_a_cancelled_create_ends_within_seconds_and_loses_no_resource(deployment, google):
    google.plane.gate = threading.Event()
    deployment.program = fleet("cancel")
    stopped = []

    def interrupt():
        stopped.append(time.monotonic())
        os.kill(engine_of(os.getpid()), signal.SIGINT)  # the user's Ctrl-C

    def watch(event):
        started = event.resource_pre_event
        if started and started.metadata.type == "gcp:cloudrunv2/service:Service":
            threading.Timer(1, interrupt).start()

    with pytest.raises(automation.CommandError):
        deployment.stack.up(on_event=watch)
    took = time.monotonic() - stopped[0]
    google.plane.gate.set()
    google.plane.gate = None
    assert took < 10, f"the engine waited {took:.0f} s for a cancelled create"
    assert deployment.resource("cloudrunv2/service:Service")["id"].endswith("/services/mcp-cancel")


def test_a_cloud_that_restarts_during_an_update_only_delays_it(deployment, google):
    google.plane.gate = threading.Event()
    restarted = []

    def restart():
        google.stop()
        google.plane.gate.set()
        time.sleep(1)  # long enough that the plugin meets a refused connection
        google.start()
        restarted.append(True)

    def watch(event):
        started = event.resource_pre_event
        if started and started.metadata.type == "gcp:cloudrunv2/service:Service":
            threading.Timer(0.5, restart).start()

    deployment.program = fleet("restart")
    result = deployment.stack.up(on_event=watch)
    google.plane.gate = None
    assert restarted
    assert result.outputs["uri"].value.startswith("http://127.0.0.1:")
    assert deployment.changes() == {}


IMPORTS = {
    "service": f"{REGION}/mcp-import",
    "images": f"{PROJECT}/{REGION}/import-images",
    "account": f"mcp-import@{PROJECT}.iam.gserviceaccount.com",
    "invoker": f"projects/{PROJECT}/locations/{REGION}/services/mcp-import roles/run.invoker user:ada@mcpfleet.test",
    "run": f"{PROJECT}/run.googleapis.com",
}


def test_an_existing_resource_is_imported_by_its_short_id(deployment, google):
    deployment.up(fleet("import", labels=False))
    state = deployment.stack.export_stack()
    ids = {item["urn"]: item["id"] for item in state.deployment["resources"] if item.get("id")}
    state.deployment["resources"] = [
        item for item in state.deployment["resources"] if not item["type"].startswith("gcp:")
    ]
    deployment.stack.import_stack(state)
    google.calls()
    changes = deployment.changes(fleet("import", labels=False, imports=IMPORTS))
    # The APIs that are not imported are enabled already: a create for the engine, no call of theirs.
    # An imported service is protected until an update says otherwise, as with the real provider.
    assert changes == {"create": len(APIS) - 1, "import": len(IMPORTS), "update": 1}
    assert [item.partition(" ")[0] for item in google.changes()] == ["PATCH"]
    now = {item["urn"]: item["id"] for item in deployment.state()["resources"] if item.get("id")}
    assert {urn: item for urn, item in now.items() if "gcp:" in urn and "providers" not in urn} == {
        urn: item for urn, item in ids.items() if "gcp:" in urn and "providers" not in urn
    }
    assert deployment.changes(fleet("import", labels=False)) == {}


def test_an_interrupted_create_is_adopted_by_its_id(deployment, google):
    deployment.up(fleet("pending"))
    state = deployment.stack.export_stack()
    lost = next(item for item in state.deployment["resources"] if item["type"] == "gcp:cloudrunv2/service:Service")
    del lost["outputs"]  # what `pulumi refresh --import-pending-creates` should do, and 3.256.0 does not
    deployment.stack.import_stack(state)
    deployment.stack.refresh(on_event=lambda _event: None)
    google.calls()
    assert deployment.changes() == {}
    assert google.changes() == []
    assert deployment.resource("cloudrunv2/service:Service")["outputs"]["uri"].startswith("http://127.0.0.1:")


def test_an_unknown_resource_type_is_refused_by_name(deployment):
    def program():
        gcp.pubsub.Topic("topic", name="topic")

    with pytest.raises(automation.CommandError) as refused:
        deployment.up(program)
    assert "does not have the resource type gcp:pubsub/topic:Topic" in str(refused.value)


def test_an_invalid_property_is_named_before_anything_is_created(deployment, google):
    google.calls()

    def program():
        gcp.cloudrunv2.Service("svc", name="mcp-x", location=REGION, ingress="ALL", template={"timout": "3s"})

    with pytest.raises(automation.CommandError) as refused:
        deployment.up(program)
    assert "Invalid or unknown key. Examine values at 'svc.template.timout'" in str(refused.value)
    assert 'expected ingress to be one of ["INGRESS_TRAFFIC_ALL"' in str(refused.value)
    assert google.changes() == []
