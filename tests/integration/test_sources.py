"""Servers from each kind of source, deployed by `./dev up` and called by the official client.

A Python and a Node.js repository without a Dockerfile from a git daemon, a folder, one that Cloud Build builds, and an
image that somebody else has built. Packages of npm and PyPI are in the showcase's.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from urllib.parse import unquote

import httpx2
import pytest
import yaml
from google.oauth2 import service_account

from tests.corpus.corpus import CASES
from tests.integration.checkout import eventually, free_port
from tests.integration.generated_repositories import RAW, STDIO, commit, git, write
from tests.integration.mcp_calls import answer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

BASE = {"BASE_IMAGE": "mcpfleet/base:python3.13"}
ACCESS = {"iam": {"invokers": ["user:ada@mcpfleet.test"]}}

PYTHON = {
    "requirements.txt": "mcp==2.3.0\n",
    "server.py": """
        import os
        from mcp.server.mcpserver import MCPServer
        server = MCPServer("weather")
        @server.tool()
        def weather(place: str) -> str:
            return f"sunny in {place}, says user {os.getuid()}"
        server.run("streamable-http", host="0.0.0.0", port=int(os.environ["PORT"]), stateless_http=True)
        """,
}
NODE = {
    "package.json": json.dumps(
        {
            "name": "notes",
            "version": "1.0.0",
            "type": "module",
            "scripts": {"start": "node server.js"},
            "dependencies": {"@modelcontextprotocol/sdk": "1.30.0", "express": "5.2.1", "zod": "3.25.76"},
        }
    ),
    "server.js": """
        import express from "express";
        import { z } from "zod";
        import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
        import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
        const app = express();
        app.use(express.json());
        app.post("/mcp", async (request, response) => {
          const server = new McpServer({ name: "notes", version: "1.0.0" });
          server.registerTool("note", { inputSchema: { text: z.string() } }, async ({ text }) => ({
            content: [{ type: "text", text: `noted ${text} on Node ${process.versions.node}` }],
          }));
          const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
          response.on("close", () => { transport.close(); server.close(); });
          await server.connect(transport);
          await transport.handleRequest(request, response, request.body);
        });
        app.listen(Number(process.env.PORT), "0.0.0.0");
        """,
}


LAYOUTS = {
    "layout-uv": "what uv init writes: .python-version of another Python, no build system",
    "layout-npm": "an npm workspace with one server",
}
"""The layouts of the corpus that are deployed on each run; test_corpus.py builds all of them."""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """A git daemon; gives the folder of its repositories and its address."""
    place = tmp_path_factory.mktemp("repositories")
    for name, files in (("weather", PYTHON), ("notes", NODE)):
        write(place / name, files)
        if name == "notes":
            npm = ["npm", "install", "--package-lock-only", "--silent", "--no-audit"]
            subprocess.run(npm, cwd=place / name, check=True, timeout=200)
        commit(place / name)
    port = free_port()
    command = ["git", "daemon", "--reuseaddr", "--export-all", f"--base-path={place}", "--listen=127.0.0.1"]
    daemon = subprocess.Popen([*command, f"--port={port}", str(place)], stderr=subprocess.DEVNULL)
    address = f"git://127.0.0.1:{port}"
    answers = ["git", "ls-remote", f"{address}/weather/.git"]
    eventually(
        lambda: subprocess.run(answers, capture_output=True, timeout=10).returncode == 0, "the daemon answers", 20
    )
    yield place, address
    daemon.terminate()
    daemon.wait(10)


HEALTHY = (
    PYTHON["server.py"]
    .replace(
        "@server.tool()",
        """@server.custom_route("/health", ["GET"])
        async def health(request):
            return Response()
        @server.tool()""",
    )
    .replace("import os\n", "import os\n        from starlette.responses import Response\n")
)
DOCKERFILE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY requirements.txt server.py /srv/
RUN python3 -m venv /venv && /venv/bin/pip install --quiet --no-cache-dir -r /srv/requirements.txt
USER 1234:1234
CMD ["/venv/bin/python", "/srv/server.py"]
"""


@pytest.fixture(scope="module")
def image(engine, tmp_path_factory):
    """An image with a stdio server, without the bridge."""
    folder = tmp_path_factory.mktemp("image")
    write(folder, {"server.py": RAW, "Dockerfile": f"FROM {BASE['BASE_IMAGE']}\nCOPY server.py /srv/server.py\n"})
    name = f"mcpfleet-test/tools:{folder.name}"
    engine.images.build(path=str(folder), tag=name, rm=True)
    yield name
    engine.images.remove(name, force=True)


