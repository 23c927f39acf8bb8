"""Real desktop clients reach a private server of a deployed stack through `mcpfleet connect` and `proxy`.

The versions are those of devtools/clients/package.json and uv.lock; docs/clients.md lists them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from devtools.peers import find_node_packages
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from tests.integration.checkout import eventually

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

MCPFLEET = str(Path(sys.executable).with_name("mcpfleet"))
INSPECTOR = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
GEMINI = "@google/gemini-cli/bundle/gemini.js"
SEEN = {"tools": ["add", "echo", "whoami", "countdown"], "progress": [0, 1], "counted": {"seconds": 1}}
PATIENCE = 60


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def npm():
    return find_node_packages(ThisHost(), Paths.from_environ(os.environ))


@pytest.fixture(scope="module")
def checkout(make_checkout):
    made = make_checkout("desk")
    made.ok("up")
    return made


@pytest.fixture(scope="module")
def home(checkout, tmp_path_factory):
    """A home without Google credentials, in which `mcpfleet` finds the stack by its folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GOOGLE_")}
    packages = str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")))
    folder = tmp_path_factory.mktemp("home")
    return {**environment, "HOME": str(folder), "XDG_CACHE_HOME": packages, "XDG_CONFIG_HOME": str(folder / ".config")}


@pytest.fixture(scope="module")
def mcpfleet(checkout, home):
    """`mcpfleet(…)`: runs the command in the checkout; gives its output."""

    def run(*arguments, code=0):
        done = subprocess.run(
            [MCPFLEET, *arguments], cwd=checkout.place.root, env=home, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def connect(mcpfleet):
    """The command of a desktop client's configuration, as `mcpfleet config` writes it."""
    entry = json.loads(mcpfleet("config", "json", "reference"))["mcpServers"]["reference"]
    return [entry["command"], *entry["args"]]


@pytest.fixture(scope="module")
def node(npm, home, tmp_path_factory):
    """`node(script, …)`: runs a script of ours or of a package; gives what it printed."""
    clients = tmp_path_factory.mktemp("node") / "clients"
    shutil.copytree(Path(__file__).with_name("clients"), clients)
    (clients / "node_modules").symlink_to(npm.folder / "node_modules")  # a module finds its packages beside itself only

    def run(script, *arguments, both=False, **environment):
        own = clients / script
        argv = [str(npm.node), str(own)] if own.exists() else npm.script(script)
        done = subprocess.run(
            [*argv, *arguments],
            env={**home, "PATH": f"{npm.node.parent}:{home['PATH']}", **environment},
            cwd=home["HOME"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr + done.stdout if both else done.stdout

    return run


@contextmanager
def running(command, **options):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="module")
def proxy(checkout, home):
    """The URL of a running `mcpfleet proxy reference`."""
    with running([MCPFLEET, "proxy", "reference", "--port", "0"], cwd=checkout.place.root, env=home) as process:
        yield process.stdout.readline().split()[0]


def last_json(text):
    """Return the last JSON line that a test's script printed."""
    found = json.loads(text.strip().splitlines()[-1])
    # These SDKs drop a report of progress that comes in one piece with the answer behind it.
    assert found["progress"] in ([0], [0, 1])
    return {**found, "progress": [0, 1], "tools": found["tools"][:4]}


# --- connect --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28", "auto"])
async def test_the_official_python_sdk_works_in_both_revisions(connect, mode):
    server = StdioServerParameters(command=connect[0], args=connect[1:])
    progress = []

    async def note(done, _total, _message):
        progress.append(done)

    async with Client(stdio_client(server), mode=mode) as client:
        names = [tool.name for tool in (await client.list_tools()).tools][:4]
        counted = await client.call_tool("countdown", {"seconds": 1}, progress_callback=note)
        caller = (await client.call_tool("whoami", {})).structured_content["caller"]
    seen = {"tools": names, "progress": progress, "counted": counted.structured_content}
    assert (seen, caller) == (SEEN, "ada@mcpfleet.test")


def test_the_official_typescript_sdk_1_works(connect, node):
    assert last_json(node("typescript_sdk_1.mjs", *connect)) == SEEN


@pytest.mark.parametrize(("mode", "revision"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
def test_the_official_typescript_sdk_2_works_in_both_revisions(connect, node, mode, revision):
    assert last_json(node("typescript_sdk_2.mjs", mode, *connect)) == {**SEEN, "revision": revision}


def test_the_inspector_calls_a_tool_with_the_printed_configuration(mcpfleet, node, home):
    file = Path(home["HOME"]) / "inspector.json"
    file.write_text(mcpfleet("config", "json", "reference"))
    call = ["--method", "tools/call", "--tool-name", "add", "--tool-arg", "a=1", "b=2"]
    said = node(INSPECTOR, "--cli", "--config", str(file), "--server", "reference", *call)
    assert json.loads(said)["structuredContent"] == {"result": 3}


def test_gemini_cli_shows_the_server_as_connected_with_the_installed_configuration(mcpfleet, node, home):
    mcpfleet("config", "gemini-cli", "--install")
    # It counts nothing of a folder that its user has not called trusted.
    said = node(GEMINI, "mcp", "list", both=True, GEMINI_CLI_TRUST_WORKSPACE="true")
    assert re.search(r"reference: .*\(stdio\) - Connected", said), said
    mcpfleet("config", "gemini-cli", "--remove")
    settings = json.loads((Path(home["HOME"]) / ".gemini" / "settings.json").read_text())
    assert settings["mcpServers"] == {}


async def test_a_caller_without_permission_sees_in_the_client_what_to_do(checkout, connect):
    bob = [item.replace("ada.json", "bob.json") for item in connect[1:]]
    with pytest.RaisesGroup(MCPError, flatten_subgroups=True) as failure:
        async with Client(stdio_client(StdioServerParameters(command=connect[0], args=bob)), mode="legacy"):
            pass
    (error,) = failure.value.exceptions
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert "user:bob@mcpfleet.test may not call" in error.error.message
    assert "--member=user:bob@mcpfleet.test --role=roles/run.invoker" in error.error.message
    assert error.error.data["mcpfleet"] == {"outcome": "not_done", "attempts": 1, "status": 403}


async def test_a_client_keeps_working_after_a_killed_container_and_a_new_revision(checkout, connect, engine):
    server = StdioServerParameters(command=connect[0], args=connect[1:])
    async with Client(stdio_client(server), mode="2026-07-28") as client:
        first = (await client.call_tool("whoami", {})).structured_content["revision"]
        victims = [
            item for item in checkout.containers(engine) if item.labels["dev.mcpfleet.service"] == "mcp-reference"
        ]
        victims[0].kill("SIGKILL")
        await client.list_tools()
        checkout.edit("mcp_server/app.py", "Add two whole numbers", "Add two numbers")
        checkout.ok("up")
        assert (await client.call_tool("whoami", {})).structured_content["revision"] != first


# --- proxy ----------------------------------------------------------------------------------------------


async def test_the_official_python_sdk_works_through_the_proxy(proxy):
    async with (
        httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http,
        Client(streamable_http_client(proxy, http_client=http), mode="auto") as client,
    ):
        assert (await client.call_tool("whoami", {})).structured_content["caller"] == "ada@mcpfleet.test"


def test_both_versions_of_the_official_typescript_sdk_work_through_the_proxy(proxy, node):
    assert last_json(node("typescript_sdk_1.mjs", proxy)) == SEEN
    assert last_json(node("typescript_sdk_2.mjs", "auto", proxy)) == {**SEEN, "revision": "2026-07-28"}


@pytest.mark.parametrize("protocol", ["legacy", "auto"])
def test_mcp_remote_works_through_the_proxy(proxy, node, npm, protocol):
    remote = [*npm.script("mcp-remote/dist/proxy.js"), proxy, "--transport", "http-only", "--protocol", protocol]
    assert last_json(node("typescript_sdk_1.mjs", *remote)) == SEEN


def test_the_inspectors_command_line_works_through_the_proxy(proxy, node):
    listed = json.loads(node(INSPECTOR, "--cli", proxy, "--transport", "http", "--method", "tools/list"))
    assert [tool["name"] for tool in listed["tools"]][:4] == SEEN["tools"]


# --- the gate -------------------------------------------------------------------------------------------


def test_verify_passes_for_the_deployed_server_and_fails_for_a_missing_tool(mcpfleet, checkout):
    found = json.loads(mcpfleet("verify", "--json", "--not-invoker", str(checkout.place.credentials / "bob.json")))
    assert found["ok"] is True
    assert [len(item["passed"]) for item in found["servers"].values()] == [5, 5]
    assert found["servers"]["reference"]["warned"] == []
    found = json.loads(mcpfleet("verify", "reference", "--json", "--expect-tool", "subtract", code=1))
    assert "does not list subtract" in found["servers"]["reference"]["failed"][0]


def test_the_doctor_passes_a_server_and_reports_why_another_caller_fails(mcpfleet, checkout):
    assert "✗" not in mcpfleet("doctor", "reference")
    bob = str(checkout.place.credentials / "bob.json")
    assert "gcloud run services add-iam-policy-binding mcp-reference" in mcpfleet(
        "doctor", "reference", "--credentials", bob, code=1
    )


def test_no_process_of_the_command_is_left(checkout):
    def left():
        found = subprocess.run(["pgrep", "-f", f"mcpfleet connect.*{checkout.place.root}"], capture_output=True)
        return found.returncode == 1

    began = time.monotonic()
    eventually(left, "every `mcpfleet connect` has ended with its client", 10)
    assert time.monotonic() - began < 10
