"""Configuration of all tests."""

import pytest
from hypothesis import settings

# A property is about what comes out, never about how soon: on a busy machine 200 ms pass without any doing of ours.
settings.register_profile("mcpfleet", deadline=None)
settings.load_profile("mcpfleet")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What a test wrote may hold half a character, and a worker that runs beside another could not send that."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
