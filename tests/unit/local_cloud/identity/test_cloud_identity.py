"""Tests of the cloud's tokens: only complete, unexpired tokens with its signature are accepted."""

import base64
import hashlib
import hmac
import json
import string

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.utils import base64url_encode

from mcpfleet_local_cloud.identity.tokens import ISSUER, Identity, TokenError, key_id, new_key

NOW = 1_790_000_000
AUDIENCE = "http://127.0.0.1:8500"


@pytest.fixture(scope="module")
def identity(cloud_keys):
    return Identity(cloud_keys, lambda: float(NOW))


@pytest.fixture(scope="module")
def token(identity):
    return identity.mint_id_token(email="ada@mcpfleet.test", subject="117", audience=AUDIENCE)


@pytest.fixture(scope="module")
def forged(cloud_keys, identity):
    """Make a token with the cloud's own key, but with other claims or another header."""
    key = serialization.load_pem_private_key((cloud_keys / "signing-key.pem").read_bytes(), None)
    token = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "117",
        "email": "ada@mcpfleet.test",
        "email_verified": True,
        "iat": NOW,
        "exp": NOW + 3600,
    }
    kid = identity.jwks()["keys"][0]["kid"]

    def make(headers=None, signer=key, algorithm="RS256", **changes):
        claims = {name: value for name, value in {**token, **changes}.items() if value is not None}
        return jwt.encode(claims, signer, algorithm=algorithm, headers={"kid": kid, **(headers or {})})

    return make


def _b64(value):
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def test_a_token_names_its_audience_and_subject(identity, token):
    claims = identity.verify_id_token(token)
    assert (claims.email, claims.subject, claims.audience) == ("ada@mcpfleet.test", "117", AUDIENCE)
    assert claims.expires == NOW + 3600
    assert claims.raw["iss"] == "https://accounts.google.com"
    assert claims.raw["azp"] == "117"
    assert claims.raw["email_verified"] is True


def test_any_client_can_verify_a_token_against_the_published_keys(identity, token):
    published = jwt.PyJWKSet.from_dict(identity.jwks())
    kid = jwt.get_unverified_header(token)["kid"]
    claims = jwt.decode(
        token, published[kid], algorithms=["RS256"], audience=AUDIENCE, issuer=ISSUER, options={"verify_exp": False}
    )
    assert claims["email"] == "ada@mcpfleet.test"


def test_the_published_keys_have_no_private_part(identity):
    assert set(identity.jwks()["keys"][0]) == {"kty", "alg", "use", "kid", "n", "e"}


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_token_with_any_character_changed_is_refused(identity, token, data):
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda sign: sign != token[place]))
    with pytest.raises(TokenError):
        identity.verify_id_token(token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_token_with_changed_unused_base64_bits_is_refused(identity, token, part):
    parts = token.split(".")
    for other in string.ascii_letters + string.digits + "-_":
        if other != parts[part][-1]:
            changed = [*parts[:part], parts[part][:-1] + other, *parts[part + 1 :]]
            with pytest.raises(TokenError):
                identity.verify_id_token(".".join(changed))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_token_with_any_byte_of_any_part_changed_is_refused(identity, token, data):
    parts = [base64.urlsafe_b64decode(part + "==") for part in token.split(".")]
    which = data.draw(st.integers(0, 2))
    place = data.draw(st.integers(0, len(parts[which]) - 1))
    flipped = data.draw(st.integers(1, 255))
    changed = bytearray(parts[which])
    changed[place] ^= flipped
    parts[which] = bytes(changed)
    with pytest.raises(TokenError):
        identity.verify_id_token(".".join(_b64(part) for part in parts))


@settings(max_examples=200, deadline=None)
@given(extra=st.text(min_size=1, max_size=8), place=st.integers(0, 2000))
def test_a_token_with_inserted_text_is_refused(identity, token, extra, place):
    place %= len(token) + 1
    with pytest.raises(TokenError):
        identity.verify_id_token(token[:place] + extra + token[place:])


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(1, 2000))
def test_a_truncated_token_is_refused(identity, token, cut):
    with pytest.raises(TokenError):
        identity.verify_id_token(token[: len(token) - 1 - cut % len(token)])


