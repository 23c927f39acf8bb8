"""Keyless pipelines: workload identity pools, the token exchange, and what their identities may do."""

import json

import google.auth.exceptions
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth import identity_pool

NUMBER = 481516234200
POOLS = "/iam/v1/projects/mcpfleet-local/locations/global/workloadIdentityPools"
POOL = f"projects/{NUMBER}/locations/global/workloadIdentityPools/ci-pool"
PROVIDER = f"{POOL}/providers/github"
AUDIENCE = f"//iam.googleapis.com/{PROVIDER}"
ISSUER = "https://ci.acme.dev"
LOCAL = "http://127.0.0.1:9000/issuer"
SUBJECT = "repo:acme/weather:ref:refs/heads/main"
DEPLOYER = "deployer@mcpfleet-local.iam.gserviceaccount.com"
ROBOT = "pipeline@mcpfleet-local.iam.gserviceaccount.com"
ACCOUNT = f"projects/mcpfleet-local/serviceAccounts/{ROBOT}"
TOKEN_URL = "http://127.0.0.1:8470/sts/v1/token"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
FORM = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "audience": AUDIENCE,
    "scope": "https://www.googleapis.com/auth/cloud-platform",
    "requested_token_type": ACCESS,
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
}
MAPPING = {
    "google.subject": "assertion.sub",
    "google.groups": "assertion.teams",
    "attribute.repository": "assertion.repository",
    "attribute.branch": "assertion.ref.extract('refs/heads/{branch}')",
}
NO_TARGET = (
    'The target service indicated by the "audience" parameters is invalid. This might either be because the pool or '
    "provider is disabled or deleted or because it doesn't exist."
)


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP256R1())


def jwks(key, kid="k1"):
    document = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return {"keys": [{**document, "kid": kid, "use": "sig", "alg": "ES256"}]}


@pytest.fixture
def api(running):
    running.enable("iam", "iamcredentials", "sts")
    running.grant("roles/iam.workloadIdentityPoolAdmin", f"serviceAccount:{DEPLOYER}")
    return running


def provider_body(key, **changes):
    return {
        "attributeMapping": MAPPING,
        "oidc": {"issuerUri": ISSUER, "jwksJson": json.dumps(jwks(key))},
        **changes,
    }


@pytest.fixture
def pool(api):
    created = api.call("POST", f"{POOLS}?workloadIdentityPoolId=ci-pool", {"displayName": "CI"})
    assert created.status_code == 200, created.text
    return created.json()


@pytest.fixture
def provide(api, pool, key):
    def make(**changes):
        created = api.call(
            "POST",
            f"{POOLS}/ci-pool/providers?workloadIdentityPoolProviderId=github",
            provider_body(key, **changes),
        )
        assert created.status_code == 200, created.text
        return created.json()

    return make


@pytest.fixture
def token(api, key):
    def make(signed_by=None, kid="k1", headers=None, **changes):
        now = int(api.clock.now)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": SUBJECT,
            "iat": now,
            "exp": now + 300,
            "repository": "acme/weather",
            "ref": "refs/heads/main",
            "teams": ["sre", "dev"],
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, signed_by or key, algorithm="ES256", headers={"kid": kid, **(headers or {})})

    return make


@pytest.fixture
def exchange(api):
    def call(subject_token, **changes):
        form = {**FORM, "subject_token": subject_token, **changes}
        answer = api.client.post(
            "/sts/v1/token", data={name: value for name, value in form.items() if value is not None}
        )
        return answer.status_code, answer.json()

    return call


@pytest.fixture
def robot(api):
    api.call("POST", "/iam/v1/projects/mcpfleet-local/serviceAccounts", {"accountId": "pipeline"})
    return ROBOT


class Transport:
    """google-auth's transport, which reaches the app and nothing else."""

    def __init__(self, api):
        self._api = api

    def __call__(self, url, method="GET", body=None, headers=None, **_):
        answer = self._api.client.request(method, url, content=body, headers=headers)
        return type("Answer", (), {"status": answer.status_code, "headers": answer.headers, "data": answer.content})


