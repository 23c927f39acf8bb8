"""Fixtures of the login's tests."""

import pytest

from tests.unit.mcpfleet_login.login_world import World


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def world() -> World:
    return World()
