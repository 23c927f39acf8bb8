"""Each wheel of `uv build --all-packages` works in an empty folder, without the checkout on the path."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import yaml

from devtools.peers import find_uv
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from mcpfleet_local_cloud.data_plane import remove_docker_objects
from tests.integration.checkout import ROOT, free_port

pytestmark = pytest.mark.integration

HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
AUDIENCE = "https://ledger.example"
PATIENCE = 240

OFFICIAL = """
from mcp.server.mcpserver import MCPServer
from mcpfleet_server import serve
server = MCPServer("official")
server.tool()(abs)
raise SystemExit(serve(server))
"""
FASTMCP = """
from fastmcp import FastMCP
from mcpfleet_server import serve
server = FastMCP("fast")
server.tool(name="abs")(lambda x: abs(x))
raise SystemExit(serve(server))
"""
FASTMCP_CALLERS = """
import asyncio, base64, json, os
os.environ["MCPFLEET_ACCESS"] = "iam"
import httpx2
from fastmcp import FastMCP
from mcpfleet_server.caller import CallerMiddleware, current_caller
from starlette.middleware import Middleware
def encode(claims):
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
async def call(http, name, method, params, session=None):
    claims = {"iss": "https://accounts.google.com", "sub": name, "email": name, "email_verified": True}
    token = f"{encode({})}.{encode(claims)}.SIGNATURE_REMOVED_BY_GOOGLE"
    headers = {"accept": "application/json, text/event-stream", "authorization": f"Bearer {token}"}
    headers |= {"mcp-session-id": session} if session else {}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await http.post("/mcp", json=body, headers=headers)
async def check(stateless):
    server = FastMCP("orders")
    server.tool(name="me")(lambda: current_caller().email)
    app = server.http_app(stateless_http=stateless, json_response=True, middleware=[Middleware(CallerMiddleware)])
    transport, client = httpx2.ASGITransport(app), {"name": "test", "version": "1"}
    begin = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
    async with app.lifespan(app), httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        sessions = {n: (await call(http, n, "initialize", begin)).headers.get("mcp-session-id") for n in ("ada", "bob")}
        for name, session in [*sessions.items()] * 2:
            response = await call(http, name, "tools/call", {"name": "me", "arguments": {}}, session)
            assert response.json()["result"]["content"][0]["text"] == name, response.text
        assert (sessions["ada"] is None) == stateless
        if not stateless:
            response = await call(http, "bob", "tools/call", {"name": "me", "arguments": {}}, sessions["ada"])
            assert response.status_code == 404, response.text
for stateless in (True, False):
    asyncio.run(check(stateless))
print("passed")
"""
STDIO = """
import json, sys
ANSWERS = {
    "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                   "serverInfo": {"name": "few lines", "version": "1"}},
    "tools/list": {"tools": [{"name": "abs", "inputSchema": {"type": "object"}}]},
}
for message in map(json.loads, sys.stdin):
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": ANSWERS[message["method"]]}), flush=True)
"""
EVERY_MODULE = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
found = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=exit)]
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(found))
"""
UNDER_MOCKS = """
import json, runpy, sys
import pulumi
from pulumi.runtime import mocks
made = []
class Cloud(mocks.Mocks):
    def new_resource(self, args):
        made.append([args.typ, args.name, args.inputs])
        extra = {"email": "a@p.iam.gserviceaccount.com", "registryUri": "r.pkg.dev/p/r", "uri": "https://a.run.app",
                 "digest": "sha256:" + "0" * 64, "ref": "r.pkg.dev/p/r/i@sha256:" + "0" * 64}
        return args.name, {**args.inputs, **extra}
    def call(self, args):
        return {"number": "4711", "accessToken": "none"}, []
mocks.set_mocks(Cloud(), project="elsewhere", stack="test")
pulumi.runtime.set_all_config({"gcp:project": "acme", "mcpfleet:fleet": sys.argv[1]})
pulumi.runtime.test(lambda: runpy.run_path("__main__.py", run_name="__main__") and None)()
print(json.dumps(made))
"""


