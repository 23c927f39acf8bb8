"""Tests of the token endpoint and of IAM Credentials."""

import google.auth.exceptions
import google.oauth2.credentials
import google.oauth2.service_account
import jwt
import pytest

from mcpfleet_local_cloud.services.auth import CLOUD_PLATFORM
from mcpfleet_local_cloud.services.oauth import CLIENT_ID, CLIENT_SECRET, JWT_BEARER

DEPLOYER = "deployer@mcpfleet-local.iam.gserviceaccount.com"
TOKEN_URI = "https://oauth2.googleapis.com/token"
AUDIENCE = "http://127.0.0.1:8500"
NOT_YET = ": the local cloud does not support this field yet: "
NO_DURATION = (
    "Invalid value at '{0}' (type.googleapis.com/google.protobuf.Duration), Field '{0}', Illegal duration format; "
    "duration must end with 's'"
)
BAD_LIFETIME = "lifetime: '{}' is not a duration from 1s to 3600s."
TARGET = f"/iamcredentials/v1/projects/-/serviceAccounts/{DEPLOYER}"


class Transport:
    """google-auth's transport, which reaches the app and nothing else."""

    def __init__(self, running):
        self._running = running

    def __call__(self, url, method="GET", body=None, headers=None, **_):
        answer = self._running.client.request(method, url, content=body, headers=headers)
        return type("Answer", (), {"status": answer.status_code, "headers": answer.headers, "data": answer.content})


@pytest.fixture
def transport(running):
    return Transport(running)


@pytest.fixture
def exchange(running):
    def call(**form):
        answer = running.client.post("/oauth2/token", data=form)
        return answer.status_code, answer.json()

    return call


@pytest.fixture
def assertion(running):
    file = running.credential("deployer")

    def make(key=None, kid=None, **changes):
        now = int(running.clock.now)
        claims = {"iss": DEPLOYER, "aud": TOKEN_URI, "scope": CLOUD_PLATFORM, "iat": now, "exp": now + 3600, **changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(
            claims, key or file["private_key"], algorithm="RS256", headers={"kid": kid or file["private_key_id"]}
        )

    return make


def claims_of(running, token, audience):
    published = jwt.PyJWKSet.from_dict(running.client.get("/oauth2/v3/certs").json())
    key = published[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(
        token,
        key,
        algorithms=["RS256"],
        audience=audience,
        issuer="https://accounts.google.com",
        options={"verify_exp": False, "verify_iat": False},
    )


def test_google_auth_gets_an_id_token_for_a_service_account(running, transport):
    info = {**running.credential("deployer"), "universe_domain": "googleapis.com"}
    credentials = google.oauth2.service_account.IDTokenCredentials.from_service_account_info(
        info, target_audience=AUDIENCE
    )
    # Verified below without a clock: google-auth's own reading of `exp` needs today's date.
    credentials.refresh(transport)
    claims = claims_of(running, credentials.token, AUDIENCE)
    assert claims["email"] == DEPLOYER
    assert claims["sub"] == running.credential("deployer")["client_id"]
    assert running.cloud.identity.verify_id_token(credentials.token).audience == AUDIENCE


def test_google_auth_gets_both_tokens_for_a_user(running, transport):
    file = running.credential("ada")
    credentials = google.oauth2.credentials.Credentials(
        None,
        refresh_token=file["refresh_token"],
        token_uri=file["token_uri"],
        client_id=file["client_id"],
        client_secret=file["client_secret"],
    )
    credentials.refresh(transport)
    assert running.cloud.authorizer.authenticate_token(credentials.token).email == "ada@mcpfleet.test"
    assert claims_of(running, credentials.id_token, CLIENT_ID)["email"] == "ada@mcpfleet.test"
    assert running.cloud.identity.verify_id_token(credentials.id_token).audience == CLIENT_ID


def test_google_auth_gets_an_access_token_for_a_service_account_at_the_endpoint(running, transport):
    info = {**running.credential("deployer"), "universe_domain": "googleapis.com"}
    credentials = google.oauth2.service_account.Credentials.from_service_account_info(info, scopes=[CLOUD_PLATFORM])
    credentials.refresh(transport)
    assert running.cloud.authorizer.authenticate_token(credentials.token).email == DEPLOYER


def test_a_token_response_is_not_cacheable(running, assertion):
    answer = running.client.post("/oauth2/token", data={"grant_type": JWT_BEARER, "assertion": assertion()})
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"access_token", "expires_in", "token_type"}


def test_the_clouds_endpoint_and_googles_are_accepted_as_audience(running, exchange, assertion):
    file = running.credential("deployer")
    assert exchange(grant_type=JWT_BEARER, assertion=assertion(aud=file["token_uri"]))[0] == 200


BAD_TIME = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim."
)