@pytest.fixture
def credentials(api, provide, token, tmp_path):
    """Return google-auth's credentials for a credential file as pipelines have it."""
    provide()
    file = tmp_path / "token"
    file.write_text(token())

    def load(account=None):
        document = {
            "type": "external_account",
            "audience": AUDIENCE,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": TOKEN_URL,
            "universe_domain": "mcpfleet.test",
            "credential_source": {"file": str(file)},
        }
        if account:
            document["service_account_impersonation_url"] = (
                f"http://127.0.0.1:8470/iamcredentials/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
            )
        created = identity_pool.Credentials.from_info(document)
        return created.with_scopes(["https://www.googleapis.com/auth/cloud-platform"])

    return load


def bearer(api, method, path, access, body=None):
    return api.client.request(method, path, json=body, headers={"Authorization": f"Bearer {access}"})


# --- pools and providers ------------------------------------------------------------------------------------


def test_a_pool_and_its_provider_are_created_read_updated_and_deleted(api, provide, pool):
    assert pool["done"] is True
    assert pool["name"].startswith(f"{POOL}/operations/")
    assert api.call("GET", f"/iam/v1/{pool['name']}").json() == pool
    expected = {"name": POOL, "state": "ACTIVE", "displayName": "CI"}
    assert pool["response"] == {"@type": "type.googleapis.com/google.iam.v1.WorkloadIdentityPool", **expected}
    assert api.call("GET", f"{POOLS}/ci-pool").json() == expected
    provider = provide(attributeCondition="assertion.repository_owner == 'acme'")["response"]
    assert provider["name"] == PROVIDER
    path = f"{POOLS}/ci-pool/providers/github"
    changed = api.call(
        "PATCH", f"{path}?updateMask=oidc.allowedAudiences,disabled", {"oidc": {"allowedAudiences": ["a"]}}
    )
    assert changed.json()["response"]["oidc"] == {**provider["oidc"], "allowedAudiences": ["a"]}
    assert (
        api.call("PATCH", f"{path}?updateMask=attribute_condition", {})
        .json()["response"]
        .keys()
        .isdisjoint({"attributeCondition", "disabled"})
    )
    assert [
        listed_provider["name"]
        for listed_provider in api.call("GET", f"{POOLS}/ci-pool/providers").json()["workloadIdentityPoolProviders"]
    ]
    assert api.cloud.inventory()["records"] == [f"identity pool {POOL}", f"identity pool {PROVIDER}"]
    for deleted_path in (path, f"{POOLS}/ci-pool"):
        assert api.call("DELETE", deleted_path).json()["response"]["state"] == "DELETED"
    assert api.cloud.inventory()["records"] == []


def test_a_deleted_pool_is_kept_for_30_days_and_keeps_its_name(api, pool):
    api.call("DELETE", f"{POOLS}/ci-pool")
    assert api.call("GET", f"{POOLS}/ci-pool").json()["state"] == "DELETED"
    assert api.call("GET", POOLS).json() == {}
    assert len(api.call("GET", f"{POOLS}?showDeleted=true").json()["workloadIdentityPools"]) == 1
    recreated = api.call("POST", f"{POOLS}?workloadIdentityPoolId=ci-pool", {})
    assert recreated.json()["error"]["message"] == "Requested entity already exists"
    assert api.call("POST", f"{POOLS}/ci-pool:undelete", {}).json()["response"]["state"] == "ACTIVE"
    api.call("DELETE", f"{POOLS}/ci-pool")
    api.clock.pass_by(30 * 24 * 3600 + 1)
    assert api.call("GET", f"{POOLS}/ci-pool").status_code == 404
    assert api.call("POST", f"{POOLS}?workloadIdentityPoolId=ci-pool", {}).status_code == 200


def test_down_leaves_no_deleted_pool(api, pool):
    api.call("DELETE", f"{POOLS}/ci-pool")
    api.cloud.forget()
    assert api.call("GET", f"{POOLS}/ci-pool").status_code == 404


