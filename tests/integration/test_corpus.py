"""Every layout of the corpus that is a whole server: built as `up` builds it, run as Cloud Run does, and called.

    ./dev test --as-root -m corpus            # all of them: about a minute each
    ./dev test --as-root -m corpus -k nvmrc   # those whose name says so

Without Pulumi and without a cloud: the folder goes through `recipe_for` and the builder alone. What each run of the
tests builds of the corpus is in test_sources.py.
"""

import os
import subprocess

import httpx2
import pytest

from mcpfleet_local_cloud.plugins.docker_build.builder import docker_environment, find_builder
from pulumi_mcpfleet.environment import ACCESS, container_environment, fastmcp_environment
from pulumi_mcpfleet.sources import Layout, recipe_for
from pulumi_mcpfleet.sources.reads import FASTMCP
from pulumi_mcpfleet.sources.staging import staged
from tests.corpus.corpus import CASES
from tests.integration.checkout import eventually, free_port

pytestmark = [pytest.mark.corpus, pytest.mark.integration, pytest.mark.timeout(900)]

BASE_IMAGE = "mcpfleet/base:python3.13"
SAID = {
    "path": "/mcp",
    "transports": ["streamable-http"],
    "stateless": True,
    "allowed_hosts": ["127.0.0.1:*"],
    "allowed_origins": [],
}
ENVIRONMENT = {**container_environment(**SAID, health_path=None), "PORT": "8080", ACCESS: "public"}
AS_CLOUD_RUN = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--memory=512m"]


@pytest.fixture(scope="module")
def docker():
    builder = find_builder(os.environ["PATH"])
    environment = {**docker_environment(), "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}

    def run(*arguments, given=None):
        command = [builder.command, *arguments]
        done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout.strip()

    return run


def shouted(url):
    """What the server's tool answers, as a client of 2025-11-25 that holds no session asks it."""
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    call = {"name": "shout", "arguments": {"text": "gruezi"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    try:
        answer = httpx2.post(url, json=message, headers=headers, timeout=20, trust_env=False)
    except httpx2.TransportError:
        return ""
    return answer.text


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items() if case.answers])
def test_a_layout_is_built_and_answers(case, docker, tmp_path):
    source = tmp_path / "source"
    for name, content in case.files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content.encode() if isinstance(content, str) else content)
    recipe = recipe_for(Layout.read(source), case.asked)
    if case.asked.speaks == "stdio":
        staged(source, tmp_path / "copy")
        source = tmp_path / "copy"
    arguments = {"BASE_IMAGE": BASE_IMAGE, **case.asked.build_args}
    given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    made = tmp_path / "Dockerfile"
    made.write_text(recipe.dockerfile or (source / recipe.location).read_text())
    image, name, port = f"mcpfleet-test/corpus:{tmp_path.name}"[:120], f"mcpfleet-test-{free_port()}", free_port()
    docker("build", "--file", str(made), "--tag", image, *given, "--", str(source))
    more = fastmcp_environment(**SAID, port=8080) if FASTMCP in recipe.reads else {}
    variables = [f"--env={key}={value}" for key, value in {**ENVIRONMENT, **more}.items()]
    try:
        docker("run", "--detach", "--name", name, f"--publish=127.0.0.1:{port}:8080", *AS_CLOUD_RUN, *variables, image)
        try:
            url = f"http://127.0.0.1:{port}/mcp"
            eventually(lambda: "GRUEZI" in shouted(url), "it answers", 60)
        except pytest.fail.Exception as failed:
            pytest.fail(f"{failed}\n{docker('logs', name)}\n{shouted(url)}", pytrace=False)
    finally:
        docker("rm", "--force", name)
        docker("rmi", "--force", image)
