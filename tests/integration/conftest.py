"""Checkouts and Docker for the integration tests."""

import shutil

import docker
import pytest

from tests.integration.checkout import ROOT, Checkout, free_port
from workbench.background import Place


@pytest.fixture(scope="session")
def engine():
    """Docker."""
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def make_checkout(tmp_path_factory):
    """Copies of the project; each is taken down at the end, whatever happened to it."""
    made = []

    def make(name):
        root = tmp_path_factory.mktemp(name) / "mcpfleet checkout"
        leave_out = shutil.ignore_patterns(
            ".git", ".venv", ".mcpfleet", "__pycache__", ".*_cache", ".hypothesis", "tests"
        )
        shutil.copytree(ROOT, root, ignore=leave_out)
        checkout = Checkout(Place(root=root, state=root / ".mcpfleet", port=free_port()))
        made.append(checkout)
        return checkout

    yield make
    for checkout in made:
        for process in checkout.started:
            if process.poll() is None:
                checkout.kill(process)
        code, output = checkout.dev("down", "--force")
        assert code == 0, output