def uv(*arguments):
    """Run uv with the user's settings of registries and caches."""
    program = find_uv(ThisHost(), Paths.from_environ(os.environ, ROOT))
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names_left_out(folder, names):
    """What no build needs. The template of a project, which is in a wheel, has hidden files and tests of its own."""
    at_the_top = Path(folder) == ROOT
    return {
        name
        for name in names
        if name in ("__pycache__", ".venv") or (at_the_top and (name.startswith(".") or name in ("tests", "docs")))
    }


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheel of each of our distributions, by name, made in a copy of the checkout."""
    base = tmp_path_factory.mktemp("wheels")
    copy = shutil.copytree(ROOT, base / "checkout", ignore=names_left_out)
    uv("build", "--quiet", "--all-packages", "--project", copy, "--out-dir", base / "dist", copy)
    shutil.rmtree(copy)
    return {file.name.partition("-")[0].replace("_", "-"): file for file in (base / "dist").glob("*.whl")}


def test_the_wheel_of_the_command_has_every_file_of_the_template(wheels):
    template = ROOT / "packages" / "mcpfleet" / "mcpfleet" / "template"
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files"],
        cwd=template,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()
    with zipfile.ZipFile(wheels["mcpfleet"]) as wheel:
        files = [file.filename for file in wheel.infolist() if not file.is_dir()]
    names = {name.removeprefix("mcpfleet/template/") for name in files if "/template/" in name}
    assert names == set(listed)
    assert ".gitignore" in names


@dataclass
class Elsewhere:
    """An empty folder with a virtual environment that knows nothing of the checkout."""

    folder: Path
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def python(self):
        return self.folder / "venv" / "bin" / "python"

    def environment(self, **more):
        path = os.pathsep.join([str(self.python.parent), os.environ["PATH"]])
        docker = {key: value for key, value in os.environ.items() if key.startswith("DOCKER_")}
        return {"PATH": path, "HOME": str(self.folder), "LANG": "C.UTF-8", **docker, **more}

    def run(self, program, *arguments, code=0, **environment):
        """Run a program of the environment to its end; returns what it printed."""
        done = subprocess.run(
            [self.python.parent / program, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def begin(self, program, *arguments, **environment):
        """Start a program of the environment, whose output `until` shows."""
        with (self.folder / "log").open("wb") as output:
            process = subprocess.Popen(
                [self.python.parent / program, *map(str, arguments)],
                cwd=self.folder,
                env=self.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.started.append(process)

    def until(self, happens):
        """Wait until `happens()` gives something, and return it; a connection that fails is not yet."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.started[-1].poll() is None:
            with contextlib.suppress(httpx2.HTTPError):
                if found := happens():
                    return found
            time.sleep(0.05)
        pytest.fail(f"it did not happen:\n{(self.folder / 'log').read_text()[-3000:]}")

    def tools_at(self, url):
        """The names of the tools that a server lists, once it is ready."""
        ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}

        def answer():
            said = httpx2.post(url, json=ask, headers=HEADERS, timeout=10, trust_env=False)
            return said.json() if said.is_success else None

        return [tool["name"] for tool in self.until(answer)["result"]["tools"]]

    def end(self):
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.wait(30)

    def knows(self, module):
        return self.run("python", "-c", f"import importlib.util as i; print(i.find_spec({module!r}) is not None)")

    def imports_all_of(self, package):
        """Import every module of a package; returns how many there are."""
        assert str(ROOT) not in self.run("python", "-c", "import sys; print(sys.path)")
        return int(self.run("python", "-c", EVERY_MODULE, package))