@pytest.fixture(scope="module")
def checkout(make_checkout, repositories, image):
    _, address = repositories
    checkout = make_checkout("sources")
    file = checkout.place.root / "Pulumi.local.yaml"
    stack = yaml.safe_load(file.read_text())
    fleet = stack["config"]["mcpfleet:fleet"]
    write(checkout.place.root / "folder server", PYTHON)
    write(checkout.place.root / "built server", {**PYTHON, "Dockerfile": DOCKERFILE, "server.py": HEALTHY})
    write(checkout.place.root / "stdio server", STDIO)
    # With a step of its own: what two builds have in common at one time, the builder logs in one of them.
    cloud = {**PYTHON, "requirements.txt": "mcp==2.3.0\n# for Cloud Build\n"}
    write(checkout.place.root / "cloud server", {**cloud, ".gitignore": "*.secret", "a.secret": "not to be sent"})
    for name, layout in LAYOUTS.items():
        for path, content in CASES[layout].files.items():
            place = checkout.place.root / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
    sources = {
        **{name: {"folder": f"./{name}"} for name in LAYOUTS},
        "weather": {"git": {"url": f"{address}/weather/.git", "ref": "main"}},
        "notes": {"git": {"url": f"{address}/notes/.git", "ref": "v1.0.0"}},
        # Its code itself is in memory: were it not filled, nothing would start.
        "folder": {"folder": "./folder server", "writable": ["/app"]},
        "built": {"build": "./built server"},
        "cloud": {"folder": "./cloud server", "builder": "cloud-build"},
        "imaged": {"stdio": {"image": image, "command": ["python3", "/srv/server.py"]}},
        "stdio-folder": {
            "folder": "./stdio server",
            "speaks": "stdio",
            "start": ["python", "server.py", "--from", "args $HOME"],
        },
    }
    servers = {name: {"source": {**source, "build_args": BASE}, "access": ACCESS} for name, source in sources.items()}
    fleet["servers"] = {**servers, "toolbox": fleet["servers"]["toolbox"]}
    file.write_text(yaml.safe_dump(stack, sort_keys=False))
    return checkout


@pytest.fixture(scope="module")
def first(checkout):
    return checkout.ok("up")


def test_up_prints_its_decisions_and_the_keys_that_change_them(deployed):
    assert "weather: python server.py: server.py is where it begins, by its name (`start`)" in deployed
    assert "notes: npm (`installer`)" in deployed
    assert "notes: node server.js: the start script of package.json, without npm around it (`start`)" in deployed


def test_a_python_repository_without_a_dockerfile_runs_without_root(deployed, checkout):
    assert answer(checkout, "weather", "weather", {"place": "Bern"}).endswith(" in Bern, says user 65532")


def test_a_node_repository_without_a_dockerfile_runs_its_locked_packages(deployed, checkout):
    assert answer(checkout, "notes", "note", {"text": "it"}, "legacy").startswith("noted it on Node 24.")


def test_a_folder_without_a_dockerfile_is_served(deployed, checkout):
    assert answer(checkout, "folder", "weather", {"place": "Chur"}) == "sunny in Chur, says user 65532"


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_repository_layout_of_the_corpus_is_served(deployed, checkout, name):
    assert answer(checkout, name, "shout", {"text": "hey"}, "legacy") == "HEY"


def test_a_folder_is_built_by_its_own_dockerfile(deployed, checkout):
    assert answer(checkout, "built", "weather", {"place": "Sion"}) == "sunny in Sion, says user 1234"


def test_a_folder_built_by_cloud_build_is_served_and_its_log_was_printed(deployed, checkout):
    assert answer(checkout, "cloud", "weather", {"place": "Chur"}).endswith(" in Chur, says user 65532")
    assert "cloud: source: " in deployed
    assert re.search(r"cloud: #\d+ .*RUN uv venv", deployed), "the builder's own lines"
    assert "cloud: DONE" in deployed
    built = newest_built(checkout)
    assert image_of(checkout, "cloud").rpartition("@")[2] == built["results"]["images"][0]["digest"]
    account = "mcpfleet-build@mcpfleet-local.iam.gserviceaccount.com"
    assert built["serviceAccount"] == f"projects/mcpfleet-local/serviceAccounts/{account}"


def test_cloud_build_gets_the_folder_without_files_that_git_ignores(deployed, checkout):
    source = newest_built(checkout)["source"]["storageSource"]
    with tarfile.open(checkout.place.cloud_state / "storage" / source["bucket"] / source["object"]) as archive:
        assert archive.getnames() == ["Dockerfile", "source/requirements.txt", "source/server.py"]


def test_a_stdio_folder_is_served_by_the_bridge_with_its_exact_arguments(deployed, checkout):
    assert answer(checkout, "stdio-folder", "arguments", {}) == "['--from', 'args $HOME'] as 65532"


def test_a_stdio_server_in_a_foreign_image_is_served_by_the_bridge(deployed, checkout):
    assert answer(checkout, "imaged", "who", {}) == "user 65532"


def test_the_image_is_labelled_with_its_commit(deployed, checkout, engine, repositories):
    place, _ = repositories
    labels = {item.labels["dev.mcpfleet.service"]: item.image.labels for item in checkout.containers(engine)}
    revision = "org.opencontainers.image.revision"
    assert labels["mcp-weather"][revision] == git(place / "weather", "rev-parse", "main")
    assert labels["mcp-notes"][revision] == git(place / "notes", "rev-parse", "v1.0.0^{commit}")


