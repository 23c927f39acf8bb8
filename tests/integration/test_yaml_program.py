"""A Pulumi program in YAML deploys servers to the local cloud through the component provider.

The language host for YAML is a Go program: its module is pinned in `pulumi_yaml/`, and needs `go`.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

import pulumi_mcpfleet.provider
from mcpfleet_local_cloud.commands import background
from mcpfleet_local_cloud.commands.environment import exports
from tests.integration.attached import ENGINE
from tests.integration.checkout import ROOT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.languages,
    # Background programs are meant to outlive who started them.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]
GO = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
MODULE = Path(__file__).parent / "pulumi_yaml"
PROVIDER = Path(pulumi_mcpfleet.provider.__file__).parent
IMAGE = "docker.io/mcpfleet-examples/toolbox:1"
SERVER = {
    "source": {"image": IMAGE, "port": 5000, "args": ["--host", "0.0.0.0", "--port", "5000"]},  # noqa: S104
    "access": {"iam": {"invokers": ["user:ada@mcpfleet.test"]}},
}
PLACE = {"project": "mcpfleet-local", "region": "europe-west1"}
PROGRAM = {
    "name": "in-yaml",
    "runtime": "yaml",
    "plugins": {"providers": [{"name": "mcpfleet", "path": str(PROVIDER)}]},
    "resources": {
        "fleet": {
            "type": "mcpfleet:index:Fleet",
            "properties": {**PLACE, "servers": {"first": {**SERVER, "maxInstances": 2}}},
        },
        "second": {
            "type": "mcpfleet:index:McpServer",
            "properties": {**PLACE, **SERVER, "env": {"FIRST": '${fleet.servers["first"].mcpUrl}'}},
        },
    },
    "outputs": {"first": '${fleet.servers["first"].mcpUrl}', "second": "${second.mcpUrl}"},
}

skip_without_go = pytest.mark.skipif(GO is None, reason="Pulumi's language host for YAML is a Go program; install go")


@pytest.fixture(scope="module")
def checkout(make_checkout):
    return make_checkout("yaml")


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with the engine and the language host."""
    folder = tmp_path_factory.mktemp("programs")
    assert GO is not None
    host = folder / "pulumi-language-yaml"
    package = "github.com/pulumi/pulumi-yaml/cmd/pulumi-language-yaml"
    command = [GO, "build", "-C", MODULE, "-trimpath", "-ldflags", "-s -w", "-o", host, package]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    built = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert built.returncode == 0, built.stderr
    (folder / "pulumi").symlink_to(shutil.which("pulumi") or ENGINE / "pulumi")
    return folder


@pytest.fixture(scope="module")
def pulumi(checkout, programs, tmp_path_factory):
    """`pulumi(*words)`: the command in the program's folder, on the local cloud."""
    place, folder = checkout.place, tmp_path_factory.mktemp("program")
    (folder / "state").mkdir()
    bare = {**os.environ, **exports(place, None)}
    background.ensure_cloud(place, bare)
    plugins = background.ensure_plugins(place, bare)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    environment = {
        **os.environ,
        **exports(place, str(plugins.facts["PULUMI_DEBUG_PROVIDERS"])),
        "PATH": path,
        "PULUMI_BACKEND_URL": f"file://{folder}/state",
    }

    def run(*words, program=PROGRAM, fails=False):
        (folder / "Pulumi.yaml").write_text(json.dumps(program))  # which is YAML, too
        done = subprocess.run(
            ["pulumi", *words, "--non-interactive"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert bool(done.returncode) is fails, done.stdout + done.stderr
        return done.stdout

    run("stack", "init", "test")
    for key, value in {"gcp:project": "mcpfleet-local", "gcp:universeDomain": "mcpfleet.test"}.items():
        run("config", "set", key, value)
    yield run
    run("destroy", "--yes")


@skip_without_go
def test_two_servers_are_deployed_and_answer_only_their_invoker(pulumi, checkout):
    pulumi("preview")
    pulumi("up", "--yes")
    outputs = json.loads(pulumi("stack", "output", "--json"))
    ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"accept": "application/json, text/event-stream"}
    for url in (outputs["first"], outputs["second"]):
        base = url.removesuffix("/mcp")
        assert httpx2.post(url, json=ask, headers=headers, trust_env=False).status_code in (401, 403)
        answer = httpx2.post(
            url, json=ask, headers=headers, auth=checkout.who("ada", base), timeout=30, trust_env=False
        )
        assert answer.status_code == 200, answer.text
    history = json.loads(pulumi("stack", "export"))["deployment"]["resources"]
    assert {"mcpfleet:index:Fleet", "mcpfleet:index:McpServer"} <= {item["type"] for item in history}
    assert "unchanged" in pulumi("up", "--yes", "--expect-no-changes")


@skip_without_go
def test_a_mistake_is_reported_at_its_property(pulumi):
    wrong = {**PROGRAM, "resources": {**PROGRAM["resources"]}}
    wrong["resources"]["second"] = {
        "type": "mcpfleet:index:McpServer",
        "properties": {**PLACE, **SERVER, "sessions": "stateful"},
    }
    output = pulumi("preview", program=wrong, fails=True)
    assert "maxInstances" in output
    assert "write maxInstances: 1" in output
    assert "Traceback" not in output


@skip_without_go
def test_the_engine_prints_the_schema(pulumi):
    package = json.loads(pulumi("package", "get-schema", str(PROVIDER / "pulumi-resource-mcpfleet")))
    assert set(package["resources"]) == {"mcpfleet:index:Fleet", "mcpfleet:index:McpServer"}
    assert len(package["types"]) > 40
    assert str(ROOT) not in json.dumps(package)
