"""In whose name the provider builds: the Google provider's own order of places."""

import json

import google.auth
import google.oauth2.credentials
import pytest
from google.auth import impersonated_credentials
from google.oauth2 import service_account

from mcpfleet_local_cloud.identity.tokens import new_key, private_pem
from pulumi_mcpfleet.cloud_build.errors import BuildError
from pulumi_mcpfleet.cloud_build.google import find_credentials

PERSON = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}


@pytest.fixture(scope="module")
def key():
    return {
        "type": "service_account",
        "client_email": "deployer@acme.iam.gserviceaccount.com",
        "private_key": private_pem(new_key()),
        "token_uri": "https://oauth2.googleapis.com/token",
        "universe_domain": "acme.test",
    }


@pytest.fixture(autouse=True)
def default(monkeypatch):
    """What `google.auth.default` would find."""
    credentials = google.oauth2.credentials.Credentials("default")
    monkeypatch.setattr(google.auth, "default", lambda scopes: (credentials, "acme"))
    return credentials


def test_without_anything_said_it_is_the_default(default):
    assert find_credentials({}) is default
    assert find_credentials({"PULUMI_CONFIG": "no JSON"}) is default


def test_the_stacks_config_comes_before_the_environment():
    config = json.dumps({"gcp:accessToken": "of-config"})
    environ = {"PULUMI_CONFIG": config, "GOOGLE_OAUTH_ACCESS_TOKEN": "of-environment"}
    assert find_credentials(environ).token == "of-config"
    assert find_credentials({"GOOGLE_OAUTH_ACCESS_TOKEN": "of-environment"}).token == "of-environment"


def test_a_key_is_taken_as_text_or_as_a_file_and_signs_for_its_universe(key, tmp_path):
    file = tmp_path / "key.json"
    file.write_text(json.dumps(key))
    for variable in (json.dumps(key), str(file)):
        credentials = find_credentials({"GOOGLE_CREDENTIALS": variable})
        assert isinstance(credentials, service_account.Credentials)
        assert credentials.universe_domain == "acme.test"
        credentials.refresh(None)
        assert credentials.token, "it signs by itself, and asks nobody"
    assert isinstance(
        find_credentials({"GOOGLE_CREDENTIALS": json.dumps(PERSON)}), google.oauth2.credentials.Credentials
    )


def test_an_account_to_speak_as_is_put_in_front(key):
    environ = {"GOOGLE_CREDENTIALS": json.dumps(key), "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT": "ci@acme.test"}
    credentials = find_credentials(environ)
    assert isinstance(credentials, impersonated_credentials.Credentials)
    assert credentials.service_account_email == "ci@acme.test"


@pytest.mark.parametrize(
    "value",
    ["/no/such/file", "{}", "{broken", '{"type": "external_account"}', '{"type": "authorized_user"}'],
)
def test_a_key_that_is_none_is_one_sentence_with_what_to_do(value):
    with pytest.raises(BuildError, match=r"^no credentials for Google Cloud: .*gcloud auth application-default login"):
        find_credentials({"GOOGLE_CREDENTIALS": value})