def test_only_invokers_can_call_a_stdio_server(deployed, checkout):
    url = checkout.servers["imaged"]["mcp_url"]
    assert httpx2.post(url, json={}, timeout=30, trust_env=False).status_code in (401, 403)


def test_a_second_up_builds_nothing_and_a_change_builds_only_its_server(deployed, checkout, repositories):
    builds = len(cloud_builds(checkout))
    unchanged = checkout.ok("up")
    assert "no changes" in unchanged
    assert len(cloud_builds(checkout)) == builds
    place, _ = repositories
    before = {name: image_of(checkout, name) for name in ("weather", "notes", "imaged", "folder", "cloud")}
    server = place / "weather" / "server.py"
    server.write_text(server.read_text().replace("sunny", "rainy"))
    git(place / "weather", "commit", "--quiet", "-am", "second")
    server = checkout.place.root / "cloud server" / "server.py"
    server.write_text(server.read_text().replace("sunny", "rainy"))  # as many bytes as before
    changed = checkout.ok("up")
    after = {name: image_of(checkout, name) for name in before}
    assert [name for name in before if before[name] != after[name]] == ["weather", "cloud"]
    assert answer(checkout, "weather", "weather", {"place": "Bern"}).startswith("rainy in Bern")
    assert changed.count("cloud: starting build") == 1
    assert len(cloud_builds(checkout)) == builds + 1
    assert answer(checkout, "cloud", "weather", {"place": "Chur"}).startswith("rainy in Chur")


def test_a_failing_build_is_one_message_and_running_servers_stay_up(deployed, checkout):
    requirements = checkout.place.root / "cloud server" / "requirements.txt"
    held, before = requirements.read_text(), answer(checkout, "cloud", "weather", {"place": "Chur"})
    try:
        requirements.write_text("no-such-package-of-anybody==1\n")
        code, output = checkout.dev("up")
    finally:
        requirements.write_text(held)
    assert code == 1
    _, _, error = output.partition("error: ")
    assert "Cloud Build could not build 127.0.0.1:" in error
    assert "at step 'image': build step 0" in error
    assert "no-such-package-of-anybody" in error, "the log's last lines"
    log = re.search(r"The full log: file://(\S+), or gcloud builds log", error)
    assert "no-such-package-of-anybody" in Path(unquote(log[1])).read_text()
    assert "Traceback" not in output
    assert cloud_builds(checkout)[0]["status"] == "FAILURE"
    assert answer(checkout, "cloud", "weather", {"place": "Chur"}) == before


def test_ctrl_c_cancels_the_build_and_running_servers_stay_up(deployed, checkout):
    before = answer(checkout, "cloud", "weather", {"place": "Chur"})
    dockerfile = checkout.place.root / "cloud server" / "Dockerfile"
    dockerfile.write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN sleep 300\n")
    try:
        process = checkout.begin("up")
        eventually(lambda: "sleep 300" in newest_log(checkout), "the build runs")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        dockerfile.unlink()
    assert process.returncode != 0
    assert cloud_builds(checkout)[0]["status"] == "CANCELLED"
    assert answer(checkout, "cloud", "weather", {"place": "Chur"}) == before


def test_a_repository_that_cannot_be_fetched_is_one_line_with_its_config_path(deployed, checkout, repositories):
    file = checkout.place.root / "Pulumi.local.yaml"
    stack = file.read_text()
    try:
        file.write_text(stack.replace("ref: main", "ref: no-such-branch"))
        code, output = checkout.dev("up")
    finally:
        file.write_text(stack)
    assert code == 1
    assert "fleet.servers.weather.source.git.ref: " in output
    assert "has no tag and no branch no-such-branch" in output
    assert "Traceback" not in output


def test_down_leaves_nothing(deployed, checkout):
    assert checkout.dev("down")[0] == 0
    shutil.rmtree(checkout.place.root / ".mcpfleet" / "sources")


def cloud_builds(checkout):
    """Every build of Cloud Build, the newest first."""
    key = str(checkout.place.credentials / "deployer.json")
    who = service_account.Credentials.from_service_account_file(
        key, scopes=["https://www.googleapis.com/auth/cloud-platform"]
    )
    who.refresh(None)  # signs by itself, and asks nobody
    url = f"{checkout.place.url}/cloudbuild/v1/projects/mcpfleet-local/locations/europe-west1/builds"
    answer = httpx2.get(url, headers={"authorization": f"Bearer {who.token}"}, trust_env=False)
    return sorted(answer.json().get("builds", []), key=lambda build: build["createTime"], reverse=True)


def newest_built(checkout):
    """The build that made the image which is deployed."""
    return next(item for item in cloud_builds(checkout) if item["status"] == "SUCCESS")


def newest_log(checkout):
    logs = sorted((checkout.place.cloud_state / "builds").glob("*.log"), key=lambda log: log.stat().st_mtime_ns)
    return logs[-1].read_text() if logs else ""


def image_of(checkout, server):
    service = next(
        item
        for item in checkout.state.resources
        if item["type"] == "gcp:cloudrunv2/service:Service" and item["outputs"]["name"] == f"mcp-{server}"
    )
    return service["outputs"]["template"]["containers"][0]["image"]