@pytest.fixture(scope="module")
def elsewhere(wheels, tmp_path_factory):
    """`elsewhere(requirement, ...)`: an `Elsewhere` in which they are installed, ours from the wheels."""
    made = []
    settled = tmp_path_factory.mktemp("settled")
    # Ours never from an index, whatever may be there under their names; the others as they are locked here.
    ours = settled / "ours.txt"
    ours.write_text("".join(f"{name} @ {file.as_uri()}\n" for name, file in wheels.items()))
    others = settled / "others.txt"
    uv("export", "--quiet", "--frozen", "--all-packages", "--all-extras", "--no-emit-workspace", "--no-hashes",
       "--project", ROOT, "--output-file", others)  # fmt: skip

    def make(*requirements):
        one = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
        uv("venv", "--quiet", "--no-project", "--python", sys.executable, one.folder / "venv")
        uv("pip", "install", "--quiet", "--python", one.python, "--constraints", ours, "--constraints", others,
           *requirements)  # fmt: skip
        made.append(one)
        return one

    yield make
    for one in made:
        one.end()


def test_each_distribution_has_a_wheel(wheels):
    folders = [ROOT / "infra", ROOT / "local_cloud", *(ROOT / "packages").iterdir()]
    names = {tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] for folder in folders}
    assert set(wheels) == names


def test_the_server_package_does_not_require_the_sdk(elsewhere):
    place = elsewhere("mcpfleet-server")
    assert place.knows("mcp") == place.knows("pydantic") == "False\n"
    place.run("python", "-c", "from mcpfleet_server import allowlist, caller, connection, logs")


def test_five_lines_host_a_server_of_the_official_sdk_or_fastmcp(elsewhere):
    peers = tomllib.loads((ROOT / "devtools" / "python_peers" / "pyproject.toml").read_text())["project"]
    place = elsewhere("mcpfleet-server[hosting,iap,oauth,telemetry]", *peers["dependencies"])
    assert place.imports_all_of("mcpfleet_server") > 10
    for program in (OFFICIAL, FASTMCP):
        assert len(program.strip().splitlines()) == 5
        port = free_port()
        place.begin("python", "-c", program, PORT=str(port))
        assert place.tools_at(f"http://127.0.0.1:{port}/mcp") == ["abs"]


def test_the_extra_hosting_is_enough_to_host_a_server(elsewhere):
    place = elsewhere("mcpfleet-server[hosting]")
    port = free_port()
    place.begin("python", "-c", OFFICIAL, PORT=str(port))
    assert place.tools_at(f"http://127.0.0.1:{port}/mcp") == ["abs"]


def test_the_bridge_serves_a_stdio_server(elsewhere):
    place = elsewhere("mcpfleet-bridge")
    assert place.imports_all_of("mcpfleet_bridge") > 10
    assert place.knows("mcp") == place.knows("pydantic") == "False\n"
    port = free_port()
    place.begin("mcpfleet-bridge", PORT=str(port), MCP_STDIO_COMMAND=json.dumps(["python", "-c", STDIO]))
    assert place.tools_at(f"http://127.0.0.1:{port}/mcp") == ["abs"]


def token():
    """Return a token with realistic claims; the server here does not check signatures."""
    claims = {"aud": AUDIENCE, "exp": int(time.time()) + 3600, "email": "ada@acme.dev"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims)]
    return ".".join([*parts, "c2ln"])


def test_the_command_verifies_and_proxies_a_private_server(elsewhere, tmp_path):
    place = elsewhere("mcpfleet")
    assert place.imports_all_of("mcpfleet") > 10
    assert "verify" in place.run("mcpfleet", "--help")
    port, held = free_port(), tmp_path / "token"
    held.write_text(token())
    program = Path(__file__).with_name("connect_server.py").read_text()
    place.begin("python", "-c", program, PORT=str(port), AUDIENCE=AUDIENCE, LEDGER=str(tmp_path / "ledger"))
    url = f"http://127.0.0.1:{port}/mcp"
    place.until(lambda: httpx2.get(url, trust_env=False).status_code == 403)
    options = ["--url", url, "--audience", AUDIENCE, "--token-file", held]
    found = json.loads(place.run("mcpfleet", "verify", *options, "--json", "--expect-tool", "pay"))
    assert found["ok"], found
    port = free_port()
    place.begin("mcpfleet", "proxy", *options, "--port", port)
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}
    ask = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    said = place.until(lambda: httpx2.post(f"http://127.0.0.1:{port}/mcp", json=ask, headers=HEADERS, trust_env=False))
    assert '"name":"ledger"' in said.text


