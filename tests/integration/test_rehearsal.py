"""`mcpfleet rehearse`: the shipped fleet of production, deployed to a local cloud of its own and taken down again."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import docker
import pytest
import yaml

from tests.integration.hostile import MCPFLEET

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FILE = "Pulumi.prod.yaml"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
SECRET = "a-value-of-a-secret-that-is-nowhere-else"


@pytest.fixture(scope="module")
def checkout(make_checkout):
    return make_checkout("rehearsal", whole=True)


def rehearse(checkout, *options, **variables):
    command = [MCPFLEET, "rehearse", "-s", "prod", *options]
    environ = {**os.environ, "COLUMNS": "200", "MCPFLEET_PROGRAM": "", **variables}
    result = subprocess.run(
        command,
        cwd=checkout.place.root,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def cloud_objects(folder):
    cloud = (folder / "cloud" / "id").read_text().strip()
    engine = docker.from_env()
    labels = {"label": f"dev.mcpfleet.cloud={cloud}"}
    return [*engine.containers.list(all=True, filters=labels), *engine.networks.list(filters=labels)]


def test_production_is_deployed_verified_compared_with_the_last_rehearsal_and_taken_down(checkout, tmp_path):
    root = checkout.place.root
    file, folder = root / FILE, root / ".mcpfleet" / "rehearsals" / "prod"
    before = {path.name: path.read_bytes() for path in root.glob("Pulumi*")}
    secrets = tmp_path / "secrets.yaml"
    secrets.write_text(f"mcp-state-key: {SECRET}\n")
    secrets.chmod(0o600)

    code, output = rehearse(checkout)
    assert code == 1
    assert "servers.toolbox: us-central1-docker.pkg.dev/" in output
    assert output.rstrip().endswith("mcpfleet rehearse -s prod --skip servers.toolbox")
    assert not folder.exists(), "nothing is started for a fleet that can't be deployed here"

    code, output = rehearse(
        checkout, "--skip=servers.toolbox", f"--secrets={secrets}", HOME=str(tmp_path), XDG_CACHE_HOME=str(CACHE)
    )
    assert code == 0, output
    assert "group:mcp-users@acme.dev → user:ada@mcpfleet.test" in output
    assert "connector: deployed, but not verified: its issuer https://login.acme.dev" in output
    assert "checks of 1 server passed" in output
    assert {path.name: path.read_bytes() for path in root.glob("Pulumi*")} == before
    assert not (tmp_path / ".pulumi").exists(), "the user's login and chosen stack stay as they are"
    assert cloud_objects(folder) == []
    assert SECRET not in output
    written = [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert written == []

    stack = yaml.safe_load(file.read_text())
    stack["config"]["mcpfleet:fleet"]["servers"]["reference"]["max_instances"] = 21
    file.write_text(yaml.safe_dump(stack, sort_keys=False))
    code, output = rehearse(checkout, "--skip=servers.toolbox", "--skip=servers.connector")
    assert code == 0, output
    changes = output.partition("Changes against the last rehearsal:\n")[2]
    for region in ("europe-west1", "us-central1"):
        assert f"update gcp:cloudrunv2:Service reference-{region} (template)" in changes, output
        assert f"delete gcp:cloudrunv2:Service connector-{region}" in changes, output
    plan = [
        line for line in changes.splitlines() if line.lstrip().startswith(("create ", "update ", "replace ", "delete "))
    ]
    assert plan
    assert [line for line in plan if "Image reference" in line] == [], "the same source is no change"
    assert cloud_objects(folder) == []


def test_after_a_failure_nothing_is_left_and_the_server_that_failed_is_named(checkout):
    root = checkout.place.root
    source = {"image": "docker.io/mcpfleet-examples/toolbox:1", "port": 5000, "args": ["--no-such-option"]}
    fleet = {"region": "europe-west1", "servers": {"ended": {"source": source}}}
    config = {"gcp:project": "acme-mcp-prod", "mcpfleet:fleet": fleet}
    (root / FILE).write_text(yaml.safe_dump({"config": config}))
    code, output = rehearse(checkout)
    assert code == 1
    assert "ended" in output
    assert "mcpfleet rehearse -s prod again" in output
    assert cloud_objects(root / ".mcpfleet" / "rehearsals" / "prod") == []
    code, output = rehearse(checkout, "--down")
    assert (code, output.strip()) == (0, "No rehearsal of the stack prod is deployed.")


FLEET = {
    "region": "europe-west1",
    "servers": {
        "toolbox": {
            "source": {
                "image": "docker.io/mcpfleet-examples/toolbox:1",
                "port": 5000,
                "args": ["--port", "5000", "--host", "0.0.0.0"],  # noqa: S104 - in a container
            },
            "access": {"iam": {"invokers": ["group:mcp-users@acme.dev"]}},
            "secrets": {"KEY": {"secret": "key", "version": "3"}},
            "service_account": "runner@acme-mcp-prod.iam.gserviceaccount.com",
            "volumes": {"data": {"gcs": {"bucket": "acme-data"}, "mount": "/data"}},
            "vpc": {"network": "mcp", "subnetwork": "mcp-eu"},
        }
    },
}


def test_what_a_fleet_expects_to_exist_is_created_and_a_kept_rehearsal_is_updated_and_removed(checkout):
    root = checkout.place.root
    folder = root / ".mcpfleet" / "rehearsals" / "prod"
    fleet = json.loads(json.dumps(FLEET))
    stack = {"config": {"gcp:project": "acme-mcp-prod", "mcpfleet:fleet": fleet}}
    (root / FILE).write_text(yaml.safe_dump(stack))
    code, output = rehearse(checkout, "--keep")
    assert code == 0, output
    assert "checks of 1 server passed" in output
    assert "stays deployed at http://127.0.0.1:" in output
    assert re.search(r"^  toolbox: http://127\.0\.0\.1:\d+/mcp$", output, re.MULTILINE)
    fleet["servers"]["toolbox"]["secrets"]["KEY"]["version"] = "4"
    (root / FILE).write_text(yaml.safe_dump(stack))
    code, output = rehearse(checkout, "--keep")
    assert code == 0, output
    assert "  update gcp:cloudrunv2:Service toolbox-europe-west1 (template)" in output
    assert cloud_objects(folder) != []
    code, output = rehearse(checkout, "--down")
    assert code == 0, output
    assert "Nothing is left of the rehearsal of prod." in output
    assert cloud_objects(folder) == []


def test_ctrl_c_removes_everything_too(checkout):
    root = checkout.place.root
    (root / FILE).write_text(yaml.safe_dump({"config": {"gcp:project": "acme-mcp-prod", "mcpfleet:fleet": FLEET}}))
    process = subprocess.Popen(
        [MCPFLEET, "rehearse", "-s", "prod"],
        cwd=root,
        env={**os.environ, "MCPFLEET_PROGRAM": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and so would all that it starts: the tests may be run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - it takes no lock
    )
    output = ""
    for line in process.stdout:
        output += line
        if "Secrets and networks" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    output += process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "✓ Proof" in output
    assert "Traceback" not in output
    assert cloud_objects(root / ".mcpfleet" / "rehearsals" / "prod") == []
