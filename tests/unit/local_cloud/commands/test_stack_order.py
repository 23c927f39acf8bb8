"""Tests of the checks of `./dev up` before any setup."""

import pytest

from mcpfleet_local_cloud.commands import stack
from mcpfleet_local_cloud.commands.phases import SetupError


def test_an_invalid_port_is_reported_before_setup(monkeypatch, plain):
    prepared = []
    monkeypatch.setattr(stack, "prepare", prepared.append)
    monkeypatch.setenv("MCPFLEET_PORT", "eight")
    with pytest.raises(SetupError, match="MCPFLEET_PORT is 'eight', not a port"):
        stack.up(plain)
    assert prepared == []
