"""Builds the Dockerfiles of docs/server-elsewhere.md, and calls each server with the page's variables.

The packages come from wheels of this checkout instead of PyPI.
"""

import base64
import json
import os
import re
import subprocess
from contextlib import contextmanager
from functools import partial

import httpx2
import pytest

from devtools.peers import find_uv
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from tests.integration.built_sources import docker, image_of
from tests.integration.checkout import ROOT, eventually, free_port

pytestmark = pytest.mark.integration

PAGE = (ROOT / "docs/server-elsewhere.md").read_text()
CLOUD_RUN = {"MCP_ACCESS": "iam", "MCP_ALLOWED_HOSTS": "weather-*.run.app", "FORWARDED_ALLOW_IPS": "*"}
KUBERNETES = {"MCP_ALLOWED_HOSTS": "weather.default.svc.cluster.local,weather"}
CALLS = [("forecast", {"city": "Oslo"}, "Rain in Oslo, "), ("get_current_time", {"timezone": "UTC"}, "UTC")]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_tested_variables_are_the_ones_on_the_page():
    gcloud = re.search(r"--set-env-vars '\^;\^(.*?)'", PAGE)[1]
    assert dict(pair.split("=", 1) for pair in gcloud.split(";")) == CLOUD_RUN
    (terraform,), (manifest,) = blocks("hcl"), blocks("yml")
    assert dict(re.findall(r'name  = "(\w+)"\s+value = "(.*?)"', terraform)) == CLOUD_RUN
    assert dict(re.findall(r'\{name: (MCP_\w+), value: "(.*?)"\}', manifest)) == KUBERNETES


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """A folder for each Dockerfile of the page, with wheels of packages that are not on PyPI."""
    base = tmp_path_factory.mktemp("elsewhere")
    uv = find_uv(ThisHost(), Paths.from_environ(os.environ, ROOT))
    for package in ("mcpfleet-server", "mcpfleet-bridge"):
        build = [uv, "build", "--quiet", "--wheel", "--package", package, "--out-dir", base / "wheels"]
        subprocess.run(build, cwd=ROOT, check=True, timeout=120)
    folders = [base / "server", base / "bridge"]
    for folder in folders:
        (folder / "wheels").mkdir(parents=True)
        for wheel in (base / "wheels").glob("*.whl"):
            (folder / "wheels" / wheel.name).write_bytes(wheel.read_bytes())
        (folder / "server.py").write_text(blocks("python")[0])
    return folders


@pytest.mark.parametrize("index", [0, 1], ids=["hosting layer", "bridge"])
def test_the_pages_dockerfile_builds_a_server_that_its_variables_protect(contexts, index):
    tool, arguments, expected = CALLS[index]
    dockerfile = blocks("dockerfile")[index].replace(
        "FROM ${BASE_IMAGE}\n", "FROM ${BASE_IMAGE}\nCOPY wheels /wheels\nENV PIP_FIND_LINKS=/wheels\n"
    )
    with image_of(dockerfile, contexts[index]) as image:
        for variables, host, answer in [
            (CLOUD_RUN, "weather-4711.europe-west1.run.app", "Rain in Oslo, ada@acme.dev."),
            (KUBERNETES, "weather", "Rain in Oslo, stranger."),
        ]:
            with running(image, variables) as call:
                eventually(lambda call=call: call("localhost", tool, arguments)[0] == 200, "it is ready", 60)
                status, text = call(host, tool, arguments)
                assert (status, expected in text) == (200, True)
                assert index == 1 or answer in text
                assert call("evil.example", tool, arguments)[0] == 421


@contextmanager
def running(image, variables):
    """Run an image; return a function that calls a tool by host name with a caller's token."""
    name, port = f"mcpfleet-test-{free_port()}", free_port()
    options = [f"--env={key}={value}" for key, value in variables.items()]
    docker("run", "--detach", "--name", name, "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL",
           f"--publish=127.0.0.1:{port}:8080", *options, image)  # fmt: skip
    try:
        yield partial(call_tool, f"http://127.0.0.1:{port}/mcp")
    finally:
        docker("rm", "--force", name)


def call_tool(url, host, tool, arguments):
    """Return the status and the text of the response; (0, "") while the server doesn't respond."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    claims = {"iss": "https://accounts.google.com", "sub": "1", "email": "ada@acme.dev", "email_verified": True}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims)]
    headers = {
        "host": host,
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-11-25",
        "authorization": f"Bearer {'.'.join(parts)}.SIGNATURE_REMOVED_BY_GOOGLE",
    }
    try:
        response = httpx2.post(url, json=message, headers=headers, timeout=60, trust_env=False)
    except httpx2.TransportError:
        return 0, ""
    return response.status_code, response.text
