"""Fixtures of the integration tests: checkouts and Docker."""

import shutil

import pytest
import yaml

from mcpfleet_local_cloud import docker_engine
from mcpfleet_local_cloud.commands.background import CloudFolder
from tests.integration.checkout import ROOT, Checkout, free_port


@pytest.fixture(scope="session")
def engine():
    """Docker."""
    client = docker_engine.create_client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def make_checkout(tmp_path_factory):
    """`make_checkout(name)`: a copy of the project, taken down at the end of its module, whatever happened to it.

    Its stack `local` is cut down to two servers, which are enough for most tests, and quick; `whole=True` leaves the
    files as they are shipped.
    """
    made = []

    def make(name, *, whole=False):
        root = tmp_path_factory.mktemp(name) / "mcpfleet checkout"
        leave_out = shutil.ignore_patterns(
            ".git", ".venv", ".mcpfleet", "__pycache__", ".*_cache", ".hypothesis", "tests"
        )
        shutil.copytree(ROOT, root, ignore=leave_out)
        if not whole:
            file = root / "Pulumi.local.yaml"
            stack = yaml.safe_load(file.read_text())
            fleet = stack["config"]["mcpfleet:fleet"]
            del fleet["clients"]
            fleet["servers"] = {name: fleet["servers"][name] for name in ("reference", "toolbox")}
            file.write_text(yaml.safe_dump(stack, sort_keys=False))
        checkout = Checkout(CloudFolder(root=root, state=root / ".mcpfleet", port=free_port()))
        made.append(checkout)
        return checkout

    yield make
    for checkout in made:
        for process in checkout.started:
            if process.poll() is None:
                checkout.kill(process)
        code, output = checkout.dev("down", "--force")
        assert code == 0, output


@pytest.fixture
def deployed(checkout, first):
    """Deploy the module's `checkout`; return the output of its first `up`."""
    checkout.stand()
    return first
