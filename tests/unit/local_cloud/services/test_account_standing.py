"""Whether who holds an ID token is still who they were when it was made."""

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


def test_an_account_stands_until_it_is_disabled_and_again_when_it_is_enabled(cloud, create):
    subject = create()
    assert cloud.cloud.accounts.is_active(EMAIL, subject)
    cloud.call("POST", f"{ACCOUNTS}/{EMAIL}:disable", {})
    assert not cloud.cloud.accounts.is_active(EMAIL, subject)
    cloud.call("POST", f"{ACCOUNTS}/{EMAIL}:enable", {})
    assert cloud.cloud.accounts.is_active(EMAIL.upper(), subject)


def test_a_deleted_account_does_not_stand_and_its_namesake_is_another_one(cloud, create):
    subject = create()
    cloud.call("DELETE", f"{ACCOUNTS}/{EMAIL}")
    assert not cloud.cloud.accounts.is_active(EMAIL, subject)
    namesake = create()
    assert not cloud.cloud.accounts.is_active(EMAIL, subject)
    assert cloud.cloud.accounts.is_active(EMAIL, namesake)


@pytest.mark.parametrize(
    "email", ["ada@mcpfleet.test", "", "service-481516234200@serverless-robot-prod.iam.gserviceaccount.com"]
)
def test_who_is_no_account_of_a_project_stands(cloud, email):
    assert cloud.cloud.accounts.is_active(email, "1")