@pytest.mark.parametrize(
    ("changes", "code", "error", "expected"),
    [
        ({"iss": "ghost@x.iam.gserviceaccount.com"}, 400, "invalid_grant", "Invalid grant: account not found"),
        ({"iss": None}, 400, "invalid_grant", "Invalid grant: account not found"),
        ({"aud": "https://evil.test/"}, 400, "invalid_grant", "Invalid JWT: Failed audience check."),
        ({"aud": None}, 400, "invalid_grant", "Invalid JWT: Failed audience check."),
        ({"exp": 3611}, 400, "invalid_grant", BAD_TIME),
        ({"exp": 0}, 400, "invalid_grant", BAD_TIME),
        ({"iat": 11, "exp": 100}, 400, "invalid_grant", BAD_TIME),
        ({"iat": -3600, "exp": -1}, 400, "invalid_grant", BAD_TIME),
        ({"scope": None}, 400, "invalid_scope", "Invalid OAuth scope or ID token audience provided."),
        ({"scope": " "}, 400, "invalid_scope", "Invalid OAuth scope or ID token audience provided."),
        (
            {"sub": "ada@mcpfleet.test"},
            401,
            "unauthorized_client",
            (
                "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any "
                "of the scopes requested."
            ),
        ),
    ],
)
def test_an_invalid_assertion_is_refused_as_an_oauth_error(
    running, exchange, assertion, changes, code, error, expected
):
    now = int(running.clock.now)
    real = {name: now + value if isinstance(value, int) else value for name, value in changes.items()}
    answer = exchange(grant_type=JWT_BEARER, assertion=assertion(**real))
    assert answer == (code, {"error": error, "error_description": expected})


def test_an_assertion_of_another_key_has_an_invalid_signature(exchange, assertion, cloud_keys):
    other_key = (cloud_keys / "signing-key.pem").read_text()
    for kid in (None, "0" * 40):
        _, answer = exchange(grant_type=JWT_BEARER, assertion=assertion(key=other_key, kid=kid))
        assert answer == {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}


def test_a_disabled_account_gets_no_token(running, exchange, assertion):
    running.cloud.accounts.set_disabled(running.cloud.accounts.get(DEPLOYER), disabled=True)
    _, answer = exchange(grant_type=JWT_BEARER, assertion=assertion())
    assert answer == {"error": "invalid_grant", "error_description": "Invalid grant: account is disabled"}


REFRESH = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


