import json
import subprocess
from pathlib import Path

import pytest
from google.auth import exceptions

from mcpfleet.errors import (
    AuthError,
    CredentialsFileError,
    CredentialsRefusedError,
    NoCredentialsError,
    TokenEndpointUnavailableError,
    UnsupportedCredentialsError,
)
from mcpfleet.token_sources import (
    DefaultSource,
    Impersonation,
    TokenCommand,
    TokenFile,
    UnusableSource,
    _application_default_file,
    default_source,
    source_from_file,
)
from mcpfleet.tokens import IdToken

AUDIENCE = "https://echo.run.app"
BOT = "bot@acme.iam.gserviceaccount.com"
LOOPBACK = "http://127.0.0.1:8470/oauth2/token"


def test_a_service_account_gets_a_token_for_the_requested_audience(google, key_file):
    token = source_from_file(key_file(), google).fetch(AUDIENCE)
    assert google.verify(f"Bearer {token.value}", AUDIENCE)["email"] == "deployer@acme.iam.gserviceaccount.com"
    assert token.member == "serviceAccount:deployer@acme.iam.gserviceaccount.com"
    assert token.expires_at == google.clock() + 3600
    assert google.asked == ["https://oauth2.googleapis.com/token"]


@pytest.mark.parametrize("universe", ["googleapis.com", "mcpfleet.test"])
def test_a_key_files_token_uri_is_used_in_any_universe(google, key_file, universe):
    source_from_file(key_file(token_uri=LOOPBACK, universe_domain=universe), google).fetch(AUDIENCE)
    assert google.asked == [LOOPBACK]


@pytest.mark.parametrize("token_uri", ["https://oauth2.googleapis.com/token", "https://oauth2.other.test/token"])
def test_a_key_of_another_universe_uses_that_universes_iam(google, key_file, token_uri):
    source = source_from_file(key_file(universe_domain="other.test", token_uri=token_uri), google)
    token = source.fetch(AUDIENCE)
    assert token.audience == AUDIENCE
    assert google.asked[0].startswith("https://iamcredentials.other.test/v1/")


def test_a_users_token_is_for_their_oauth_client_as_with_gcloud(google, login_file):
    token = source_from_file(login_file(token_uri=LOOPBACK), google).fetch(AUDIENCE)
    assert token.audience == "764086051850.apps.example"
    assert token.member == "user:ada@acme.dev"
    assert google.asked == [LOOPBACK]


def test_a_users_login_without_an_endpoint_uses_googles(google, login_file):
    source_from_file(login_file(), google).fetch(AUDIENCE)
    assert google.asked == ["https://oauth2.googleapis.com/token"]


def test_a_login_without_the_openid_scope_is_an_error_with_the_command(google, google_answer, login_file):
    google.answer = lambda: google_answer(200, {"access_token": "ya29.x", "expires_in": 10})
    with pytest.raises(CredentialsRefusedError, match=r"openid.*gcloud auth application-default login"):
        source_from_file(login_file(), google).fetch(AUDIENCE)


def test_a_revoked_login_is_an_error_that_says_to_log_in_again(google, google_answer, login_file):
    google.answer = lambda: google_answer(400, {"error": "invalid_grant", "error_description": "Token revoked."})
    with pytest.raises(CredentialsRefusedError, match=r"invalid_grant: Token revoked.*application-default login"):
        source_from_file(login_file(), google).fetch(AUDIENCE)


def test_a_login_of_another_issuer_is_not_sent_to_google(google, google_answer, login_file):
    google.answer = lambda: google_answer(400, {"error": "invalid_grant", "error_description": "Token revoked."})
    with pytest.raises(CredentialsRefusedError, match=r"have 127\.0\.0\.1, which gave it, write .*login\.json anew"):
        source_from_file(login_file(token_uri=LOOPBACK), google).fetch(AUDIENCE)


def test_a_disabled_key_is_named_in_the_error(google, google_answer, key_file):
    google.answer = lambda: google_answer(400, {"error": "invalid_grant", "error_description": "Invalid JWT"})
    with pytest.raises(CredentialsRefusedError, match=r"key\.json was refused: invalid_grant.*key is enabled"):
        source_from_file(key_file(), google).fetch(AUDIENCE)


