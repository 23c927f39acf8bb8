"""Other clients use each feature of the reference server; docs/mcp-server.md shows the results."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CreateMessageResult, ElicitResult, PromptReference, TextContent

from devtools.peers import find_go_program, find_node_packages, find_python_peers
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from tests.integration.mcp_server_process import ROOT, serving
from tests.unit.mcp_server.table_of_clients import NEEDS_SESSION, TABLE

pytestmark = pytest.mark.integration

# Since 2026-07-28 a client says with each call what it wants to be told.
_LOGS = {"io.modelcontextprotocol/logLevel": "info"}
CLIENTS = ROOT / "tests" / "integration" / "clients"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def node():
    return find_node_packages(ThisHost(), Paths.from_environ(os.environ))


@pytest.fixture(scope="module")
def typescript(node, tmp_path_factory):
    """The path of the script, in the folder with the packages that it imports."""
    folder = tmp_path_factory.mktemp("typescript")
    shutil.copy(CLIENTS / "typescript.mjs", folder)
    (folder / "node_modules").symlink_to(node.folder / "node_modules")
    return [str(node.node), str(folder / "typescript.mjs")]


@pytest.fixture(params=["stateless", "sessions"])
def mode(request):
    return request.param


@contextmanager
def reference(folder, mode, **environment):
    with serving(folder, MCP_STATELESS="true" if mode == "stateless" else "false", **environment) as served:
        yield served


def told(command, **environment):
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def as_the_table_says(client, mode, found):
    expected = TABLE[client]
    if mode == "stateless":
        expected = expected - NEEDS_SESSION.get(client, frozenset())
    worked = {feature for feature, outcome in found.items() if outcome == "ok"}
    assert worked == expected, found


def test_the_typescript_sdk_2_works(tmp_path, typescript, mode):
    with reference(tmp_path, mode) as served:
        as_the_table_says("TypeScript 2.4", mode, told([*typescript, "v2", served.url]))


def test_the_typescript_sdk_1_works(tmp_path, typescript, mode):
    with reference(tmp_path, mode) as served:
        as_the_table_says("TypeScript 1.32", mode, told([*typescript, "v1", served.url], LOGS="1"))


def test_the_fastmcp_client_works(tmp_path, mode):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = find_python_peers(ThisHost(), Paths.from_environ(os.environ), version)
    command = [sys.executable, str(CLIENTS / "fastmcp_client.py")]
    with reference(tmp_path, mode) as served:
        found = told([*command, served.url], PYTHONPATH=str(packages), FASTMCP_CHECK_FOR_UPDATES="off")
        as_the_table_says("FastMCP 4.1", mode, found)


def test_the_go_sdk_works(tmp_path, mode):
    with Phases().phase("Go client") as step:
        program = find_go_program(ThisHost(), Paths.from_environ(os.environ), CLIENTS / "go", step)
    with reference(tmp_path, mode) as served:
        as_the_table_says("Go 1.8", mode, told([str(program), served.url]))


@pytest.mark.anyio
async def test_the_official_python_sdk_works(tmp_path, mode):
    with reference(tmp_path, mode) as served:
        found = await by_python(served.url, "auto" if mode == "stateless" else "legacy")
    as_the_table_says("Python 2.3", mode, found)


async def by_python(target, protocol):
    reports, logged = [], []

    async def elicit(context, params):
        return ElicitResult(action="accept", content={"cups": 2, "milk": True})

    async def sample(context, params):
        return CreateMessageResult(role="assistant", model="t", content=TextContent(type="text", text="a haiku"))

    async def log(params):
        logged.append(params.data)

    async def report(progress, total, message):
        reports.append(progress)

    async with Client(
        target, mode=protocol, elicitation_callback=elicit, sampling_callback=sample, logging_callback=log
    ) as client:
        call = client.call_tool
        found = {
            "tools": any(tool.name == "add" for tool in (await client.list_tools()).tools),
            "structured output": (await call("add", {"a": 1, "b": 2})).structured_content == {"result": 3},
            "tool error": (await call("swatch", {"color": "mauve"})).is_error,
            "image": (await call("swatch", {"color": "teal"})).content[0].mime_type == "image/png",
            "audio": (await call("tone", {})).content[0].mime_type == "audio/wav",
            "embedded resource": (await call("look_up_color", {"name": "teal"})).content[0].type == "resource",
            "progress": not (await call("countdown", {"seconds": 1}, progress_callback=report)).is_error
            and reports == [0, 1],
            "resources": "#008080" in (await client.read_resource("color://palette")).contents[0].text,
            "templates": "#008080" in (await client.read_resource("color://teal")).contents[0].text,
            "prompts": len((await client.get_prompt("describe_color", {"name": "teal"})).messages) == 1,
            "completion": (
                await client.complete(PromptReference(name="describe_color"), {"name": "mood", "value": "ca"})
            ).completion.values
            == ["calm"],
            "elicitation": (await call("order_tea", {"kind": "mint"})).structured_content["cups"] == 2,
            "sampling": (await call("haiku", {"topic": "x"})).content[0].text == "a haiku",
            "logging": not (await call("rehearse", {"steps": ["a"]}, meta=_LOGS)).is_error and bool(logged),
        }
    return {feature: "ok" if worked else "wrong" for feature, worked in found.items()}


def test_the_inspector_works(tmp_path, node, mode):
    launcher = node.script("@modelcontextprotocol/inspector/clients/launcher/build/index.js")

    def ask(url, *arguments):
        command = [*launcher, "--cli", url, "--transport", "http", *arguments]
        done = subprocess.run(
            command, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def tool(url, name, *pairs):
        return ask(url, "--method", "tools/call", "--tool-name", name, *(["--tool-arg", *pairs] if pairs else []))

    with reference(tmp_path, mode) as served:
        url = served.url
        found = {
            "tools": '"add"' in ask(url, "--method", "tools/list"),
            "structured output": '"result": 3' in tool(url, "add", "a=1", "b=2"),
            "image": '"image/png"' in tool(url, "swatch", "color=teal"),
            "audio": '"audio/wav"' in tool(url, "tone"),
            "embedded resource": '"color://teal"' in tool(url, "look_up_color", "name=teal"),
            "resources": "#008080" in ask(url, "--method", "resources/read", "--uri", "color://palette"),
            "templates": "#008080" in ask(url, "--method", "resources/read", "--uri", "color://teal"),
            "prompts": "teal"
            in ask(url, "--method", "prompts/get", "--prompt-name", "describe_color", "--prompt-args", "name=teal"),
        }
    as_the_table_says("Inspector CLI 2.12", mode, {name: "ok" if worked else "wrong" for name, worked in found.items()})


@pytest.mark.anyio
async def test_mcp_remote_works_by_the_legacy_transport(tmp_path, node):
    with reference(tmp_path, "sessions", MCP_TRANSPORTS="streamable-http,sse") as served:
        url = f"{served.base}/sse"
        assert httpx2.get(f"{served.base}/ready", trust_env=False).is_success
        (command, *arguments) = node.script("mcp-remote/dist/proxy.js")
        parameters = StdioServerParameters(
            command=command,
            args=[*arguments, url, "--transport", "sse-only"],
            env={**os.environ, "MCP_REMOTE_CONFIG_DIR": str(tmp_path)},
        )
        with (tmp_path / "remote.log").open("w") as log:
            found = await by_python(stdio_client(parameters, errlog=log), "legacy")
    as_the_table_says("mcp-remote 0.15 (SSE)", "sessions", found)