@pytest.mark.parametrize(
    ("form", "code", "error", "expected"),
    [
        ({}, 400, "invalid_request", "Missing required parameter: grant_type"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", "Invalid grant_type: password"),
        ({"grant_type": JWT_BEARER}, 400, "invalid_request", "Missing required parameter: assertion"),
        (
            {"grant_type": JWT_BEARER, "assertion": "x.y"},
            400,
            "invalid_grant",
            "Bad Request: the assertion is not a JWT",
        ),
        (REFRESH, 400, "invalid_request", "Missing required parameter: refresh_token"),
        (
            {**REFRESH, "refresh_token": "1//x", "client_id": ""},
            400,
            "invalid_request",
            "Missing required parameter: client_id",
        ),
        ({**REFRESH, "refresh_token": "1//x"}, 400, "invalid_grant", "Token has been expired or revoked."),
        (
            {**REFRESH, "refresh_token": "1//x", "client_id": "me"},
            401,
            "invalid_client",
            "The OAuth client was not found.",
        ),
        (
            {**REFRESH, "refresh_token": "1//x", "client_secret": "é"},
            401,
            "invalid_client",
            "The provided client secret is invalid.",
        ),
    ],
)
def test_an_invalid_request_is_refused_as_an_oauth_error(exchange, form, code, error, expected):
    assert exchange(**form) == (code, {"error": error, "error_description": expected})


def test_a_repeated_parameter_is_refused(running):
    answer = running.client.post("/oauth2/token", content="grant_type=refresh_token&grant_type=refresh_token")
    assert answer.json() == {"error": "invalid_request", "error_description": "A parameter is repeated."}


def test_a_user_cannot_get_more_scopes_than_granted(running, exchange):
    form = {**REFRESH, "refresh_token": running.credential("ada")["refresh_token"]}
    narrow = exchange(**form, scope="openid")[1]
    assert narrow["scope"] == "openid"
    code, answer = exchange(**form, scope="https://www.googleapis.com/auth/gmail.readonly")
    assert (code, answer["error"]) == (400, "invalid_scope")


def test_google_auth_reports_a_refusal_as_googles(running, transport):
    credentials = google.oauth2.credentials.Credentials(
        None, refresh_token="1//x", token_uri="/oauth2/token", client_id=CLIENT_ID, client_secret=CLIENT_SECRET
    )
    with pytest.raises(
        google.auth.exceptions.RefreshError, match=r"invalid_grant: Token has been expired or revoked\."
    ):
        credentials.refresh(transport)


@pytest.fixture
def creator(running):
    """Call IAM Credentials as an account with the permission."""
    running.enable("iamcredentials")
    running.grant("roles/iam.serviceAccountTokenCreator", "user:ada@mcpfleet.test")

    def call(verb, body=None, target=TARGET, as_="ada@mcpfleet.test"):
        return running.call("POST", f"{target}:{verb}", body, as_=as_)

    return call


def message(answer, code):
    assert answer.status_code == code, answer.text
    return answer.json()["error"]["message"]


def test_an_id_token_of_an_impersonated_account_is_valid(running, creator):
    token = creator("generateIdToken", {"audience": AUDIENCE, "includeEmail": True}).json()["token"]
    assert claims_of(running, token, AUDIENCE)["email"] == DEPLOYER
    bare = creator("generateIdToken", {"audience": AUDIENCE}).json()["token"]
    assert "email" not in claims_of(running, bare, AUDIENCE)


def test_an_access_token_of_an_impersonated_account_has_the_requested_lifetime(running, creator):
    body = {"scope": [CLOUD_PLATFORM], "lifetime": "60s"}
    answer = creator("generateAccessToken", body).json()
    assert answer["expireTime"] == "2026-09-21T14:14:20Z"
    token = answer["accessToken"]
    assert running.cloud.authorizer.authenticate_token(token).email == DEPLOYER
    running.clock.pass_by(60)
    assert running.client.get("/crm/v1/projects", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_google_auth_can_impersonate_an_account(running, creator, transport):
    from google.auth import impersonated_credentials

    source = google.oauth2.credentials.Credentials(running.access_token("ada@mcpfleet.test"))
    credentials = impersonated_credentials.Credentials(
        source, DEPLOYER, [CLOUD_PLATFORM], iam_endpoint_override=f"{TARGET}:generateAccessToken"
    )
    credentials.refresh(transport)
    assert running.cloud.authorizer.authenticate_token(credentials.token).email == DEPLOYER


@pytest.mark.parametrize(
    ("verb", "body", "code", "expected"),
    [
        ("generateIdToken", {}, 400, "audience is required."),
        ("generateIdToken", {"aud": "x"}, 400, 'Invalid JSON payload received. Unknown name "aud": Cannot find field.'),
        ("generateAccessToken", {}, 400, "scope: at least one scope is required."),
        ("generateAccessToken", {"scope": ["x"], "lifetime": "3601s"}, 400, BAD_LIFETIME.format("3601s")),
        ("generateAccessToken", {"scope": ["x"], "lifetime": "0s"}, 400, BAD_LIFETIME.format("0s")),
        ("generateAccessToken", {"scope": ["x"], "lifetime": "1h"}, 400, NO_DURATION.format("lifetime")),
        (
            "generateAccessToken",
            {"scope": ["x"], "delegates": ["a"]},
            501,
            f"delegates{NOT_YET}delegation is not supported here; use the account itself.",
        ),
        (
            "generateIdToken",
            {"audience": "x", "useEmailAzp": True},
            400,
            'Invalid JSON payload received. Unknown name "useEmailAzp": Cannot find field.',
        ),
    ],
)
def test_a_request_for_a_token_of_the_wrong_shape_is_refused(creator, verb, body, code, expected):
    assert message(creator(verb, body), code) == expected


def test_impersonation_requires_the_permission(running, creator):
    resource = f"projects/mcpfleet-local/serviceAccounts/{DEPLOYER}"
    for verb, permission in (("generateIdToken", "getOpenIdToken"), ("generateAccessToken", "getAccessToken")):
        denied = creator(verb, {"audience": "x", "scope": ["x"]}, as_="bob@mcpfleet.test")
        expected = (
            f"Permission 'iam.serviceAccounts.{permission}' denied on resource '{resource}' (or it may not exist)."
        )
        assert message(denied, 403) == expected


def test_impersonation_of_a_missing_account_is_refused(running, creator):
    ghost = "/iamcredentials/v1/projects/-/serviceAccounts/ghost@mcpfleet-local.iam.gserviceaccount.com"
    expected = message(creator("generateIdToken", {"audience": "x"}, target=ghost), 403)
    assert expected.endswith("ghost@mcpfleet-local.iam.gserviceaccount.com' (or it may not exist).")


def test_impersonation_of_a_disabled_account_is_refused(running, creator):
    running.cloud.accounts.set_disabled(running.cloud.accounts.get(DEPLOYER), disabled=True)
    assert message(creator("generateIdToken", {"audience": "x"}), 400) == f"Service account {DEPLOYER} is disabled."


def test_impersonation_requires_a_dash_as_project_and_the_api(running, creator):
    named = TARGET.replace("/-/", "/mcpfleet-local/")
    assert message(creator("generateIdToken", {"audience": "x"}, target=named), 400) == (
        "name: the project must be given as '-'."
    )
    running.cloud.usage.disable(running.cloud.projects.get(running.project), "iamcredentials.googleapis.com")
    expected = message(creator("generateIdToken", {"audience": "x"}), 403)
    assert expected.startswith("IAM Service Account Credentials API has not been used in project 481516234200 before")
