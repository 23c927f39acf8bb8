"""`mcpfleet secrets set`: what reaches Secret Manager, and that a value reaches nothing else."""

import base64
import io
import re
import sys
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet import cli, google_sources, projects, secret_manager
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.projects import NotInstalledError
from mcpfleet.secret_manager import SecretLocation, SecretManager, SecretValue, fleet_line, read_value

VALUE = "hunter2-hunter2"  # pragma: allowlist secret
LOCATION = SecretLocation("acme", labels={"team": "weather"})
DISABLED = {"error": {"message": "has not been used", "details": [{"reason": "SERVICE_DISABLED"}]}}


class Google:
    """Secret Manager of one project, in memory; `refusals` are responses for the next requests with that text."""

    def __init__(self, secrets=(), enabled=True):
        self.secrets = {name: [] for name in secrets}
        self.labels = {}
        self.enabled = enabled
        self.refusals = {}
        self.urls = []

    def __call__(self, method, url, body=None):
        self.urls.append(f"{method} {url}")
        for part, response in self.refusals.items():
            if part in url:
                if isinstance(response, Exception):
                    raise response
                return response
        if url.startswith("https://serviceusage.googleapis.com/v1/"):
            self.enabled = self.enabled or method == "GET"
            return 200, {"name": "operations/acf.p2-1", "done": method == "GET"}
        path = url.removeprefix("https://secretmanager.googleapis.com/v1/projects/acme/secrets")
        assert path != url, url
        if not self.enabled:
            return 403, DISABLED
        if path.startswith("?secretId="):
            name = path.removeprefix("?secretId=")
            assert body == {"replication": {"automatic": {}}, "labels": {"team": "weather"}}
            self.secrets[name] = []
            return 200, {"name": f"projects/1/secrets/{name}"}
        name = path.removeprefix("/").removesuffix(":addVersion")
        if name not in self.secrets:
            return 404, {"error": {"message": "Secret not found."}}
        self.secrets[name].append(base64.b64decode(body["payload"]["data"], validate=True))
        return 200, {"name": f"projects/1/secrets/{name}/versions/{len(self.secrets[name])}"}


def store(google, name="key", value=VALUE, environ=None):
    return SecretManager(google, LOCATION, environ or {}, sleep=lambda _: None).add_version(
        name, SecretValue(value.encode())
    )


def test_a_value_becomes_the_newest_version_of_an_existing_secret():
    google = Google(["key"])
    assert [store(google).number, store(google, value="second").number] == ["1", "2"]
    assert google.secrets["key"] == [VALUE.encode(), b"second"]
    assert not any("secretId" in url for url in google.urls), "a right to create is not needed"


def test_a_missing_secret_is_created_with_the_fleets_labels():
    google = Google()
    version = store(google)
    assert (version.number, version.is_new_secret, version.enabled_api) == ("1", True, False)
    assert google.secrets == {"key": [VALUE.encode()]}


def test_a_secret_that_is_created_meanwhile_gets_the_value():
    google = Google()

    def create(method, url, body=None):
        if "secretId" in url:
            google.secrets["key"] = []
            return 409, {"error": {"message": "exists"}}
        return google(method, url, body)

    assert store(create).is_new_secret is False
    assert google.secrets == {"key": [VALUE.encode()]}


def test_the_api_of_a_new_project_is_enabled():
    google = Google(enabled=False)
    version = store(google)
    assert version.enabled_api
    assert google.secrets == {"key": [VALUE.encode()]}
    assert google.urls[1].endswith("/projects/acme/services/secretmanager.googleapis.com:enable")


@pytest.mark.parametrize(
    ("part", "response", "messages"),
    [
        (":addVersion", (403, {"error": {"message": "denied"}}), ["roles/secretmanager.secretVersionAdder", "add-iam"]),
        (":addVersion", (401, {"error": {"message": "expired"}}), ["gcloud auth application-default login"]),
        (":addVersion", (503, {}), ["503 no reason given", "Try again"]),
        (":addVersion", (400, {"error": {"message": f"bad {VALUE}"}}), ["400 the reason repeats the value"]),
        (
            ":addVersion",
            (200, {"name": "projects/1/secrets/key"}),
            ["names no version", "gcloud secrets versions"],
        ),
        (":addVersion", (403, {"error": {"details": ["x"]}, "x": "\x1b[2J"}), ["403 no reason given"]),
        (":addVersion", ConnectionError("no route"), ["no route", "not known whether"]),
        ("secretId", (403, {"error": {"message": "denied"}}), ["roles/secretmanager.admin", "secrets.create"]),
        ("secretId", (400, {"error": {"message": "gcp.resourceLocations"}}), ["--replication-policy=user-managed"]),
        ("secretId", (400, {"error": {"message": "x"}}), ["gcloud secrets create key --project=acme"]),
    ],
)
def test_a_refusal_is_one_message_with_the_least_role_and_without_the_value(part, response, messages):
    google = Google()
    google.refusals[part] = response
    with pytest.raises(McpfleetError) as refused:
        store(google)
    text = str(refused.value)
    assert [message for message in messages if message not in text] == []
    assert VALUE not in text
    assert base64.b64encode(VALUE.encode()).decode() not in text


