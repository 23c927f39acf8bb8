"""External ID tokens and attribute mappings: whatever comes in, nothing but a refusal comes out, or what was signed."""

import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.identity import external, mapping
from mcpfleet_local_cloud.identity.external import TokenError, TokenTimeError
from mcpfleet_local_cloud.identity.principals import federated_principal, sets_of

NOW = 1_790_000_000
KEY = ec.generate_private_key(ec.SECP256R1())
CLAIMS = {"iat": NOW, "exp": NOW + 60, "sub": "x"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def keys(key=KEY, algorithm=jwt.algorithms.ECAlgorithm, **options):
    return [{**json.loads(algorithm.to_jwk(key.public_key())), "kid": "k", **options}]


def signed(claims=CLAIMS, algorithm="ES256", key=KEY, **headers):
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "k", **headers})


def test_a_correctly_signed_token_is_read():
    assert external.verify(signed(), keys(), NOW) == CLAIMS


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"exp": NOW}, TokenTimeError),
        ({"iat": NOW + 11}, TokenTimeError),
        ({"nbf": NOW + 11}, TokenTimeError),
        ({"iat": NOW - 86401}, TokenTimeError),
        ({"iat": True}, TokenError),
        ({"exp": 1e12}, TokenError),
    ],
)
def test_expiry_and_issue_times_are_checked(claims, error):
    with pytest.raises(error):
        external.verify(signed({**CLAIMS, **claims}), keys(), NOW)


def test_a_token_signed_with_the_public_key_as_secret_is_refused():
    with pytest.raises(TokenError):
        external.verify(jwt.encode(CLAIMS, "x" * 32, algorithm="HS256", headers={"kid": "k"}), keys(), NOW)
    with pytest.raises(TokenError):
        external.verify(jwt.encode(CLAIMS, "", algorithm="none", headers={"kid": "k"}), keys(), NOW)
    with pytest.raises(TokenError, match="cannot be used"):
        external.verify(signed(), keys(kty="RSA"), NOW)


def test_a_key_that_is_too_short_is_refused():
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    strong = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = signed(algorithm="RS256", key=strong)
    assert external.verify(token, keys(strong, jwt.algorithms.RSAAlgorithm), NOW) == CLAIMS
    with pytest.raises(TokenError, match="no public RSA key of 2048 bits"):
        external.verify(token, keys(weak, jwt.algorithms.RSAAlgorithm), NOW)
    curve = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(TokenError):
        external.verify(signed(), keys(curve), NOW)


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}", fullmatch=True))
def test_any_text_that_is_no_token_is_refused(text):
    with pytest.raises(TokenError):
        external.verify(text, keys(), NOW)
    with pytest.raises(TokenError):
        external.unverified_claims(text)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_that_is_no_key_set_is_refused(content):
    try:
        key_set = external.parse_key_set(content)
    except ValueError:
        return
    with pytest.raises(TokenError):
        external.verify(signed(), key_set, NOW)


@given(st.dictionaries(st.text(), JSON), st.sampled_from(["assertion.sub", "assertion.a.b", "assertion.groups.join()"]))
def test_a_mapping_ends_in_time_for_any_claim(claims, expression):
    try:
        attributes = mapping.map_attributes({"google.subject": expression, "attribute.x": "assertion.x"}, claims)
    except mapping.MappingError:
        return
    assert attributes.subject
    with pytest.raises(mapping.ConditionError):
        mapping.check_condition("assertion.nothing == google.subject", claims, attributes)


@pytest.mark.parametrize(
    ("expression", "attributes"),
    [
        ("assertion.arn.extract('assumed-role/{role}/')", "ci"),
        ("assertion.arn.extract('user/{name}') + '-'", "-"),
        ("assertion.sub.split(':')[1]", "acme/x"),
        ("assertion.teams.join('+')", "a+b"),
        ("assertion.sub.lowerAscii().replace('acme', 'b').upperAscii()", "REPO:B/X"),
        ("'admin' in assertion.teams ? 'yes' : 'no'", "no"),
        ("assertion['kubernetes.io'].namespace", "default"),
    ],
)
def test_the_expressions_of_googles_guide_are_evaluated(expression, attributes):
    claims = {
        "sub": "repo:acme/x",
        "arn": "arn:aws:sts::1:assumed-role/ci/session",
        "teams": ["a", "b"],
        "kubernetes.io": {"namespace": "default"},
    }
    mapping.check_expression(expression, frozenset({"assertion"}))
    assert mapping.map_attributes({"google.subject": expression}, claims).subject == attributes


@given(st.text(), st.lists(st.text()), st.dictionaries(st.from_regex(r"[a-z0-9_]{1,9}", fullmatch=True), st.text()))
def test_no_claim_yields_a_principal_of_another_pool_or_subject(subject, groups, attributes):
    pool = "projects/1/locations/global/workloadIdentityPools/mine"
    principal = federated_principal(pool, subject, groups, attributes)
    assert principal.pool == pool
    assert principal == f"principal://iam.googleapis.com/{pool}/subject/{subject}"
    assert all(member.startswith(f"principalSet://iam.googleapis.com/{pool}/") for member in sets_of(principal))
    assert principal not in sets_of(principal)