FLEET = {
    "region": "europe-west1",
    "servers": {
        "own": {"source": {"build": "./own"}},
        "toolbox": {"source": {"image": "europe-docker.pkg.dev/acme/tools/toolbox:1"}},
        "clock": {"source": {"stdio": {"pypi": "mcp-server-time==2026.10.19"}}},
    },
    "clients": {"caller": {"source": {"image": "europe-docker.pkg.dev/acme/tools/caller:1"}, "calls": ["own"]}},
}


def test_a_program_outside_the_checkout_creates_a_fleets_components(elsewhere):
    place = elsewhere("pulumi-mcpfleet")
    assert place.imports_all_of("pulumi_mcpfleet") > 10
    assert place.knows("mcpfleet_local_cloud") == "False\n"
    shutil.copy(ROOT / "__main__.py", place.folder)
    (place.folder / "own").mkdir()
    (place.folder / "own" / "Dockerfile").write_text("FROM scratch\n")
    made = json.loads(place.run("python", "-c", UNDER_MOCKS, json.dumps(FLEET)))
    services = {name for kind, name, _ in made if kind == "mcpfleet:index:McpServer"}
    assert services == set(FLEET["servers"])
    assert [name for kind, name, _ in made if kind == "mcpfleet:index:McpClient"] == ["caller"]
    contexts = [inputs["context"]["location"] for kind, _, inputs in made if kind == "docker-build:index:Image"]
    assert len(contexts) == 2, "its own folder, and the bridge with the package"


def test_the_local_cloud_starts_and_answers(elsewhere):
    place = elsewhere("mcpfleet-local-cloud")
    assert place.imports_all_of("mcpfleet_local_cloud") > 100
    state, port = place.folder / "state", free_port()
    place.begin("python", "-m", "mcpfleet_local_cloud", "serve", "--state", state, "--port", port)
    try:
        health = f"http://127.0.0.1:{port}/_local/health"
        place.until(lambda: httpx2.get(health, trust_env=False).json()["status"] == "ok")
        run = f"http://127.0.0.1:{port}/run/v2/projects/mcpfleet-local/locations/europe-west1/services"
        assert httpx2.get(run, trust_env=False).status_code == 401
    finally:
        place.end()
        remove_docker_objects((state / "id").read_text().strip())


def test_commands_outside_the_checkout_print_their_own_names(elsewhere):
    place = elsewhere("mcpfleet-local-cloud")
    (place.folder / "Pulumi.yaml").write_text("name: elsewhere\nruntime: python\n")
    assert "deploy it with mcpfleet-local-cloud up" in place.run("mcpfleet-local-cloud", "status")


def test_the_command_deploys_and_destroys_a_fleet_outside_the_checkout(elsewhere):
    place = elsewhere("mcpfleet-local-cloud")
    shutil.copy(ROOT / "__main__.py", place.folder)
    (place.folder / "Pulumi.yaml").write_text("name: elsewhere\nruntime: python\n")
    stack = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text())
    fleet = stack["config"]["mcpfleet:fleet"]
    del fleet["clients"], fleet["servers"]["reference"]  # what is left needs no folder of the checkout
    (place.folder / "Pulumi.local.yaml").write_text(yaml.safe_dump(stack))
    outside = {"XDG_CACHE_HOME": str(Paths.from_environ(os.environ).cache.parent), "MCPFLEET_PORT": str(free_port())}
    assert "deploy it with mcpfleet-local-cloud up" in place.run("mcpfleet-local-cloud", "status", **outside)
    try:
        said = place.run("mcpfleet-local-cloud", "up", **outside)
        assert [name for name in fleet["servers"] if f"mcpfleet-local-cloud proxy {name}" not in said] == []
    finally:
        said = place.run("mcpfleet-local-cloud", "down", **outside)
    assert "Nothing is left of the stack." in said