def test_without_permission_to_enable_the_api_the_command_is_named():
    google = Google(enabled=False)
    google.refusals[":enable"] = (403, {"error": {"message": "denied"}})
    with pytest.raises(McpfleetError, match=r"gcloud services enable secretmanager\.googleapis\.com --project=acme"):
        store(google)


@given(st.binary(min_size=1, max_size=200))
def test_a_value_is_stored_unchanged_except_for_one_final_newline(data):
    value = read_value(io.BytesIO(data), is_raw=True)
    assert value.data == data
    if not data.strip(b"\r\n"):
        return
    value = read_value(io.BytesIO(data))
    assert value.data == data or (value.lost_newline and data in {value.data + b"\n", value.data + b"\r\n"})
    assert value.lost_newline == (value.data != data)
    if value.lost_newline:
        assert b"\n" not in value.data, "a key of several lines is kept as it is"
    google = Google(["key"])
    SecretManager(google, LOCATION, {}).add_version("key", value)
    assert google.secrets["key"] == [value.data]
    assert repr(data)[2:-1] not in repr(value) or len(data) < 20


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (b"one\n", b"one"),
        (b"one\r\n", b"one"),
        (b"one", b"one"),
        (b"one\n\n", b"one\n\n"),
        (b"-----BEGIN\nx\n-----END\n", b"-----BEGIN\nx\n-----END\n"),
        (b"\xff\n", b"\xff\n"),
        (b"x" * 65536, b"x" * 65536),
        (b"x" * 65536 + b"\n", b"x" * 65536),
        (b"x" * 65536 + b"\r\n", b"x" * 65536),
    ],
)
def test_only_the_newline_that_echo_adds_is_left_out(data, stored):
    assert read_value(io.BytesIO(data)).data == stored


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n", b"x" * 65537, b"x" * 200_000, b"x" * 65536 + b"\n\n"])
def test_an_empty_or_too_large_value_is_refused(data):
    with pytest.raises(UsageError, match=r"empty|64 KiB"):
        read_value(io.BytesIO(data))


@given(st.from_regex(r"[A-Za-z0-9_-]{1,255}", fullmatch=True), st.binary(min_size=1, max_size=20))
def test_the_printed_line_is_yaml_with_the_secret_and_its_version(name, data):
    (keys,) = yaml.safe_load(fleet_line(name, "3", SecretValue(data))).values()
    ((key, secret),) = keys.items()
    assert secret == {"secret": name, "version": "3"}
    assert re.fullmatch(r"[A-Z_][A-Z0-9_]*" if SecretValue(data).is_text else r"/secrets/[\w-]+", str(key))


def test_a_local_stack_uses_only_the_local_cloud_and_others_only_google(tmp_path):
    local = SecretLocation("acme", "mcpfleet.test")
    variables = {"GOOGLE_APPLICATION_CREDENTIALS": "/k.json", "GOOGLE_SECRET_MANAGER_CUSTOM_ENDPOINT": "http://[::1]/"}
    cloud = SimpleNamespace(name="mcpfleet.test", load=lambda: lambda root, stack: variables)
    environ, key_file = secret_manager.connect(tmp_path, "local", local, {}, [cloud])
    assert (environ, str(key_file)) == (variables, "/k.json")
    with pytest.raises(NotInstalledError, match="mcpfleet-local-cloud is not installed"):
        secret_manager.connect(tmp_path, "local", local, {}, [])
    for endpoint in ("http://127.0.0.1:8470/secretmanager/v1/", "http://secrets.example", "https://localhost:1"):
        with pytest.raises(UsageError, match="Nothing was sent"):
            secret_manager.connect(
                tmp_path, "dev", LOCATION, {"GOOGLE_SECRET_MANAGER_CUSTOM_ENDPOINT": endpoint}, [cloud]
            )
    assert secret_manager.connect(tmp_path, "dev", LOCATION, {}, [cloud]) == ({}, None)


