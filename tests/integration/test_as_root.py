"""Deploys a stack as root; an ordinary user runs all other tests."""

import os

import pytest
import yaml

pytestmark = [
    pytest.mark.integration,
    pytest.mark.root,
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root is root"),
]


def test_root_deploys_verifies_and_destroys_a_stack(make_checkout):
    checkout = make_checkout("root")
    file = checkout.place.root / "Pulumi.local.yaml"
    stack = yaml.safe_load(file.read_text())
    servers = stack["config"]["mcpfleet:fleet"]["servers"]
    del servers["reference"]  # the other one has nothing to build
    file.write_text(yaml.safe_dump(stack, sort_keys=False))
    assert " passed" in checkout.ok("up")
    assert "Nothing is left of the stack." in checkout.ok("down")