def test_creating_a_pool_requires_the_permission(api):
    answer = api.call("POST", f"{POOLS}?workloadIdentityPoolId=ci-pool", {}, as_="bob@mcpfleet.test")
    assert answer.status_code == 403
    assert "'iam.workloadIdentityPools.create' denied" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"oidc": None}, 400, "oidc: must be set"),
        ({"oidc": {"issuerUri": "http://acme.dev"}}, 400, "must be a URI with https://"),
        ({"oidc": {"issuerUri": "https://a.dev?x=y"}}, 400, "must be a URI with https://"),
        ({"oidc": {"issuerUri": ISSUER, "jwksJson": "{}"}}, 400, "jwks_json: not a JSON Web Key Set"),
        ({"oidc": {"issuerUri": ISSUER, "allowedAudiences": ["x" * 257]}}, 400, "allowed_audiences"),
        ({"oidc": {"issuerUri": ISSUER, "nonsense": 1}}, 400, 'Unknown name "nonsense"'),
        ({"attributeMapping": {"attribute.x": "assertion.x"}}, 400, "google.subject must be mapped"),
        ({"attributeMapping": {**MAPPING, "attribute.X": "assertion.x"}}, 400, "use google.subject"),
        ({"attributeMapping": {**MAPPING, "attribute.x": "assertion."}}, 400, "attribute_mapping[attribute.x]"),
        ({"attributeMapping": {**MAPPING, "attribute.x": "google.subject"}}, 400, "undeclared reference to 'google'"),
        ({"attributeMapping": {**MAPPING, "attribute.x": 5}}, 400, "attribute_mapping[4].value"),
        ({"attributeCondition": "assertion.x.format([1])"}, 400, "does not support the function 'format'"),
        ({"attributeCondition": "x" * 4097}, 400, "cannot exceed 4096"),
        ({"oidc": {"issuerUri": "https://gitlab.com"}}, 400, "must reference one of the provider's claims"),
        ({"aws": {"accountId": "1"}}, 501, "workloadIdentityPoolProvider.aws"),
        ({"saml": {"idpMetadataXml": "<x/>"}}, 501, "workloadIdentityPoolProvider.saml"),
    ],
)
def test_invalid_and_unsupported_providers_are_refused_by_name(api, pool, key, changes, status, message):
    path = f"{POOLS}/ci-pool/providers?workloadIdentityPoolProviderId=github"
    answer = api.call("POST", path, provider_body(key, **changes))
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text


@pytest.mark.parametrize("name", ["abc", "x" * 33, "gcp-pool", "Pool", "a_b_c"])
def test_an_id_that_google_refuses_is_refused(api, name):
    assert api.call("POST", f"{POOLS}?workloadIdentityPoolId={name}", {}).status_code == 400


# --- the exchange -------------------------------------------------------------------------------------------


def test_google_auth_accesses_a_resource_with_a_federated_token(api, credentials):
    api.grant("roles/viewer", f"principal://iam.googleapis.com/{POOL}/subject/{SUBJECT}")
    loaded = credentials()
    loaded.refresh(Transport(api))
    answer = bearer(api, "GET", POOLS, loaded.token)
    assert answer.status_code == 200
    assert api.lines[-1]["caller"] == f"principal://iam.googleapis.com/{POOL}/subject/{SUBJECT}"
    assert bearer(api, "POST", f"{POOLS}?workloadIdentityPoolId=other", loaded.token, {}).status_code == 403


def test_google_auth_impersonates_a_service_account_with_a_federated_token(api, credentials, robot):
    api.grant(
        "roles/iam.workloadIdentityUser", f"principalSet://iam.googleapis.com/{POOL}/attribute.branch/main", ACCOUNT
    )
    loaded = credentials(ROBOT)
    loaded.refresh(Transport(api))
    assert api.cloud.authorizer.authenticate_token(loaded.token).email == ROBOT


