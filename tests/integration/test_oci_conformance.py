"""The registry passes the conformance suite of the OCI Distribution Specification, version 1.1.

The suite is a Go program: its module is pinned in `oci_conformance/`, and needs `go`. Off is what the specification
leaves to a registry, and is not here: digests of SHA-512, tags as query parameters, manifests whose parts are missing.
"""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest
import uvicorn

from mcpfleet_local_cloud.app import create_app
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.state.folder import Settings

pytestmark = pytest.mark.integration
HERE = Path(__file__).parent / "oci_conformance"
GO = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
REPOSITORY = "europe-west1/mcpfleet-local/conformance"
OFF = ("OCI_DATA_SHA512", "OCI_DATA_SPARSE", "OCI_API_MANIFESTS_TAG_PARAM")
ON = ("OCI_API_BLOBS_UPLOAD_CANCEL", "OCI_API_BLOBS_DIGEST_HEADER", "OCI_API_MANIFESTS_DIGEST_HEADER")
CHECKS = 725
"""So many it made when this was written: fewer would be a run that tests less."""


class NoPlane:
    """Runs nothing: a registry needs no containers."""

    def address(self, service: str) -> str:
        return ""


@pytest.fixture
def registry(tmp_path):
    """A registry with a repository: its port, and a token that may push to it."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    token = []
    server = uvicorn.Server(uvicorn.Config(lambda: None, log_level="warning", lifespan="off"))

    async def serve():
        cloud = Cloud(Settings(state=tmp_path / "cloud", port=port), data_plane=NoPlane())
        await cloud.start()
        project = cloud.projects.get("mcpfleet-local")
        cloud.usage.enable(project, ["artifactregistry.googleapis.com"])
        cloud.repositories.create("mcpfleet-local", "europe-west1", "conformance", {"format": "DOCKER"})
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        token.append(
            cloud.identity.mint_access_token(email="deployer@mcpfleet-local.iam.gserviceaccount.com", scopes=scopes)[0]
        )
        server.config.app = create_app(cloud, lambda _: None)
        await server.serve(sockets=[listening])
        await cloud.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    # The socket listens already: the first request waits until somebody takes it.
    with socket.create_connection(("127.0.0.1", port), timeout=30) as first:
        first.sendall(b"GET /_local/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert first.recv(4096).startswith(b"HTTP/1.1 200")
    yield port, token[0]
    server.should_exit = True
    thread.join(timeout=30)
    listening.close()


@pytest.mark.skipif(GO is None, reason="the conformance suite is a Go program, and there is no go on this machine")
def test_the_registry_passes_the_conformance_suite(registry, tmp_path):
    port, token = registry
    suite = tmp_path / "conformance"
    assert GO is not None
    module = "github.com/opencontainers/distribution-spec/conformance"
    built = subprocess.run([GO, "build", "-C", HERE, "-o", suite, module], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    environment = {
        "OCI_REGISTRY": f"127.0.0.1:{port}",
        "OCI_TLS": "disabled",
        "OCI_USERNAME": "oauth2accesstoken",
        "OCI_PASSWORD": token,
        "OCI_REPO1": f"{REPOSITORY}/one",
        "OCI_REPO2": f"{REPOSITORY}/two",
        "OCI_RESULTS_DIR": str(tmp_path / "results"),
        "OCI_VERSION": "1.1",
        **dict.fromkeys(OFF, "false"),
        **dict.fromkeys(ON, "true"),
    }
    done = subprocess.run([suite], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    junit = (tmp_path / "results" / "junit.xml").read_text(encoding="utf-8")
    made = int(re.findall(r'<testsuites[^>]*\btests="(\d+)"', junit)[0])
    assert made >= CHECKS
