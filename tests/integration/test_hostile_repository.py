"""A hostile repository, built by Docker and Cloud Build: nothing from outside gets into an image."""

import io
import subprocess
import tarfile

import pytest
import yaml

from tests.integration.checkout import eventually, free_port
from tests.integration.generated_repositories import PLAIN, commit, git, write
from tests.integration.mcp_calls import answer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

BASE = {"BASE_IMAGE": "mcpfleet/base:python3.13"}
ACCESS = {"iam": {"invokers": ["user:ada@mcpfleet.test"]}}
KEY = "a-private-key-of-whoever-deploys"
BUILDERS = ("docker", "cloud-build")


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Files on the deployer's machine that the repository must not reach."""
    place = tmp_path_factory.mktemp("outside")
    (place / "id_ed25519").write_text(KEY)
    (place / "Dockerfile").write_text("FROM scratch\n")
    return place


@pytest.fixture(scope="module")
def address(tmp_path_factory, outside):
    """A git daemon with the repository; the address of that."""
    place = tmp_path_factory.mktemp("repositories")
    write(place / "private", {"secret.txt": KEY})
    commit(place / "private")
    hostile = place / "hostile"
    write(hostile, PLAIN)
    for name, target in {
        "key": outside / "id_ed25519",
        "all": outside,
        "up": "../../../..",
        "folder": outside,
    }.items():
        (hostile / name).symlink_to(target)
    for name in ("dockerfile", "ignored"):
        write(hostile / name, PLAIN)
    (hostile / "dockerfile" / "Dockerfile").symlink_to(outside / "Dockerfile")
    (hostile / "ignored" / ".dockerignore").symlink_to(outside / "id_ed25519")
    commit(hostile)
    inner = git(place / "private", "rev-parse", "HEAD")
    git(hostile, "update-index", "--add", "--cacheinfo", f"160000,{inner},lib")
    (hostile / ".gitmodules").write_text('[submodule "lib"]\n\tpath = lib\n\turl = ../../private/.git\n')
    git(hostile, "add", ".gitmodules")
    git(hostile, "commit", "--quiet", "-m", "a submodule")
    port = free_port()
    command = ["git", "daemon", "--reuseaddr", "--export-all", f"--base-path={place}", "--listen=127.0.0.1"]
    daemon = subprocess.Popen([*command, f"--port={port}", str(place)], stderr=subprocess.DEVNULL)
    url = f"git://127.0.0.1:{port}/hostile/.git"
    answers = ["git", "ls-remote", url]
    eventually(lambda: subprocess.run(answers, capture_output=True, timeout=10).returncode == 0, "it answers", 20)
    yield url
    daemon.terminate()
    daemon.wait(10)


@pytest.fixture(scope="module")
def checkout(make_checkout, address):
    checkout = make_checkout("hostile")
    file = checkout.place.root / "Pulumi.local.yaml"
    stack = yaml.safe_load(file.read_text())
    stack["config"]["mcpfleet:fleet"]["servers"] = {
        builder: {
            "source": {"git": {"url": address, "ref": "main"}, "builder": builder, "build_args": BASE},
            "access": ACCESS,
        }
        for builder in BUILDERS
    }
    file.write_text(yaml.safe_dump(stack, sort_keys=False))
    return checkout


@pytest.fixture(scope="module")
def first(checkout):
    return checkout.ok("up")


@pytest.mark.parametrize("builder", BUILDERS)
def test_links_out_of_a_repository_stay_links_in_its_image(deployed, checkout, engine, builder):
    assert answer(checkout, builder, "value", {}, "legacy") == "1"
    (container,) = [
        item for item in checkout.containers(engine) if item.labels["dev.mcpfleet.service"] == f"mcp-{builder}"
    ]
    content = b"".join(container.export())
    assert KEY.encode() not in content
    with tarfile.open(fileobj=io.BytesIO(content)) as image:
        found = {item.name: item for item in image if item.name.startswith("app")}
    assert found["app/key"].issym()
    assert found["app/all"].issym()
    assert found["app/up"].issym()
    assert not any(name.startswith("app/lib/") for name in found), "no submodule that nobody asked for"


def test_files_that_were_left_out_are_reported(deployed):
    assert "its submodules are not fetched (`git.submodules`)" in deployed


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("folder", "source.git.dir: folder leads out of"),
        ("up", "source.git.dir: up leads out of"),
        ("dockerfile", "source: Dockerfile is not a plain file of the source"),
        ("ignored", "source: .dockerignore is not a plain file of the source"),
    ],
)
def test_a_link_that_a_builder_would_follow_out_of_the_source_stops_the_deployment(
    deployed, checkout, outside, builder, folder, said
):
    file = checkout.place.root / "Pulumi.local.yaml"
    held = file.read_text()
    stack = yaml.safe_load(held)
    stack["config"]["mcpfleet:fleet"]["servers"][builder]["source"]["git"]["dir"] = folder
    try:
        file.write_text(yaml.safe_dump(stack, sort_keys=False))
        code, output = checkout.dev("up")
    finally:
        file.write_text(held)
    assert code == 1
    assert f"fleet.servers.{builder}.{said}" in output
    assert KEY not in output
    assert "Traceback" not in output
    assert (outside / "id_ed25519").read_text() == KEY


def test_down_leaves_nothing(deployed, checkout):
    assert checkout.dev("down")[0] == 0
