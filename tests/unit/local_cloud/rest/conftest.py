"""A cloud with two of everything that its APIs list."""

from typing import Any

import pytest

from tests.unit.local_cloud.everything import fill


@pytest.fixture
def full(running: Any) -> Any:
    fill(running)
    return running
