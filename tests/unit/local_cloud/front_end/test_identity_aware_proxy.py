"""Identity-Aware Proxy: its API and its emulated resource types, and what it does at a service's front door."""

import jwt
import pytest

from mcpfleet_local_cloud.front_end import iap
from mcpfleet_local_cloud.front_end.authorizer import Allowed, Authorizer, container_headers
from mcpfleet_local_cloud.front_end.routing import RoutedRequest

SERVICES = "/run/v2/projects/mcpfleet-local/locations/europe-west1/services"
NUMBER = "481516234200"
RESOURCE = f"projects/{NUMBER}/iap_web/cloud_run-europe-west1/services/hello"
AGENT = f"service-{NUMBER}@gcp-sa-iap.iam.gserviceaccount.com"
ADA, BOB = "ada@mcpfleet.test", "bob@mcpfleet.test"
CLIENT = "123-abc.apps.googleusercontent.com"
SETTINGS = "gcp:iap/settings:Settings"
MEMBER = "gcp:iap/webCloudRunServiceIamMember:WebCloudRunServiceIamMember"
IDENTITY = "gcp:projects/serviceIdentity:ServiceIdentity"
INVOKER = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"


@pytest.fixture
def api(running):
    running.enable("run", "iap")
    body = {"template": {"containers": [{"image": "docker.io/acme/hello:1"}]}, "iapEnabled": True}
    operation = running.call("POST", f"{SERVICES}?serviceId=hello", body).json()
    running.call("POST", f"/run/v2/{operation['name']}:wait", {})
    return running


def settings(**more):
    oauth = {"programmaticClients": [CLIENT], **more}
    return {"name": RESOURCE, "accessSettings": {"oauthSettings": oauth}}


def grant(member=f"user:{ADA}"):
    role = "roles/iap.httpsResourceAccessor"
    return {"cloudRunServiceName": "hello", "location": "europe-west1", "role": role, "member": member}


@pytest.fixture
def behind(api, program):
    """The service as infra/pulumi_mcpfleet/components/access.py puts it behind the proxy: Ada may pass."""
    identity = program.create(IDENTITY, {"service": "iap.googleapis.com"})
    invoker = {"name": "hello", "location": "europe-west1", "role": "roles/run.invoker"}
    return [
        (IDENTITY, identity),
        (INVOKER, program.create(INVOKER, {**invoker, "member": identity.properties["member"]})),
        (MEMBER, program.create(MEMBER, grant())),
        (SETTINGS, program.create(SETTINGS, settings())),
    ]


def passed(api, token=None, header=b"authorization", **more):
    """Return the front end's response to a request with *token*."""
    guard = Authorizer(api.cloud.identity, api.cloud.policies, clock=api.clock, proxy=api.cloud._identity_aware_proxy)
    (door,) = api.cloud.run.endpoints()
    headers = [(b"host", b"127.0.0.1:1")]
    headers += [(header, f"Bearer {token}".encode())] if token else []
    return guard.check(RoutedRequest(endpoint=door, port=1, **more), headers, "/mcp"), headers


def token_of(api, email=ADA, audience=CLIENT):
    return api.cloud.identity.mint_id_token(email=email, subject="42", audience=audience)


def test_a_member_with_a_token_for_an_allowed_client_passes(api, behind):
    for header in (b"authorization", b"proxy-authorization"):
        verdict, _ = passed(api, token_of(api), header)
        assert isinstance(verdict, Allowed)