def test_google_auth_gets_an_id_token_of_a_service_account(api, credentials, robot):
    api.grant("roles/iam.workloadIdentityUser", f"principalSet://iam.googleapis.com/{POOL}/*", ACCOUNT)
    federated = credentials()
    federated.refresh(Transport(api))
    answer = bearer(
        api,
        "POST",
        f"/iamcredentials/v1/projects/-/serviceAccounts/{ROBOT}:generateIdToken",
        federated.token,
        {"audience": "https://echo", "includeEmail": True},
    )
    assert answer.status_code == 200, answer.text
    assert api.cloud.identity.verify_id_token(answer.json()["token"]).email == ROBOT


def test_google_auth_reports_a_refusal_as_googles(api, credentials):
    api.call("PATCH", f"{POOLS}/ci-pool?updateMask=disabled", {"disabled": True})
    with pytest.raises(google.auth.exceptions.OAuthError) as refusal:
        credentials().refresh(Transport(api))
    assert refusal.value.args[0] == f"Error code invalid_target: {NO_TARGET}"


@pytest.mark.parametrize(
    "member",
    [
        f"principal://iam.googleapis.com/{POOL}/subject/{SUBJECT}",
        f"principalSet://iam.googleapis.com/{POOL}/*",
        f"principalSet://iam.googleapis.com/{POOL}/group/sre",
        f"principalSet://iam.googleapis.com/{POOL}/attribute.repository/acme/weather",
        f"principalSet://iam.googleapis.com/{POOL}/attribute.branch/main",
    ],
)
def test_each_kind_of_principal_has_its_own_grants(api, provide, token, exchange, member):
    provide()
    _, access_token = exchange(token())
    _, other = exchange(token(sub="other", repository="acme/x", ref="refs/tags/1", teams=["ops"]))
    api.grant("roles/viewer", member)
    assert bearer(api, "GET", POOLS, access_token["access_token"]).status_code == 200
    status = bearer(api, "GET", POOLS, other["access_token"]).status_code
    assert status == (200 if member.endswith("/*") else 403)


def test_a_federated_identity_is_no_authenticated_user_of_googles(api, provide, token, exchange):
    provide()
    api.grant("roles/viewer", "allAuthenticatedUsers")
    assert bearer(api, "GET", POOLS, exchange(token())[1]["access_token"]).status_code == 403


def test_an_exchanged_token_expires_with_its_source(api, provide, token, exchange):
    provide()
    status, answer = exchange(token())
    assert status == 200
    assert answer == {
        "access_token": answer["access_token"],
        "issued_token_type": ACCESS,
        "token_type": "Bearer",
        "expires_in": 300,
    }
    api.clock.pass_by(301)
    assert bearer(api, "GET", POOLS, answer["access_token"]).status_code == 401


def test_a_token_request_may_be_json_or_a_form(api, provide, token):
    provide()
    body = {
        "grantType": FORM["grant_type"],
        "audience": AUDIENCE,
        "scope": FORM["scope"],
        "requestedTokenType": ACCESS,
        "subjectToken": token(),
        "subjectTokenType": FORM["subject_token_type"],
    }
    assert api.client.post("/sts/v1/token", json=body).status_code == 200


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"aud": "https://else"}, "invalid_grant", "The audience in ID Token [https://else] does not match"),
        ({"aud": ["a", "b"]}, "invalid_grant", "The audience in ID Token [a, b] does not match"),
        ({"aud": None}, "invalid_grant", "does not match the expected audience"),
        ({"iss": "https://else"}, "invalid_grant", "The issuer in ID Token https://else does not match"),
        ({"exp": 1}, "invalid_grant", "is stale to sign-in"),
        ({"iat": 1}, "invalid_grant", "is stale to sign-in"),
        ({"exp": "soon"}, "invalid_grant", "Invalid JWT Signature."),
        ({"kid": "other"}, "invalid_grant", "Invalid JWT Signature."),
        ({"headers": {"crit": ["x"]}}, "invalid_request", "Unable to parse"),
        ({"sub": None}, "invalid_grant", "The ID Token has no subject."),
        ({"sub": "x" * 128}, "invalid_request", "exceeds the 127 bytes limit"),
        ({"teams": "sre"}, "invalid_request", "google.groups must be a list of strings"),
        ({"teams": ["x"] * 401}, "invalid_request", "The mapped attributes exceed"),
        ({"repository": 5}, "invalid_request", "attribute.repository must be of type STRING"),
        ({"owner": "eve"}, "unauthorized_client", "The given credential is rejected by the attribute condition."),
        ({"owner": None}, "unauthorized_client", "The given credential is rejected by the attribute condition."),
    ],
)
def test_a_token_that_google_refuses_gets_its_message(provide, token, exchange, changes, error, message):
    provide(attributeCondition="assertion.owner == 'acme' && attribute.branch == 'main'")
    assert exchange(token(owner="acme"))[0] == 200
    status, answer = exchange(token(**{"owner": "acme", **changes}))
    assert (status, answer["error"]) == (400, error)
    assert message in answer["error_description"]


