"""Tests of access to the APIs: tokens (also google-auth's), enabled APIs, and permissions."""

import json

import google.oauth2.service_account
import jwt
import pytest

from mcpfleet_local_cloud.services.auth import CLOUD_PLATFORM

ACCOUNTS = "/iam/v1/projects/mcpfleet-local/serviceAccounts"
SERVICES = "/serviceusage/v1/projects/mcpfleet-local/services"
HELP = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
INVALID = f"Request had invalid authentication credentials. {HELP}"


def error(answer):
    error_body = answer.json()["error"]
    assert error_body["code"] == answer.status_code
    details = error_body.get("details", [{}])
    return error_body["code"], error_body["status"], error_body["message"], details[0].get("reason")


def with_bearer(running, token, path=SERVICES):
    return running.client.get(path, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def self_signed(running):
    """A bearer of the deployer's own making, with its claims changed at will."""
    file = running.credential("deployer")

    def make(key=None, kid=None, **changes):
        now = int(running.clock.now)
        claims = {
            "iss": file["client_email"],
            "sub": file["client_email"],
            "scope": CLOUD_PLATFORM,
            "iat": now,
            "exp": now + 3600,
        }
        claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        return jwt.encode(
            claims, key or file["private_key"], algorithm="RS256", headers={"kid": kid or file["private_key_id"]}
        )

    return make


def test_google_auths_self_signed_jwt_is_accepted(running, deployer_jwt):
    assert with_bearer(running, deployer_jwt).status_code == 200
    assert running.lines[-1]["caller"] == "deployer@mcpfleet-local.iam.gserviceaccount.com"


def test_the_providers_token_with_an_empty_audience_is_accepted(running, self_signed):
    scope = f"{CLOUD_PLATFORM} https://www.googleapis.com/auth/userinfo.email"
    assert with_bearer(running, self_signed(aud="", scope=scope)).status_code == 200


@pytest.mark.parametrize(
    "audience",
    [
        "https://run.googleapis.com/",
        "https://run.mcpfleet.test/",
        "https://run.mcpfleet.test",
        "http://127.0.0.1:8470/",
    ],
)
def test_a_token_with_an_apis_audience_needs_no_scope(running, self_signed, audience):
    assert with_bearer(running, self_signed(aud=audience, scope=None)).status_code == 200


def test_google_auths_token_with_an_apis_audience_is_accepted(running):
    credentials = google.oauth2.service_account.Credentials.from_service_account_info(running.credential("deployer"))
    credentials._create_self_signed_jwt("https://run.mcpfleet.test/")
    credentials.refresh(None)
    token = credentials.token
    assert with_bearer(running, token if isinstance(token, str) else token.decode()).status_code == 200


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "token"])
def test_a_request_without_credentials_gets_googles_401(running, header):
    answer = running.client.get(SERVICES, headers={"Authorization": header} if header is not None else {})
    assert error(answer) == (
        401,
        "UNAUTHENTICATED",
        f"Request is missing required authentication credential. {HELP}",
        "CREDENTIALS_MISSING",
    )
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sub": "bob@mcpfleet.test"}, "may sign only for itself"),
        ({"iss": "ghost@mcpfleet-local.iam.gserviceaccount.com"}, "is no service account"),
        ({"iss": None}, "is no service account"),
        ({"exp": "+0"}, "has expired"),
        ({"exp": "+3611"}, "one hour at most"),
        ({"iat": "+11"}, "issued in the future"),
        ({"iat": None}, "iat"),
        ({"aud": "https://evil.test/"}, "is for https://evil.test/"),
        ({"aud": "https://run.googleapis.com.evil.test/"}, "is for"),
        ({"aud": "http://run.googleapis.com/"}, "is for"),
        ({"aud": "https://run.googleapis.com/v2"}, "is for"),
        ({"aud": ["https://run.googleapis.com/"]}, "must be strings"),
        ({"aud": None, "scope": None}, "needs an audience or a scope"),
    ],
)
def test_an_invalid_bearer_token_is_refused(running, self_signed, changes, reason):
    now = int(running.clock.now)
    real = {
        name: now + int(value) if isinstance(value, str) and value.startswith("+") else value
        for name, value in changes.items()
    }
    answer = with_bearer(running, self_signed(**real))
    assert error(answer) == (401, "UNAUTHENTICATED", INVALID, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
    assert reason in answer.json()["error"]["details"][0]["metadata"]["why"]


def test_a_token_signed_with_another_key_is_refused(running, self_signed, cloud_keys):
    other_key = (cloud_keys / "signing-key.pem").read_text()
    for kid in (None, "0" * 40):
        assert error(with_bearer(running, self_signed(key=other_key, kid=kid)))[0] == 401


@pytest.mark.parametrize("token", ["x", "a.b.c", "ya29.x", "ya29.a.b.c", "é", "{}"])
def test_a_malformed_token_is_refused_with_googles_message(running, token):
    answer = running.client.get(SERVICES, headers={"Authorization": f"Bearer {token}".encode()})
    assert error(answer)[:3] == (401, "UNAUTHENTICATED", INVALID)


def test_an_id_token_is_refused_by_the_apis(running):
    token = running.cloud.identity.mint_id_token(
        email="deployer@mcpfleet-local.iam.gserviceaccount.com", subject="1", audience="https://run.googleapis.com/"
    )
    assert error(with_bearer(running, token))[0] == 401


def test_a_token_with_insufficient_scopes_is_refused(running, self_signed):
    email = "https://www.googleapis.com/auth/userinfo.email"
    narrow, _ = running.cloud.identity.mint_access_token(email="ada@mcpfleet.test", scopes=[email])
    for token in (narrow, self_signed(scope=email)):
        assert error(with_bearer(running, token)) == (
            403,
            "PERMISSION_DENIED",
            "Request had insufficient authentication scopes.",
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        )


@pytest.mark.parametrize(
    ("method", "path", "scope", "reaches"),
    [
        ("GET", "/storage/v1/b?project=mcpfleet-local", "devstorage.read_only", True),
        ("POST", "/storage/v1/b?project=mcpfleet-local", "devstorage.read_only", False),
        ("POST", "/storage/v1/b?project=mcpfleet-local", "devstorage.read_write", True),
        ("GET", "/compute/v1/projects/mcpfleet-local/global/networks", "compute.readonly", True),
        ("POST", "/compute/v1/projects/mcpfleet-local/global/networks", "compute.readonly", False),
        ("GET", "/compute/v1/projects/mcpfleet-local/global/networks", "devstorage.full_control", False),
    ],
)
def test_a_token_can_call_the_methods_of_its_scopes(running, method, path, scope, reaches):
    """google-cloud-storage requests only scopes of Cloud Storage."""
    running.enable("compute", "storage")
    email = f"deployer@{running.project}.iam.gserviceaccount.com"
    token, _ = running.cloud.identity.mint_access_token(
        email=email, scopes=[f"https://www.googleapis.com/auth/{scope}"]
    )
    answer = running.client.request(method, path, json={"name": "a"}, headers={"Authorization": f"Bearer {token}"})

    assert ("ACCESS_TOKEN_SCOPE_INSUFFICIENT" not in answer.text) == reaches


def test_an_expired_access_token_is_refused(running):
    headers = running.headers()
    running.clock.pass_by(3600)
    assert error(running.client.get(SERVICES, headers=headers))[0] == 401


def test_a_token_of_a_missing_account_is_refused(running):
    answer = running.call("GET", SERVICES, as_="ghost@mcpfleet.test")
    assert error(answer) == (401, "UNAUTHENTICATED", INVALID, "ACCOUNT_STATE_INVALID")


def test_a_disabled_account_is_refused_until_it_is_enabled_again(running, deployer_jwt):
    account = running.cloud.accounts.get("deployer@mcpfleet-local.iam.gserviceaccount.com")
    running.cloud.accounts.set_disabled(account, disabled=True)
    assert error(with_bearer(running, deployer_jwt)) == (401, "UNAUTHENTICATED", INVALID, "ACCOUNT_STATE_INVALID")
    disabled = running.cloud.accounts.get(account["email"])
    running.cloud.accounts.set_disabled(disabled, disabled=False)
    assert with_bearer(running, deployer_jwt).status_code == 200


def test_a_deleted_key_is_refused(running, deployer_jwt):
    account = running.cloud.accounts.get("deployer@mcpfleet-local.iam.gserviceaccount.com")
    running.cloud.keys.delete(account, running.credential("deployer")["private_key_id"])
    assert error(with_bearer(running, deployer_jwt))[0] == 401


def test_a_disabled_api_is_an_error_with_the_way_to_enable_it(running):
    answer = running.call("GET", ACCOUNTS)
    activation_url = "https://console.developers.google.com/apis/api/iam.googleapis.com/overview?project=481516234200"
    assert error(answer) == (
        403,
        "PERMISSION_DENIED",
        (
            "Identity and Access Management (IAM) API has not been used in project 481516234200 before or it is "
            f"disabled. Enable it by visiting {activation_url} then retry. If you enabled this API recently, wait a "
            "few minutes for the action to propagate to our systems and retry."
        ),
        "SERVICE_DISABLED",
    )
    body = answer.json()["error"]
    assert body["details"][0]["metadata"]["service"] == "iam.googleapis.com"
    assert body["details"][0]["metadata"]["consumer"] == "projects/481516234200"
    # What the provider's isApiNotEnabledError looks for.
    assert body["errors"][0]["reason"] == "accessNotConfigured"


def test_cloud_runs_permission_error_is_googles(running):
    message = error(running.call("GET", "/run/v2/projects/mcpfleet-local/locations/europe-west1/services"))[2]
    assert message.startswith(
        "Cloud Run Admin API has not been used in project 481516234200 before or it is disabled. Enable it by visiting "
        "https://console.developers.google.com/apis/api/run.googleapis.com/overview?project=481516234200 then retry."
    )


def test_an_account_without_a_role_is_refused_with_the_permission(running):
    answer = running.call("GET", SERVICES, as_="bob@mcpfleet.test")
    assert error(answer) == (
        403,
        "PERMISSION_DENIED",
        "Permission 'serviceusage.services.list' denied on resource 'projects/mcpfleet-local' (or it may not exist).",
        "IAM_PERMISSION_DENIED",
    )
    assert answer.json()["error"]["details"][0]["metadata"] == {
        "permission": "serviceusage.services.list",
        "resource": "projects/mcpfleet-local",
    }


def test_another_project_is_refused_as_if_it_existed(running):
    answer = running.call("GET", "/serviceusage/v1/projects/somebody-elses/services")
    assert error(answer) == (
        403,
        "PERMISSION_DENIED",
        "Permission denied on resource project somebody-elses.",
        "CONSUMER_INVALID",
    )


def test_the_projects_number_is_accepted_as_its_id(running):
    by_number = running.call("GET", "/serviceusage/v1/projects/481516234200/services")
    assert by_number.json() == running.call("GET", SERVICES).json()


def test_cloud_runs_service_agent_can_only_pull_images(running):
    agent = "service-481516234200@serverless-robot-prod.iam.gserviceaccount.com"
    repository = "projects/mcpfleet-local/locations/europe-west1/repositories/mcpfleet"
    caller = running.cloud.authorizer.authenticate_token(running.access_token(agent))
    running.cloud.authorizer.require(caller, "artifactregistry.repositories.downloadArtifacts", repository)
    assert error(running.call("GET", SERVICES, as_=agent))[3] == "IAM_PERMISSION_DENIED"


def test_no_credential_is_ever_logged(running, deployer_jwt):
    with_bearer(running, deployer_jwt)
    running.client.get(SERVICES + "?access_token=" + deployer_jwt)
    assert deployer_jwt not in json.dumps(running.lines)
