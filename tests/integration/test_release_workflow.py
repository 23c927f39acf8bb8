"""The steps of the release workflow, as they are written there: on a copy of the checkout, and without publishing.

The programs that would publish (`uv publish`, `docker push` and `docker login`, `gh`) are replaced by ones that
note how they were called. The actions and the job `test`, which runs the unit tests, are not run.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile

import httpx2
import pytest
import yaml

from devtools.peers import find_uv
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from tests.integration.built_sources import BASE_IMAGE, docker, served
from tests.integration.checkout import ROOT

pytestmark = pytest.mark.integration

JOBS = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
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
NOTES_CALL = '#!/bin/sh\nprintf "%s\\n" "$0 $*" >> "$CALLS"\n'


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout as it is at the tag, after the job `build`."""
    folder = tmp_path_factory.mktemp("release") / "checkout"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", ".mcpfleet", "__pycache__", "tests"))
    changelog = folder / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace(f"## {VERSION} (unreleased)", f"## {VERSION} (2026-12-01)"))
    programs = folder.parent / "programs"
    programs.mkdir()
    (programs / "uv").symlink_to(find_uv(ThisHost(), Paths.from_environ(os.environ, ROOT)))
    run_job("build", folder, PATH=f"{programs}:{os.environ['PATH']}")
    return folder


def run_job(name, folder, names=None, **environment):
    """Run the scripts of a job, or some of them, as GitHub's runner does."""
    for step in JOBS[name]["steps"]:
        if "run" in step and (names is None or step["name"] in names):
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=folder,
                env={**os.environ, **environment_of_a_run(), **environment},
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{step['name']}:\n{done.stdout}{done.stderr}"


def environment_of_a_run():
    return {
        "GITHUB_REF_NAME": f"v{VERSION}",
        "GITHUB_REPOSITORY": "Acme/mcpfleet",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_ACTOR": "ada",
        "UV_PYTHON": sys.executable,
    }


def test_the_packages_notes_and_dependency_lists_are_built(checkout):
    made = checkout / "release"
    names = {f"mcpfleet{part}" for part in ("", "_bridge", "_local_cloud", "_login", "_server")} | {"pulumi_mcpfleet"}
    assert {file.name for file in (made / "dist").iterdir()} == {
        f"{name}-{VERSION}{kind}" for name in names for kind in (".tar.gz", "-py3-none-any.whl")
    }
    for name in names:
        sbom = json.loads((made / "sbom" / f"{name.replace('_', '-')}.cdx.json").read_text())
        assert sbom["bomFormat"] == "CycloneDX"
        assert sbom["metadata"]["component"]["version"] == VERSION
        assert len(sbom["components"]) >= 3
    assert (made / "notes.md").read_text().startswith("This is the first version.")
    wheel = next((made / "dist").glob("mcpfleet_bridge-*.whl"))
    assert "mcpfleet_bridge/__main__.py" in zipfile.ZipFile(wheel).namelist()


def test_the_publishing_job_gets_the_files_and_no_secret(checkout, tmp_path):
    for program in ("uv", "docker", "gh"):
        (tmp_path / program).write_text(NOTES_CALL)
        (tmp_path / program).chmod(0o755)
    (tmp_path / "docker").write_text(
        NOTES_CALL + '[ "$1" = inspect ] && echo "ghcr.io/acme/mcpfleet/mcpfleet-bridge@sha256:abc" || true\n'
    )
    calls, output = tmp_path / "calls", tmp_path / "output"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls), "GITHUB_OUTPUT": str(output)}
    token = "made-up-token"  # pragma: allowlist secret
    run_job("pypi", checkout, **environment)
    run_job("image", checkout, TOKEN=token, **environment)
    run_job("notes", checkout, GH_TOKEN=token, **environment)
    text = calls.read_text().replace(f"{tmp_path}/", "")
    uv, *_, gh = text.splitlines()
    assert uv.startswith("uv publish --trusted-publishing always --check-url https://pypi.org/simple release/dist/")
    assert uv.count("release/dist/") == 2 * 6
    image = f"ghcr.io/acme/mcpfleet/mcpfleet-bridge:{VERSION}"
    assert f"docker push {image}" in text.splitlines()
    assert gh.startswith(f"gh release create v{VERSION} --repo Acme/mcpfleet --verify-tag ")
    assert gh.count("release/sbom/") == 6
    assert token not in text
    assert output.read_text() == "name=ghcr.io/acme/mcpfleet/mcpfleet-bridge\ndigest=sha256:abc\n"


def test_the_bridges_image_serves_a_stdio_server(checkout, tmp_path):
    program = tmp_path / "docker"  # the step as it is written, on the base image that this machine has
    program.write_text(
        f'#!/bin/sh\nshift\nexec {shutil.which("docker")} build --build-arg BASE_IMAGE={BASE_IMAGE} "$@"\n'
    )
    program.chmod(0o755)
    run_job("image", checkout, names=["Build the image"], PATH=f"{tmp_path}:{os.environ['PATH']}")
    server = json.dumps(["/opt/bridge/bin/python", "-c", STDIO])
    try:
        with served("mcpfleet-bridge", [f"--env=MCP_STDIO_COMMAND={server}"]) as url:
            assert tools_at(url, seconds=60) == ["abs"]
    finally:
        docker("rmi", "mcpfleet-bridge")


def tools_at(url, seconds):
    """The names of the tools that a server lists, once it is ready."""
    ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.HTTPError):
            response = httpx2.post(url, json=ask, headers=HEADERS, timeout=10, trust_env=False)
            if response.is_success:
                return [tool["name"] for tool in response.json()["result"]["tools"]]
        time.sleep(0.05)
    pytest.fail(f"{url} did not answer")