@pytest.mark.parametrize(
    ("condition", "teams", "status"),
    [
        ("assertion.teams.exists(team, team == 'sre')", 300, 200),
        ("assertion.teams.exists(one, assertion.teams.exists(two, one == two))", 100, 200),
        ("assertion.teams.all(a, assertion.teams.all(b, assertion.teams.all(c, a != 'x' || b != c)))", 300, 400),
        ("assertion.sub.split('').all(a, [" + "1, " * 900 + "1].all(b, assertion.teams.all(c, b == 1)))", 300, 400),
        ("['.all(', ')))'].exists(a, a != '(((') && assertion.teams.all(b, b != '.exists(x,')", 300, 200),
    ],
)
def test_a_condition_that_is_too_expensive_accepts_no_token(provide, token, exchange, condition, teams, status):
    provide(attributeCondition=condition)
    code, answer = exchange(token(teams=["sre", *(f"{number}" for number in range(teams - 1))]))

    assert code == status, answer
    if status == 400:
        assert answer["error"] == "unauthorized_client"


def test_a_token_signed_by_another_key_is_refused(provide, token, exchange):
    provide()
    status, answer = exchange(token(signed_by=ec.generate_private_key(ec.SECP256R1())))
    assert (status, answer["error_description"]) == (400, "Invalid JWT Signature.")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"audience": "github"}, "invalid_request", 'Invalid value for "audience"'),
        ({"audience": AUDIENCE + "x"}, "invalid_target", NO_TARGET),
        ({"audience": None}, "invalid_request", "Missing required parameter: audience"),
        ({"scope": None}, "invalid_request", "Missing required parameter: scope"),
        ({"grant_type": "password"}, "unsupported_grant_type", "Invalid value"),
        ({"requested_token_type": "x"}, "invalid_request", "requested_token_type"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request", "subject_token_type"),
        ({"options": "%7B%22accessBoundary%22%3A1%7D"}, "invalid_request", "no options but userProject"),
        ({"options": "["}, "invalid_request", "not a JSON object"),
        ({"actor_token": "x"}, "invalid_request", "does not support the parameter actor_token"),
        ({"subject_token": "x.y"}, "invalid_request", "Unable to parse the ID Token."),
        ({"subject_token": "a" * 70000 + ".b.c"}, "invalid_request", "Unable to parse the ID Token."),
    ],
)
def test_a_request_that_google_refuses_is_refused(provide, token, exchange, changes, error, message):
    provide()
    status, answer = exchange(**{"subject_token": token(), **changes})
    assert (status, answer["error"]) == (400, error)
    assert message in answer["error_description"]


@pytest.mark.parametrize("resource", ["ci-pool", "ci-pool/providers/github"])
@pytest.mark.parametrize("change", ["disable", "delete"])
def test_disabled_and_deleted_providers_exchange_no_token(api, provide, token, exchange, resource, change):
    provide()
    api.grant("roles/viewer", f"principalSet://iam.googleapis.com/{POOL}/*")
    _, access_token = exchange(token())
    if change == "disable":
        api.call("PATCH", f"{POOLS}/{resource}?updateMask=disabled", {"disabled": True})
    else:
        api.call("DELETE", f"{POOLS}/{resource}")
    status, answer = exchange(token())
    assert (status, answer["error_description"]) == (400, NO_TARGET)
    # A token that is out already: with the pool it counts no more, without its provider it still does.
    assert bearer(api, "GET", POOLS, access_token["access_token"]).status_code == (
        401 if resource == "ci-pool" else 200
    )