@settings(max_examples=300, deadline=None)
@given(junk=st.one_of(st.text(), st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*")))
def test_any_text_that_is_no_token_is_refused(identity, junk):
    with pytest.raises(TokenError):
        identity.verify_id_token(junk)
    with pytest.raises(TokenError):
        identity.verify_access_token("ya29." + junk)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_a_signature_is_refused(identity, token, algorithm):
    header = _b64({"alg": algorithm, "typ": "JWT", "kid": identity.jwks()["keys"][0]["kid"]})
    for signature in ("", token.split(".")[2]):
        with pytest.raises(TokenError):
            identity.verify_id_token(f"{header}.{token.split('.')[1]}.{signature}")


def test_a_token_signed_with_the_public_key_as_hmac_secret_is_refused(identity, cloud_keys, token):
    key = serialization.load_pem_private_key((cloud_keys / "signing-key.pem").read_bytes(), None)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = _b64({"alg": "HS256", "typ": "JWT", "kid": key_id(key.public_key())}) + "." + token.split(".")[1]
    signature = _b64(hmac.new(pem, signed.encode(), hashlib.sha256).digest())
    with pytest.raises(TokenError, match="RS256"):
        identity.verify_id_token(f"{signed}.{signature}")


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_another_algorithm_of_the_same_key_is_refused(identity, forged, algorithm):
    with pytest.raises(TokenError, match="RS256"):
        identity.verify_id_token(forged(algorithm=algorithm))


def test_a_token_of_another_key_is_refused_under_either_name(identity, forged):
    other = new_key()
    with pytest.raises(TokenError, match=r"[Ss]ignature"):
        identity.verify_id_token(forged(signer=other))
    with pytest.raises(TokenError, match="does not have"):
        identity.verify_id_token(forged(signer=other, headers={"kid": key_id(other.public_key())}))


def test_a_key_inside_the_token_is_not_used(identity, forged):
    other = new_key()
    embedded = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(other.public_key()))
    with pytest.raises(TokenError):
        identity.verify_id_token(forged(signer=other, headers={"jwk": embedded, "jku": "http://127.0.0.1/x"}))


def test_a_critical_extension_is_refused(identity, forged):
    with pytest.raises(TokenError, match="critical extension"):
        identity.verify_id_token(forged(headers={"crit": ["exp"]}))


def test_the_one_critical_extension_that_the_library_knows_is_refused(cloud_keys, identity, forged):
    head, claims, _ = forged().split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "==")) | {"crit": ["b64"], "b64": True}
    signed = f"{base64url_encode(json.dumps(header).encode()).decode()}.{claims}"
    key = serialization.load_pem_private_key((cloud_keys / "signing-key.pem").read_bytes(), None)
    signature = jwt.get_algorithm_by_name("RS256").sign(signed.encode(), key)
    with pytest.raises(TokenError, match="plain RS256"):
        identity.verify_id_token(f"{signed}.{base64url_encode(signature).decode()}")


def test_a_padded_token_is_refused(identity, forged):
    with pytest.raises(TokenError, match="three parts"):
        identity.verify_id_token(forged() + "==")


def test_the_tests_forgery_is_accepted_without_changes(identity, forged):
    assert identity.verify_id_token(forged()).email == "ada@mcpfleet.test"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://evil.test"}, "issuer"),
        ({"iss": "accounts.google.com"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"exp": NOW}, "expired"),
        ({"exp": NOW - 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": True}, "whole number"),
        ({"iat": True}, "whole number"),
        ({"exp": float("inf")}, "."),
        ({"exp": str(NOW + 5)}, "exp"),
        ({"iat": NOW + 11}, "future"),
        ({"iat": None}, "iat"),
        ({"nbf": NOW + 11}, "not valid yet"),
        ({"nbf": "soon"}, "nbf"),
        ({"aud": None}, "string"),
        ({"aud": [AUDIENCE]}, "string"),
        ({"sub": None}, "string"),
        ({"email": 7}, "string"),
    ],
)
def test_an_invalid_claim_is_refused(identity, forged, changes, reason):
    with pytest.raises(TokenError, match=reason):
        identity.verify_id_token(forged(**changes))


@pytest.mark.parametrize("changes", [{"iat": NOW + 10}, {"nbf": NOW + 10}, {"exp": NOW + 1}])
def test_times_at_the_limits_are_accepted(identity, forged, changes):
    assert identity.verify_id_token(forged(**changes)).subject == "117"


@pytest.mark.parametrize("verified", [False, "true", 1, None])
def test_an_unverified_email_identifies_no_caller(identity, forged, verified):
    assert identity.verify_id_token(forged(email_verified=verified)).email == ""


def test_a_token_without_an_email_identifies_no_caller(identity):
    bare = identity.mint_id_token(email="a@b.test", subject="1", audience=AUDIENCE, include_email=False)
    assert identity.verify_id_token(bare).email == ""
    assert "email" not in identity.verify_id_token(bare).raw


def test_an_access_token_is_no_id_token_and_an_id_token_no_access_token(identity, token):
    access, seconds = identity.mint_access_token(email="ada@mcpfleet.test", scopes=["a", "b"])
    assert seconds == 3600
    assert access.startswith("ya29.")
    assert identity.verify_access_token(access) == "ada@mcpfleet.test"
    assert identity.decode_access_token(access).scopes == {"a", "b"}
    with pytest.raises(TokenError, match="issuer"):
        identity.verify_id_token(access.removeprefix("ya29."))
    with pytest.raises(TokenError):
        identity.verify_id_token(access)
    with pytest.raises(TokenError, match="issuer"):
        identity.verify_access_token("ya29." + token)
    with pytest.raises(TokenError, match="not an access token"):
        identity.verify_access_token(token)


def test_tokens_expire_after_their_lifetime(cloud_keys):
    now = [float(NOW)]
    identity = Identity(cloud_keys, lambda: now[0])
    token = identity.mint_id_token(email="a@b.test", subject="1", audience="x", lifetime=60)
    access, _ = identity.mint_access_token(email="a@b.test", scopes=[], lifetime=60)
    now[0] += 59
    assert identity.verify_id_token(token).audience == "x"
    assert identity.verify_access_token(access) == "a@b.test"
    now[0] += 1
    with pytest.raises(TokenError, match="expired"):
        identity.verify_id_token(token)
    with pytest.raises(TokenError, match="expired"):
        identity.verify_access_token(access)


def test_the_key_survives_a_restart_and_is_readable_by_its_owner_only(tmp_path):
    first = Identity(tmp_path / "keys", lambda: float(NOW))
    token = first.mint_id_token(email="a@b.test", subject="1", audience="x")
    restarted = Identity(tmp_path / "keys", lambda: float(NOW))
    assert restarted.verify_id_token(token).email == "a@b.test"
    assert restarted.jwks() == first.jwks()
    assert (tmp_path / "keys" / "signing-key.pem").stat().st_mode & 0o777 == 0o600
