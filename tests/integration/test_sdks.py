"""Pulumi's own generators make SDKs for TypeScript and Go of the component provider's schema, and the SDKs compile.

The generators are Go packages: `sdk_generator/` calls them, and needs `go`. The compiler of TypeScript comes from npm.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pulumi_mcpfleet.provider import schema

pytestmark = [pytest.mark.integration, pytest.mark.languages, pytest.mark.timeout(1500)]
GO = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
NPM = shutil.which("npm")
GENERATOR = Path(__file__).parent / "sdk_generator"
MODULE = "github.com/mcpfleet/mcpfleet/sdk/go/mcpfleet"
PULUMI = "3.256.0"

skip_without_go = pytest.mark.skipif(GO is None, reason="Pulumi's generators are a Go program; install go")


def run(command, folder):
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def sdks(tmp_path_factory):
    """The folder of the SDKs."""
    folder = tmp_path_factory.mktemp("sdks")
    (folder / "schema.json").write_text(json.dumps(schema.package()))
    run([GO, "run", ".", folder / "schema.json", folder], GENERATOR)
    return folder


@skip_without_go
@pytest.mark.skipif(NPM is None, reason="the compiler of TypeScript comes from npm; install Node.js")
def test_the_sdk_for_typescript_compiles(sdks):
    folder = sdks / "nodejs"
    packages = [f"@pulumi/pulumi@{PULUMI}", "typescript@5"]
    run([NPM, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *packages], folder)
    (folder / "program.ts").write_text(
        'import { Fleet, McpServer } from ".";\n'
        'const source = { image: "docker.io/acme/echo:1" };\n'
        "const servers = { echo: { source, maxInstances: 2 } };\n"
        'const fleet = new Fleet("fleet", { project: "p", region: "r", servers });\n'
        'const url = fleet.servers.apply(found => found["echo"].mcpUrl);\n'
        'new McpServer("other", { project: "p", region: "r", source, env: { URL: url } });\n'
    )
    run([folder / "node_modules/.bin/tsc", "--noEmit", "--skipLibCheck", "-p", "."], folder)


@skip_without_go
def test_the_sdk_for_go_compiles(sdks):
    folder = sdks / "go" / "mcpfleet"
    (folder / "go.mod").write_text(f"module {MODULE}\n\ngo 1.26\n\nrequire github.com/pulumi/pulumi/sdk/v3 v{PULUMI}\n")
    run([GO, "mod", "tidy"], folder)
    run([GO, "build", "./..."], folder)