def test_the_api_must_be_enabled(running, key):
    running.enable("iam")
    running.grant("roles/iam.workloadIdentityPoolAdmin", f"serviceAccount:{DEPLOYER}")
    running.call("POST", f"{POOLS}?workloadIdentityPoolId=ci-pool", {})
    path = f"{POOLS}/ci-pool/providers?workloadIdentityPoolProviderId=github"
    running.call("POST", path, provider_body(key))
    answer = running.client.post("/sts/v1/token", data={**FORM, "subject_token": "a.b.c"})
    assert answer.json()["error"]["details"][0]["reason"] == "SERVICE_DISABLED"


def test_a_policy_cannot_name_a_missing_pool(api):
    member = f"principalSet://iam.googleapis.com/{POOL}/*"
    policy = {"bindings": [{"role": "roles/viewer", "members": [member]}]}
    answer = api.call("POST", "/crm/v1/projects/mcpfleet-local:setIamPolicy", {"policy": policy})
    assert answer.status_code == 400
    assert f"Identity Pool does not exist ({POOL})" in answer.json()["error"]["message"]


# --- issuers on this machine --------------------------------------------------------------------------------


@pytest.fixture
def issuer(provide, key, web):
    provide(oidc={"issuerUri": LOCAL})
    web[f"{LOCAL}/.well-known/openid-configuration"] = {"issuer": LOCAL, "jwks_uri": f"{LOCAL}/keys"}
    web[f"{LOCAL}/keys"] = jwks(key)
    return web


def test_keys_of_a_local_issuer_are_fetched_and_cached_for_a_minute(api, issuer, token, exchange):
    assert exchange(token(iss=LOCAL))[0] == 200
    issuer.clear()
    assert exchange(token(iss=LOCAL))[0] == 200
    api.clock.pass_by(61)
    assert exchange(token(iss=LOCAL))[1]["error_description"] == "Error connecting to the given credential's issuer."


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/.well-known/openid-configuration", None),
        ("/.well-known/openid-configuration", 500),
        ("/.well-known/openid-configuration", 302),
        ("/.well-known/openid-configuration", b"not json"),
        ("/.well-known/openid-configuration", b"[" * 100_000),
        ("/.well-known/openid-configuration", {"issuer": "https://else", "jwks_uri": f"{LOCAL}/keys"}),
        ("/.well-known/openid-configuration", {"issuer": LOCAL}),
        ("/.well-known/openid-configuration", {"issuer": LOCAL, "jwks_uri": "https://169.254.169.254/keys"}),
        ("/.well-known/openid-configuration", {"issuer": LOCAL, "jwks_uri": "http://127.0.0.1@evil.dev/keys"}),
        ("/.well-known/openid-configuration", {"issuer": LOCAL, "jwks_uri": "file:///etc/passwd"}),
        ("/.well-known/openid-configuration", {"issuer": LOCAL, "jwks_uri": ["x"]}),
        ("/keys", None),
        ("/keys", b" " * 70_000),
        ("/keys", {"keys": "x"}),
        ("/keys", {"keys": [{"kty": "oct", "kid": "k1", "k": "c2VjcmV0"}]}),
        ("/keys", {"keys": [{"kty": "RSA", "kid": "k1"}] * 101}),
    ],
)
def test_a_hostile_issuer_is_refused(issuer, token, exchange, path, answer):
    issuer[LOCAL + path] = answer
    status, refusal = exchange(token(iss=LOCAL))
    assert (status, refusal["error_description"]) == (400, "Error connecting to the given credential's issuer.")


def test_a_remote_issuer_requires_uploaded_keys(provide, token, exchange):
    provide(oidc={"issuerUri": ISSUER})
    assert exchange(token())[1]["error_description"] == "Error connecting to the given credential's issuer."
