"""The import recipe of docs/fleet.md: an existing service is imported, and changed in place."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import service_account

from tests.integration.attached import ENGINE
from tests.integration.checkout import ROOT

GUIDE = ROOT / "docs" / "fleet.md"

pytestmark = pytest.mark.integration

TOOLBOX = "docker.io/mcpfleet-examples/toolbox:1"
PLACE = "projects/mcpfleet-local/locations/europe-west1/services"
LISTEN = ["--host", "0.0.0.0", "--port", "5000"]  # noqa: S104 - in a container
SERVER = {
    "source": {"image": TOOLBOX, "port": 5000, "args": LISTEN},
    "access": {"iam": {"invokers": ["user:ada@mcpfleet.test"]}},
}


@pytest.fixture(scope="module")
def checkout(make_checkout):
    return make_checkout("import")


def write(checkout, **servers):
    file = checkout.place.root / "Pulumi.local.yaml"
    stack = yaml.safe_load(file.read_text())
    stack["config"]["mcpfleet:fleet"] = {"region": "europe-west1", "servers": servers}
    file.write_text(yaml.safe_dump(stack))


def google(checkout):
    key = str(checkout.place.credentials / "deployer.json")
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    return AuthorizedSession(service_account.Credentials.from_service_account_file(key, scopes=scopes))


def service(checkout, name):
    return google(checkout).get(f"{checkout.place.url}/run/v2/{PLACE}/{name}").json()


# `pulumi import` starts the language host to ask which plugins the program needs, and nothing else. It comes with the
# official CLI only; where the CLI was built from its Go module, this one answers: none.
LANGUAGE_HOST = """#!{python}
from concurrent.futures import ThreadPoolExecutor
import grpc
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

class Host(language_pb2_grpc.LanguageRuntimeServicer):
    def GetRequiredPackages(self, request, context):
        return language_pb2.GetRequiredPackagesResponse()
    def GetRequiredPlugins(self, request, context):
        return language_pb2.GetRequiredPluginsResponse()
    def GetPluginInfo(self, request, context):
        return plugin_pb2.PluginInfo(version="0.0.0")

server = grpc.server(ThreadPoolExecutor(2))
language_pb2_grpc.add_LanguageRuntimeServicer_to_server(Host(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder for PATH, with the CLI where it is not on PATH already, and a language host where there is none."""
    folder = tmp_path_factory.mktemp("programs")
    if not shutil.which("pulumi"):
        (folder / "pulumi").symlink_to(ENGINE / "pulumi")
    if not shutil.which("pulumi-language-python"):
        host = folder / "pulumi-language-python"
        host.write_text(LANGUAGE_HOST.format(python=sys.executable))
        host.chmod(0o755)
    return folder


def pulumi(checkout, programs, *arguments):
    """The CLI, as in a shell that has evaluated `./dev env`."""
    lines = checkout.ok("env").splitlines()
    exports = subprocess.run(
        ["bash", "-c", "\n".join(lines) + "\nenv -0"], capture_output=True, text=True, check=True
    ).stdout
    environment = dict(item.split("=", 1) for item in exports.split("\0") if item)
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [shutil.which("pulumi", path=environment["PATH"]), *arguments],
        cwd=checkout.place.root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_service_deployed_without_pulumi_is_imported_and_changed_in_place(checkout, programs):
    write(checkout, other=SERVER)
    checkout.ok("up")
    body = {"template": {"containers": [{"image": TOOLBOX, "args": LISTEN, "ports": [{"containerPort": 5000}]}]}}
    made = google(checkout).post(f"{checkout.place.url}/run/v2/{PLACE}?serviceId=mcp-taken", json=body)
    assert made.status_code == 200, made.text
    before = service(checkout, "mcp-taken")

    write(checkout, other=SERVER, taken=SERVER)
    (recipe,) = re.findall(r"^```json\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    for word, value in {"NAME": "taken", "PROJECT": "mcpfleet-local", "REGION": "europe-west1"}.items():
        recipe = recipe.replace(word, value)
    file = checkout.place.root / "import.json"
    file.write_text(recipe)
    options = ["--file", str(file), "--stack", "local", "--protect=false", "--generate-code=false", "--yes"]
    pulumi(checkout, programs, "import", *options, "--skip-preview")

    output = checkout.ok("up")
    after = service(checkout, "mcp-taken")
    assert after["uid"] == before["uid"], output
    assert after["template"]["serviceAccount"].startswith("mcp-taken@")
    assert "No changes" in checkout.ok("up")
