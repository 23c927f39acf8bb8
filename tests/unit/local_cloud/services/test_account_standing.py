"""Tests of whether the account of an ID token is still active."""

import pytest

EMAIL = "mcp-echo@mcpfleet-local.iam.gserviceaccount.com"
ACCOUNTS = "/iam/v1/projects/mcpfleet-local/serviceAccounts"


@pytest.fixture
def cloud(running):
    running.enable("iam")
    return running


@pytest.fixture
def create(cloud):
    """Make the account; returns its unique id."""
    return lambda: cloud.call("POST", ACCOUNTS, {"accountId": "mcp-echo"}).json()["uniqueId"]


def test_an_account_is_active_unless_it_is_disabled(cloud, create):
    subject = create()
    assert cloud.cloud.accounts.is_active(EMAIL, subject)
    cloud.call("POST", f"{ACCOUNTS}/{EMAIL}:disable", {})
    assert not cloud.cloud.accounts.is_active(EMAIL, subject)
    cloud.call("POST", f"{ACCOUNTS}/{EMAIL}:enable", {})
    assert cloud.cloud.accounts.is_active(EMAIL.upper(), subject)


def test_a_deleted_account_is_inactive_and_its_namesake_is_another_account(cloud, create):
    subject = create()
    cloud.call("DELETE", f"{ACCOUNTS}/{EMAIL}")
    assert not cloud.cloud.accounts.is_active(EMAIL, subject)
    namesake = create()
    assert not cloud.cloud.accounts.is_active(EMAIL, subject)
    assert cloud.cloud.accounts.is_active(EMAIL, namesake)


@pytest.mark.parametrize(
    "email", ["ada@mcpfleet.test", "", "service-481516234200@serverless-robot-prod.iam.gserviceaccount.com"]
)
def test_accounts_outside_the_project_are_active(cloud, email):
    assert cloud.cloud.accounts.is_active(email, "1")