def test_an_unreachable_token_endpoint_is_not_reported_as_a_refusal(google, key_file):
    def down():
        raise exceptions.TransportError("HTTPConnectionPool(...)") from ConnectionRefusedError(
            111, "Connection refused"
        )

    google.answer = down
    with pytest.raises(TokenEndpointUnavailableError, match=r"no usable response \(Connection refused\).*try again"):
        source_from_file(key_file(), google).fetch(AUDIENCE)


def test_an_invalid_private_key_is_an_error_about_the_file(google, key_file):
    with pytest.raises(CredentialsFileError, match=r"key\.json is not valid"):
        source_from_file(key_file(private_key="nonsense"), google).fetch(AUDIENCE)


def test_a_federated_identity_is_an_error_because_it_has_no_id_tokens(tmp_path):
    path = tmp_path / "federated.json"
    path.write_text(json.dumps({"type": "external_account"}))
    with pytest.raises(UnsupportedCredentialsError, match=r"'external_account'.*no ID tokens.*impersonate"):
        source_from_file(path)


@pytest.mark.parametrize("content", ["", "[]", "not json", "\udcff", "[" * 100_000], ids=range(5))
def test_a_file_without_credentials_is_one_message(tmp_path, content):
    path = tmp_path / "odd.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CredentialsFileError, match=r"odd\.json is not.*gcloud auth"):
        source_from_file(path)


def test_a_missing_field_of_a_login_is_named(login_file):
    with pytest.raises(CredentialsFileError, match="has no refresh_token"):
        source_from_file(login_file(refresh_token=None))


def test_the_file_named_by_the_environment_takes_precedence(tmp_path, key_file, login_file):
    login_file(tmp_path / ".config" / "gcloud" / "application_default_credentials.json")
    environ = {
        "HOME": str(tmp_path),
        "APPDATA": str(tmp_path / ".config"),
        "GOOGLE_APPLICATION_CREDENTIALS": str(key_file()),
    }
    assert default_source(environ).name.startswith("service account key")
    del environ["GOOGLE_APPLICATION_CREDENTIALS"]
    assert default_source(environ).name.startswith("login in")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"APPDATA": "C:\\Roaming"}, "C:\\Roaming\\gcloud"),
        ({"USERPROFILE": "C:\\Users\\ada", "HOME": "/c/Users/ada"}, "C:\\Users\\ada\\AppData\\Roaming\\gcloud"),
    ],
)
def test_on_windows_the_login_is_read_from_gclouds_folder(environ, folder):
    assert _application_default_file(environ, "win32") == Path(folder, "application_default_credentials.json")


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_with_windows_encodings_are_read(tmp_path, google, login_file, coding):
    login = login_file()
    login.write_bytes(login.read_text().encode(coding))
    assert source_from_file(login, google).fetch(AUDIENCE)
    token = tmp_path / "token"
    token.write_bytes(f"{google.mint(AUDIENCE)}\r\n".encode(coding))
    assert TokenFile(token).fetch(AUDIENCE)