@pytest.mark.parametrize(
    ("stack", "project", "message"),
    [(None, None, "--stack STACK"), (None, "a/b", "not the id of a project"), ("dev", "a/../b", "not the id")],
)
def test_an_invalid_project_is_refused(tmp_path, stack, project, message):
    with pytest.raises(UsageError, match=message):
        secret_manager.find_location(tmp_path, stack, project)


def test_two_different_typed_values_are_refused():
    answers = iter(["one", "two"])
    with pytest.raises(UsageError, match="differ"):
        secret_manager.ask_value("key", lambda _: next(answers))
    assert secret_manager.ask_value("key", lambda _: "one").data == b"one"
    with pytest.raises(UsageError, match="empty"):
        secret_manager.ask_value("key", lambda _: "")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the command with a value on standard input; returns the exit code and everything printed."""

    def run(*words, value=VALUE + "\n", google=None, answer=None, universe=None):
        (tmp_path / "Pulumi.yaml").write_text("name: acme\nruntime: python\n")
        (tmp_path / "Pulumi.dev.yaml").write_text(
            "config:\n  gcp:project: acme\n  mcpfleet:fleet: {labels: {team: weather}, servers: {}}\n"
            + (f"  gcp:universeDomain: {universe}\n" if universe else "")
        )
        google = google or Google()
        for name in ("GOOGLE_SECRET_MANAGER_CUSTOM_ENDPOINT", "GOOGLE_SERVICE_USAGE_CUSTOM_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        if universe is None:
            monkeypatch.setattr(google_sources, "google_api", lambda *_: google)
        stream = io.TextIOWrapper(io.BytesIO(value.encode()))
        stream.isatty = lambda: answer is not None
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr("getpass.getpass", lambda question: answer)
        monkeypatch.setattr(sys, "argv", ["mcpfleet", "secrets", "set", *words, "--cwd", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out + printed.err

    return run


def test_the_command_prints_the_version_and_the_line_and_never_the_value(run):
    google = Google()
    code, printed = run("weather-key", "--stack", "dev", google=google)
    assert code == 0, printed
    assert "Version 1 of the secret weather-key is stored in the project acme." in printed
    assert '  secrets: {WEATHER_KEY: {secret: weather-key, version: "1"}}' in printed
    assert "The newline at the end of the value was left out" in printed
    assert VALUE not in printed
    assert google.secrets == {"weather-key": [VALUE.encode()]}


def test_on_a_terminal_the_value_is_read_without_echo(run):
    google = Google()
    code, printed = run("weather-key", "-s", "dev", google=google, answer="typed")
    assert code == 0, printed
    assert google.secrets == {"weather-key": [b"typed"]}


@pytest.mark.parametrize(
    "words",
    [
        ("weather-key", VALUE, "-s", "dev"),
        ("weather-key", f"--value={VALUE}", "-s", "dev"),
        (f"weather-key={VALUE}", "-s", "dev"),
    ],
)
def test_a_value_among_the_arguments_is_refused_and_not_printed(run, words):
    google = Google()
    code, printed = run(*words, google=google)
    assert code == 2
    assert "standard input" in printed
    assert VALUE not in printed
    assert google.urls == []


def test_without_the_fleet_package_a_stack_is_refused_and_a_project_accepted(run, monkeypatch):
    monkeypatch.setattr(projects, "find_projects", lambda: None)
    monkeypatch.setattr(secret_manager, "find_projects", lambda: None)
    code, printed = run("key", "-s", "dev")
    assert code == 1
    assert "uv run mcpfleet secrets" in printed
    google = Google(["key"])
    code, printed = run("key", "--project", "acme", google=google)
    assert code == 0, printed
    assert google.secrets == {"key": [VALUE.encode()]}


@pytest.mark.parametrize("universe", ["attacker.example", "attacker.example/x?", '"attacker.example/\\e[2J"'])
def test_a_login_is_not_sent_to_another_universe_that_a_stacks_file_names(run, monkeypatch, universe):
    login = SimpleNamespace(universe_domain="googleapis.com")  # no request can be signed with it
    monkeypatch.setattr("google.auth.default", lambda **_: (login, None))
    code, printed = run("weather-key", "-s", "dev", universe=universe)
    assert code == 2, printed
    assert "the login of this machine is for googleapis.com" in printed
    assert "Nothing was sent" in printed
    assert VALUE not in printed
    assert "\x1b" not in printed
