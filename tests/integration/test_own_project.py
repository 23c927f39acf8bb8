"""From nothing to a called private server, as a new user does it: in an empty folder, with the wheels from an index."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import httpx2
import pytest

from devtools.peers import find_uv
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from tests.integration.checkout import ROOT, free_port

pytestmark = pytest.mark.integration

SECONDS = 300
TUTORIAL_URL = "https://github.com/acme/orders-mcp.git"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "greet", "arguments": {"name": "Grace"}}}
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
BLOCK = re.compile(
    r"(?:`([\w.]+\.(?:toml|py|yaml))`[^\n]*(?:\n[^\n]+)*\n\n)?^```(sh|toml|python|yaml)\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
"""A code block of a page, with the first file that the paragraph before it names."""
PHASE = re.compile(r"✓ (?P<phase>\S.*?) +(?P<seconds>[0-9.]+) s")


class _Index(BaseHTTPRequestHandler):
    """A package index as PEP 503 has it, of the wheels in a folder."""

    folder: Path

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        kind, _, name = self.path.strip("/").partition("/")
        wheels = [file for file in self.folder.glob("*.whl") if name in (file.name, self._project(file))]
        if not wheels:
            self.send_error(404)
            return
        content = wheels[0].read_bytes() if kind == "files" else "".join(map(self._link, wheels)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/octet-stream" if kind == "files" else "text/html")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    @staticmethod
    def _project(file):
        return file.name.partition("-")[0].replace("_", "-")

    @staticmethod
    def _link(file):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return f'<a href="/files/{file.name}#sha256={digest}">{file.name}</a>'

    def log_message(self, *_):
        pass


def _left_out(folder, names):
    """Return the files that a build doesn't need; the package's template has hidden files and tests of its own."""
    return {
        name
        for name in names
        if name == "__pycache__" or (Path(folder) == ROOT and (name.startswith(".") or name in ("tests", "docs")))
    }


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """The address of an index with our wheels, which builds in Docker reach too."""
    base = tmp_path_factory.mktemp("index")
    copy = shutil.copytree(ROOT, base / "checkout", ignore=_left_out)
    uv = find_uv(ThisHost(), Paths.from_environ(os.environ, ROOT))
    build = [uv, "build", "--quiet", "--wheel", "--all-packages", "--project", copy, "--out-dir", base / "dist", copy]
    subprocess.run(build, check=True, timeout=SECONDS, capture_output=True)
    shutil.rmtree(copy)
    bridge = docker.from_env().networks.get("bridge")
    address = bridge.attrs["IPAM"]["Config"][0]["Gateway"]
    handler = type("Index", (_Index,), {"folder": base / "dist"})
    with ThreadingHTTPServer((address, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{address}:{server.server_port}/simple"
        server.shutdown()


@pytest.fixture
def git_url(tmp_path):
    """The URL of an empty git repository that accepts pushes."""
    subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / "git" / "orders-mcp.git"], check=True)
    port = free_port()
    options = [f"--base-path={tmp_path / 'git'}", "--export-all", "--enable=receive-pack", "--reuseaddr"]
    server = subprocess.Popen(["git", "daemon", *options, "--listen=127.0.0.1", f"--port={port}"])
    try:
        wait_for_port(port)
        yield f"git://127.0.0.1:{port}/orders-mcp.git"
    finally:
        server.terminate()
        server.wait(30)


def wait_for_port(port):
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(0.05)
        else:
            return


@dataclass
class User:
    """A user with uv and Docker, and without this checkout."""

    folder: Path
    environment: dict[str, str]
    commands: list[str] = field(default_factory=list)

    def type(self, command, *further):
        """Type a command; returns what it printed, and remembers the command."""
        self.commands.append(command)
        words = [*command.split(), *further]
        if words[0] == "cd":
            self.folder /= words[1]
            return ""
        done = self._run(words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def follow(self, page):
        """Write the files of a page and type its commands; returns what each command printed."""
        printed = {}
        for name, language, block in BLOCK.findall(page):
            if language == "sh":
                for command in block.splitlines():
                    if command.startswith("cd "):
                        self.folder = (self.folder / command.removeprefix("cd ")).resolve()
                    else:
                        done = self._run(["bash", "-o", "pipefail", "-c", command])
                        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                        printed[command] = done.stdout + done.stderr
            elif language == "yaml":
                fleet = self.folder / name
                part = re.escape(block.partition("\n")[0]) + r"\n(?: {5,}.*\n)+"
                text, count = re.subn(part, lambda _, block=block: block, fleet.read_text())
                assert count == 1, fleet.read_text()
                fleet.write_text(text)
            else:
                (self.folder / name).write_text(block)
        return printed

    def mistake(self, command):
        """Type a command that fails; returns its only message."""
        done = self._run(command.split())
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stdout == ""
        assert done.stderr.count("Error: ") == 1
        return done.stderr

    def _run(self, words):
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS
        )

    def call(self, name):
        """Call greet through `mcpfleet local proxy`, as a client on this machine does."""
        port = free_port()
        words = ["uv", "run", "mcpfleet", "local", "proxy", name, "--port", str(port)]
        with (self.folder.parent / "proxy.log").open("w") as log:
            proxy = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline and proxy.poll() is None:
                try:
                    response = httpx2.post(
                        f"http://127.0.0.1:{port}/mcp", json=CALL, headers=HEADERS, timeout=30, trust_env=False
                    )
                except httpx2.ConnectError:
                    time.sleep(0.1)
                    continue
                return response.json()["result"]["structuredContent"]["result"]
            pytest.fail((self.folder.parent / "proxy.log").read_text())
        finally:
            proxy.terminate()
            proxy.wait(30)


@pytest.fixture
def user(index, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    uv = find_uv(ThisHost(), Paths.from_environ(os.environ, ROOT))
    # uv's own distribution has both; the cache of ./dev has the first.
    for name, words in (("uv", ""), ("uvx", "tool run ")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{uv}" {words}"$@"\n')
        (programs / name).chmod(0o755)
    cache = Paths.from_environ(os.environ).cache.parent
    kept = {key: value for key, value in os.environ.items() if key.startswith(("DOCKER_", "SSL_", "LANG"))}
    environment = {
        **kept,
        "PATH": os.pathsep.join([str(programs), *os.environ["PATH"].split(os.pathsep)]),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(cache),  # what is costly to make, and what others' packages are
        "UV_INDEX": index,
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "MCPFLEET_PORT": str(free_port()),
    }
    (tmp_path / "work").mkdir()
    person = User(tmp_path / "work", environment)
    yield person
    if (person.folder / "Pulumi.yaml").exists():
        subprocess.run(
            ["uv", "run", "mcpfleet", "local", "down", "--force"],
            cwd=person.folder, env=environment, capture_output=True, timeout=SECONDS,
        )  # fmt: skip


def test_three_commands_create_deploy_and_call_a_private_server(user, capsys):
    began = time.monotonic()
    user.type("uvx mcpfleet init acme-mcp --yes")
    written = time.monotonic() - began
    user.type("cd acme-mcp")
    printed = user.type("uv run mcpfleet local up")
    seconds = time.monotonic() - began
    assert len(user.commands) == 3
    assert "6 checks of 1 server passed" in printed
    assert "uv run mcpfleet local proxy hello --port 3000" in printed
    phases = {found["phase"]: float(found["seconds"]) for found in PHASE.finditer(printed)}
    with capsys.disabled():
        print(f"\ninit {written:.1f} s, first call answered after {seconds:.1f} s; phases: {json.dumps(phases)}")

    assert user.call("hello") == "Hello Grace, from ada@mcpfleet.test!"
    assert str(ROOT) not in user.type("uv run python -c", "import sys, mcpfleet_local_cloud as m; print(sys.path, m)")
    assert "✓ Pulumi.prod.yaml  1 server" in user.type("uv run mcpfleet check")
    assert "3 passed" in user.type("uv run pytest -q")
    assert "1 passed" in user.type("uv run --directory servers/hello pytest -q")

    tool = user.folder / "servers" / "hello" / "server.py"
    tool.write_text(tool.read_text().replace("Hello {name}", "Good morning {name}"))
    user.type("uv run mcpfleet local up")
    assert user.call("hello") == "Good morning Grace, from ada@mcpfleet.test!"
    assert '"tool":"greet"' in user.type("uv run mcpfleet local logs hello").replace(" ", "")

    before = {
        file: file.read_bytes() for file in user.folder.rglob("*.*") if ".venv" not in file.parts and file.is_file()
    }
    assert "Nothing was changed" in user.type("uvx mcpfleet init . --yes")
    assert {file: file.read_bytes() for file in before} == before
    assert "Nothing is left of the stack." in user.type("uv run mcpfleet local down")


def test_the_tutorial_leads_to_a_server_with_a_secret_that_tells_two_callers_apart(user, git_url):
    names = [f"GIT_{role}_{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")]
    user.environment |= dict.fromkeys(names, "ada@mcpfleet.test")
    page = (ROOT / "docs" / "tutorial-your-server.md").read_text().replace(TUTORIAL_URL, git_url)
    printed = user.follow(page)

    def output(end):
        (text,) = [text for command, text in printed.items() if command.endswith(end)]
        return text

    planned = output(f"--server {git_url}#v1.0.0")
    assert "uv: uv.lock" in planned
    assert "python server.py" in planned
    assert 'secrets: {RECEIPT_KEY: {secret: receipt-key, version: "1"}}' in output("--stack local")
    hers, his = output("call orders my_orders"), output("bob.json")
    assert "tea" in hers
    assert "coffee" not in hers
    assert "coffee" in his
    assert "tea" not in his
    assert re.search(r"\b[0-9a-f]{64}\b", output("""'{"order": "tea"}'"""))
    assert "Nothing is left" in output("down --force")


def test_init_inspects_an_existing_server_when_run_by_uvx(user):
    server = user.folder / "weather" / "server.py"
    server.parent.mkdir()
    shutil.copytree(ROOT / "examples" / "weather", server.parent, dirs_exist_ok=True)
    printed = user.type("uvx mcpfleet init . --yes --name acme-mcp --server weather --no-lock")
    assert "Server weather: {folder: ./weather}" in printed
    assert "requirements: requirements.txt (`installer`)" in printed


def test_an_unreachable_repository_is_one_message_and_nothing_is_written(user):
    message = user.mistake(f"uvx mcpfleet init acme-mcp --yes --server http://127.0.0.1:{free_port()}/weather.git")
    assert "git can't fetch http://127.0.0.1:" in message
    assert "Nothing was written." in message
    assert [*user.folder.iterdir()] == []
