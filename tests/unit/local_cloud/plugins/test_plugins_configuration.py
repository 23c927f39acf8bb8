"""The gcp provider's configuration and its bearer (docs/google-apis.md 0 and 2)."""

import json

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf import empty_pb2
from pulumi.runtime.proto import provider_pb2 as pb

from mcpfleet_local_cloud.plugins.call import ProviderError
from mcpfleet_local_cloud.plugins.gcp.config import configure, environment_variable

UNIVERSE = "own.test"
RUN = "gcp:cloudrunv2/service:Service"


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def key_file(key, tmp_path):
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    info = {
        "type": "service_account",
        "client_email": "deployer@acme.iam.gserviceaccount.com",
        "private_key_id": "kid-1",
        "private_key": pem.decode(),
        "universe_domain": UNIVERSE,
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(info))
    return path


def test_the_bearer_is_a_jwt_signed_with_the_accounts_own_key(unconfigured, wire, key, key_file):
    wire.answers["GET /run/v2/projects/acme/locations/r1/services/a"] = {}
    unconfigured.configure(
        project="acme",
        credentials=str(key_file),
        universeDomain=UNIVERSE,
        cloudRunV2CustomEndpoint="http://127.0.0.1:9/run/v2/",
    ).read(RUN, "r1/a")
    bearer = wire.requests[0].headers["authorization"].removeprefix("Bearer ")
    assert jwt.get_unverified_header(bearer) == {"alg": "RS256", "kid": "kid-1", "typ": "JWT"}
    claims = jwt.decode(bearer, key.public_key(), algorithms=["RS256"], options={"verify_aud": False})
    assert claims["exp"] - claims.pop("iat") == 3600
    claims.pop("exp")
    assert claims == {
        "iss": "deployer@acme.iam.gserviceaccount.com",
        "sub": "deployer@acme.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/cloud-platform https://www.googleapis.com/auth/userinfo.email",
        "aud": "",
    }


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        ("other.test", "Universe domain mismatch: 'own.test' does not match the universe domain 'other.test'"),
        ("", "Universe domain 'own.test' was found in credentials without a corresponding 'universe_domain'"),
    ],
)
def test_a_universe_that_differs_from_the_credentials_is_refused(key_file, configured, message):
    with pytest.raises(ProviderError) as refusal:
        configure({"universeDomain": configured}, {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file)})
    assert message in str(refusal.value)


def test_every_setting_can_come_from_the_environment(key_file):
    config = configure(
        {},
        {
            "GOOGLE_PROJECT": "acme",
            "GOOGLE_REGION": "r1",
            "GOOGLE_UNIVERSE_DOMAIN": UNIVERSE,
            "GOOGLE_CREDENTIALS": key_file.read_text(),
            "GOOGLE_CLOUD_RUN_V2_CUSTOM_ENDPOINT": "http://h/run/v2/",
            "GOOGLE_IAM_BETA_CUSTOM_ENDPOINT": "http://h/iam/v1/",
        },
    )
    assert (config.project, config.region, config.universe) == ("acme", "r1", UNIVERSE)
    assert config.endpoint("cloudRunV2CustomEndpoint") == "http://h/run/v2/"
    assert config.endpoint("iamBetaCustomEndpoint") == "http://h/iam/v1/"


def test_stack_config_takes_precedence_over_the_environment():
    config = configure({"project": "mine", "accessToken": "t"}, {"GOOGLE_PROJECT": "theirs"})
    assert config.project == "mine"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("cloudRunV2CustomEndpoint", "GOOGLE_CLOUD_RUN_V2_CUSTOM_ENDPOINT"),
        ("artifactRegistryCustomEndpoint", "GOOGLE_ARTIFACT_REGISTRY_CUSTOM_ENDPOINT"),
        ("iamBetaCustomEndpoint", "GOOGLE_IAM_BETA_CUSTOM_ENDPOINT"),
        ("resourceManagerV3CustomEndpoint", "GOOGLE_RESOURCE_MANAGER_V3_CUSTOM_ENDPOINT"),
    ],
)
def test_each_endpoint_has_a_variable_for_its_key(key, name):
    assert environment_variable(key) == name


def test_a_call_without_an_endpoint_is_refused_with_its_key(unconfigured, wire, refused):
    unconfigured.configure(project="acme", accessToken="t")
    with pytest.raises(refused, match="never calls Google: set gcp:cloudRunV2CustomEndpoint or GOOGLE_CLOUD_RUN_V2"):
        unconfigured.read(RUN, "r1/a")
    assert wire.calls == []


@pytest.mark.parametrize("url", ["http://h:8997/run/v2", "http://h//", "h"])
def test_an_endpoint_ends_with_a_slash_after_a_segment(unconfigured, url):
    reasons = unconfigured.check_config(cloudRunV2CustomEndpoint=url)
    assert f'"cloud_run_v2_custom_endpoint" ("{url}") doesn\'t match regexp ".*/[^/]+/$"' in reasons[0]


def test_an_unknown_setting_is_named(unconfigured):
    assert unconfigured.check_config(projct="x", project="y") == [
        "could not validate provider configuration: Invalid or unknown key. Check `pulumi config get gcp:projct`."
    ]


def test_missing_credentials_are_an_error_with_what_to_set():
    with pytest.raises(ProviderError, match="set GOOGLE_APPLICATION_CREDENTIALS to its key file"):
        configure({}, {"HOME": "/nonexistent"})


def test_two_engines_of_one_process_keep_their_own_settings(unconfigured, wire, refused):
    base = "http://127.0.0.1:9/"
    wire.answers |= {f"GET /{first}/projects/{first}/locations/r/services/a": {} for first in ("first", "second")}
    engines = {}
    for first in ("first", "second"):
        engines[first] = type(unconfigured)(unconfigured.provider, peer=first)
        engines[first].configure(project=first, accessToken="t", cloudRunV2CustomEndpoint=f"{base}{first}/")
    for first, engine in engines.items():
        assert engine.read(RUN, f"{first}/r/a")[0] == f"projects/{first}/locations/r/services/a"
    engines["first"].rpc("Cancel", empty_pb2.Empty())
    with pytest.raises(refused, match="cancelled"):
        engines["first"].read(RUN, "first/r/a")
    assert engines["second"].read(RUN, "second/r/a")[0]


def test_an_unknown_resource_type_is_refused_by_name(engine, refused):
    with pytest.raises(refused, match="does not have the resource type gcp:spanner/instance:Instance"):
        engine.check("gcp:spanner/instance:Instance", {})


def test_the_access_token_of_the_client_config_is_a_secret(engine):
    answer = engine.rpc("Invoke", pb.InvokeRequest(tok="gcp:organizations/getClientConfig:getClientConfig"))
    token = getattr(answer, "return").fields["accessToken"].struct_value
    assert token.fields["4dabf18193072939515e22adb298388d"].string_value == "1b47061264138c4ac30d75fd1eb44270"
    assert token.fields["value"].string_value == "token"
