"""The image of the reference server: its user, its contents, its labels."""

import http.client
import json
import time
from contextlib import closing, suppress

import docker
import pytest

from mcpfleet_local_cloud.commands.setup.base_image import BASE_IMAGE
from tests.integration.mcp_server_process import ROOT

pytestmark = pytest.mark.integration

LIMIT_MIB = 120


@pytest.fixture(scope="module")
def image(engine):
    built, _ = engine.images.build(
        path=str(ROOT),
        dockerfile="mcp_server/Dockerfile",
        buildargs={"BASE_IMAGE": BASE_IMAGE},
        network_mode="host",
        rm=True,
    )
    yield built
    with suppress(docker.errors.APIError):  # another build of the same file, at the same time, may stand on its layers
        engine.images.remove(built.id, force=True)


def test_the_image_serves_without_root_writable_disk_or_capabilities(engine, image):
    container = engine.containers.run(
        image.id,
        detach=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        environment={"PORT": "8080"},
        mem_limit="256m",
    )
    try:
        container.reload()
        address = container.attrs["NetworkSettings"]["IPAddress"]
        status, body = answered(address)
        assert (status, body["status"]) == (200, "ok")
        top = container.top()["Processes"]
        assert {process[0] for process in top} == {"65532"}
        assert all("sh -c" not in " ".join(process) for process in top)
        container.kill("SIGTERM")
        assert container.wait(timeout=15)["StatusCode"] == 0
    finally:
        container.remove(force=True)


def answered(address):
    deadline = time.monotonic() + 30
    while True:
        try:
            with closing(http.client.HTTPConnection(address, 8080, timeout=2)) as connection:
                connection.request("GET", "/ready")
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


# Summed up inside of the container: Docker may lose lines of an output of thousands.
SUMMARY = """
import json, sys
bill = json.load(open(sys.argv[1]))
print(json.dumps([bill, {part["name"]: part["version"] for part in bill.pop("components")}]))
"""


def test_the_image_has_a_bill_of_materials(engine, image):
    path = image.labels["dev.mcpfleet.sbom"]
    bill, versions = json.loads(
        engine.containers.run(image.id, ["/opt/venv/bin/python", "-c", SUMMARY, path], remove=True)
    )
    assert bill["bomFormat"] == "CycloneDX"
    assert versions["mcp"] == "2.3.0"
    assert "serialNumber" not in bill


def test_the_image_is_small(engine, image):
    base = engine.images.get(BASE_IMAGE).attrs["Size"]
    assert image.attrs["Size"] - base < LIMIT_MIB * 1024 * 1024


def test_the_image_has_only_the_servers_code_compiled(engine, image):
    listed = engine.containers.run(
        image.id,
        ["/opt/venv/bin/python", "-c", "import glob; print(*glob.glob('/app/**', recursive=True), sep='\\n')"],
        remove=True,
    ).decode()
    assert "__pycache__/app.cpython" in listed
    assert "conformance" not in listed
    assert "uv.lock" not in listed