def test_the_container_gets_a_verifiable_assertion_of_the_caller(api, behind):
    verdict, headers = passed(api, token_of(api))
    lies = [(b"x-goog-authenticated-user-email", b"accounts.google.com:root"), (b"x-goog-iap-jwt-assertion", b"lie")]
    sent = container_headers([*headers, *lies], verdict, "10.0.0.1")
    told = {name: value.decode() for name, value in sent if name.startswith(b"x-goog-")}
    assert told[b"x-goog-authenticated-user-email"] == f"accounts.google.com:{ADA}"
    assert told[b"x-goog-authenticated-user-id"] == "accounts.google.com:42"
    assert len([name for name, _ in sent if name == b"x-goog-iap-jwt-assertion"]) == 1
    published = api.client.get("/iap/verify/public_key-jwk").json()["keys"][0]
    claims = jwt.decode(
        told[b"x-goog-iap-jwt-assertion"],
        jwt.PyJWK(published).key,
        algorithms=["ES256"],
        audience=f"/projects/{NUMBER}/locations/europe-west1/services/hello",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert (claims["email"], claims["iss"]) == (ADA, "https://cloud.google.com/iap")
    assert b"SIGNATURE_REMOVED_BY_GOOGLE" in dict(sent)[b"authorization"]


@pytest.mark.parametrize(
    ("make", "status", "said"),
    [
        (lambda api: None, 401, b"Invalid IAP credentials: empty token"),
        (lambda api: "nonsense", 401, b"Invalid IAP credentials: "),
        (lambda api: token_of(api, audience="https://hello"), 401, b"JWT audience doesn't match this application"),
        (lambda api: token_of(api, email=BOB), 403, b"You don't have access"),
    ],
    ids=["none", "broken", "another audience", "nobody's"],
)
def test_other_callers_get_the_proxys_own_refusal(api, behind, make, status, said):
    verdict, _ = passed(api, make(api))
    assert verdict.page.status == status
    assert said in verdict.page.body
    assert (b"x-goog-iap-generated-response", b"true") in verdict.page.headers


def test_an_invoker_of_the_service_is_no_member_of_the_proxy(api, behind):
    api.grant("roles/run.invoker", f"user:{BOB}")
    verdict, _ = passed(api, token_of(api, email=BOB, audience=f"https://hello-{NUMBER}.europe-west1.run.app"))
    assert verdict.page.status == 401


def test_without_the_grant_to_the_service_agent_every_caller_is_refused(api, program, behind):
    program.delete(INVOKER, dict(behind)[INVOKER])
    verdict, _ = passed(api, token_of(api))
    assert b"The IAP service account is not provisioned" in verdict.page.body


def test_a_grant_on_the_project_counts_too(api, program, behind):
    api.grant("roles/iap.httpsResourceAccessor", f"user:{BOB}")
    verdict, _ = passed(api, token_of(api, email=BOB))
    assert isinstance(verdict, Allowed)


def test_a_program_creates_reruns_and_destroys_its_resources(api, program, behind):
    made = dict(behind)
    assert made[IDENTITY].properties["email"] == AGENT
    assert made[MEMBER].resource_id == (
        "projects/mcpfleet-local/iap_web/cloud_run-europe-west1/services/hello/"
        f"roles/iap.httpsResourceAccessor/user:{ADA}"
    )
    assert program.diff(SETTINGS, program.read(SETTINGS, made[SETTINGS]), settings()) == {}
    assert api.cloud.inventory()["records"] == [
        "settings of projects/mcpfleet-local/iap_web/cloud_run-europe-west1/services/hello"
    ]
    for kind in (SETTINGS, MEMBER, INVOKER, IDENTITY):
        program.delete(kind, made[kind])
    assert api.cloud.inventory()["records"] == []
    assert passed(api, token_of(api))[0].page.status == 401


def test_a_clients_secret_is_stored_only_as_a_digest(api, program, behind):
    wanted = settings(clientId="web", clientSecret="swordfish")
    changed = program.update(SETTINGS, dict(behind)[SETTINGS], wanted)
    shown = changed.properties["accessSettings"]["oauthSettings"]
    assert shown["clientSecret"] == "swordfish"
    assert len(shown["clientSecretSha256"]) == 64
    assert program.diff(SETTINGS, program.read(SETTINGS, changed), wanted) == {}
    kept = b"".join(path.read_bytes() for path in api.cloud.settings.state.glob("cloud.db*"))
    assert b"swordfish" not in kept
    assert "swordfish" not in api.call("GET", f"/iap/v1/{RESOURCE}:iapSettings").text
    assert isinstance(passed(api, token_of(api, audience="web"))[0], Allowed)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"applicationSettings": {"csmSettings": {"rctokenAud": "x"}}}, 501),
        ({"accessSettings": {"reauthSettings": {"method": "LOGIN"}}}, 501),
        ({"accessSettings": {"oauthSettings": {"programmaticClients": "x"}}}, 400),
        ({"accessSettings": {"oauthSettings": {"nonsense": 1}}}, 400),
    ],
)
def test_settings_without_effect_are_refused(api, body, status):
    assert api.call("PATCH", f"/iap/v1/{RESOURCE}:iapSettings", body).status_code == status


def test_only_iaps_own_role_grants_access(api):
    for role, status in (("roles/iap.httpsResourceAccessor", 200), ("roles/run.invoker", 400)):
        policy = {"bindings": [{"role": role, "members": [f"user:{ADA}"]}]}
        assert api.call("POST", f"/iap/v1/{RESOURCE}:setIamPolicy", {"policy": policy}).status_code == status
    assert api.call("POST", f"/iap/v1/{RESOURCE}:getIamPolicy", {}, as_=BOB).status_code == 403


def test_a_service_without_the_proxy_keeps_its_own_headers():
    headers = [(b"host", b"x"), (b"x-goog-iap-jwt-assertion", b"an app's own affair")]
    assert (b"x-goog-iap-jwt-assertion", b"an app's own affair") in container_headers(headers, Allowed(), "10.0.0.1")
    assert iap.invalid_credentials("x").status == 401