def test_gclouds_folder_variable_is_used(tmp_path, login_file):
    login_file(tmp_path / "elsewhere" / "application_default_credentials.json")
    source = default_source({"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path / "elsewhere")})
    assert "elsewhere" in source.name


def test_a_missing_credential_file_is_an_error_with_the_variable(tmp_path):
    with pytest.raises(CredentialsFileError, match=r"GOOGLE_APPLICATION_CREDENTIALS: .*gone\.json: No such file"):
        default_source({"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "gone.json")})


def test_on_google_cloud_the_instances_account_is_used(google, tmp_path):
    google.on_google = True
    source = default_source({"HOME": str(tmp_path)}, google)
    token = source.fetch(AUDIENCE)
    assert google.verify(f"Bearer {token.value}", AUDIENCE)
    assert token.member == "serviceAccount:runtime@acme.iam.gserviceaccount.com"


def test_missing_credentials_are_an_error_with_both_ways_to_get_them(google, tmp_path):
    with pytest.raises(NoCredentialsError, match=r"application-default login.*GOOGLE_APPLICATION_CREDENTIALS"):
        default_source({"HOME": str(tmp_path)}, google)


def test_the_default_credentials_are_cached_and_retried_after_a_failure(source):
    looked = []

    def choose():
        looked.append(1)
        if len(looked) == 1:
            raise NoCredentialsError("not yet")
        return source

    default = DefaultSource(choose)
    with pytest.raises(NoCredentialsError):
        default.fetch(AUDIENCE)
    default.fetch(AUDIENCE)
    default.fetch(AUDIENCE)
    assert len(looked) == 2
    assert default.name == "test login"


def test_a_token_file_is_read_again_each_time(google, tmp_path):
    path = tmp_path / "token"
    path.write_text(google.mint(AUDIENCE) + "\n")
    source = TokenFile(path)
    first = source.fetch(AUDIENCE)
    path.write_text(google.mint(AUDIENCE))
    assert source.fetch(AUDIENCE).value != first.value
    path.unlink()
    with pytest.raises(CredentialsFileError, match=r"print-identity-token >"):
        source.fetch(AUDIENCE)


@pytest.mark.parametrize(
    ("text", "message"), [("ya29.access", "an OAuth access token"), ("", "something else"), ("a.b.c", "something else")]
)
def test_a_token_of_another_kind_is_refused_with_its_kind(text, message):
    with pytest.raises(AuthError, match=rf"gave {message}, not an ID token.*print-identity-token") as caught:
        IdToken.parse(text, "The command")
    assert text == "" or text not in str(caught.value), "a credential must not be repeated in a message"


def test_a_token_command_runs_without_a_shell(google, monkeypatch):
    ran = []

    def run(argv, **_):
        ran.append(argv)
        return subprocess.CompletedProcess(argv, 0, google.mint(AUDIENCE) + "\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert TokenCommand("print-token --for 'a b;c'").fetch(AUDIENCE).audience == AUDIENCE
    assert ran == [["print-token", "--for", "a b;c"]]


def test_a_failed_token_command_is_quoted_with_its_last_line(monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda argv, **_: subprocess.CompletedProcess(argv, 3, "", "Traceback\nnot logged in\n")
    )
    with pytest.raises(CredentialsRefusedError, match=r"failed \(3\): not logged in\."):
        TokenCommand("print-token").fetch(AUDIENCE)


def test_a_missing_token_command_is_one_message(monkeypatch):
    def run(argv, **_):
        raise FileNotFoundError(2, "No such file or directory", argv[0])

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(CredentialsFileError, match="did not run"):
        TokenCommand("print-token").fetch(AUDIENCE)


@pytest.mark.parametrize("command", ["", "  ", "'unclosed"])
def test_an_invalid_token_command_is_refused_at_once(command):
    with pytest.raises(CredentialsFileError):
        TokenCommand(command)


@pytest.fixture
def iam(google, google_answer):
    """IAM Credentials, and the source's token endpoint."""

    def request(url, body=None, headers=None, **_):
        if not url.endswith(":generateIdToken"):
            return google_answer(200, {"access_token": "ya29.s", "expires_in": 3599})
        requests.append(url)
        assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer ya29.s"
        if google.answer:
            return google_answer(403, {"error": {"message": "denied"}})
        return google_answer(200, {"token": google.mint(json.loads(body)["audience"], BOT)})

    requests = request.asked = []
    return request


def test_impersonation_returns_a_token_of_the_service_account(iam, login_file):
    token = Impersonation(BOT, login_file(), environ={}, request=iam).fetch(AUDIENCE)
    assert (token.member, token.audience) == (f"serviceAccount:{BOT}", AUDIENCE)
    assert any(f"/serviceAccounts/{BOT}:generateIdToken" in url for url in iam.asked)


def test_without_permission_to_impersonate_the_role_is_named(iam, google, login_file):
    google.answer = "denied"
    with pytest.raises(CredentialsRefusedError, match=r"roles/iam\.serviceAccountTokenCreator"):
        Impersonation(BOT, login_file(), environ={}, request=iam).fetch(AUDIENCE)


def test_impersonation_uses_the_credentials_named_by_the_environment(tmp_path):
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "gone.json")}
    with pytest.raises(CredentialsFileError, match=r"gone\.json"):
        Impersonation(BOT, environ=environ).fetch("https://echo.run.app")


def test_a_missing_identity_is_reported_at_the_first_use():
    with pytest.raises(NoCredentialsError, match="log in"):
        UnusableSource(NoCredentialsError("log in")).fetch("https://echo.run.app")
